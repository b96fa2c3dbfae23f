package registry_test

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestResize(t *testing.T) {
	e := start(t)
	list := func(cpu, memory string) corev1.ResourceList {
		return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
	}
	p := pod("web")
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("100m", "64Mi")}
	p = mustCreate(e, p)
	to := func(cpu, memory string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Spec.Containers[0].Resources.Requests = list(cpu, memory) }
	}
	// Nobody knows the node yet: any amount.
	if got := mustChange(e, "resize", p, to("5", "64Mi")); got.Generation != 2 {
		t.Errorf("generation %d", got.Generation)
	}
	node := mustCreate(e, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: list("1", "1Gi")}})
	other := e.bound("other")
	other = mustGet(e, other)
	wantErr(t, resizeErr(e, other, to("100m", "1Mi")), metav1.StatusReasonInvalid, "Pod QOS Class may not change as a result of resizing")

	p = pod("app")
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: list("100m", "64Mi")}
	p = mustCreate(e, p)
	e.bind(p)
	err := resizeErr(e, p, to("1500m", "2Gi"))
	wantErr(t, err, metav1.StatusReasonForbidden, `pods "app" is forbidden: node didn't have enough allocatable resources: cpu, requested: 1500, allocatable: 1000; memory, requested: 2147483648, allocatable: 1073741824`)
	var status *apierrors.StatusError
	if !errors.As(err, &status) || len(status.ErrStatus.Details.Causes) != 1 || status.ErrStatus.Details.Causes[0].Type != "NodeCapacity" {
		t.Errorf("%+v", err)
	}
	got := mustChange(e, "resize", p, func(p *corev1.Pod) {
		to("900m", "128Mi")(p)
		p.Labels = map[string]string{"other": "things"}
	})
	if got.Generation != 2 || got.Labels != nil || !got.Spec.Containers[0].Resources.Requests.Cpu().Equal(resource.MustParse("900m")) {
		t.Errorf("%+v", got)
	}
	mustChange(e, "", node, func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelOSStable: "windows"} })
	wantErr(t, resizeErr(e, p, to("800m", "128Mi")), metav1.StatusReasonForbidden, `pod resize is only supported on linux nodes, node "n1" is "windows"`)
}

func resizeErr(e *env, p *corev1.Pod, fn func(*corev1.Pod)) error {
	_, err := change(e, "resize", p, fn)
	return err
}
