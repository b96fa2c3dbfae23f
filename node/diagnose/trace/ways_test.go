package trace

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/diagnose"
)

// What is broken of the Service's own addresses.
func TestWaysBroken(t *testing.T) {
	at := netip.MustParseAddrPort
	isBroken(t, map[string]fault{
		"only the address": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("10.254.7.9:80") })
				return nil
			}
		}, Options{}, "address", []string{"n1, n2: 10.254.7.9:80: no answer", "rules of others"}},
		"only the node port": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("198.51.100.12:30080") })
				return nil
			}
		}, Options{}, "outside", []string{"n1: node port 30080 of n2: no answer", "n2: node port 30080: no answer"}},
		"nobody here by internalTrafficPolicy": {func(w *world) {
			w.service.Spec.InternalTrafficPolicy = ref(corev1.ServiceInternalTrafficPolicyLocal)
			w.pods, w.slice.Endpoints = w.pods[:1], w.slice.Endpoints[:1]
		}, Options{FromNode: "n2"}, "policy", []string{"no answer at n2"}},
		"no address for a load balancer": {func(w *world) {
			w.service.Spec.Type, w.service.UID = corev1.ServiceTypeLoadBalancer, "uid-svc"
			w.events = []*corev1.Event{{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, InvolvedObject: corev1.ObjectReference{Kind: "Service", Name: "web", UID: "uid-svc"},
				Type: "Warning", Reason: "AllocationFailed", Message: "port 80 is taken",
			}}
		}, Options{}, "outside", []string{"there is no EXTERNAL-IP yet", "AllocationFailed: port 80 is taken", "wpctl describe service web"}},
	})
}

func TestWaysNoFault(t *testing.T) {
	at := netip.MustParseAddrPort
	isNoFault(t, map[string]noFault{
		"externalTrafficPolicy Local": {func(w *world) {
			w.service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			w.pods, w.slice.Endpoints = w.pods[:1], w.slice.Endpoints[:1]
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n1" {
					dials(a, diagnose.TimedOut, func(d diagnose.Dialed) bool { return d.Address == at("198.51.100.12:30080") })
				}
				return nil
			}
		}, Options{}, "node port 30080 answers"},
		"internalTrafficPolicy Local": {func(w *world) {
			w.service.Spec.InternalTrafficPolicy = ref(corev1.ServiceInternalTrafficPolicyLocal)
			w.pods, w.slice.Endpoints = w.pods[:1], w.slice.Endpoints[:1]
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" {
					dials(a, diagnose.Refused, func(d diagnose.Dialed) bool { return d.Address == at("10.254.7.9:80") })
				}
				return nil
			}
		}, Options{}, "! policy      internalTrafficPolicy is Local, and there is no endpoint on the node: no answer at n2\n              → if it is to be reached there, run a pod on each node (a DaemonSet), or: wpctl patch service web -n default -p '{\"spec\": {\"internalTrafficPolicy\": \"Cluster\"}}'\n✓ address     10.254.7.9:80 answers\n"},
		"only some may come": {func(w *world) {
			w.service.Spec.Type = corev1.ServiceTypeLoadBalancer
			w.service.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
			w.service.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
			w.service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.5"}}
			w.pods, w.slice.Endpoints = w.pods[:1], w.slice.Endpoints[:1]
		}, Options{}, "✓ outside     node port 30080 answers\n              EXTERNAL-IP not tried: loadBalancerSourceRanges lets in only 192.0.2.0/24\n              externalTrafficPolicy is Local: visitors get answers only at n1\n"},
		"a load balancer's address": {func(w *world) {
			w.service.Spec.Type, w.service.UID = corev1.ServiceTypeLoadBalancer, "uid-svc"
			w.service.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "203.0.113.5"}}
			for i, node := range []string{"n2", "n1"} {
				w.events = append(w.events, &corev1.Event{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("e", i)}, InvolvedObject: corev1.ObjectReference{Kind: "Service", Name: "web", UID: "uid-svc"},
					Type: "Normal", Reason: "NodeAssigned", Message: "announced from " + node, LastTimestamp: metav1.Unix(int64(100-i), 0),
				})
			}
		}, Options{}, "✓ outside     EXTERNAL-IP 203.0.113.5:80, node port 30080 answer\n              announced from n2\n"},
	})
}
