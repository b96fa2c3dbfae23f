package clustertest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// importantPod asks for half of a node's example.com/slots.
func importantPod(name, class string) *corev1.Pod {
	half := corev1.ResourceList{"example.com/slots": resource.MustParse("2")}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{PriorityClassName: class, Containers: []corev1.Container{{
		Name: "c", Image: "nginx:1", Resources: corev1.ResourceRequirements{Requests: half, Limits: half}}}}}
}

// A cluster is full; an important pod comes, the least important one ends in its node's own time and gives it its place.
func TestPreemption(t *testing.T) {
	run(t, 2, func(c *cluster) {
		for i, class := range []string{"low", "middle", "high"} {
			if _, err := c.kube.SchedulingV1().PriorityClasses().Create(c.ctx, &schedulingv1.PriorityClass{
				ObjectMeta: metav1.ObjectMeta{Name: class}, Value: int32(i + 1)}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		for _, node := range []string{"n1", "n2"} {
			patch := `{"status":{"capacity":{"example.com/slots":"4"},"allocatable":{"example.com/slots":"4"}}}`
			if _, err := c.kube.CoreV1().Nodes().Patch(c.ctx, node, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
				t.Fatal(err)
			}
		}
		pods := c.kube.CoreV1().Pods("default")
		create := func(name, class string) {
			t.Helper()
			if _, err := pods.Create(c.ctx, importantPod(name, class), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		ready := func(name string) bool {
			p, err := pods.Get(c.ctx, name, metav1.GetOptions{})
			return err == nil && isReady(p) && p.DeletionTimestamp == nil
		}
		for i, class := range []string{"low", "middle", "middle", "middle"} {
			create(fmt.Sprintf("p%d", i), class)
		}
		c.eventually(20*time.Second, "a full cluster", func() bool { return ready("p0") && ready("p1") && ready("p2") && ready("p3") })
		victim, err := pods.Get(c.ctx, "p0", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		create("important", "high")
		c.eventually(60*time.Second, "the important one has its place", func() bool { return ready("important") })
		p, err := pods.Get(c.ctx, "important", metav1.GetOptions{})
		if err != nil || p.Spec.NodeName != victim.Spec.NodeName || p.Status.NominatedNodeName != "" {
			t.Errorf("on %s, nominated to %q; its victim was on %s (%v)", p.Spec.NodeName, p.Status.NominatedNodeName, victim.Spec.NodeName, err)
		}
		if _, err := pods.Get(c.ctx, "p0", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("the victim: %v", err)
		}
		for _, name := range []string{"p1", "p2", "p3"} {
			if !ready(name) {
				t.Errorf("%s went too", name)
			}
		}
		events, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p0,reason=Preempted"})
		if err != nil || len(events.Items) != 1 || !strings.Contains(events.Items[0].Message, "Preempted by pod "+string(p.UID)+" on node "+p.Spec.NodeName) {
			t.Errorf("events of the victim: %v, %v", events.Items, err)
		}
	})
}
