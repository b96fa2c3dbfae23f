package scheduler

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func prio(n int32) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Spec.Priority = &n } }

func named(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Name = name } }

func since(minute int) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := metav1.NewTime(time.Unix(1_700_000_000, 0).Add(time.Duration(minute) * time.Minute))
		p.Status.StartTime = &t
	}
}

func leaving(p *corev1.Pod) {
	p.DeletionTimestamp = &metav1.Time{}
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "PreemptionByScheduler"}}
}

func only(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{host: node} }
}

func names(pods []*corev1.Pod) string {
	var out []string
	for _, p := range pods {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

func TestVictims(t *testing.T) {
	type on map[string][]*corev1.Pod
	small := func(name string) *corev1.Node { return testNode(name, "1", "1Gi") }
	pdb := func(app string, allowed int32) *policyv1.PodDisruptionBudget {
		return &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: app},
			Spec: policyv1.PodDisruptionBudgetSpec{Selector: selects(app)}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: allowed}}
	}
	for name, test := range map[string]struct {
		running   on
		budgets   []*policyv1.PodDisruptionBudget
		nominated map[string]*corev1.Pod
		pod       *corev1.Pod
		node      string // where it is nominated
		victims   string
		message   string // a part of it
	}{
		"only who is in the way": {running: on{"a": {testPod("300m", "", named("x"), prio(1)), testPod("300m", "", named("y"), prio(2)), testPod("300m", "", named("z"), prio(3))}},
			pod: testPod("500m", "", prio(9)), node: "a", victims: "y x", message: "0/2 nodes are available: 2 Insufficient cpu."},
		"one large instead of two small": {running: on{"a": {testPod("400m", "", named("x"), prio(2)), testPod("400m", "", named("y"), prio(1))}},
			pod: testPod("500m", "", prio(9)), node: "a", victims: "y"},
		"nobody of the same priority": {running: on{"a": {testPod("1", "", prio(9))}}, pod: testPod("1", "", prio(9)),
			message: "preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod."},
		"too large anyway": {running: on{"a": {testPod("500m", "", prio(9)), testPod("500m", "", prio(1))}}, pod: testPod("1", "", prio(9)),
			message: "preemption: 0/2 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod."},
		"larger than any node": {running: on{"a": {testPod("500m", "", prio(1))}}, pod: testPod("2", "", prio(9)),
			message: "preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."},
		"the less important highest": {running: on{"a": {testPod("1", "", named("x"), prio(3))}, "b": {testPod("500m", "", named("y"), prio(2)), testPod("500m", "", named("z"), prio(2))}},
			pod: testPod("1", "", prio(9)), node: "b", victims: "y z"},
		"the smaller sum": {running: on{"a": {testPod("500m", "", named("w"), prio(2)), testPod("500m", "", named("x"), prio(2))}, "b": {testPod("500m", "", named("y"), prio(2)), testPod("500m", "", named("z"), prio(1))}},
			pod: testPod("1", "", prio(9)), node: "b", victims: "y z"},
		"fewer, also below zero": {running: on{"a": {testPod("500m", "", named("w"), prio(-2)), testPod("500m", "", named("x"), prio(-2))}, "b": {testPod("1", "", named("y"), prio(-2))}},
			pod: testPod("1", "", prio(9)), node: "b", victims: "y"},
		"who began later": {running: on{"a": {testPod("1", "", named("x"), prio(1), since(1))}, "b": {testPod("1", "", named("y"), prio(1), since(2))}},
			pod: testPod("1", "", prio(9)), node: "b", victims: "y"},
		"the older stays": {running: on{"a": {testPod("500m", "", named("x"), prio(1), since(1)), testPod("500m", "", named("y"), prio(1), since(2))}},
			pod: testPod("500m", "", prio(9)), node: "a", victims: "y"},
		"budgets first": {running: on{"a": {testPod("1", "", named("x"), prio(1), app("db"))}, "b": {testPod("1", "", named("y"), prio(5))}}, budgets: []*policyv1.PodDisruptionBudget{pdb("db", 0)},
			pod: testPod("1", "", prio(9)), node: "b", victims: "y"},
		"a budget that allows it": {running: on{"a": {testPod("1", "", named("x"), prio(1), app("db"))}, "b": {testPod("1", "", named("y"), prio(5))}}, budgets: []*policyv1.PodDisruptionBudget{pdb("db", 1)},
			pod: testPod("1", "", prio(9)), node: "a", victims: "x"},
		"within a node": {running: on{"a": {testPod("500m", "", named("x"), prio(1), app("db")), testPod("500m", "", named("y"), prio(5))}}, budgets: []*policyv1.PodDisruptionBudget{pdb("db", 0)},
			pod: testPod("500m", "", prio(9)), node: "a", victims: "y"},
		"reserved for one as important": {running: on{"a": {testPod("1", "", prio(1))}}, nominated: map[string]*corev1.Pod{"a": testPod("1", "", prio(9))},
			pod: testPod("1", "", prio(9)), message: "1 Insufficient cpu, 1 No preemption victims"},
		"reserved for one less important": {running: on{"a": {testPod("1", "", named("x"), prio(1), leaving)}}, nominated: map[string]*corev1.Pod{"a": testPod("1", "", prio(5))},
			pod: testPod("1", "", prio(9)), node: "a", victims: "x"},
		"host port": {running: on{"a": {testPod("", "", named("x"), prio(1), hostPortPod("", 80, "TCP")), testPod("", "", named("y"), prio(0))}},
			pod: testPod("", "", prio(9), hostPortPod("", 80, "TCP"), only("a")), node: "a", victims: "x"},
		"anti-affinity": {running: on{"a": {testPod("", "", named("x"), prio(1), app("web")), testPod("", "", named("y"), prio(0))}},
			pod: testPod("", "", prio(9), away("web", host), only("a")), node: "a", victims: "x"},
		"a loner": {running: on{"a": {testPod("", "", named("x"), prio(1), away("web", host)), testPod("", "", named("y"), prio(0))}},
			pod: testPod("", "", prio(9), app("web"), only("a")), node: "a", victims: "x"},
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshotOf(small("a"), small("b"))
			if test.running["b"] == nil {
				s.SetPod(bound(testPod("1", "1Gi", prio(100)), "b"))
			}
			for node, pods := range test.running {
				for _, p := range pods {
					s.SetPod(bound(p, node))
				}
			}
			for _, b := range test.budgets {
				s.SetBudget(b)
			}
			for node, p := range test.nominated {
				s.Nominate(p, node)
			}
			d := Schedule(s, test.pod)
			if d.Node != "" || d.Nominated != test.node || names(d.Victims) != test.victims || !strings.Contains(d.Message, test.message) {
				t.Errorf("node %q, nominated to %q for %q: %s\nwant %q for %q: %s", d.Node, d.Nominated, names(d.Victims), d.Message, test.node, test.victims, test.message)
			}
			if test.node != "" && strings.Contains(d.Message, "preemption:") {
				t.Errorf("found somebody, and says: %s", d.Message)
			}
		})
	}
}

// To be within the skew another pod has to go than for the resources alone.
func TestVictimsForSpread(t *testing.T) {
	s := snapshotOf(testNode("a", "10", "1Gi"), testNode("b", "10", "1Gi"))
	s.SetPod(bound(testPod("9", "", prio(1000), app("web")), "a"))
	for _, name := range []string{"x", "y", "z"} {
		s.SetPod(bound(testPod("3", "", prio(1), app("web"), named(name)), "b"))
	}
	p := testPod("3", "", prio(100), app("web"), spreading(1, corev1.DoNotSchedule))
	p.Spec.TopologySpreadConstraints[0].TopologyKey = host
	d := Schedule(s, p)
	if d.Nominated != "b" || len(d.Victims) != 2 {
		t.Fatalf("%q for %s: %s", d.Nominated, names(d.Victims), d.Message)
	}
	for _, v := range d.Victims {
		v = v.DeepCopy()
		v.DeletionTimestamp = &metav1.Time{}
		v.Generation++
		s.SetPod(v)
	}
	s.RemovePod(d.Victims[0].UID)
	if d := Schedule(s, p); d.Node != "b" {
		t.Errorf("pods that are ending count for the spread: %+v", d)
	}
}

func TestNomination(t *testing.T) {
	s := snapshotOf(testNode("a", "1", "1Gi"))
	victim := bound(testPod("1", "", prio(1), leaving), "a")
	s.SetPod(victim)
	first := testPod("1", "", prio(9))
	s.Nominate(first, "a")
	if d := Schedule(s, first); !d.Waits || !strings.HasSuffix(d.Message, "preemption: not eligible due to a terminating pod on the nominated node.") {
		t.Errorf("asks for more victims: %+v", d)
	}
	s.RemovePod(victim.UID)
	if d := Schedule(s, testPod("1", "", prio(9))); d.Node != "" {
		t.Error("a pod of the same priority was faster")
	}
	if d := Schedule(s, testPod("1", "", prio(5))); d.Node != "" {
		t.Error("a pod of a lower priority was faster")
	}
	if d := Schedule(s, testPod("1", "", prio(10))); d.Node != "a" {
		t.Error("a nomination holds up one of a higher priority")
	}
	if got := s.NominatedBelow(testPod("", "", prio(10)), "a"); len(got) != 1 || got[0] != first {
		t.Errorf("below: %v", got)
	}
	if d := Schedule(s, first); d.Node != "a" {
		t.Errorf("%+v", d)
	}
	// It may go elsewhere, but goes where it has been nominated if it can.
	s.SetNode(testNode("0", "8", "8Gi"))
	if d := Schedule(s, first); d.Node != "a" {
		t.Errorf("not where it was nominated but %s", d.Node)
	}
	s.SetNode(testNode("a", "1", "1Gi", cordoned))
	if d := Schedule(s, first); d.Node != "0" {
		t.Errorf("%+v", d)
	}
	s.SetPod(bound(first, "0"))
	if s.Nominated(first.UID) != "" || len(s.Node("a").nominated) != 0 {
		t.Error("bound and still nominated")
	}
}

// A node on which nobody's leaving helps any more lets the pod look for others' places again.
func TestNominatedNodeIsLost(t *testing.T) {
	s := snapshotOf(testNode("a", "1", "1Gi"), testNode("b", "1", "1Gi"))
	s.SetPod(bound(testPod("1", "", prio(1), leaving), "a"))
	s.SetPod(bound(testPod("1", "", prio(2), named("other")), "b"))
	p := testPod("1", "", prio(9))
	s.Nominate(p, "a")
	s.SetNode(testNode("a", "1", "1Gi", notReady))
	if d := Schedule(s, p); d.Nominated != "b" || names(d.Victims) != "other" {
		t.Errorf("%+v", d)
	}
}
