package trace

import (
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/diagnose"
)

// What is broken of what kernels do.
func TestRulesBroken(t *testing.T) {
	at := netip.MustParseAddrPort
	isBroken(t, map[string]fault{
		"rules flushed": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" && a.Rules != nil {
					a.Rules.Ways[0].Have = diagnose.Verdict{Action: diagnose.Reject, Missing: "chain WP-SERVICES is empty"}
					dials(a, diagnose.Refused, func(d diagnose.Dialed) bool { return d.Address == at("10.254.7.9:80") })
				}
				return nil
			}
		}, Options{}, "rules", []string{"n2: no rule leads 10.254.7.9:80/TCP to an endpoint: chain WP-SERVICES is empty", "systemctl restart wp-agent on n2"}},
		"rules of old": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					old := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080"), at("10.244.9.9:8080")}}
					a.Rules.Ways[0].Want, a.Rules.Ways[0].Have = old, old
				}
				return nil
			}
		}, Options{}, "rules", []string{"knows other endpoints of 10.254.7.9:80/TCP than the API server: 10.244.2.7:8080 is missing, 10.244.9.9:8080 is too many", "agent has a session"}},
		"kernel lacks one": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					a.Rules.Ways[1].Have = diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080")}}
				}
				return nil
			}
		}, Options{}, "rules", []string{"node port 30080/TCP leads to 10.244.2.7:8080 is missing"}},
		"endpoints that are gone": {func(w *world) {
			w.service.Spec.Selector = nil
			w.slice.Endpoints = nil
			w.answer = func(n string, _ *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil && n == "n2" {
					a.Rules.Ways[0].Have = diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080")}}
				}
				return nil
			}
		}, Options{}, "endpoints", []string{"✗ rules", "n2: 10.254.7.9:80/TCP leads to endpoints that are gone: 10.244.1.5:8080 is too many"}},
		"and a connection beside": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" && a.Rules != nil {
					a.Rules.Ways[0].Have = diagnose.Verdict{Action: diagnose.Reject}
				}
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				}
				return nil
			}
		}, Options{}, "rules", []string{"✗ connection  not all endpoints answer\n              n1: 10.244.2.7:8080 (web-2 on n2): no answer\n              → n2 itself reaches it, so the way from n1 to n2 is broken"}},
		"no plane": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if q.Rules && n == "n1" {
					a.Rules, a.Errors["rules"] = nil, "the node's network could not be set up: DNS: address already in use"
				}
				return nil
			}
		}, Options{}, "rules", []string{"n1: the node's network could not be set up", "wpctl doctor --node n1"}},
	})
}

func TestRulesNoFault(t *testing.T) {
	at := netip.MustParseAddrPort
	isNoFault(t, map[string]noFault{
		"endpoint on a dead node is left out": {func(w *world) {
			w.nodes[1].Status.Conditions[0].Status = corev1.ConditionUnknown
			w.answer = func(_ string, q *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					v := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080")}}
					for i := range a.Rules.Ways {
						a.Rules.Ways[i].Want, a.Rules.Ways[i].Have = v, v
					}
				}
				return nil
			}
		}, Options{}, "✓ rules"},
		"all are ending, and serve": {func(w *world) {
			for i := range w.slice.Endpoints {
				w.pods[i].DeletionTimestamp, w.pods[i].Finalizers = ref(metav1.Unix(1, 0)), []string{"x"}
				w.slice.Endpoints[i].Conditions = discoveryv1.EndpointConditions{Ready: ref(false), Serving: ref(true), Terminating: ref(true)}
			}
			w.service.Spec.Selector = nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					v := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080"), at("10.244.2.7:8080")}}
					for i := range a.Rules.Ways {
						a.Rules.Ways[i].Want, a.Rules.Ways[i].Have = v, v
					}
				}
				return nil
			}
		}, Options{}, "10.244.1.5:8080 (web-1 on n1), which is ending"},
		"hints": {func(w *world) {
			w.service.Spec.TrafficDistribution = ref("PreferClose")
			w.answer = func(_ string, q *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					v := diagnose.Verdict{Action: diagnose.ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080")}}
					a.Rules.Ways[0].Want, a.Rules.Ways[0].Have = v, v
				}
				return nil
			}
		}, Options{}, "✓ rules"},
		"the cluster's DNS": {func(w *world) {
			w.service.Spec.Selector, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort, w.slice.Endpoints = nil, corev1.ServiceTypeClusterIP, 0, nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				if a.Rules != nil {
					a.Rules.Ways = nil
				}
				return nil
			}
		}, Options{}, "✓ endpoints   every node answers by itself\n✓ name        web.default.svc.cluster.local → 10.254.7.9\n✓ rules       10.254.7.9 on 2 nodes: left to the node itself\n✓ address     10.254.7.9:80 answers\n"},
		"another proxy": {func(w *world) { w.service.Labels = map[string]string{otherProxyLabel: "cilium"} }, Options{}, "– rules       left to another proxy"},
		"rules that were only late": {func(w *world) {
			first := true
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if a.Rules != nil && n == "n1" && first {
					first, a.Rules.Known = false, false
				}
				return nil
			}
		}, Options{}, "✓ rules"},
	})
}
