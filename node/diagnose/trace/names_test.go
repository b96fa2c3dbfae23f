package trace

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/diagnose"
)

// What is broken of what DNS answers.
func TestNameBroken(t *testing.T) {
	isBroken(t, map[string]fault{
		"dns silent": {func(w *world) {
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				if n == "n2" && len(a.Names) > 0 {
					a.Names[0] = diagnose.Name{Asked: "web.default", Server: "10.254.254.1", Error: "i/o timeout"}
				}
				return nil
			}
		}, Options{}, "name", []string{"n2: 10.254.254.1 does not answer: i/o timeout", "wpctl doctor --node n2"}},
		"dns knows it not": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i].RCode, a.Names[i].Addresses = "NXDOMAIN", nil
				}
				return nil
			}
		}, Options{}, "name", []string{"n1, n2: 10.254.254.1 answers NXDOMAIN"}},
		"dns old address": {func(w *world) {
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i].Addresses = []netip.Addr{netip.MustParseAddr("10.254.1.1")}
				}
				return nil
			}
		}, Options{}, "name", []string{"answers 10.254.1.1 for", "not 10.254.7.9"}},
		"pod asks others": {func(w *world) {
			w.pods[0].Spec.DNSPolicy = corev1.DNSDefault
			w.answer = func(_ string, q *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i] = diagnose.Name{Asked: "web", Server: "198.51.100.53", RCode: "NXDOMAIN"}
				}
				return nil
			}
		}, Options{FromPod: "web-1"}, "name", []string{"the pod does not ask the cluster's DNS (dnsPolicy: Default)", "set dnsPolicy: ClusterFirst in pod web-1"}},
		"headless, one address missing": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort = "None", corev1.ServiceTypeClusterIP, 0
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i].Addresses = a.Names[i].Addresses[:1]
				}
				return nil
			}
		}, Options{}, "name", []string{"answers 10.244.1.5 for", "not 10.244.1.5, 10.244.2.7"}},
		"ExternalName": {func(w *world) {
			w.service.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}
			w.slice = nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				a.Names[0].CNAME = "old.example.org."
				return nil
			}
		}, Options{FromNode: "n1"}, "name", []string{"answers \"old.example.org.\""}},
		"ExternalName that leads nowhere": {func(w *world) {
			w.service.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}
			w.slice = nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				a.Names[0].RCode, a.Names[0].Addresses = "NXDOMAIN", nil
				return nil
			}
		}, Options{FromNode: "n1"}, "name", []string{"it leads to www.example.org, and that has no IPv4 address: 10.254.254.1 answers NXDOMAIN", "spec.externalName"}},
		"ExternalName without name servers": {func(w *world) {
			w.service.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}
			w.slice = nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				a.Names[0].RCode, a.Names[0].Addresses, a.Names[0].CNAME = "SERVFAIL", nil, ""
				return nil
			}
		}, Options{FromNode: "n1"}, "name", []string{"10.254.254.1 cannot follow it to www.example.org", "wpctl doctor --node n1 looks at the name servers"}},
		"headless without ports": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports, w.slice.Ports = "None", corev1.ServiceTypeClusterIP, nil, nil
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				a.Names[0].RCode, a.Names[0].Addresses = "NXDOMAIN", nil
				return nil
			}
		}, Options{}, "name", []string{"headless, without ports", "✓ pods        2 of 2 ready", "answers NXDOMAIN"}},
	})
}

func TestNameNoFault(t *testing.T) {
	isNoFault(t, map[string]noFault{
		"headless without ports": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports = "None", corev1.ServiceTypeClusterIP, nil
		}, Options{}, "✓ name        web.default.svc.cluster.local → 10.244.1.5, 10.244.2.7\n\nNothing is broken on this way."},
		"headless, more than are tried": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort = "None", corev1.ServiceTypeClusterIP, 0
			for i := range maxEndpoints {
				e := *w.slice.Endpoints[0].DeepCopy()
				e.Addresses, e.TargetRef = []string{netip.AddrFrom4([4]byte{10, 244, 3, byte(i + 1)}).String()}, nil
				w.slice.Endpoints = append(w.slice.Endpoints, e)
			}
		}, Options{}, "and 47 more"},
		"headless, an endpoint on a dead node": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort = "None", corev1.ServiceTypeClusterIP, 0
			w.nodes[1].Status.Conditions[0].Status = corev1.ConditionUnknown
			w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
				for i := range a.Names {
					a.Names[i].Addresses = a.Names[i].Addresses[:1]
				}
				return nil
			}
		}, Options{}, "✓ name"},
		"a name that was only late": {func(w *world) {
			first := true
			w.answer = func(n string, q *diagnose.Question, a *diagnose.Answer) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if len(a.Names) > 0 && n == "n1" && first {
					first, a.Names[0].RCode, a.Names[0].Addresses = false, "NXDOMAIN", nil
				}
				return nil
			}
		}, Options{}, "✓ name"},
		"headless": {func(w *world) {
			w.service.Spec.ClusterIP, w.service.Spec.Type, w.service.Spec.Ports[0].NodePort = "None", corev1.ServiceTypeClusterIP, 0
		}, Options{}, "→ 10.244.1.5, 10.244.2.7"},
		"ExternalName": {func(w *world) {
			w.service.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "www.example.org"}
			w.slice = nil
		}, Options{}, "web.default.svc.cluster.local → www.example.org"},
	})
}
