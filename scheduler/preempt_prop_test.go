package scheduler

import (
	"fmt"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// drawPod is a pod that asks for something of everything that can make it fit or not.
func drawPod(t *rapid.T, name string) *corev1.Pod {
	change := []func(*corev1.Pod){
		named(name), prio(rapid.Int32Range(-1, 3).Draw(t, name+" priority")), since(rapid.IntRange(0, 3).Draw(t, name+" since")),
		app(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, name+" app")),
	}
	if rapid.IntRange(0, 3).Draw(t, name+" port") == 0 {
		change = append(change, hostPortPod("", 80, "TCP"))
	}
	if rapid.IntRange(0, 3).Draw(t, name+" alone") == 0 {
		change = append(change, away(rapid.SampledFrom([]string{"a", "b"}).Draw(t, name+" from"), rapid.SampledFrom([]string{host, "zone"}).Draw(t, name+" key")))
	}
	return testPod(fmt.Sprintf("%dm", 100*rapid.IntRange(0, 15).Draw(t, name+" cpu")), "", change...)
}

// TestPreemptionIsSound: nobody of the same or a higher priority goes; when the victims have left, the pod has its place;
// none of them could have stayed; and when nobody is found, there was nobody.
func TestPreemptionIsSound(t *testing.T) {
	found := 0
	rapid.Check(t, func(t *rapid.T) {
		var nodes []*corev1.Node
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			nodes = append(nodes, testNode(fmt.Sprintf("n%d", i), fmt.Sprint(rapid.IntRange(1, 2).Draw(t, "cpu")), "4Gi", label("zone", fmt.Sprint(i%2))))
		}
		var budgets []*policyv1.PodDisruptionBudget
		for _, name := range []string{"a", "b"} {
			if rapid.Bool().Draw(t, "budget") {
				budgets = append(budgets, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
					Spec: policyv1.PodDisruptionBudgetSpec{Selector: selects(name)}, Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: rapid.Int32Range(0, 2).Draw(t, "allowed")}})
			}
		}
		// Pods come as they would: each where it fits, or else by chance reserved.
		s := snapshotOf(nodes...)
		for _, b := range budgets {
			s.SetBudget(b)
		}
		running, reserved := map[types.UID]*corev1.Pod{}, map[types.UID]string{}
		waiting := map[types.UID]*corev1.Pod{}
		for i := range rapid.IntRange(2, 14).Draw(t, "pods") {
			p := drawPod(t, fmt.Sprintf("p%d", i))
			if d := Schedule(s, p); d.Node != "" {
				running[p.UID] = bound(p, d.Node)
				s.SetPod(running[p.UID])
			} else if d.Nominated != "" && len(reserved) == 0 {
				s.Nominate(p, d.Nominated)
				reserved[p.UID], waiting[p.UID] = d.Nominated, p
			}
		}
		without := func(gone map[types.UID]bool) *Snapshot {
			s := snapshotOf(nodes...)
			for uid, p := range running {
				if !gone[uid] {
					s.SetPod(p)
				}
			}
			for uid, node := range reserved {
				s.Nominate(waiting[uid], node)
			}
			return s
		}
		p := drawPod(t, "asks")
		d := Schedule(s, p)
		switch {
		case d.Node != "":
			return
		case d.Nominated == "":
			for _, n := range nodes {
				gone := map[types.UID]bool{}
				for uid, r := range running {
					gone[uid] = r.Spec.NodeName == n.Name && Priority(r) < Priority(p)
				}
				s := without(gone)
				if newQuery(s, p).fits(s.Node(n.Name)) {
					t.Fatalf("%s: nobody found, but it would fit on %s", d.Message, n.Name)
				}
			}
			return
		}
		found++
		gone := map[types.UID]bool{}
		for _, v := range d.Victims {
			if Priority(v) >= Priority(p) || v.Spec.NodeName != d.Nominated {
				t.Fatalf("victim of priority %d on %s, for one of %d on %s", Priority(v), v.Spec.NodeName, Priority(p), d.Nominated)
			}
			gone[v.UID] = true
		}
		after := without(gone)
		after.Nominate(p, d.Nominated)
		if got := Schedule(after, p); got.Node != d.Nominated {
			t.Fatalf("does not fit on %s when %d victims have left: %+v", d.Nominated, len(d.Victims), got)
		}
		for uid := range gone {
			but := maps.Clone(gone)
			delete(but, uid)
			s := without(but)
			if newQuery(s, p).fits(s.Node(d.Nominated)) {
				t.Fatalf("fits on %s although %s stays", d.Nominated, running[uid].Name)
			}
		}
		if again := Schedule(s, p); again.Nominated != d.Nominated || names(again.Victims) != names(d.Victims) {
			t.Fatalf("looking changed the snapshot: %s of %q, then %s of %q", names(d.Victims), d.Nominated, names(again.Victims), again.Nominated)
		}
	})
	if found == 0 {
		t.Error("nobody was ever preempted")
	}
}
