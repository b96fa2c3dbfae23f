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
	tests := []struct {
		name    string
		serving bool
		grace   int64
		hook    int64 // preStop sleeps so long
		lasts   time.Duration
	}{
		{name: "no Service sends to it", grace: 30},
		{name: "a Service does", serving: true, grace: 30, lasts: drainTime},
		{name: "deleted with --now", serving: true, grace: 1},
		{name: "hook that lasts longer", serving: true, grace: 30, hook: 3, lasts: 3 * time.Second},
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
				began := time.Now()
				n.delete(p, c.grace)
				for n.goneCount("uid-p") == 0 && time.Since(began) < time.Minute {
					seconds(0.1)
				}
				if took := time.Since(began); took < c.lasts || took > c.lasts+200*time.Millisecond {
					t.Errorf("the pod lasted %s, want %s", took, c.lasts)
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
		n.delete(p, 1)
		seconds(0.2)
		if n.goneCount("uid-p") != 1 {
			t.Error("it still drains:", n.containers("uid-p"))
		}
	})
}
