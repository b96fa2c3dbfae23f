package trace

import (
	corev1 "k8s.io/api/core/v1"
	"net/netip"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/node/diagnose"
)

// What is broken of who listens, and who is in the way.
func TestEndpointsBroken(t *testing.T) {
	at := netip.MustParseAddrPort
	isBroken(t, map[string]fault{
		"wrong targetPort": {func(w *world) {
			w.service.Spec.Ports[0].TargetPort = intstr.FromInt32(81)
			w.slice.Ports[0].Port = ref(int32(81))
			w.answer = listens("", "0.0.0.0:8080")
		}, Options{}, "targetPort", []string{"pod web-1: no process listens on 81/TCP, but on 8080/TCP", "✗ connection  not all endpoints answer (follows from targetPort)\n", "✗ address     does not answer everywhere (follows from targetPort)\n", "set targetPort: 8080 in port http of Service web"}},
		"listens on 127.0.0.1": {func(w *world) { w.answer = listens("web-2", "127.0.0.1:8080") }, Options{}, "container",
			[]string{"pod web-2 listens on 127.0.0.1:8080 only", "0.0.0.0:8080"}},
		"listens nowhere": {func(w *world) { w.answer = listens("web-1") }, Options{}, "container", []string{"no process listens on 8080/TCP, nor on any other TCP port", "wpctl logs web-1"}},
		"DROP on the endpoint's node": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				}
				if n == "n2" && len(q.Drops) > 0 {
					a.Drops = []string{"iptables -A FORWARD -d 10.244.2.9/32 -j DROP", "iptables-legacy -A FORWARD -d 10.244.2.7/32 -j DROP"}
				}
				return nil
			}
		}, Options{}, "connection", []string{"n1: 10.244.2.7:8080 (web-2 on n2): no answer", "a rule on n2 drops it: iptables-legacy -A FORWARD -d 10.244.2.7/32 -j DROP; if nobody needs it, remove it there: iptables-legacy -D FORWARD -d 10.244.2.7/32 -j DROP"}},
		"DROP on the node that asks": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
					if len(q.Names) > 0 { // asked as the one who asks
						a.Drops = []string{"-A FORWARD -d 10.244.2.7/32 -j DROP", "-A OUTPUT -d 10.244.2.7/32 -j DROP"}
					}
				}
				return nil
			}
		}, Options{}, "connection", []string{"a rule on n1 drops it: iptables -A OUTPUT -d 10.244.2.7/32 -j DROP"}},
		"a rule that is not in the way": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				}
				a.Drops = []string{"iptables -A FORWARD -d 10.244.2.7/32 -p tcp -m tcp --dport 22 -j DROP"}
				if n == "n2" {
					a.Drops = append(a.Drops, "iptables -A OUTPUT -j DROP")
				}
				return nil
			}
		}, Options{}, "connection", []string{"the way from n1 to n2 is broken"}},
		"the Service says TCP, the program UDP": {func(w *world) {
			w.service.Spec.Ports[0].TargetPort = intstr.FromInt32(8080)
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				err := listens("")(n, q, a)
				for i := range a.Sockets {
					a.Sockets[i].Listening = []diagnose.Socket{{Protocol: "UDP", Address: at("0.0.0.0:8080")}}
				}
				return err
			}
		}, Options{}, "targetPort", []string{"pod web-1: no process listens on 8080/TCP, but on 8080/UDP", "set protocol: UDP in port http of Service web"}},
		"a port that a pod does not have": {func(*world) {}, Options{Kind: "pod", Name: "web-1", Port: "htpt"}, "container", []string{"the pod has no port called htpt", "http 8080/TCP"}},
		"policy": {func(w *world) {
			w.policies = []*networkingv1.NetworkPolicy{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "deny"}}}
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				}
				return nil
			}
		}, Options{}, "connection", []string{"NetworkPolicy default/deny isolates pod default/web-2 for ingress, and no rule lets server n1 (198.51.100.11)", "in at 8080/TCP", "ipBlock 198.51.100.11/32"}},
		"tunnel": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					for i, d := range a.Dials {
						if d.Address == at("10.244.2.7:8080") {
							a.Dials[i].Result, a.Dials[i].Via = diagnose.TimedOut, "wpx0"
						}
					}
				}
				return nil
			}
		}, Options{}, "connection", []string{"the way from n1 to n2 is broken (through the tunnel: 8472/udp", "wpctl doctor --node n1"}},
		"a queue that is full": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				for i := range a.Sockets {
					if a.Sockets[i].Name == "web-2" {
						a.Sockets[i].Listening[0].Waiting = 129
					}
				}
				return nil
			}
		}, Options{}, "connection", []string{"! container", "the program in pod web-2 does not take its connections, and no more can wait"}},
		"own node cannot": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.Forbidden, func(d diagnose.Dialed) bool { return d.Address == at("10.244.2.7:8080") })
				return nil
			}
		}, Options{}, "connection", []string{"its own node cannot reach it either", "wpctl doctor --node n2"}},
		"large packets lost": {func(w *world) {
			w.answer = func(n string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Pings {
					a.Pings[i].Full = n != "n1" || a.Pings[i].Address.String() != "10.244.2.7"
				}
				return nil
			}
		}, Options{}, "size", []string{"n1: 1500 bytes to web-2 on n2", "wpctl doctor --node n1", "✓ connection"}},
		"pod alone, wrong port": {func(w *world) { w.answer = listens("web-1", "0.0.0.0:9090") }, Options{Kind: "pod", Name: "web-1"}, "container",
			[]string{"no process listens on 8080/TCP, but on 9090/TCP"}},
	})
}

func TestEndpointsNoFault(t *testing.T) {
	isNoFault(t, map[string]noFault{
		"redirected inside the pod": {func(w *world) {
			inner := listens("web-1", "127.0.0.1:15001")
			w.answer = func(node string, q *diagnose.Question, a *diagnose.Answer) error {
				err := inner(node, q, a)
				dials(a, diagnose.Answered, func(diagnose.Dialed) bool { return true })
				return err
			}
		}, Options{}, "✓ container"},
		"connections that nobody takes": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Sockets {
					if a.Sockets[i].Name == "web-1" {
						a.Sockets[i].Listening[0].Waiting = 3
					}
				}
				return nil
			}
		}, Options{}, "! container   listens on 8080/TCP, and connections wait\n              pod web-1 has not taken 3 connections to 8080/TCP: the program hangs, is paused, or has too much to do\n"},
		"silence of UDP": {func(w *world) {
			w.service.Spec.Ports[0].Protocol, w.slice.Ports[0].Protocol = corev1.ProtocolUDP, ref(corev1.ProtocolUDP)
			w.service.Spec.Ports[0].TargetPort = intstr.FromInt32(8080)
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.Silent, func(diagnose.Dialed) bool { return true })
				for i := range a.Sockets {
					a.Sockets[i].Listening[0].Protocol = "UDP"
				}
				if a.Rules != nil {
					a.Rules.Ways[0].Protocol, a.Rules.Ways[1].Protocol = "UDP", "UDP"
				}
				return nil
			}
		}, Options{}, "– connection  8080/UDP: nobody refuses; that packets arrive cannot be told (UDP)\n– address     10.254.7.9:80/UDP: nobody refuses\n– outside     node port 30080/UDP: nobody refuses\n\nNothing that could be tried is broken."},
		"pings are dropped": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Pings {
					a.Pings[i] = diagnose.Pinged{Address: a.Pings[i].Address, Size: 1500}
				}
				return nil
			}
		}, Options{}, "Nothing is broken on this way."},
		"a pod": {func(*world) {}, Options{Kind: "pod", Name: "web-1"}, "web-1 is ready, 10.244.1.5 on node n1"},
	})
}
