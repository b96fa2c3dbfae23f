package replicaset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

var now = time.Unix(1_700_000_000, 0)

func pod(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-time.Hour))},
		Spec:       corev1.PodSpec{NodeName: "node-" + name},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
			{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-time.Hour))}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

// TestRank: of two pods that differ in one thing, the worse one goes.
func TestRank(t *testing.T) {
	tests := map[string]func(worse *corev1.Pod){
		"not on a node":        func(p *corev1.Pod) { p.Spec.NodeName = "" },
		"pending":              func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending },
		"not ready":            func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse },
		"cheaper":              func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} },
		"on a node with more":  func(p *corev1.Pod) { p.Spec.NodeName = "node-crowd" },
		"ready for a moment":   func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-time.Second)) },
		"restarted more often": func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} },
		"its sidecar restarted more often": func(p *corev1.Pod) {
			always := corev1.ContainerRestartPolicyAlways
			p.Spec.InitContainers = []corev1.Container{{Name: "setup"}, {Name: "proxy", RestartPolicy: &always}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "proxy", RestartCount: 1}}
		},
		"much younger": func(p *corev1.Pod) { p.CreationTimestamp = metav1.NewTime(now.Add(-time.Second)) },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} { // UIDs must not decide
				worse, better := pod(names[0], change), pod(names[1])
				related := func() []*corev1.Pod { return []*corev1.Pod{worse, better, pod("crowd")} }
				got := chooseForDeletion(now, []*corev1.Pod{better, worse}, related, 1)
				if got[0] != worse {
					t.Errorf("%s was chosen over %s", got[0].Name, worse.Name)
				}
			}
		})
	}
}

// TestRankOfEquals: what is about as old is chosen by UID, before restarts are looked at; a cost that is no number is none, and
// restarts of init containers do not count.
func TestRankOfEquals(t *testing.T) {
	tests := map[string]func(p *corev1.Pod){
		"ready for about as long": func(p *corev1.Pod) {
			p.Status.Conditions[0].LastTransitionTime = metav1.NewTime(now.Add(-59 * time.Minute))
		},
		"cost of +5":     func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "+5"} },
		"cost of 05":     func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "05"} },
		"cost too large": func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "2147483648"} },
		"init container restarted": func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "setup"}}
			p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "setup", RestartCount: 9}}
		},
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			for _, names := range [][2]string{{"a", "b"}, {"b", "a"}} {
				changed, other := pod(names[0], change), pod(names[1])
				got := chooseForDeletion(now, []*corev1.Pod{other, changed}, func() []*corev1.Pod { return nil }, 1)
				if got[0].Name != "a" {
					t.Errorf("%s was chosen, the changed one is %s", got[0].Name, names[0])
				}
			}
		})
	}
}

// TestCountsAreExact: whatever pods there are, claimed or not, ended or ending, after the plan exactly the wanted number
// counts, nothing is chosen twice, and nothing of others is touched.
func TestCountsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rs := manifest("web", int32(rapid.IntRange(0, 12).Draw(t, "replicas")))
		rs.UID = "web"
		if rapid.IntRange(0, 9).Draw(t, "deleting") == 0 {
			rs.DeletionTimestamp = &metav1.Time{Time: now}
		}
		selector := labels.SelectorFromSet(rs.Spec.Selector.MatchLabels)
		var pods []*corev1.Pod
		for i := range rapid.IntRange(0, 15).Draw(t, "pods") {
			p := pod(fmt.Sprint(i))
			if rapid.IntRange(0, 4).Draw(t, "matches") > 0 {
				p.Labels = map[string]string{"app": "web"}
			}
			switch rapid.IntRange(0, 4).Draw(t, "owner") {
			case 0: // nobody's
			case 1:
				podstate.SetController(p, manifest("other", 1), replicaSets.kind)
				p.OwnerReferences[0].UID = "other"
			default:
				podstate.SetController(p, rs, replicaSets.kind)
			}
			if rapid.IntRange(0, 5).Draw(t, "ended") == 0 {
				p.Status.Phase = corev1.PodFailed
			}
			if rapid.IntRange(0, 5).Draw(t, "ending") == 0 {
				p.DeletionTimestamp = &metav1.Time{Time: now}
			}
			pods = append(pods, p)
		}
		p := makePlan(now, rs, selector, pods, func() []*corev1.Pod { return pods })
		if rs.DeletionTimestamp != nil {
			if !p.empty() {
				t.Fatal("a ReplicaSet that is being deleted acts")
			}
			return
		}
		if got := len(p.active) + p.create - len(p.remove); got != int(*rs.Spec.Replicas) {
			t.Fatalf("%d pods after the plan, want %d", got, *rs.Spec.Replicas)
		}
		if p.create > 0 && len(p.remove) > 0 {
			t.Fatal("creates and deletes in one turn")
		}
		seen := map[types.UID]bool{}
		for _, d := range p.remove {
			if seen[d.UID] || !slices.Contains(p.active, d) || !podstate.Active(d) {
				t.Fatalf("pod %s chosen twice, or not ours", d.Name)
			}
			seen[d.UID] = true
		}
		for _, a := range p.active {
			if ref := metav1.GetControllerOf(a); ref != nil && ref.UID != rs.UID || a.Labels["app"] != "web" {
				t.Fatalf("pod %s counted though it is not ours", a.Name)
			}
		}
	})
}
