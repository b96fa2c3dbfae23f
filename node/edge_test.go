package node

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/announce"
	"github.com/whalepod/whalepod/node/membership"
	"github.com/whalepod/whalepod/node/network"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

func balanced(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer}}
	if ip != "" {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func local(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.ExternalTrafficPolicy, s.Spec.HealthCheckNodePort = corev1.ServiceExternalTrafficPolicyLocal, port
	}
}

// slice has endpoints as "address node" for ready ones, with " ending" and " gone" for others.
func slice(service, name string, endpoints ...string) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: service}},
		AddressType: discoveryv1.AddressTypeIPv4,
	}
	for _, line := range endpoints {
		f := append(strings.Fields(line), "")
		ready, serving, terminating := f[2] == "", f[2] != "gone", f[2] != ""
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{f[0]}, NodeName: &f[1],
			Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating},
		})
	}
	return s
}

// seen writes what an edge wants on node n1.
func seen(e *edge) string {
	var b strings.Builder
	for _, a := range e.addresses([]netip.Prefix{netip.MustParsePrefix("198.51.100.192/26")}) {
		fmt.Fprintf(&b, "%s %s %v\n", a.IP, a.Services[0].Name, a.Nodes)
	}
	for _, s := range e.healthPorts("n1") {
		fmt.Fprintf(&b, "%d %s %d\n", s.Port, s.Name, s.Endpoints)
	}
	return b.String()
}

func TestEdge(t *testing.T) {
	e := newEdge()
	all := []*discoveryv1.EndpointSlice{
		slice("local", "local-1", "10.244.1.1 n1", "10.244.2.1 n2 gone"), slice("local", "local-2", "10.244.1.1 n1", "10.244.1.2 n1 ending"), slice("other", "other-1", "10.244.9.9 n9"),
	}
	slices := func() []*discoveryv1.EndpointSlice { return all }
	wants := func(what, want string) {
		t.Helper()
		if got := seen(e); got != want {
			t.Errorf("%s:\n%swant\n%s", what, got, want)
		}
	}
	step := func(changed, want bool) {
		t.Helper()
		if changed != want {
			t.Errorf("changed: %v", changed)
		}
	}
	step(e.setService("default/cluster", balanced("cluster", "198.51.100.200"), slices), true)
	step(e.setService("default/local", balanced("local", "198.51.100.201", local(30001)), slices), true)
	step(e.setService("default/elsewhere", balanced("elsewhere", "203.0.113.1"), slices), true)
	step(e.setService("default/named", balanced("named", "", func(s *corev1.Service) {
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{Hostname: "lb.example.org"}}
	}), slices), true)
	step(e.setService("default/waits", balanced("waits", "", local(30002)), slices), true)
	step(e.setService("default/plain", &corev1.Service{}, slices), false)
	wants("all", "198.51.100.200 cluster map[]\n198.51.100.201 local map[n1:true]\n30001 local 1\n30002 waits 0\n")
	if e.addresses(nil) == nil || len(e.addresses(nil)) != 0 {
		t.Error("without a pool something is announced")
	}

	step(e.setSlice("default/other-1", all[2]), false)
	step(e.setSlice("default/waits-1", slice("waits", "waits-1", "10.244.1.3 n1", "10.244.1.4 n1", "10.244.2.4 n2")), true)
	wants("endpoints came", "198.51.100.200 cluster map[]\n198.51.100.201 local map[n1:true]\n30001 local 1\n30002 waits 2\n")
	step(e.setSlice("default/local-1", slice("local", "local-1", "10.244.1.1 n1 ending", "10.244.2.1 n2 ending", "10.244.3.1 n3 gone")), true)
	step(e.setSlice("default/local-2", nil), true)
	step(e.setSlice("default/local-2", nil), false)
	wants("all end", "198.51.100.200 cluster map[]\n198.51.100.201 local map[n1:true n2:true]\n30001 local 0\n30002 waits 2\n")
	step(e.setSlice("default/local-1", slice("other", "local-1", "10.244.1.1 n1")), true)
	wants("the slice is another Service's now", "198.51.100.200 cluster map[]\n198.51.100.201 local map[]\n30001 local 0\n30002 waits 2\n")

	step(e.setService("default/local", balanced("local", "198.51.100.201"), slices), true)
	step(e.setService("default/waits", nil, slices), true)
	step(e.setService("default/waits", nil, slices), false)
	step(e.setService("default/cluster", balanced("cluster", "198.51.100.200", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }), slices), true)
	step(e.setSlice("default/waits-1", nil), false)
	wants("Cluster, gone, and another type", "198.51.100.201 local map[]\n")
	// nil means all nodes, none means none.
	if a := e.addresses([]netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}); a[0].Nodes != nil {
		t.Errorf("%v", a)
	}
}

func TestAnnouncePeers(t *testing.T) {
	links := []announce.Link{{Name: "eth0", MAC: announce.MAC{2}, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.11/24")}}}
	nodes := map[string]*corev1.Node{}
	node := func(name string, ready corev1.ConditionStatus, labels ...string) {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue}, {Type: corev1.NodeReady, Status: ready}}
		for _, l := range labels {
			n.Labels[l] = ""
		}
		nodes[name] = n
	}
	node("self", corev1.ConditionTrue)
	node("ready", corev1.ConditionTrue)
	node("lame", corev1.ConditionFalse)
	node("old", corev1.ConditionTrue)
	node("out", corev1.ConditionTrue, corev1.LabelNodeExcludeBalancers)
	node("dead", corev1.ConditionTrue)
	meta := announce.Meta(links, membership.MaxMeta)
	members := []membership.Member{
		{Name: "self"}, {Name: "ready", Meta: meta}, {Name: "lame", Meta: meta}, {Name: "old"}, {Name: "out", Meta: meta}, {Name: "stranger", Meta: meta}, {Name: "master"},
	}
	got := announcePeers("self", links, members, func(name string) (*corev1.Node, bool) { n, ok := nodes[name]; return n, ok })
	var said []string
	for _, p := range got {
		said = append(said, fmt.Sprintf("%s %v %s", p.Name, p.Ready, p.Links[0].MAC))
	}
	want := []string{"lame false 02:00:00:00:00:00", "ready true 02:00:00:00:00:00", "self true 02:00:00:00:00:00"}
	if !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
}

// TestPoolsChange: a master that was started with another pool; nothing else of the cluster's description may change.
func TestPoolsChange(t *testing.T) {
	a := &Agent{welcome: make(chan struct{}), edgePoke: make(chan struct{}, 1)}
	welcomed := func(pools ...string) error {
		return a.welcomed(&agentv1.ClusterConfig{ServiceCidr: "10.254.0.0/16", PodCidr: "10.244.0.0/16", DnsIp: "10.254.254.1", LbPools: pools}, "10.244.1.0/24")
	}
	for _, c := range []struct {
		pools []string
		want  string
		poked bool
	}{
		{[]string{"203.0.113.0/28"}, "[203.0.113.0/28]", false}, // the plane is not there yet
		{[]string{"203.0.113.0/28"}, "[203.0.113.0/28]", false},
		{[]string{"203.0.113.0/28", "of the future", "198.51.100.9/32"}, "[203.0.113.0/28 198.51.100.9/32]", true},
		{nil, "[]", true},
	} {
		if err := welcomed(c.pools...); err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(a.pools()); got != c.want {
			t.Errorf("%v: %s, want %s", c.pools, got, c.want)
		}
		poked := false
		select {
		case <-a.edgePoke:
			poked = true
		default:
		}
		if poked != c.poked {
			t.Errorf("%v: poked %v", c.pools, poked)
		}
	}
}

// TestManyLinks: what does not fit into gossip is not the link that matters.
func TestManyLinks(t *testing.T) {
	own := netip.MustParsePrefix("198.51.100.11/24")
	links, err := announceLinks(func() (all []network.Link, err error) {
		for i := range 30 { // each network of Docker's has a bridge
			all = append(all, network.Link{Name: "br", Index: i + 2, MAC: []byte{2, 0x42, 0, 0, 0, byte(i)}, Addrs: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(17 + i), 0, 1}), 16)}})
		}
		all = append(all, network.Link{Name: "ib0", Index: 40, MAC: make([]byte, 20), Addrs: []netip.Prefix{own}})
		return append(all, network.Link{Name: "eth0", Index: 50, MAC: []byte{2, 1, 2, 3, 4, 5}, Addrs: []netip.Prefix{own}}), nil
	}, own.Addr())
	if err != nil || len(links) != 31 || links[0].Name != "eth0" {
		t.Fatalf("%v, %v", links, err)
	}
	meta := announce.Meta(links, membership.MaxMeta)
	told, ok := announce.ParseMeta(meta)
	if !ok || len(meta) > membership.MaxMeta || len(told) < 10 || told[0].Addrs[0] != own {
		t.Errorf("%q", meta)
	}
}
