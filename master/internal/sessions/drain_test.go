package sessions

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// listener is an agent's session whose sender and receiver the test plays.
type listener struct {
	s    *Server
	n    *session
	f    *feed
	mark uint64
	told []string
}

func join(t *testing.T, s *Server, node string, reports bool) *listener {
	ctx, cancel := context.WithCancelCause(t.Context())
	l := &listener{s: s, n: newSession(ctx, node, cancel), f: newFeed(s, node)}
	l.n.reports = reports
	s.add(l.n)
	return l
}

// hear what is there to be told.
func (l *listener) hear(t *testing.T) {
	t.Helper()
	synctest.Wait()
	taken := l.n.take()
	asked, err := l.f.send(taken.keys, taken.all, taken.mark, func(m *agentv1.FromMaster) error {
		l.mark = max(l.mark, m.GetChanges().Mark)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if l.n.hasSent(taken.mark, asked) {
		l.s.drains.heard(l.n)
	}
	l.told = append(l.told, taken.withdrawn...)
}

// answer that all is in force.
func (l *listener) answer() {
	if l.n.isInForce(l.mark) {
		l.s.drains.heard(l.n)
	}
}

// offered is a slice that names a pod.
func offered(name string, pod *corev1.Pod, terminating bool) *discoveryv1.EndpointSlice {
	ready := !terminating
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints: []discoveryv1.Endpoint{{
			Addresses: []string{"10.244.0.2"}, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Terminating: &terminating},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: pod.Name, UID: pod.UID},
		}},
	}
}

func withdraw(e *ct.Env, slice string) {
	ct.Change(e, "default", slice, func(s *discoveryv1.EndpointSlice) {
		yes, no := true, false
		s.Endpoints[0].Conditions = discoveryv1.EndpointConditions{Ready: &no, Serving: &yes, Terminating: &yes}
	})
}

// shop is a pod on n1 which two Services offer, and two agents that have put that in force.
func shop(t *testing.T, reports bool) (e *ct.Env, s *Server, pod *corev1.Pod, n1, n2 *listener) {
	e = ct.New(t)
	s = newServer(e, "10.244.0.0/16")
	e.Start(s.Run)
	p := ct.Pod("web", nil)
	p.Spec.NodeName = "n1"
	pod = ct.Create(e, p)
	ct.Create(e, offered("one", pod, false))
	ct.Create(e, offered("two", pod, false))
	n1, n2 = join(t, s, "n1", true), join(t, s, "n2", reports)
	for _, l := range []*listener{n1, n2} {
		l.hear(t)
		l.answer()
	}
	return e, s, pod, n1, n2
}

func remove(e *ct.Env) { ct.Delete[*corev1.Pod](e, "default", "web", registry.DeleteOptions{}) }

func TestWithdrawnWhenAllHaveItInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _, pod, n1, n2 := shop(t, true)
		expect := func(when string, want ...string) {
			t.Helper()
			n1.hear(t)
			n2.hear(t)
			if !slices.Equal(n1.told, want) || n2.told != nil {
				t.Fatalf("%s: n1 was told %v, want %v, and n2 %v", when, n1.told, want, n2.told)
			}
		}
		remove(e)
		expect("still offered by both")
		withdraw(e, "one")
		expect("still offered by one")
		n1.answer()
		n2.answer()
		expect("still offered by one, all answered")
		withdraw(e, "two")
		expect("withdrawn, nobody has answered")
		n1.answer()
		expect("one has answered")
		before := n2.mark
		ct.Create(e, &corev1.Service{ // n2 has more to do meanwhile, which counts for what was before it
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
		})
		expect("another change")
		if n2.mark == before {
			t.Fatal("nothing was asked")
		}
		n2.answer()
		expect("both have answered", string(pod.UID))
		n2.answer()
		expect("told once", string(pod.UID))
	})
}

func TestNobodyWaitsForThoseWhoAreAway(t *testing.T) {
	for name, test := range map[string]struct {
		reports bool
		change  func(t *testing.T, s *Server, n1, n2 *listener)
	}{
		"its session ended": {reports: true, change: func(_ *testing.T, s *Server, _, n2 *listener) { s.remove(n2.n) }},
		"it never says":     {change: func(*testing.T, *Server, *listener, *listener) {}},
		"it has another session": {reports: true, change: func(t *testing.T, s *Server, _, _ *listener) {
			answering(t, join(t, s, "n2", true))
			s.drains.left(nil)
		}},
		"it was told of others":  {reports: true, change: func(t *testing.T, _ *Server, _, n2 *listener) { answering(t, n2) }},
		"it had nothing to hear": {reports: true, change: func(t *testing.T, _ *Server, _, n2 *listener) { n2.hear(t); n2.answer() }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, s, pod, n1, n2 := shop(t, test.reports)
				withdraw(e, "one")
				withdraw(e, "two")
				remove(e)
				answering(t, n1)
				if n1.hear(t); test.reports && n1.told != nil {
					t.Fatal("told too early")
				}
				old := n2.n
				test.change(t, s, n1, n2)
				if s.session("n2") != old {
					s.remove(old)
				}
				n1.hear(t)
				if !slices.Equal(n1.told, []string{string(pod.UID)}) {
					t.Errorf("told %v", n1.told)
				}
			})
		})
	}
}

func answering(t *testing.T, l *listener) {
	t.Helper()
	l.hear(t)
	l.answer()
}

// A new session of the pod's node has not heard what the one before was told; and what the one before says late counts for nothing.
func TestToldAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, s, pod, n1, n2 := shop(t, true)
		remove(e)
		withdraw(e, "one")
		withdraw(e, "two")
		answering(t, n1)
		answering(t, n2)
		n1.hear(t)
		if len(n1.told) != 1 {
			t.Fatal("not told")
		}
		again := join(t, s, "n1", true)
		if again.n.isInForce(n1.mark) && again.n.has(again.n.marked) {
			t.Error("an earlier session's mark counts")
		}
		again.hear(t)
		if !slices.Equal(again.told, []string{string(pod.UID)}) {
			t.Errorf("told %v", again.told)
		}
		zero := int64(0)
		ct.Delete[*corev1.Pod](e, "default", "web", registry.DeleteOptions{GracePeriodSeconds: &zero})
		synctest.Wait()
		if d := s.drains; len(d.pods)+len(d.offering)+len(d.waiting) != 0 {
			t.Error("a pod that is gone is remembered")
		}
	})
}

// A pod that ends while it is still offered, or while agents are behind, leaves nothing.
func TestEndedBeforeItWasWithdrawn(t *testing.T) {
	for name, before := range map[string]func(*ct.Env){
		"offered":       func(*ct.Env) {},
		"agents behind": func(e *ct.Env) { withdraw(e, "one"); withdraw(e, "two") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, s, _, _, _ := shop(t, true)
				remove(e)
				before(e)
				synctest.Wait()
				if d := s.drains; len(d.pods) != 1 || len(d.offering)+len(d.waiting) == 0 {
					t.Fatalf("%d pods, %d slices, %d agents", len(d.pods), len(d.offering), len(d.waiting))
				}
				zero := int64(0)
				ct.Delete[*corev1.Pod](e, "default", "web", registry.DeleteOptions{GracePeriodSeconds: &zero})
				synctest.Wait()
				if d := s.drains; len(d.pods)+len(d.offering)+len(d.waiting) != 0 {
					t.Errorf("%d pods, %d slices, %d agents are remembered", len(d.pods), len(d.offering), len(d.waiting))
				}
			})
		})
	}
}
