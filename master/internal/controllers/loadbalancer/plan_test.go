package loadbalancer

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
)

// cluster is what there is, in the place of the store.
type cluster struct {
	services []*corev1.Service
	machines map[string]string
}

func (c *cluster) facts(pool []netip.Prefix, nodes ...string) facts {
	return facts{
		pool: pool, nodes: nodes,
		machine: func(ip string) string { return c.machines[ip] },
		holders: func(ip string) iter.Seq[*corev1.Service] {
			return func(yield func(*corev1.Service) bool) {
				for _, s := range c.services {
					if s.Spec.Type == corev1.ServiceTypeLoadBalancer && slices.Contains(given(s), ip) && !yield(s) {
						return
					}
				}
			}
		},
		own: []HostPort{{6444, corev1.ProtocolTCP, "the agents' way to the master"}},
	}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// balanced is a Service that is age seconds old.
func balanced(name string, age int, ports []int32, ips ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(epoch.Add(-time.Duration(age) * time.Second)),
		},
		Spec:   corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: ingress(ips)}},
	}
	for _, p := range ports {
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: p, Protocol: corev1.ProtocolTCP})
	}
	return s
}

func asking(s *corev1.Service, ip string) *corev1.Service {
	s.Spec.LoadBalancerIP = ip
	return s
}

func prefixes(texts ...string) (out []netip.Prefix) {
	for _, t := range texts {
		out = append(out, netip.MustParsePrefix(t))
	}
	return out
}

func TestFromPool(t *testing.T) {
	pool := prefixes("203.0.113.0/30", "203.0.113.8/31")
	web := []int32{80}
	for _, test := range []struct {
		name          string
		svc           *corev1.Service
		others        []*corev1.Service
		want, failure string
	}{
		{"the first", balanced("a", 0, web), nil, "203.0.113.1", ""},
		{"the next", balanced("a", 0, web), []*corev1.Service{balanced("b", 1, web, "203.0.113.1")}, "203.0.113.2", ""},
		{"not a machine's", balanced("a", 0, web), []*corev1.Service{balanced("b", 1, web, "203.0.113.1"), balanced("c", 1, web, "203.0.113.2")}, "203.0.113.8", ""},
		{"it keeps its own", balanced("a", 0, web, "203.0.113.9"), nil, "203.0.113.9", ""},
		{"of nodes, as it had without a pool", balanced("a", 0, web, "198.51.100.1", "198.51.100.2"), nil, "203.0.113.1", ""},
		{"one with 0 at its end comes last", balanced("a", 0, web), []*corev1.Service{
			balanced("b", 1, web, "203.0.113.1"), balanced("c", 1, web, "203.0.113.2"), balanced("d", 1, web, "203.0.113.8"), balanced("e", 1, web, "203.0.113.9"),
		}, "203.0.113.0", ""},
		{"none left", balanced("a", 0, web), []*corev1.Service{
			balanced("b", 1, web, "203.0.113.1"), balanced("c", 1, web, "203.0.113.2"), balanced("d", 1, web, "203.0.113.8", "203.0.113.9"), balanced("e", 1, web, "203.0.113.0"),
		}, "", "no available IPs"},
		{"given twice: the older keeps it", balanced("a", 9, web, "203.0.113.1"), []*corev1.Service{balanced("b", 1, web, "203.0.113.1")}, "203.0.113.1", ""},
		{"given twice: the younger gets another", balanced("a", 1, web, "203.0.113.1"), []*corev1.Service{balanced("b", 9, web, "203.0.113.1")}, "203.0.113.2", ""},
		{"asked for", asking(balanced("a", 0, web), "203.0.113.9"), nil, "203.0.113.9", ""},
		{"asked for, though it has another", asking(balanced("a", 0, web, "203.0.113.1"), "203.0.113.9"), nil, "203.0.113.9", ""},
		{"asked for again", asking(balanced("a", 0, web, "203.0.113.9"), "203.0.113.9"), nil, "203.0.113.9", ""},
		{"the network's own, asked for", asking(balanced("a", 0, web), "203.0.113.0"), nil, "203.0.113.0", ""},
		{"asked for, but taken", asking(balanced("a", 0, web), "203.0.113.1"), []*corev1.Service{balanced("b", 1, []int32{443}, "203.0.113.1")}, "", "spec.loadBalancerIP 203.0.113.1 is given to Service default/b"},
		{"asked for, but taken, and it has another", asking(balanced("a", 0, web, "203.0.113.2"), "203.0.113.1"), []*corev1.Service{balanced("b", 1, web, "203.0.113.1")}, "203.0.113.2", "is given to Service default/b"},
		{"asked for, but outside", asking(balanced("a", 0, web), "203.0.113.4"), nil, "", "spec.loadBalancerIP 203.0.113.4 is in no --lb-pool"},
		{"asked for, but a machine's", asking(balanced("a", 0, web), "203.0.113.3"), nil, "", "spec.loadBalancerIP 203.0.113.3 is the address of node node3"},
		{"asked for, but no address", asking(balanced("a", 0, web), "web"), nil, "", `spec.loadBalancerIP "web" is no IP address`},
		{"asked for, IPv6", asking(balanced("a", 0, web), "2001:db8::1"), nil, "", "is in no --lb-pool"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &cluster{services: append(test.others, test.svc), machines: map[string]string{"203.0.113.3": "node3"}}
			got := plan(test.svc, c.facts(pool))
			if strings.Join(got.addresses, " ") != test.want || !strings.Contains(got.failure, test.failure) || (got.failure == "") != (test.failure == "") {
				t.Errorf("%v, %q", got.addresses, got.failure)
			}
		})
	}
}

func TestShareNodes(t *testing.T) {
	nodes := []string{"198.51.100.1", "198.51.100.2"}
	both := strings.Join(nodes, " ")
	web := []int32{80, 443}
	dns := balanced("a", 0, []int32{53})
	dns.Spec.Ports[0].Protocol = corev1.ProtocolUDP
	agents := balanced("a", 0, []int32{6444})
	agents.Spec.Ports[0].Protocol = corev1.ProtocolUDP
	for _, test := range []struct {
		name          string
		svc           *corev1.Service
		others        []*corev1.Service
		want, failure string
	}{
		{"all nodes", balanced("a", 0, web), nil, both, ""},
		{"beside others", balanced("a", 0, web), []*corev1.Service{balanced("b", 1, []int32{8080}, nodes...)}, both, ""},
		{"the same number of another protocol", dns, []*corev1.Service{balanced("b", 1, []int32{53}, nodes...)}, both, ""},
		{"a port that is given", balanced("a", 0, web), []*corev1.Service{balanced("b", 1, []int32{22, 443}, nodes[1])}, "", "port 443/TCP of the nodes is given to Service default/b; choose"},
		{"a port that somebody waits for", balanced("a", 0, web), []*corev1.Service{balanced("b", 9, web)}, both, ""},
		{"ports have come to clash: the older", balanced("a", 9, web, nodes...), []*corev1.Service{balanced("b", 1, web, nodes...)}, both, ""},
		{"ports have come to clash: the younger", balanced("a", 1, web, nodes...), []*corev1.Service{balanced("b", 9, web, nodes...)}, "", "is given to Service default/b"},
		{"the older, which has nothing yet", balanced("a", 9, web), []*corev1.Service{balanced("b", 1, web, nodes...)}, "", "is given to Service default/b"},
		{"a port of the cluster's own", balanced("a", 0, []int32{80, 6444}), nil, "", "port 6444/TCP of the nodes is the agents' way to the master; choose another spec.ports[1].port"},
		{"its number of another protocol", agents, nil, both, ""},
		{"one node, asked for", asking(balanced("a", 0, web), nodes[1]), nil, nodes[1], ""},
		{"one node where the port is given", asking(balanced("a", 0, web), nodes[1]), []*corev1.Service{balanced("b", 1, web, nodes[1])}, "", "is given to Service default/b"},
		{"one node where the port is free", asking(balanced("a", 0, web), nodes[1]), []*corev1.Service{balanced("b", 1, web, nodes[0])}, nodes[1], ""},
		{"an address that no node has", asking(balanced("a", 0, web), "203.0.113.1"), nil, both, "the master has no --lb-pool"},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := &cluster{services: append(test.others, test.svc)}
			got := plan(test.svc, c.facts(nil, nodes...))
			if strings.Join(got.addresses, " ") != test.want || !strings.Contains(got.failure, test.failure) || (got.failure == "") != (test.failure == "") {
				t.Errorf("%v, %q", got.addresses, got.failure)
			}
		})
	}
}

// TestManyNodes: a large cluster's Services have a hundred of its nodes, and one that asks for another node has that.
func TestManyNodes(t *testing.T) {
	var nodes []string
	for i := range 150 {
		nodes = append(nodes, fmt.Sprintf("198.51.100.%d", i))
	}
	c := &cluster{}
	if got := plan(balanced("a", 0, []int32{80}), c.facts(nil, nodes...)); !slices.Equal(got.addresses, nodes[:100]) || got.failure != "" {
		t.Errorf("%v, %q", got.addresses, got.failure)
	}
	if got := plan(asking(balanced("a", 0, []int32{80}), nodes[140]), c.facts(nil, nodes...)); !slices.Equal(got.addresses, nodes[140:141]) || got.failure != "" {
		t.Errorf("%v, %q", got.addresses, got.failure)
	}
}

func TestUsable(t *testing.T) {
	node := func(change ...func(*corev1.Node)) *corev1.Node {
		n := &corev1.Node{Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{
				{Type: corev1.NodeHostName, Address: "node1"}, {Type: corev1.NodeExternalIP, Address: "192.0.2.1"},
				{Type: corev1.NodeInternalIP, Address: "2001:db8::1"}, {Type: corev1.NodeInternalIP, Address: "198.51.100.1"},
			},
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		}}
		for _, f := range change {
			f(n)
		}
		return n
	}
	now := metav1.NewTime(epoch)
	for _, test := range []struct {
		name string
		node *corev1.Node
		want string
	}{
		{"ready", node(), "198.51.100.1"},
		{"cordoned", node(func(n *corev1.Node) { n.Spec.Unschedulable = true }), "198.51.100.1"},
		{"silent", node(func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }), ""},
		{"new", node(func(n *corev1.Node) { n.Status.Conditions = nil }), ""},
		{"excluded", node(func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} }), ""},
		{"going", node(func(n *corev1.Node) { n.DeletionTimestamp = &now }), ""},
		{"without an address", node(func(n *corev1.Node) { n.Status.Addresses = nil }), ""},
	} {
		if got := usable(test.node); got != test.want {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

// TestPoolProperties: whatever Services come, go and ask for, in whatever order they are looked at, and whatever the pool is
// after a restart: no address is given twice, none is outside the pool or a machine's, nobody who asks for none in particular
// waits while one is free, and who has one keeps it.
func TestPoolProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		pools := [][]netip.Prefix{prefixes("203.0.113.0/30"), prefixes("203.0.113.0/30", "203.0.113.16/31"), prefixes("203.0.113.16/31", "203.0.113.20/32")}
		pool := pools[0]
		c := &cluster{machines: map[string]string{"203.0.113.2": "node1"}}
		made := 0
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			switch op := rapid.IntRange(0, 9).Draw(t, "op"); {
			case op < 5:
				made++
				s := balanced(fmt.Sprint("s", made), -made/2, []int32{80}) // two come in the same second
				if rapid.IntRange(0, 3).Draw(t, "asks") == 0 {
					s.Spec.LoadBalancerIP = fmt.Sprint("203.0.113.", rapid.SampledFrom([]int{0, 1, 2, 3, 16, 17, 20, 40}).Draw(t, "ip"))
				}
				c.services = append(c.services, s)
			case op < 8 && len(c.services) > 0:
				i := rapid.IntRange(0, len(c.services)-1).Draw(t, "which")
				c.services = slices.Delete(c.services, i, i+1)
			case op == 8:
				pool = rapid.SampledFrom(pools).Draw(t, "pool")
			}
			before := map[string]string{}
			for _, s := range c.services {
				before[s.Name] = strings.Join(given(s), " ")
			}
			for settled := false; !settled; {
				settled = true
				for _, i := range rapid.Permutation(indexes(len(c.services))).Draw(t, "order") {
					s := c.services[i]
					got := plan(s, c.facts(pool))
					if !slices.Equal(got.addresses, given(s)) {
						s.Status.LoadBalancer.Ingress, settled = ingress(got.addresses), false
					}
					distinct(t, c)
				}
			}
			check(t, c, pool, before)
		}
	})
}

func indexes(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

func distinct(t *rapid.T, c *cluster) {
	seen := map[string]string{}
	for _, s := range c.services {
		for _, ip := range given(s) {
			if seen[ip] != "" {
				t.Fatalf("%s is given to %s and %s", ip, seen[ip], s.Name)
			}
			seen[ip] = s.Name
		}
	}
}

func check(t *rapid.T, c *cluster, pool []netip.Prefix, before map[string]string) {
	probe := balanced("probe", -1000, nil)
	_, left := free(probe, c.facts(pool))
	for _, s := range c.services {
		ips := given(s)
		if len(ips) > 1 {
			t.Fatalf("%s has %v", s.Name, ips)
		}
		if len(ips) == 0 {
			if s.Spec.LoadBalancerIP == "" && left {
				t.Fatalf("%s waits, though there are addresses", s.Name)
			}
			continue
		}
		if !inPool(pool, ips[0]) || c.machines[ips[0]] != "" {
			t.Fatalf("%s has %s, pool %v", s.Name, ips[0], pool)
		}
		if was := before[s.Name]; was != "" && was != ips[0] && inPool(pool, was) && ips[0] != s.Spec.LoadBalancerIP {
			t.Fatalf("%s had %s, has %s", s.Name, was, ips[0])
		}
	}
}
