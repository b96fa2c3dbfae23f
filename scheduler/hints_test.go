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

// A taint takes a node out of what a constraint spreads over, if that is asked for: a pod that was refused for the sake of
// that node's domain fits elsewhere then.
func TestTaintsWakeForSpread(t *testing.T) {
	honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	tainted := func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "closed", Effect: corev1.TaintEffectNoSchedule}}
	}
	for name, test := range map[string]struct {
		policy *corev1.NodeInclusionPolicy
		mode   corev1.UnsatisfiableConstraintAction
		change func(*corev1.Node)
		wakes  bool
	}{
		"honored":       {&honor, corev1.DoNotSchedule, tainted, true},
		"not ready":     {&honor, corev1.DoNotSchedule, notReady, true},
		"ignored":       {&ignore, corev1.DoNotSchedule, tainted, false},
		"by default":    {nil, corev1.DoNotSchedule, tainted, false},
		"only a wish":   {&honor, corev1.ScheduleAnyway, tainted, false},
		"other changes": {&honor, corev1.DoNotSchedule, func(n *corev1.Node) { n.Status.Allocatable = list("1", "1Gi", "110") }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshotOf(testNode("a", "4", "4Gi"), testNode("b", "4", "4Gi"))
			s.SetPod(bound(testPod("1", "", app("web")), "a"))
			s.SetPod(bound(testPod("4", "", prio(9)), "b")) // full
			p := testPod("1", "", app("web"), spreading(1, corev1.DoNotSchedule))
			c := &p.Spec.TopologySpreadConstraints[0]
			c.TopologyKey, c.NodeTaintsPolicy = host, test.policy
			if test.mode == corev1.ScheduleAnyway {
				wish := *c
				c.NodeTaintsPolicy = nil
				wish.WhenUnsatisfiable = test.mode
				p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, wish)
			}
			d := Schedule(s, p)
			if d.Node != "" {
				t.Fatalf("fits: %+v", d)
			}
			w := NewWaiting(p, &d)
			n := s.SetNode(testNode("b", "4", "4Gi", test.change))
			if got := s.Concerns(&n, w); got != test.wakes {
				t.Errorf("woken: %v", got)
			}
			if fits := Schedule(s, p).Node == "a"; fits != test.wakes {
				t.Errorf("fits: %v", fits)
			}
			if n = s.SetNode(testNode("b", "4", "4Gi", test.change)); n.Any() {
				t.Errorf("news of nothing: %+v", n)
			}
		})
	}
}
