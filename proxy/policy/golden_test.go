package policy

import (
	"flag"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var update = flag.Bool("update", false, "write the golden files")

// golden is what testdata says of each policy: the sets, which a test as root makes, and the rules, which it feeds to the kernel.
func golden(policies ...*networkingv1.NetworkPolicy) string {
	m := newModel()
	for _, p := range policies {
		m.setPolicy(p)
	}
	one := onePod(web)
	one.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}}}}
	two := onePod(client)
	two.Name, two.UID = "two", "two"
	m.setPod(one)
	m.setPod(two)
	m.attach("one", ip(addrs[0]))
	m.attach("two", ip(addrs[1]))
	m.flush()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(m.sets)) {
		s := m.sets[name]
		fmt.Fprintf(&b, "# set %s %s", name, s.typ)
		for _, e := range slices.SortedFunc(maps.Keys(s.entries), func(a, b Entry) int { return a.Net.Addr().Compare(b.Net.Addr()) }) {
			fmt.Fprintf(&b, " %s", e.Net)
		}
		b.WriteString("\n")
	}
	return b.String() + restoreText(nil, m.want, maps.Keys(m.want))
}

func policyOf(types string, f func(*networkingv1.NetworkPolicySpec)) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "policy"}}
	p.Spec.PodSelector.MatchLabels = web
	for _, t := range strings.Fields(types) {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyType(t))
	}
	if f != nil {
		f(&p.Spec)
	}
	return p
}

func port(protocol corev1.Protocol, p any, end int32) networkingv1.NetworkPolicyPort {
	out := networkingv1.NetworkPolicyPort{Protocol: &protocol}
	switch v := p.(type) {
	case int:
		out.Port = &intstr.IntOrString{Type: intstr.Int, IntVal: int32(v)}
	case string:
		out.Port = &intstr.IntOrString{Type: intstr.String, StrVal: v}
	}
	if end > 0 {
		out.EndPort = &end
	}
	return out
}

func scenarios() map[string][]*networkingv1.NetworkPolicy {
	type spec = networkingv1.NetworkPolicySpec
	type in = networkingv1.NetworkPolicyIngressRule
	type out = networkingv1.NetworkPolicyEgressRule
	type peers = []networkingv1.NetworkPolicyPeer
	type ports = []networkingv1.NetworkPolicyPort
	sel := &metav1.LabelSelector{MatchLabels: client}
	system := &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": "kube-system"}}
	dns := &metav1.LabelSelector{MatchLabels: map[string]string{"k8s-app": "kube-dns"}}
	block := func(cidr string, except ...string) networkingv1.NetworkPolicyPeer {
		return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}
	}
	all := policyOf("Ingress Egress", nil)
	all.Name, all.Spec.PodSelector.MatchLabels = "default-deny", nil
	one := func(types string, f func(*spec)) []*networkingv1.NetworkPolicy {
		return []*networkingv1.NetworkPolicy{policyOf(types, f)}
	}
	return map[string][]*networkingv1.NetworkPolicy{
		"none":         nil,
		"default-deny": {all},
		"deny-ingress": one("Ingress", nil),
		"allow-all":    one("Ingress Egress", func(s *spec) { s.Ingress, s.Egress = []in{{}}, []out{{}} }),
		"from-pods":    one("Ingress", func(s *spec) { s.Ingress = []in{{From: peers{{PodSelector: sel}}, Ports: ports{port("TCP", 80, 0)}}} }),
		"namespaces": one("Ingress", func(s *spec) {
			s.Ingress = []in{{From: peers{{NamespaceSelector: sel}, {NamespaceSelector: sel, PodSelector: sel}, {NamespaceSelector: &metav1.LabelSelector{}}}}}
		}),
		"ports": one("Ingress", func(s *spec) {
			s.Ingress = []in{{Ports: ports{port("TCP", 80, 90), port("UDP", 53, 0), port("SCTP", 99, 0), port("UDP", nil, 0), port("TCP", "http", 0), port("TCP", "unknown", 0)}}}
		}),
		"blocks": one("Ingress Egress", func(s *spec) {
			s.Ingress = []in{{From: peers{block("198.51.100.0/24"), block("0.0.0.0/0", "10.0.0.0/8")}}}
			s.Egress = []out{{To: peers{block("203.0.113.0/24")}}, {To: peers{block("0.0.0.0/0")}, Ports: ports{port("TCP", 443, 0)}}, {To: peers{block("2001:db8::/32")}}}
		}),
		"egress-named": one("Egress", func(s *spec) {
			s.Egress = []out{
				{To: peers{{PodSelector: sel}, block("10.244.0.0/16", "10.244.3.0/24"), block("10.0.0.0/30")}, Ports: ports{port("TCP", "http", 0), port("UDP", 53, 0)}},
				{Ports: ports{port("UDP", "dns", 0)}},
			}
		}),
		"dns": one("Egress", func(s *spec) {
			s.Egress = []out{{To: peers{{NamespaceSelector: system, PodSelector: dns}}, Ports: ports{port("UDP", 53, 0), port("TCP", 53, 0)}}}
		}),
		"stacked": {all, policyOf("Ingress", func(s *spec) { s.Ingress = []in{{From: peers{{PodSelector: sel}}}} })},
	}
}

func TestGolden(t *testing.T) {
	for name, policies := range scenarios() {
		t.Run(name, func(t *testing.T) {
			got := golden(policies...)
			file := filepath.Join("testdata", name+".rules")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Error(d)
			}
		})
	}
}

// Whatever stands in a policy: the rules are lines that the kernel's programs can read.
func FuzzRules(f *testing.F) {
	f.Add("x", "policy", "app", "web", "10.0.0.0/8", "10.1.0.0/16", "http", int32(80), int32(90), "TCP")
	f.Add("", "a\"b\n-j ACCEPT", "", "", "::/0", "0.0.0.0/0", "", int32(-1), int32(70000), "tcp\n")
	f.Add("x", strings.Repeat("n", 300), "k", "v", "0.0.0.0/0", "255.255.255.255/32", "p p", int32(0), int32(0), "SCTP")
	f.Fuzz(func(t *testing.T, ns, name, k, v, cidr, except, portName string, lo, hi int32, proto string) {
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		sel := &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
		peers := []networkingv1.NetworkPolicyPeer{{PodSelector: sel}, {NamespaceSelector: sel}, {IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: []string{except}}}, {}}
		pr := corev1.Protocol(proto)
		named, number := intstr.FromString(portName), intstr.FromInt32(lo)
		ports := []networkingv1.NetworkPolicyPort{{Port: &named, Protocol: &pr}, {Port: &number, EndPort: &hi, Protocol: &pr}, {}}
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: peers, Ports: ports}, {Ports: ports}}
		p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: peers, Ports: ports}, {Ports: ports}}
		pod := onePod(nil)
		pod.Namespace = ns
		pod.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: portName, ContainerPort: lo, Protocol: pr}}}}
		kernel := newKernel()
		e := newEnforcer(kernel)
		e.SetPolicy(p)
		e.SetPod(pod)
		e.Adopt("one", netip.MustParseAddr(addrs[0]))
		e.Synced()
		if err := e.sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(kernel.text) {
			if strings.ContainsRune("*:-", rune(line[0])) || line == "COMMIT\n" {
				if len(line) < 1000 && strings.Count(line, `"`)%2 == 0 {
					continue
				}
			}
			t.Errorf("line %q", line)
		}
		for _, hook := range []string{"FORWARD", "INPUT"} { // the interpreter knows all that is in them
			kernel.passes(hook, toOne)
			kernel.passes(hook, packet{src: toOne.dst, dst: toOne.src, proto: "tcp", port: 80})
		}
	})
}
