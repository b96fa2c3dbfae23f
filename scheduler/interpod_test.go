package scheduler

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const host = "kubernetes.io/hostname"

func app(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Labels = map[string]string{"app": name} }
}

func selects(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func with(name, key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: selects(name), TopologyKey: key}}}}
	}
}

func away(name, key string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{LabelSelector: selects(name), TopologyKey: key}}}}
	}
}

func zones() *Snapshot {
	return snapshotOf(testNode("a1", "4", "4Gi", label("zone", "a")), testNode("a2", "4", "4Gi", label("zone", "a")), testNode("b1", "4", "4Gi", label("zone", "b")))
}

func TestPodAffinity(t *testing.T) {
	s := zones()
	if d := Schedule(s, testPod("", "", app("web"), with("db", "zone"))); !strings.HasPrefix(d.Message, "0/3 nodes are available: 3 node(s) didn't match pod affinity rules.") {
		t.Errorf("without company: %+v", d)
	}
	s.SetPod(bound(testPod("3", "", app("db")), "b1"))
	if n := place(s, testPod("", "", app("web"), with("db", "zone"))); n != "b1" {
		t.Errorf("placed on %q", n)
	}
	// The first of a group that wants to be together begins anywhere; the next ones follow.
	first := place(s, testPod("", "", app("flock"), with("flock", host)))
	if first == "" || place(s, testPod("", "", app("flock"), with("flock", host))) != first {
		t.Error("the flock is not together")
	}
}

func TestPodAntiAffinity(t *testing.T) {
	s := zones()
	used := map[string]bool{}
	for range 3 {
		used[place(s, testPod("", "", app("web"), away("web", host)))] = true
	}
	if len(used) != 3 || used[""] {
		t.Fatalf("placed on %v", used)
	}
	if d := Schedule(s, testPod("", "", app("web"), away("web", host))); !strings.HasPrefix(d.Message,
		"0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules. preemption: 0/3 nodes are available: 3 No preemption victims") {
		t.Errorf("the fourth: %+v", d)
	}
	// Those who want to be alone keep others away, too.
	if d := Schedule(s, testPod("", "", app("web"))); !strings.Contains(d.Message, "3 node(s) didn't satisfy existing pods anti-affinity rules") {
		t.Errorf("beside loners: %+v", d)
	}
	if Schedule(s, testPod("", "", app("web"), func(p *corev1.Pod) { p.Namespace = "other" })).Node == "" {
		t.Error("anti-affinity reaches into another namespace")
	}
	for uid := range s.loners {
		s.RemovePod(uid)
		break
	}
	if Schedule(s, testPod("", "", app("web"), away("web", host))).Node == "" {
		t.Error("no place although one has gone")
	}
}

func spreading(skew int32, mode corev1.UnsatisfiableConstraintAction) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{
			MaxSkew: skew, TopologyKey: "zone", WhenUnsatisfiable: mode, LabelSelector: selects("web")}}
	}
}

func TestTopologySpread(t *testing.T) {
	s := zones()
	count := map[string]int{}
	for range 6 {
		n := place(s, testPod("", "", app("web"), spreading(1, corev1.DoNotSchedule)))
		count[n[:1]]++
	}
	if count["a"] != 3 || count["b"] != 3 {
		t.Errorf("zones %v", count)
	}
	s.SetNode(testNode("b1", "4", "4Gi", label("zone", "b"), cordoned))
	place(s, testPod("", "", app("web"), spreading(1, corev1.DoNotSchedule)))
	d := Schedule(s, testPod("", "", app("web"), spreading(1, corev1.DoNotSchedule)))
	if !strings.HasPrefix(d.Message, "0/3 nodes are available: 1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints.") {
		t.Errorf("with a zone cordoned: %+v", d)
	}
	if n := place(s, testPod("", "", app("web"), spreading(1, corev1.ScheduleAnyway))); n == "" {
		t.Error("ScheduleAnyway refused")
	}
}

func TestSoftWishesAboutPods(t *testing.T) {
	s := zones()
	s.SetPod(bound(testPod("3", "3Gi", app("cache")), "b1"))
	near := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 10, PodAffinityTerm: corev1.PodAffinityTerm{LabelSelector: selects("cache"), TopologyKey: "zone"}}}}}
	}
	if n := place(s, testPod("", "", near)); n != "b1" {
		t.Errorf("company wished for, placed on %s", n)
	}
	s = zones()
	for range 4 {
		place(s, testPod("", "", app("web"), spreading(1, corev1.ScheduleAnyway)))
	}
	if s.Node("b1").requested.pods != 2 {
		t.Errorf("%d of 4 in zone b", s.Node("b1").requested.pods)
	}
}
