package trace

import (
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/diagnose"
)

// What is broken of from where it is tried.
func TestNodesBroken(t *testing.T) {
	isBroken(t, map[string]fault{
		"agent away": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" {
					return errors.New("error dialing backend: node n2 has no session with the master")
				}
				return nil
			}
		}, Options{}, "nodes", []string{"n2: error dialing backend", "wpctl doctor --node n2", "✓ rules       10.254.7.9 on 1 node: to 2 endpoints"}},
		"no node": {func(w *world) {
			for _, n := range w.nodes {
				n.Status.Conditions[0].Status = corev1.ConditionUnknown
			}
		}, Options{}, "nodes", []string{"no node is ready"}},
	})
}

func TestNodesNoFault(t *testing.T) {
	isNoFault(t, map[string]noFault{
		"a node is down": {func(w *world) {
			w.nodes = append(w.nodes, node("n3", "198.51.100.13"))
			w.nodes[2].Status.Conditions[0].Status = corev1.ConditionUnknown
		}, Options{}, "not ready, and not tried: n3"},
		"the agent is of old": {func(w *world) {
			w.answer = func(string, *diagnose.Question, *diagnose.Answer) error { return errors.New("404 page not found") }
		}, Options{}, "update wp-agent on"},
	})
}
