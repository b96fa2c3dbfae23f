package pods

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// slice names a pod as a Service's endpoint.
func slice(p *corev1.Pod, serving bool) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: "svc-1"},
		Endpoints: []discoveryv1.Endpoint{{
			Conditions: discoveryv1.EndpointConditions{Serving: &serving},
			TargetRef:  &corev1.ObjectReference{Kind: "Pod", Namespace: p.Namespace, Name: p.Name, UID: p.UID},
		}},
	}
}

func (n *node) applySlice(s *discoveryv1.EndpointSlice) {
	n.t.Helper()
	err := n.state.Apply([]desired.Change{{Resource: desired.EndpointSlices, Key: desired.Key(s.Namespace, s.Name), Object: s}})
	if err != nil {
		n.t.Fatal(err)
	}
}

func TestServedPodDrains(t *testing.T) {
	type when = time.Duration
	never := when(-1)
	tests := []struct {
		name      string
		serving   bool
		grace     int64
		hook      int64 // preStop sleeps so long
		withdrawn when  // all nodes have changed their rules; before the deletion if 0
		busy      when  // the last answer ends, after the deletion
		blind     bool  // connections cannot be seen
		lasts     time.Duration
	}{
		{name: "no Service sends to it", grace: 30, withdrawn: never},
		{name: "nothing is asked of it", serving: true, grace: 30, withdrawn: 100 * time.Millisecond, lasts: 250 * time.Millisecond},
		{name: "withdrawn before it was deleted", serving: true, grace: 30, lasts: arrivalTime},
		{name: "answers for a while", serving: true, grace: 30, withdrawn: 100 * time.Millisecond, busy: 2 * time.Second, lasts: 2 * time.Second},
		{name: "a slow node", serving: true, grace: 30, withdrawn: 3 * time.Second, lasts: 3*time.Second + arrivalTime},
		{name: "a node that never answers", serving: true, grace: 30, withdrawn: never, lasts: withdrawLimit},
		{name: "answers for ever", serving: true, grace: 30, withdrawn: 100 * time.Millisecond, busy: time.Hour, lasts: 100*time.Millisecond + answerLimit},
		{name: "a slow node and long answers", serving: true, grace: 60, withdrawn: 9 * time.Second, busy: time.Hour, lasts: 14 * time.Second},
		{name: "a short grace period is not used up", serving: true, grace: 4, withdrawn: never, lasts: 2 * time.Second},
		{name: "deleted with --now", serving: true, grace: 1, withdrawn: never},
		{name: "connections cannot be seen", serving: true, grace: 30, withdrawn: 100 * time.Millisecond, blind: true, lasts: 100*time.Millisecond + requestTime},
		{name: "hook that lasts longer", serving: true, grace: 30, hook: 3, withdrawn: 100 * time.Millisecond, lasts: 3 * time.Second},
		{name: "hook that is shorter", serving: true, grace: 30, hook: 1, withdrawn: 100 * time.Millisecond, busy: 2 * time.Second, lasts: 2 * time.Second},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			test(t, func(t *testing.T, n *node) {
				n.script("a", fake.Program{})
				p := pod("p", "a")
				if c.hook > 0 {
					p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: c.hook}}}
				}
				n.applySlice(slice(p, c.serving))
				n.apply(p)
				if c.withdrawn == 0 {
					n.manager.Withdrawn(string(p.UID))
				}
				began := time.Now()
				n.net.set(c.blind, began.Add(c.busy))
				if c.withdrawn > 0 {
					time.AfterFunc(c.withdrawn, func() { n.manager.Withdrawn(string(p.UID)) })
				}
				n.delete(p, c.grace)
				for n.goneCount("uid-p") == 0 && time.Since(began) < time.Minute {
					seconds(0.05)
				}
				if took := time.Since(began); took < c.lasts || took > c.lasts+200*time.Millisecond {
					t.Errorf("the pod lasted %s, want %s", took, c.lasts)
				}
				n.remove(desired.Pods, p.Namespace, p.Name)
				seconds(0.1)
				n.apply(pod("other", "a")) // so that something happens once the worker has ended
				seconds(0.1)
				n.manager.mu.Lock()
				defer n.manager.mu.Unlock()
				if len(n.manager.withdrawn) > 0 {
					t.Error("a pod that is gone is remembered")
				}
			})
		})
	}
}

// A pod that is deleted a second time with a shorter period does not wait.
func TestDrainHurried(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{})
		p := pod("p", "a")
		n.applySlice(slice(p, true))
		n.apply(p)
		n.delete(p, 30)
		seconds(0.2)
		if n.goneCount("uid-p") != 0 {
			t.Error("it did not drain")
		}
		n.delete(p, 1)
		seconds(0.2)
		if n.goneCount("uid-p") != 1 {
			t.Error("it still drains:", n.containers("uid-p"))
		}
	})
}

// A restarted agent, which does not know what was told, finds a pod that is being deleted and lets it drain anew.
func TestDrainAfterRestart(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{})
		p := pod("p", "a")
		n.applySlice(slice(p, true))
		n.apply(p)
		n.delete(p, 30)
		seconds(0.1)
		n.restart()
		n.manager.Withdrawn(string(p.UID))
		seconds(1)
		if n.goneCount("uid-p") != 1 {
			t.Error("it still drains:", n.containers("uid-p"))
		}
	})
}
