package resource

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/google/go-cmp/cmp"
)

const resizable = `{apiVersion: v1, kind: Pod, metadata: {name: a, labels: {app: a}}, spec: {
  initContainers: [{name: side, image: i, restartPolicy: Always, resources: {requests: {cpu: 10m}}}],
  containers: [
    {name: c, image: i, resources: {requests: {cpu: 20m, memory: 35Mi}, limits: {cpu: 30m, memory: 45Mi}}},
    {name: d, image: i, resources: {requests: {cpu: 20m}}}]}}`

func TestPodResize(t *testing.T) {
	set := func(list *corev1.ResourceList, name corev1.ResourceName, value string) {
		if *list == nil {
			*list = corev1.ResourceList{}
		}
		(*list)[name] = resource.MustParse(value)
	}
	for _, test := range []struct {
		name   string
		change func(*corev1.Pod)
		want   string // of the error; none when empty
		bump   int64
	}{
		{"cpu", func(p *corev1.Pod) { set(&p.Spec.Containers[0].Resources.Limits, "cpu", "35m") }, "", 1},
		{"new limit", func(p *corev1.Pod) { set(&p.Spec.Containers[1].Resources.Limits, "memory", "64Mi") }, "", 1},
		{"sidecar", func(p *corev1.Pod) { set(&p.Spec.InitContainers[0].Resources.Requests, "cpu", "15m") }, "", 1},
		{"nothing but other things", func(p *corev1.Pod) {
			p.Spec.Containers[0].Image = "other"
			p.Labels["app"] = "b"
			p.Status.Phase = corev1.PodFailed
			p.Spec.NodeName = "n"
		}, "", 0},
		{"limit below request", func(p *corev1.Pod) { set(&p.Spec.Containers[0].Resources.Limits, "cpu", "10m") }, "must be less than or equal to cpu limit", 1},
		{"limit removed", func(p *corev1.Pod) { delete(p.Spec.Containers[0].Resources.Limits, "cpu") }, "resource limits cannot be removed", 1},
		{"request removed", func(p *corev1.Pod) { p.Spec.Containers[1].Resources.Requests = nil }, "resource requests cannot be removed", 1},
		{"other resource", func(p *corev1.Pod) {
			set(&p.Spec.Containers[0].Resources.Requests, "ephemeral-storage", "1")
		}, "only cpu and memory resources are mutable", 1},
		{"renamed", func(p *corev1.Pod) { p.Spec.Containers[0].Name = "z" }, "spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize", 1},
		{"added", func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, *p.Spec.Containers[1].DeepCopy())
			p.Spec.Containers[2].Name = "e"
		}, "spec.containers: Forbidden: containers may not be added or removed on resize", 1},
		{"QoS", func(p *corev1.Pod) {
			guaranteed := corev1.ResourceList{"cpu": resource.MustParse("20m"), "memory": resource.MustParse("35Mi")}
			for _, c := range []*corev1.Container{&p.Spec.InitContainers[0], &p.Spec.Containers[0], &p.Spec.Containers[1]} {
				c.Resources = corev1.ResourceRequirements{Requests: guaranteed.DeepCopy(), Limits: guaranteed.DeepCopy()}
			}
		}, "Pod QOS Class may not change as a result of resizing", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := created(t, resizable).(*corev1.Pod)
			old.UID, old.ResourceVersion = "u", "1"
			before := old.DeepCopy()
			pod := old.DeepCopy()
			test.change(pod)
			resize := rulesOf(t, old).Updates["resize"]
			resize.Prepare(pod, old)
			if pod.Generation != old.Generation+test.bump {
				t.Errorf("generation %d after %d", pod.Generation, old.Generation)
			}
			if test.bump == 0 && differ(pod, before) {
				t.Error(cmp.Diff(before, pod))
			}
			got := resize.Validate(t.Context(), pod, old).ToAggregate()
			if test.want == "" && got != nil || test.want != "" && (got == nil || !strings.Contains(got.Error(), test.want)) {
				t.Errorf("got %v, want %q", got, test.want)
			}
			if diff := cmp.Diff(before, old); diff != "" {
				t.Error("the old object was changed:", diff)
			}
		})
	}
}

// Resources do not change through the pod itself.
func TestResourcesOfPodAreFixed(t *testing.T) {
	old := created(t, resizable).(*corev1.Pod)
	old.UID, old.ResourceVersion = "u", "1"
	pod := old.DeepCopy()
	pod.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("35m")
	rules := rulesOf(t, old)
	rules.PrepareUpdate(pod, old)
	if err := rules.ValidateUpdate(t.Context(), pod, old).ToAggregate(); err == nil || !strings.Contains(err.Error(), "pod updates may not change fields other than") {
		t.Error(err)
	}
}
