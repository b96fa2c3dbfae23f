package netfiles

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ref[T any](v T) *T { return &v }

func TestForPod(t *testing.T) {
	node := ParseResolv([]byte("# comment\nnameserver 127.0.0.53\nnameserver 198.51.100.53\nnameserver 198.51.100.54\nnameserver 198.51.100.55\nsearch example.com.\noptions rotate\n"))
	plain := node
	plain.Searches = nil
	stub := ParseResolv([]byte("nameserver 127.0.0.53\noptions edns0 trust-ad\noptions timeout:3\noptions timeout:2\nsearch .\n"))
	cluster := Cluster{Domain: "cluster.local", DNS: "10.254.254.1"}
	const search = "search default.svc.cluster.local svc.cluster.local cluster.local"
	tests := []struct {
		name string
		node Resolv
		spec corev1.PodSpec
		want string
	}{
		{"as in the article", plain, corev1.PodSpec{DNSPolicy: "ClusterFirst"}, search + "\nnameserver 10.254.254.1\noptions ndots:5\n"},
		{"node's searches after ours", node, corev1.PodSpec{DNSPolicy: "ClusterFirst"}, search + " example.com\nnameserver 10.254.254.1\noptions ndots:5\n"},
		{"a search list of the root alone", stub, corev1.PodSpec{DNSPolicy: "ClusterFirst"}, search + "\nnameserver 10.254.254.1\noptions ndots:5\n"},
		{"default, and the node asks itself", stub, corev1.PodSpec{DNSPolicy: "Default"}, "nameserver 10.254.254.1\noptions edns0 trust-ad timeout:2\n"},
		{"default, and the node has IPv6", ParseResolv([]byte("nameserver 2001:db8::53\nnameserver 2001:db8::54\nnameserver fe80::1%eth0\nnameserver 198.51.100.53\n")), corev1.PodSpec{DNSPolicy: "Default"}, "nameserver 198.51.100.53\n"},
		{"host network, and the node asks itself", stub, corev1.PodSpec{DNSPolicy: "Default", HostNetwork: true}, "nameserver 127.0.0.53\noptions edns0 trust-ad timeout:2\n"},
		{"default", node, corev1.PodSpec{DNSPolicy: "Default"}, "search example.com\nnameserver 198.51.100.53\nnameserver 198.51.100.54\nnameserver 198.51.100.55\noptions rotate\n"},
		{"host network", node, corev1.PodSpec{DNSPolicy: "ClusterFirst", HostNetwork: true}, "search example.com\nnameserver 127.0.0.53\nnameserver 198.51.100.53\nnameserver 198.51.100.54\noptions rotate\n"},
		{"host network, cluster first", plain, corev1.PodSpec{DNSPolicy: "ClusterFirstWithHostNet", HostNetwork: true}, search + "\nnameserver 10.254.254.1\noptions ndots:5\n"},
		{"none", node, corev1.PodSpec{DNSPolicy: "None", DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Searches: []string{"a.b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ref("2")}, {Name: "edns0"}}}}, "search a.b\nnameserver 192.0.2.1\noptions ndots:2 edns0\n"},
		{"config on top", plain, corev1.PodSpec{DNSPolicy: "ClusterFirst", DNSConfig: &corev1.PodDNSConfig{Nameservers: []string{"192.0.2.1"}, Searches: []string{"a.b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ref("2")}}}}, search + " a.b\nnameserver 10.254.254.1\nnameserver 192.0.2.1\noptions ndots:2\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: tt.spec}
			if diff := cmp.Diff(tt.want, string(ForPod(pod, tt.node, cluster).Bytes())); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// What resolvers do not take is left out, and said if somebody asked for it.
func TestLimits(t *testing.T) {
	numbered := func(n, length int) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf("%0*d.x", length-2, i))
		}
		return out
	}
	servers := []string{"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"}
	for name, c := range map[string]struct {
		policy            corev1.DNSPolicy
		config            *corev1.PodDNSConfig
		servers, searches int
		omitted           []string
	}{
		"node's servers":         {"ClusterFirst", nil, 1, 3, nil},
		"node's servers alone":   {"Default", nil, 3, 0, []string{"Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 192.0.2.1 192.0.2.2 192.0.2.3"}},
		"own servers":            {"ClusterFirst", &corev1.PodDNSConfig{Nameservers: servers[:3]}, 3, 3, []string{"Nameserver limits"}},
		"32 searches":            {"ClusterFirst", &corev1.PodDNSConfig{Searches: numbered(29, 20)}, 1, 32, nil},
		"33 searches":            {"ClusterFirst", &corev1.PodDNSConfig{Searches: numbered(30, 20)}, 1, 32, []string{"Search Line limits were exceeded, some search paths have been omitted, the applied search line is: default.svc.cluster.local svc."}},
		"2,048 characters":       {"None", &corev1.PodDNSConfig{Searches: append(numbered(20, 100), strings.Repeat("y", 28))}, 0, 21, nil},
		"2,049 characters":       {"None", &corev1.PodDNSConfig{Searches: append(numbered(20, 100), strings.Repeat("y", 29))}, 0, 20, []string{"Search Line limits"}},
		"one that is too long":   {"None", &corev1.PodDNSConfig{Searches: []string{"a.b", strings.Repeat("y", 254), "c.d"}}, 0, 2, []string{"the applied search line is: a.b c.d"}},
		"one that is long":       {"None", &corev1.PodDNSConfig{Searches: []string{strings.Repeat("y", 253)}}, 0, 1, nil},
		"the same several times": {"None", &corev1.PodDNSConfig{Searches: slices.Repeat([]string{"a.b"}, 40)}, 0, 1, nil},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}, Spec: corev1.PodSpec{DNSPolicy: c.policy, DNSConfig: c.config}}
		r := ForPod(pod, Resolv{Nameservers: servers}, Cluster{Domain: "cluster.local", DNS: "10.254.254.1"})
		if len(r.Nameservers) != c.servers || len(r.Searches) != c.searches || len(r.Omitted) != len(c.omitted) {
			t.Errorf("%s: %d servers, %d searches, omitted %q", name, len(r.Nameservers), len(r.Searches), r.Omitted)
			continue
		}
		for i, words := range c.omitted {
			if !strings.Contains(r.Omitted[i], words) {
				t.Errorf("%s: %q is not in %q", name, words, r.Omitted[i])
			}
		}
	}
}

func TestHosts(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-0"}, Spec: corev1.PodSpec{Hostname: "web-0", Subdomain: "web",
		HostAliases: []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"a", "b"}}}}}
	host, domain, err := Hostname(pod, "cluster.local")
	if err != nil || host != "web-0" || domain != "web.default.svc.cluster.local" {
		t.Fatal(host, domain, err)
	}
	got := string(Hosts(pod, []string{"10.244.1.2"}, host, domain, nil))
	for _, want := range []string{"# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n", "10.244.1.2\tweb-0.web.default.svc.cluster.local\tweb-0\n", "\n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in:\n%s", want, got)
		}
	}
	pod.Spec.HostNetwork = true
	if got := string(Hosts(pod, nil, host, domain, []byte("1.2.3.4 x\n"))); !strings.HasPrefix(got, "# Kubernetes-managed hosts file (host network).\n1.2.3.4 x\n") {
		t.Error(got)
	}
}

func TestHostname(t *testing.T) {
	long := strings.Repeat("a", 62) + "-b"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: long, Namespace: "ns"}}
	if host, _, err := Hostname(pod, "d"); err != nil || host != strings.Repeat("a", 62) {
		t.Error(host, err)
	}
	pod = &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{Subdomain: "s", SetHostnameAsFQDN: ref(true)}}
	if name, err := UTSName(pod, "cluster.local"); err != nil || name != "p.s.ns.svc.cluster.local" {
		t.Error(name, err)
	}
	pod.Spec.Subdomain = strings.Repeat("s", 60)
	if _, err := UTSName(pod, "cluster.local"); err == nil {
		t.Error("too long a name taken")
	}
	pod.Spec.Hostname = "Bad_Name"
	if _, _, err := Hostname(pod, "d"); err == nil {
		t.Error("bad name taken")
	}
}

func FuzzParseResolv(f *testing.F) {
	f.Add([]byte("nameserver 1.2.3.4\nsearch a b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		ForPod(&corev1.Pod{}, ParseResolv(data), Cluster{"d", "1.1.1.1"}).Bytes()
	})
}
