package clustertest

import (
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/pods"
)

func (c *cluster) node(name string) *corev1.Node {
	c.Helper()
	n, err := c.kube.CoreV1().Nodes().Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return n
}

func (c *cluster) pod(name string) *corev1.Pod {
	c.Helper()
	p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
	if err != nil {
		c.Fatal(err)
	}
	return p
}

// A node that says that its disk is short gets no new pods until it takes that back.
func TestPressureKeepsPodsAway(t *testing.T) {
	run(t, 2, func(c *cluster) {
		n1 := c.agents["n1"]
		say := func(condition corev1.NodeConditionType, status corev1.ConditionStatus) {
			s := n1.node().Status
			s.Conditions = append(s.Conditions, corev1.NodeCondition{Type: condition, Status: status, Reason: "KubeletHasDiskPressure"})
			n1.outbox.Node(&s)
		}
		tainted := func(key string) bool {
			return slices.ContainsFunc(c.node("n1").Spec.Taints, func(t corev1.Taint) bool { return t.Key == key && t.Effect == corev1.TaintEffectNoSchedule })
		}
		for condition, taint := range map[corev1.NodeConditionType]string{
			corev1.NodeDiskPressure: corev1.TaintNodeDiskPressure, corev1.NodeMemoryPressure: corev1.TaintNodeMemoryPressure, corev1.NodePIDPressure: corev1.TaintNodePIDPressure,
		} {
			say(condition, corev1.ConditionTrue)
			c.eventually(10*time.Second, taint, func() bool { return tainted(taint) })
			name := strings.ToLower(string(condition))
			c.deploy(deployment(name, 4))
			c.eventually(10*time.Second, "four pods on the other node", func() bool { return c.ready(name)["n2"] == 4 })
			say(condition, corev1.ConditionFalse)
			c.eventually(10*time.Second, "no taint", func() bool { return !tainted(taint) })
		}
		c.deploy(deployment("after", 8))
		c.eventually(10*time.Second, "pods on both nodes", func() bool { by := c.ready("after"); return by["n1"] > 0 && by["n1"]+by["n2"] == 8 })
	})
}

// What an eviction looks like to users; a Deployment makes another.
func TestEvicted(t *testing.T) {
	const why = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 80Mi. "
	run(t, 1, func(c *cluster) {
		p := c.createPod(pinned("p", "n1"))
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("p") })
		c.agents["n1"].manager.Evict(string(p.UID), pods.Eviction{Message: why, Grace: time.Second, Disruption: true})
		c.eventually(10*time.Second, "it has failed", func() bool { return c.pod("p").Status.Phase == corev1.PodFailed })
		time.Sleep(5 * time.Second)
		s := c.pod("p").Status
		if s.Reason != "Evicted" || s.Message != why {
			t.Errorf("%s %q", s.Reason, s.Message)
		}
		if !slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "TerminationByKubelet" && c.Message == why
		}) {
			t.Errorf("%+v", s.Conditions)
		}
		events, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "reason=Evicted"})
		if err != nil || len(events.Items) != 1 || events.Items[0].Message != why || events.Items[0].Type != corev1.EventTypeWarning || events.Items[0].InvolvedObject.UID != p.UID {
			t.Errorf("%+v %v", events.Items, err)
		}
	})
}

// Pods can be bound without the scheduler. The node looks whether they fit, by what the API says of it.
func TestBoundPodsMustFit(t *testing.T) {
	run(t, 1, func(c *cluster) {
		asking := func(name string, resources corev1.ResourceList) *corev1.Pod {
			p := pinned(name, "n1")
			p.Spec.Containers[0].Resources.Requests = resources
			return c.createPod(p)
		}
		asking("large", corev1.ResourceList{"memory": resource.MustParse("9Gi")})
		c.eventually(10*time.Second, "it is rejected", func() bool { return c.pod("large").Status.Phase == corev1.PodFailed })
		if s := c.pod("large").Status; s.Reason != "OutOfmemory" || s.Message != "Pod was rejected: Node didn't have enough resource: memory, requested: 9663676416, used: 0, capacity: 8589934592" {
			t.Errorf("%s %q", s.Reason, s.Message)
		}
		asking("fits", corev1.ResourceList{"memory": resource.MustParse("7Gi")})
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("fits") })

		// What somebody else says that the node has stays when its agent tells its own.
		patch := []byte(`{"status":{"capacity":{"example.com/dongle":"2"},"allocatable":{"example.com/dongle":"2"}}}`)
		if _, err := c.kube.CoreV1().Nodes().Patch(c.ctx, "n1", types.MergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
			t.Fatal(err)
		}
		agent := c.agents["n1"]
		s := agent.node().Status
		s.Capacity["cpu"] = resource.MustParse("5")
		agent.outbox.Node(&s)
		c.eventually(10*time.Second, "its own is told", func() bool { return c.node("n1").Status.Capacity.Cpu().Value() == 5 })
		for _, list := range []corev1.ResourceList{c.node("n1").Status.Capacity, c.node("n1").Status.Allocatable} {
			if q := list["example.com/dongle"]; q.Value() != 2 {
				t.Error(list)
			}
		}
	})
}
