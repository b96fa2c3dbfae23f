package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a pod was granted counts until a resize to less is through, and only that makes room.
func TestResizedPodMakesRoom(t *testing.T) {
	s := snapshotOf(testNode("n1", "1", "1Gi"))
	p := bound(testPod("800m", ""), "n1")
	says := func(cpu string) {
		p = p.DeepCopy()
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{
			Name: "c", AllocatedResources: list(cpu, "", ""), Resources: &corev1.ResourceRequirements{Requests: list(cpu, "", "")},
		}}
	}
	says("800m")
	s.SetPod(p)
	p = p.DeepCopy()
	p.Status.PodIP = "10.244.0.9"
	if n := s.SetPod(p); n.Any() {
		t.Error("news that have nothing to do with resources make room")
	}
	p = p.DeepCopy()
	p.Generation++
	p.Spec.Containers[0].Resources.Requests = list("200m", "", "")
	s.SetPod(p)
	other := testPod("500m", "")
	if d := Schedule(s, other); d.Node != "" {
		t.Error("room is given away before it is there")
	}
	says("200m")
	if n := s.SetPod(p); n.node == nil {
		t.Error("a resize to less makes no room")
	}
	if d := Schedule(s, other); d.Node != "n1" {
		t.Error(d.Message)
	}
}
