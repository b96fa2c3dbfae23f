package scheduler

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func constraint(change func(*corev1.TopologySpreadConstraint)) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		spreading(1, corev1.DoNotSchedule)(p)
		change(&p.Spec.TopologySpreadConstraints[0])
	}
}

// The fields of a constraint, each on zones a (two pods on it) and b (one pod, and a node that others may not use).
func TestSpreadFields(t *testing.T) {
	honor, ignore := corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore
	three := int32(3)
	old := func(p *corev1.Pod) { p.Labels["pod-template-hash"] = "old" }
	now := func(p *corev1.Pod) { p.Labels["pod-template-hash"] = "new" }
	snapshot := func() *Snapshot {
		s := snapshotOf(testNode("a1", "4", "4Gi", label("zone", "a")), testNode("b1", "4", "4Gi", label("zone", "b")))
		s.SetPod(bound(testPod("", "", app("web"), old), "a1"))
		s.SetPod(bound(testPod("", "", app("web"), old), "a1"))
		s.SetPod(bound(testPod("", "", app("web"), old), "b1"))
		return s
	}
	onlyA := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"zone": "a"} }
	for name, test := range map[string]struct {
		change []func(*corev1.Pod)
		taint  bool // zone c is there, empty, and tainted
		want   string
	}{
		"plain":                          {[]func(*corev1.Pod){constraint(func(*corev1.TopologySpreadConstraint) {})}, false, "b1"},
		"too few domains":                {[]func(*corev1.Pod){constraint(func(c *corev1.TopologySpreadConstraint) { c.MinDomains = &three })}, false, ""},
		"another revision":               {[]func(*corev1.Pod){now, constraint(func(c *corev1.TopologySpreadConstraint) { c.MatchLabelKeys = []string{"pod-template-hash"} }), onlyA}, false, "a1"},
		"only where it may go":           {[]func(*corev1.Pod){constraint(func(*corev1.TopologySpreadConstraint) {}), onlyA}, false, "a1"},
		"also where it may not go":       {[]func(*corev1.Pod){constraint(func(c *corev1.TopologySpreadConstraint) { c.NodeAffinityPolicy = &ignore }), onlyA}, false, ""},
		"a tainted zone counts":          {[]func(*corev1.Pod){constraint(func(*corev1.TopologySpreadConstraint) {})}, true, ""},
		"a tainted zone need not count":  {[]func(*corev1.Pod){constraint(func(c *corev1.TopologySpreadConstraint) { c.NodeTaintsPolicy = &honor })}, true, "b1"},
		"a pod that is not one of those": {[]func(*corev1.Pod){constraint(func(*corev1.TopologySpreadConstraint) {}), app("other"), onlyA}, false, "a1"},
	} {
		s := snapshot()
		if test.taint {
			s.SetNode(testNode("c1", "4", "4Gi", label("zone", "c"), taint("x", corev1.TaintEffectNoSchedule)))
		}
		p := testPod("", "", append([]func(*corev1.Pod){app("web")}, test.change...)...)
		if d := Schedule(s, p); d.Node != test.want {
			t.Errorf("%s: on %q, want %q: %s", name, d.Node, test.want, d.Message)
		}
	}
}

// The fields of a term of pod affinity.
func TestTermFields(t *testing.T) {
	term := func(anti bool, change func(*corev1.PodAffinityTerm)) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			terms := []corev1.PodAffinityTerm{{TopologyKey: host, LabelSelector: selects("db")}}
			change(&terms[0])
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
			if anti {
				p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: terms}}
			}
		}
	}
	in := func(ns string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Namespace = ns } }
	tenant := func(name string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Labels["tenant"] = name } }
	s := snapshotOf(testNode("n1", "4", "4Gi"), testNode("n2", "4", "4Gi"))
	s.SetNamespace("team", map[string]string{"kind": "team"})
	s.SetPod(bound(testPod("", "", app("db"), tenant("x"), in("team")), "n1"))
	s.SetPod(bound(testPod("", "", app("db"), tenant("y")), "n2"))
	team := &metav1.LabelSelector{MatchLabels: map[string]string{"kind": "team"}}
	for name, test := range map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"own namespace":            {testPod("", "", term(false, func(*corev1.PodAffinityTerm) {})), "n2"},
		"a named one":              {testPod("", "", term(false, func(t *corev1.PodAffinityTerm) { t.Namespaces = []string{"team"} })), "n1"},
		"a selected one":           {testPod("", "", term(false, func(t *corev1.PodAffinityTerm) { t.NamespaceSelector = team })), "n1"},
		"away from both":           {testPod("", "", term(true, func(t *corev1.PodAffinityTerm) { t.NamespaceSelector = &metav1.LabelSelector{} })), ""},
		"away from the own tenant": {testPod("", "", app("web"), tenant("y"), term(true, func(t *corev1.PodAffinityTerm) { t.MatchLabelKeys = []string{"tenant"} })), "n1"},
		"away from other tenants": {testPod("", "", app("web"), tenant("y"), term(true, func(t *corev1.PodAffinityTerm) {
			t.MismatchLabelKeys, t.NamespaceSelector = []string{"tenant"}, &metav1.LabelSelector{}
		})), "n2"},
		"with the own tenant": {testPod("", "", app("web"), tenant("x"), term(false, func(t *corev1.PodAffinityTerm) {
			t.MatchLabelKeys, t.NamespaceSelector = []string{"tenant"}, &metav1.LabelSelector{}
		})), "n1"},
	} {
		if d := Schedule(s, test.pod); d.Node != test.want {
			t.Errorf("%s: on %q, want %q: %s", name, d.Node, test.want, d.Message)
		}
	}
}

// A pod that is there attracts and repels those that come, too.
func TestWishesOfOthers(t *testing.T) {
	wish := func(anti bool) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			terms := []corev1.WeightedPodAffinityTerm{{Weight: 10, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: host, LabelSelector: selects("web")}}}
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: terms}}
			if anti {
				p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: terms}}
			}
		}
	}
	s := snapshotOf(testNode("n1", "4", "4Gi"), testNode("n2", "4", "4Gi"))
	friend := bound(testPod("2", "2Gi", wish(false)), "n1")
	s.SetPod(friend)
	if n := Schedule(s, testPod("", "", app("web"))).Node; n != "n1" {
		t.Errorf("not beside who wishes for it, but on %s", n)
	}
	s.RemovePod(friend.UID)
	s.SetPod(bound(testPod("2", "2Gi"), "n2"))
	s.SetPod(bound(testPod("", "", wish(true)), "n1"))
	if n := Schedule(s, testPod("", "", app("web"))).Node; n != "n2" {
		t.Errorf("beside who does not wish for it, on %s", n)
	}
	s.SetPod(bound(testPod("", "", app("cache"), with("web", host)), "n1"))
	if len(s.social) != 2 {
		t.Errorf("%d pods with wishes", len(s.social))
	}
}

// A node without the label of a soft constraint is the last choice, not the first.
func TestSoftSpreadNeedsTheLabel(t *testing.T) {
	s := snapshotOf(testNode("a1", "4", "4Gi", label("zone", "a")), testNode("b1", "4", "4Gi", label("zone", "b")), testNode("x", "64", "64Gi"))
	for range 3 {
		s.SetPod(bound(testPod("", "", app("web")), "a1"))
	}
	s.SetPod(bound(testPod("2", "2Gi", app("web")), "b1"))
	if n := Schedule(s, testPod("", "", app("web"), spreading(1, corev1.ScheduleAnyway))).Node; n != "b1" {
		t.Errorf("placed on %s", n)
	}
}

// Replicas spread over zones before they spread over the hosts of one.
func TestReplicasSpreadOverZones(t *testing.T) {
	zone := func(z string) func(*corev1.Node) { return label(corev1.LabelTopologyZone, z) }
	s := snapshotOf(testNode("a1", "8", "8Gi", zone("a")), testNode("a2", "8", "8Gi", zone("a")), testNode("a3", "8", "8Gi", zone("a")), testNode("b1", "4", "4Gi", zone("b")))
	count := map[string]int{}
	for range 4 {
		count[place(s, testPod("100m", "", ownedBy("rs")))[:1]]++
	}
	if count["a"] != 2 || count["b"] != 2 {
		t.Errorf("zones: %v", count)
	}
	s.RemoveNode("b1")
	s.SetNode(testNode("a3", "8", "8Gi"))
	if len(s.zones) != 1 || s.zones["a"] != 2 {
		t.Errorf("zones: %v", s.zones)
	}
}
