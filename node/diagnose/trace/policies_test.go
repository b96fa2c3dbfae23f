package trace

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/whalepod/whalepod/node/diagnose"
)

func policyOf(ns, name string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: spec}
}

func labelled(k, v string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
}

func in(peers []networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicySpec {
	return networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress"}, Ingress: []networkingv1.NetworkPolicyIngressRule{{From: peers, Ports: ports}}}
}

func out(peers []networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) networkingv1.NetworkPolicySpec {
	return networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Egress"}, Egress: []networkingv1.NetworkPolicyEgressRule{{To: peers, Ports: ports}}}
}

// A policy is blamed for what it stops, and for nothing else. The client is a pod of the namespace guest on n1; web-1 is on n1, web-2
// on n2; what is asked is whether web-2 can be reached, and nobody answers.
func TestPoliciesAreBlamedForWhatTheyStop(t *testing.T) {
	peers := func(p ...networkingv1.NetworkPolicyPeer) []networkingv1.NetworkPolicyPeer { return p }
	tcp := func(port intstr.IntOrString, end ...int32) networkingv1.NetworkPolicyPort {
		p := networkingv1.NetworkPolicyPort{Port: &port}
		if len(end) > 0 {
			p.EndPort = &end[0]
		}
		return p
	}
	block := func(cidr string, except ...string) []networkingv1.NetworkPolicyPeer {
		return peers(networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}})
	}
	pods := func(ns, p *metav1.LabelSelector) []networkingv1.NetworkPolicyPeer {
		return peers(networkingv1.NetworkPolicyPeer{NamespaceSelector: ns, PodSelector: p})
	}
	none := networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress"}}
	named := func(name string) *corev1.Pod { return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	client, node1 := view{node: "n1", pod: named("client")}, view{node: "n1"}
	for name, c := range map[string]struct {
		from     view
		policies []*networkingv1.NetworkPolicy
		blamed   string // empty: no policy is
		via      string
	}{
		"none":                          {client, nil, "", ""},
		"ingress, nobody":               {client, []*networkingv1.NetworkPolicy{policyOf("default", "deny", none)}, "default/deny isolates pod default/web-2 for ingress, and no rule lets pod guest/client in at 8080/TCP", ""},
		"of other pods":                 {client, []*networkingv1.NetworkPolicy{policyOf("default", "deny", networkingv1.NetworkPolicySpec{PodSelector: *labelled("app", "db")})}, "", ""},
		"only egress of who is asked":   {client, []*networkingv1.NetworkPolicy{policyOf("default", "deny", out(block("203.0.113.0/24")))}, "", ""},
		"only ingress of who asks":      {client, []*networkingv1.NetworkPolicy{policyOf("guest", "deny", in(nil))}, "", ""},
		"egress":                        {client, []*networkingv1.NetworkPolicy{policyOf("guest", "lock", none)}, "guest/lock isolates pod guest/client for egress, and no rule lets it out to web-2 at 8080/TCP", ""},
		"egress comes first":            {client, []*networkingv1.NetworkPolicy{policyOf("guest", "lock", none), policyOf("default", "deny", none)}, "guest/lock isolates", ""},
		"two":                           {client, []*networkingv1.NetworkPolicy{policyOf("default", "deny", none), policyOf("default", "some", in(block("203.0.113.0/24")))}, "default/deny, default/some isolates", ""},
		"one of two lets in":            {client, []*networkingv1.NetworkPolicy{policyOf("default", "deny", none), policyOf("default", "some", in(block("10.244.0.0/16")))}, "", ""},
		"all":                           {client, []*networkingv1.NetworkPolicy{policyOf("default", "all", in(nil))}, "", ""},
		"except":                        {client, []*networkingv1.NetworkPolicy{policyOf("default", "some", in(block("10.244.0.0/16", "10.244.1.8/31")))}, "default/some", ""},
		"pods of the own namespace":     {client, []*networkingv1.NetworkPolicy{policyOf("default", "own", in(pods(nil, &metav1.LabelSelector{})))}, "default/own", ""},
		"pods of all namespaces":        {client, []*networkingv1.NetworkPolicy{policyOf("default", "any", in(pods(&metav1.LabelSelector{}, nil)))}, "", ""},
		"pods of a namespace":           {client, []*networkingv1.NetworkPolicy{policyOf("default", "team", in(pods(labelled("team", "a"), labelled("role", "client"))))}, "", ""},
		"pods of another":               {client, []*networkingv1.NetworkPolicy{policyOf("default", "team", in(pods(labelled("team", "b"), nil)))}, "default/team", ""},
		"other pods of it":              {client, []*networkingv1.NetworkPolicy{policyOf("default", "team", in(pods(labelled("team", "a"), labelled("role", "x"))))}, "default/team", ""},
		"the port":                      {client, []*networkingv1.NetworkPolicy{policyOf("default", "port", in(nil, tcp(intstr.FromInt32(8080))))}, "", ""},
		"another port":                  {client, []*networkingv1.NetworkPolicy{policyOf("default", "port", in(nil, tcp(intstr.FromInt32(80))))}, "default/port", ""},
		"a range":                       {client, []*networkingv1.NetworkPolicy{policyOf("default", "port", in(nil, tcp(intstr.FromInt32(8000), 8080)))}, "", ""},
		"a range before it":             {client, []*networkingv1.NetworkPolicy{policyOf("default", "port", in(nil, tcp(intstr.FromInt32(8000), 8079)))}, "default/port", ""},
		"the port's name":               {client, []*networkingv1.NetworkPolicy{policyOf("default", "port", in(nil, tcp(intstr.FromString("http"))))}, "", ""},
		"the peer's port's name":        {client, []*networkingv1.NetworkPolicy{policyOf("guest", "port", out(nil, tcp(intstr.FromString("http"))))}, "", ""},
		"another name":                  {client, []*networkingv1.NetworkPolicy{policyOf("guest", "port", out(nil, tcp(intstr.FromString("web"))))}, "guest/port", ""},
		"a protocol":                    {client, []*networkingv1.NetworkPolicy{policyOf("default", "port", in(nil, networkingv1.NetworkPolicyPort{Protocol: ref(corev1.ProtocolUDP)}))}, "default/port", ""},
		"a server":                      {node1, []*networkingv1.NetworkPolicy{policyOf("default", "any", in(pods(&metav1.LabelSelector{}, nil)))}, "no rule lets server n1 (198.51.100.11)", ""},
		"a server's address":            {node1, []*networkingv1.NetworkPolicy{policyOf("default", "any", in(block("198.51.100.11/32")))}, "", ""},
		"a server behind the tunnel":    {node1, []*networkingv1.NetworkPolicy{policyOf("default", "any", in(block("198.51.100.11/32")))}, "add an ingress rule with ipBlock 10.244.1.0/32", tunnel},
		"the tunnel's address":          {node1, []*networkingv1.NetworkPolicy{policyOf("default", "any", in(block("10.244.1.0/32")))}, "", tunnel},
		"the pod's own server":          {view{node: "n2"}, []*networkingv1.NetworkPolicy{policyOf("default", "deny", none)}, "", ""},
		"a pod that is the own server":  {view{node: "n2", pod: named("host")}, []*networkingv1.NetworkPolicy{policyOf("default", "deny", none)}, "", ""},
		"a pod to itself by its policy": {view{node: "n2", pod: named("web-2")}, []*networkingv1.NetworkPolicy{policyOf("default", "deny", none)}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			guest, host, web := pod("client", "n1", "10.244.1.9"), pod("host", "n2", "198.51.100.12"), pod("web-2", "n2", "10.244.2.7")
			guest.Namespace, guest.Labels = "guest", map[string]string{"role": "client"}
			host.Spec.HostNetwork = true
			f := &facts{nodes: map[string]*corev1.Node{"n1": node("n1", "198.51.100.11"), "n2": node("n2", "198.51.100.12")}, namespaces: map[string]map[string]string{"guest": {"team": "a"}}}
			f.nodes["n1"].Spec.PodCIDR = "10.244.1.0/24"
			for _, p := range c.policies {
				f.policies = append(f.policies, *p)
			}
			c.from.ip = nodeIP(f.nodes[c.from.node])
			if c.from.pod != nil {
				c.from.pod = map[string]*corev1.Pod{"client": guest, "host": host, "web-2": web}[c.from.pod.Name]
			}
			e := endpoint{at: netip.MustParseAddrPort("10.244.2.7:8080"), protocol: "TCP", pod: web, name: "pod web-2", node: "n2"}
			d := diagnose.Dialed{Result: diagnose.TimedOut, Via: c.via}
			if got := f.stopped(&c.from, e, d); (got == "") != (c.blamed == "") || !strings.Contains(got, c.blamed) {
				t.Errorf("want %q blamed, got %q", c.blamed, got)
			}
			d.Result = diagnose.Refused // policies drop
			if got := f.stopped(&c.from, e, d); got != "" {
				t.Error("of what refuses:", got)
			}
		})
	}
}

// Who may not ask the cluster's DNS is told so.
func TestPolicyStopsNames(t *testing.T) {
	w := healthy()
	w.policies = []*networkingv1.NetworkPolicy{policyOf("default", "lock", networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Egress"}})}
	w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
		for i := range a.Names {
			a.Names[i].RCode, a.Names[i].Error = "", "i/o timeout"
		}
		return nil
	}
	const word = "NetworkPolicy default/lock isolates pod default/web-1 for egress, and no rule lets it out to the DNS server 10.254.254.1 at 53/UDP"
	if r := w.run(t, Options{FromPod: "web-1"}); r.Broken != "name" || !strings.Contains(r.Fix, word) {
		t.Error(text(r))
	}
	dns := []networkingv1.NetworkPolicyPeer{{NamespaceSelector: labelled(corev1.LabelMetadataName, "kube-system"), PodSelector: labelled("k8s-app", "kube-dns")}}
	for name, c := range map[string]struct {
		spec networkingv1.NetworkPolicySpec
		word string
	}{
		"let out":         {out(dns), ""},
		"in other places": {out(nil, networkingv1.NetworkPolicyPort{Port: ref(intstr.FromInt32(80))}), "default/lock"},
	} {
		f := &facts{policies: []networkingv1.NetworkPolicy{*policyOf("default", "lock", c.spec)}}
		if got := f.stoppedDNS(&view{node: "n1", pod: w.pods[0]}, "10.254.254.1"); (got == "") != (c.word == "") || !strings.Contains(got, c.word) {
			t.Errorf("%s: %q, want %q", name, got, c.word)
		}
	}
}

// Silence of UDP says nothing by itself; with a policy that does not allow it, it is no riddle.
func TestPolicyStopsUDP(t *testing.T) {
	w := healthy()
	udp := corev1.ProtocolUDP
	w.service.Spec.Ports[0].Protocol, w.slice.Ports[0].Protocol = udp, &udp
	for _, p := range w.pods {
		p.Spec.Containers[0].Ports[0].Protocol = udp
	}
	w.policies = []*networkingv1.NetworkPolicy{policyOf("default", "deny", networkingv1.NetworkPolicySpec{})}
	w.answer = func(_ string, _ *diagnose.Question, a *diagnose.Answer) error {
		for i := range a.Sockets {
			a.Sockets[i].Listening[0].Protocol = "UDP"
		}
		dials(a, diagnose.Silent, func(diagnose.Dialed) bool { return true })
		return nil
	}
	r := w.run(t, Options{FromNode: "n1"})
	if got := text(r); r.Broken != "connection" || !strings.Contains(r.Fix, "default/deny isolates pod default/web-2 for ingress") || !strings.Contains(got, "n1: 10.244.2.7:8080 (web-2 on n2): no answer") || strings.Contains(got, "n1: 10.244.1.5") {
		t.Error(got)
	}
}

// Whose user may read neither policies nor namespaces, is told what can be.
func TestPoliciesThatMayNotBeRead(t *testing.T) {
	forbidden := func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("forbidden") }
	client := fake.NewClientset(policyOf("default", "deny", networkingv1.NetworkPolicySpec{}))
	client.PrependReactor("list", "namespaces", forbidden)
	f := &facts{Options: Options{Namespace: "default"}}
	if f.collectPolicies(context.Background(), client); len(f.policies) != 1 || f.labelsOf("default").Get(corev1.LabelMetadataName) != "default" {
		t.Error(f.policies, f.namespaces)
	}
	client.PrependReactor("list", "networkpolicies", forbidden)
	f = &facts{Options: Options{Namespace: "default"}}
	if f.collectPolicies(context.Background(), client); len(f.policies) != 0 {
		t.Error(f.policies)
	}
}
