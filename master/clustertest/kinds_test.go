package clustertest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// A pod is resized through pods/resize with each kind of patch, and its node does it.
func TestPodResize(t *testing.T) {
	run(t, 1, func(c *cluster) {
		list := func(cpu, memory string) corev1.ResourceList {
			return corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
		}
		pods := c.kube.CoreV1().Pods("default")
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "a", Image: "nginx:1", Resources: corev1.ResourceRequirements{Requests: list("20m", "35Mi"), Limits: list("30m", "45Mi")}},
			{Name: "b", Image: "nginx:1"},
		}}}
		if _, err := pods.Create(c.ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		get := func() *corev1.Pod {
			p, err := pods.Get(c.ctx, "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		c.eventually(10*time.Second, "it is ready", func() bool { return isReady(get()) })
		settled := func(cpu string, generation int64) func() bool {
			return func() bool {
				p := get()
				for _, cond := range p.Status.Conditions {
					if cond.Type == corev1.PodResizeInProgress || cond.Type == corev1.PodResizePending {
						return false
					}
				}
				s := p.Status.ContainerStatuses[0]
				return p.Status.ObservedGeneration == generation && s.Resources.Limits.Cpu().String() == cpu &&
					s.RestartCount == 0 && s.AllocatedResources.Cpu().String() == "20m" && isReady(p)
			}
		}
		for i, patch := range []struct {
			kind types.PatchType
			text string
			cpu  string
		}{
			{types.StrategicMergePatchType, `{"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"35m"}}}]}}`, "35m"},
			{types.JSONPatchType, `[{"op":"replace","path":"/spec/containers/0/resources/limits/cpu","value":"40m"}]`, "40m"},
			{types.ApplyPatchType, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web"},"spec":{"containers":[{"name":"a","resources":{"limits":{"cpu":"45m"}}}]}}`, "45m"},
		} {
			o := metav1.PatchOptions{}
			if patch.kind == types.ApplyPatchType {
				o.FieldManager = "test"
				o.Force = new(bool)
				*o.Force = true
			}
			if _, err := pods.Patch(c.ctx, "web", patch.kind, []byte(patch.text), o, "resize"); err != nil {
				t.Fatal(patch.kind, err)
			}
			c.eventually(5*time.Second, "the limit is "+patch.cpu, settled(patch.cpu, int64(i)+2))
		}
		p = get()
		owned, err := json.Marshal(p.ManagedFields)
		if err != nil || !strings.Contains(string(owned), `"subresource":"resize"`) {
			t.Errorf("nobody owns what was applied: %s, %v", owned, err)
		}
		p.Spec.Containers[0].Resources.Limits["cpu"] = resource.MustParse("50m")
		if _, err := pods.UpdateResize(c.ctx, "web", p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(5*time.Second, "the limit is 50m", settled("50m", 5))
		_, err = pods.Patch(c.ctx, "web", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"a","resources":{"requests":{"cpu":"1000"},"limits":{"cpu":"1000"}}}]}}`), metav1.PatchOptions{}, "resize")
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "node didn't have enough allocatable resources: cpu, requested: 1000000") {
			t.Error(err)
		}
	})
}

// The handler of a pod's class reaches its node.
func TestRuntimeClass(t *testing.T) {
	run(t, 1, func(c *cluster) {
		for name, handler := range map[string]string{"plain": "runc", "exotic": "exotic-handler"} {
			class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler}
			if _, err := c.kube.NodeV1().RuntimeClasses().Create(c.ctx, class, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
				RuntimeClassName: &name, Containers: []corev1.Container{{Name: "a", Image: "nginx:1"}},
			}}
			if _, err := c.kube.CoreV1().Pods("default").Create(c.ctx, p, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		c.eventually(10*time.Second, "the plain one runs", func() bool {
			p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "plain", metav1.GetOptions{})
			return err == nil && isReady(p)
		})
		c.eventually(10*time.Second, "the other's handler is missing", func() bool {
			events, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=exotic,reason=FailedCreatePodSandBox"})
			return err == nil && len(events.Items) > 0 && strings.Contains(events.Items[0].Message, `no runtime for "exotic-handler" is configured`)
		})
	})
}

// Every cluster has the two system classes, also when somebody deletes them.
func TestSystemPriorityClasses(t *testing.T) {
	run(t, 0, func(c *cluster) {
		classes := c.kube.SchedulingV1().PriorityClasses()
		whole := func() bool {
			list, err := classes.List(c.ctx, metav1.ListOptions{})
			return err == nil && len(list.Items) == 2 && list.Items[0].Name == "system-cluster-critical" && list.Items[0].Value == 2000000000 &&
				list.Items[1].Name == "system-node-critical" && list.Items[1].Value == 2000001000
		}
		c.eventually(5*time.Second, "both are there", whole)
		if err := classes.Delete(c.ctx, "system-node-critical", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(5*time.Second, "both are there again", whole)
	})
}
