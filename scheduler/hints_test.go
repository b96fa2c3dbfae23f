package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a pod waits for may be the end of a reservation: who was to come there kept it away, or made the spread uneven.
func TestNominationsEndWakes(t *testing.T) {
	even := func(p *corev1.Pod) {
		spreading(1, corev1.DoNotSchedule)(p)
		p.Spec.TopologySpreadConstraints[0].TopologyKey = host
	}
	for name, pod := range map[string]*corev1.Pod{
		"anti-affinity": testPod("", "", app("web"), away("web", host)),
		"spread":        testPod("", "", app("web"), even),
		"a loner":       testPod("", "", app("guest")),
	} {
		t.Run(name, func(t *testing.T) {
			begin := func() (s *Snapshot, reserved *corev1.Pod, w *Waiting) {
				s = snapshotOf(testNode("a", "4", "4Gi"), testNode("closed", "4", "4Gi", cordoned))
				reserved = testPod("", "", app("web"), prio(5), away("guest", host))
				s.Nominate(reserved, "a")
				d := Schedule(s, pod)
				if d.Node != "" {
					t.Fatalf("fits: %+v", d)
				}
				return s, reserved, NewWaiting(pod, &d)
			}
			for how, do := range map[string]func(s *Snapshot, reserved *corev1.Pod) News{
				"taken back":       func(s *Snapshot, reserved *corev1.Pod) News { return s.Denominate(reserved.UID) },
				"deleted":          func(s *Snapshot, reserved *corev1.Pod) News { return s.RemovePod(reserved.UID) },
				"moved":            func(s *Snapshot, reserved *corev1.Pod) News { return s.Nominate(reserved, "closed") },
				"bound elsewhere":  func(s *Snapshot, reserved *corev1.Pod) News { return s.SetPod(bound(reserved, "closed")) },
				"placed elsewhere": func(s *Snapshot, reserved *corev1.Pod) News { return s.Assume(reserved, "closed") },
			} {
				s, reserved, w := begin()
				if n := do(s, reserved); !s.Concerns(&n, w) {
					t.Errorf("not woken when it is %s", how)
				}
			}
			s, reserved, w := begin()
			if n := s.Assume(reserved, "a"); s.Concerns(&n, w) {
				t.Error("woken when it comes where it was expected")
			}
		})
	}
}
