//go:build e2e

package policy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/proto/netpolicy"
	"github.com/whalepod/whalepod/proxy/ipset"
	"github.com/whalepod/whalepod/proxy/iptables"
	"github.com/whalepod/whalepod/proxy/netnstest"
	"github.com/whalepod/whalepod/proxy/policy"
)

// These tests need root. Every namespace is made by the test and has no uplink:
//
//	wpq-out 198.51.100.1, 10.244.2.5 (a pod elsewhere) ─── 198.51.100.11 wpq-node: wp0 10.244.1.1, 10.254.254.1 ─┬─ wpq-p1 10.244.1.5
//	                                                                                                           └─ wpq-p2 10.244.1.6
const (
	nodeNS, outNS = "wpq-node", "wpq-out"
	remote        = "10.244.2.5"
	world         = "198.51.100.1"
	dnsIP         = "10.254.254.1"
)

var podIPs = map[string]string{"wpq-p1": "10.244.1.5", "wpq-p2": "10.244.1.6"}

func topology(t testing.TB, bridgeNF string) {
	t.Helper()
	netnstest.Make(t, nodeNS)
	netnstest.Make(t, outNS)
	sh := func(ns, script string) { t.Helper(); netnstest.RunIn(t, ns, "sh", "-ec", script) }
	sh(nodeNS, `ip link add eth0 type veth peer name eth0 netns `+outNS+`; ip addr add 198.51.100.11/24 dev eth0; ip link set eth0 up
		ip link add wp0 type bridge; ip link set wp0 address 0a:57:0a:f4:01:01; ip addr add 10.244.1.1/24 dev wp0; ip addr add `+dnsIP+`/32 dev wp0; ip link set wp0 up
		ip route add 10.244.2.0/24 via `+world+`
		sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.wp0.send_redirects=0
		if [ -e /proc/sys/net/bridge ]; then sysctl -qw net.bridge.bridge-nf-call-iptables=`+bridgeNF+`; fi`)
	sh(outNS, `ip addr add `+world+`/24 dev eth0; ip link set eth0 up; ip addr add `+remote+`/32 dev lo; ip route add default via 198.51.100.11`)
	for ns, ip := range podIPs {
		netnstest.Make(t, ns)
		sh(nodeNS, fmt.Sprintf(`ip link add v%s type veth peer name eth0 netns %s; ip link set v%s master wp0 up; bridge link set dev v%s hairpin on`, ns, ns, ns, ns))
		sh(ns, fmt.Sprintf(`ip addr add %s/32 dev eth0; ip link set eth0 up; ip route add 10.244.1.1 dev eth0; ip route add default via 10.244.1.1`, ip))
	}
}

// serve echoes at these ports of a namespace, by TCP and UDP.
func serve(t testing.TB, ns string, addrs ...string) {
	t.Helper()
	for _, addr := range addrs {
		var ln net.Listener
		var pc net.PacketConn
		err := netnstest.Inside(ns, func() (err error) {
			var errs [2]error
			ln, errs[0] = net.Listen("tcp4", addr)
			pc, errs[1] = net.ListenPacket("udp4", addr)
			return errors.Join(errs[:]...)
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = ln.Close(); _ = pc.Close() })
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go func() {
					defer func() { _ = c.Close() }()
					_, _ = io.Copy(c, c)
				}()
			}
		}()
		go func() {
			b := make([]byte, 1500)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = pc.WriteTo(b[:n], from)
			}
		}()
	}
}

const (
	patience = 400 * time.Millisecond // of what is dropped; on a machine of its own an answer takes less than 1 ms
	// insist is how long what must be answered is tried, for machines that are busy.
	insist = 30 * time.Second
)

// dial opens a connection, from an address of the namespace if it is given.
func dial(ns, network, from, to string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: patience}
	if from != "" && network == "tcp4" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	} else if from != "" {
		d.LocalAddr = &net.UDPAddr{IP: net.ParseIP(from)}
	}
	err = netnstest.Inside(ns, func() error { c, err = d.Dial(network, to); return err })
	return c, err
}

func echo(c net.Conn, limit time.Duration) error {
	_ = c.SetDeadline(time.Now().Add(limit))
	if _, err := c.Write([]byte("x")); err != nil {
		return err
	}
	_, err := c.Read(make([]byte, 10))
	return err
}

func reaches(ns, network, from, to string) bool {
	c, err := dial(ns, network, from, to)
	if err != nil {
		return false
	}
	defer func() { _ = c.Close() }()
	return echo(c, patience) == nil
}

// cut says that nothing is reached, three times in a row: one answer may be late.
func cut(ns, network, from, to string) bool {
	for range 3 {
		if reaches(ns, network, from, to) {
			return false
		}
	}
	return true
}

// counted tells how often rules were written.
type counted struct {
	*iptables.Tables
	restores atomic.Int64
}

func (c *counted) Restore(ctx context.Context, text string) error {
	c.restores.Add(1)
	return c.Tables.Restore(ctx, text)
}

func kernel(t testing.TB, suffix string) (*counted, *ipset.Kernel) {
	t.Helper()
	tables, err := iptables.New(t.Context(), iptables.Config{Prefix: policy.Prefix, Suffix: suffix, Names: []string{policy.Table}, Enter: netnstest.Enter(nodeNS)})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := netns.GetFromName(nodeNS)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	sets, err := ipset.Open(ns)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(sets.Close)
	return &counted{Tables: tables}, sets
}

func start(t testing.TB, suffix string) (*policy.Enforcer, *counted, *ipset.Kernel) {
	t.Helper()
	tables, sets := kernel(t, suffix)
	e := policy.New(policy.Config{
		Tables: tables, OpenSets: func() (policy.Sets, error) { return sets, nil },
		Trouble: func(why string) { t.Error("trouble:", why) },
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return e, tables, sets
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !cond(); {
		if time.Now().After(deadline) {
			t.Fatal("not within 2 min:", what)
		}
	}
}

func eachBackend(t *testing.T, f func(t *testing.T, suffix string)) {
	for _, suffix := range []string{"-nft", "-legacy"} {
		t.Run("iptables"+suffix, func(t *testing.T) { f(t, suffix) })
	}
}

func TestE2EGoldenFilesAreAcceptedAndReadBackTheSame(t *testing.T) {
	eachBackend(t, func(t *testing.T, suffix string) {
		files, err := filepath.Glob("testdata/*.rules")
		if err != nil || len(files) < 10 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			netnstest.Make(t, nodeNS)
			tables, sets := kernel(t, suffix)
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			want := makeSets(t, sets, string(data))
			got, err := sets.List()
			if err != nil {
				t.Fatal(err)
			}
			for name, s := range got {
				slices.SortFunc(s.Entries, func(a, b policy.Entry) int { return a.Net.Addr().Compare(b.Net.Addr()) })
				got[name] = s
			}
			if d := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); d != "" {
				t.Errorf("%s: sets read back (- made):\n%s", file, d)
			}
			text := string(data[strings.Index(string(data)+"*", "*"):])
			if text == "" {
				continue
			}
			if err := tables.Test(t.Context(), text); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if err := tables.Restore(t.Context(), text); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			back, err := tables.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(chainsOf(text), back[policy.Table]); d != "" {
				t.Errorf("%s: rules read back (- written):\n%s", file, d)
			}
		}
	})
}

// makeSets makes what the file's head says.
func makeSets(t *testing.T, sets *ipset.Kernel, text string) map[string]policy.KernelSet {
	want := map[string]policy.KernelSet{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 4 || f[0] != "#" {
			continue
		}
		s := policy.KernelSet{Type: policy.SetType(f[3])}
		for _, n := range f[4:] {
			s.Entries = append(s.Entries, policy.Entry{Net: netip.MustParsePrefix(n)})
		}
		if err := errors.Join(sets.Create(f[2], s.Type), sets.Create(f[2], s.Type), sets.Add(f[2], s.Type, s.Entries), sets.Add(f[2], s.Type, s.Entries)); err != nil {
			t.Fatal(err)
		}
		want[f[2]] = s
	}
	return want
}

func chainsOf(text string) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		chain, _, _ := strings.Cut(rest, " ")
		switch {
		case line[0] == ':':
			out[word[1:]] = ""
		case word == "-A" || word == "-I":
			out[chain] += "-A " + rest + "\n"
		}
	}
	return out
}

func TestE2ESets(t *testing.T) {
	netnstest.Make(t, nodeNS)
	_, sets := kernel(t, "")
	many := func(n int) (out []policy.Entry) {
		for i := range n {
			out = append(out, policy.Entry{Net: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i >> 8), byte(i)}), 32)})
		}
		return out[1:]
	}
	ports := []policy.Entry{{Net: netip.MustParsePrefix("10.244.1.5/32"), Protocol: 6, Port: 80}, {Net: netip.MustParsePrefix("10.244.1.5/32"), Protocol: 132, Port: 81}}
	for _, err := range []error{
		sets.Create("wp-many", policy.Addresses), sets.Add("wp-many", policy.Addresses, many(5000)), sets.Delete("wp-many", policy.Addresses, many(10)), sets.Delete("wp-many", policy.Addresses, many(10)),
		sets.Create("wp-ports", policy.Ports), sets.Add("wp-ports", policy.Ports, ports),
		sets.Create("other", policy.Addresses), sets.Destroy("wp-none"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	got, err := sets.List()
	if err != nil || len(got) != 2 || len(got["wp-many"].Entries) != 4990 || got["wp-many"].Type != policy.Addresses {
		t.Fatal(err, len(got), len(got["wp-many"].Entries))
	}
	if p := got["wp-ports"].Entries; len(p) != 2 || !slices.Contains(p, ports[0]) || !slices.Contains(p, ports[1]) {
		t.Error(p)
	}
	if err := sets.Add("wp-none", policy.Addresses, many(2)); err == nil || !strings.Contains(err.Error(), "add to the set wp-none") {
		t.Error(err)
	}
	if err := sets.Add("wp-many", policy.Addresses, []policy.Entry{{}}); err == nil {
		t.Error("an entry without an address was taken")
	}
	if err := sets.Create("wp-x", "hash:nonsense"); err == nil || !strings.Contains(err.Error(), "the module ip_set_hash_nonsense is missing") {
		t.Error(err)
	}
	if err := errors.Join(sets.Destroy("wp-many"), sets.Destroy("wp-ports")); err != nil {
		t.Error(err)
	}
}

func pod(ns, name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(name), Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}}}}},
	}
}

func selector(k, v string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{k: v}}
}

func port(proto corev1.Protocol, p intstr.IntOrString, end ...int32) networkingv1.NetworkPolicyPort {
	out := networkingv1.NetworkPolicyPort{Protocol: &proto, Port: &p}
	if len(end) > 0 {
		out.EndPort = &end[0]
	}
	return out
}

func networkPolicy(name string, spec networkingv1.NetworkPolicySpec) *networkingv1.NetworkPolicy {
	return &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name}, Spec: spec}
}

type probe struct {
	what, ns, network, from, to string
	want                        bool
}

func check(t *testing.T, when string, probes []probe) {
	t.Helper()
	var all sync.WaitGroup
	for _, p := range probes {
		all.Go(func() {
			got := reaches(p.ns, p.network, p.from, p.to)
			for end := time.Now().Add(insist); p.want && !got && time.Now().Before(end); {
				got = reaches(p.ns, p.network, p.from, p.to)
			}
			if got != p.want {
				t.Errorf("%s: %s (%s → %s, %s): %v, want %v", when, p.what, p.ns, p.to, p.network, got, p.want)
			}
		})
	}
	all.Wait()
}

func TestE2ETraffic(t *testing.T) {
	for suffix, bridgeNF := range map[string]string{"-nft": "1", "-legacy": "0"} {
		t.Run("iptables"+suffix+",bridge-nf="+bridgeNF, func(t *testing.T) { traffic(t, suffix, bridgeNF) })
	}
}

const p1, p2 = "10.244.1.5", "10.244.1.6"

func traffic(t *testing.T, suffix, bridgeNF string) {
	topology(t, bridgeNF)
	// What accepts everything, in filter and first, as Docker and our own Services' rules do, changes nothing.
	netnstest.RunIn(t, nodeNS, "iptables"+suffix, "-I", "FORWARD", "-j", "ACCEPT")
	// A Service on p1, for hairpins.
	netnstest.RunIn(t, nodeNS, "iptables"+suffix, "-t", "nat", "-A", "PREROUTING", "-d", "10.254.0.10", "-p", "tcp", "-j", "DNAT", "--to-destination", p1+":8080")
	netnstest.RunIn(t, nodeNS, "iptables"+suffix, "-t", "nat", "-A", "POSTROUTING", "-s", p1, "-d", p1, "-j", "MASQUERADE")
	for ns := range podIPs {
		serve(t, ns, ":8080", ":8081", ":9000")
	}
	serve(t, outNS, ":443", ":444")
	serve(t, nodeNS, dnsIP+":53", "198.51.100.11:6443")
	e, tables, _ := start(t, suffix)
	web := pod("shop", "wpq-p1", map[string]string{"app": "web"})
	e.SetPod(web)
	e.SetPod(pod("shop", "wpq-p2", map[string]string{"app": "db"}))
	for ns, ip := range podIPs {
		e.Adopt(ns, netip.MustParseAddr(ip))
	}
	e.Synced()
	check(t, "without policies", []probe{
		{"pod to pod", "wpq-p2", "tcp4", "", p1 + ":8080", true}, {"from the world", outNS, "udp4", "", p1 + ":8081", true}, {"to DNS", "wpq-p1", "udp4", "", dnsIP + ":53", true},
	})
	if tables.restores.Load() > 0 {
		t.Error("rules without policies")
	}
	var kept net.Conn
	eventually(t, "a connection", func() (ok bool) {
		var err error
		kept, err = dial("wpq-p2", "tcp4", "", p1+":8080")
		return err == nil
	})
	defer func() { _ = kept.Close() }()

	both := []networkingv1.PolicyType{"Ingress", "Egress"}
	e.SetPolicy(networkPolicy("deny", networkingv1.NetworkPolicySpec{PolicyTypes: both}))
	eventually(t, "default-deny", func() bool { return cut("wpq-p2", "tcp4", "", p1+":8080") })
	check(t, "default-deny", []probe{
		{"pod to pod", "wpq-p1", "tcp4", "", p2 + ":8080", false}, {"pod to pod, UDP", "wpq-p1", "udp4", "", p2 + ":8080", false},
		{"from the world", outNS, "tcp4", "", p1 + ":8080", false}, {"from a pod elsewhere", outNS, "tcp4", remote, p1 + ":8080", false},
		{"to the world", "wpq-p1", "tcp4", "", world + ":443", false}, {"to DNS", "wpq-p1", "udp4", "", dnsIP + ":53", false}, {"to the node", "wpq-p1", "tcp4", "", "198.51.100.11:6443", false},
		{"from the node, as probes are", nodeNS, "tcp4", "", p1 + ":8080", true}, {"from the node, UDP", nodeNS, "udp4", "", p1 + ":8080", true},
		{"to itself by a Service", "wpq-p1", "tcp4", "", "10.254.0.10:80", true},
		{"another pod by that Service", "wpq-p2", "tcp4", "", "10.254.0.10:80", false},
	})
	if err := echo(kept, insist); err != nil {
		t.Error("a connection that was there is broken off:", err)
	}

	e.SetPolicy(networkPolicy("web", networkingv1.NetworkPolicySpec{
		PodSelector: *selector("app", "web"), PolicyTypes: both,
		Ingress: []networkingv1.NetworkPolicyIngressRule{
			{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selector("role", "client")}}, Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromString("http"))}},
			{From: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "198.51.100.0/24", Except: []string{world + "/32"}}}, {IPBlock: &networkingv1.IPBlock{CIDR: "10.244.2.0/24"}}}, Ports: []networkingv1.NetworkPolicyPort{port("UDP", intstr.FromInt32(8080), 8081)}},
		},
		Egress: []networkingv1.NetworkPolicyEgressRule{
			{To: []networkingv1.NetworkPolicyPeer{{NamespaceSelector: selector("kubernetes.io/metadata.name", "kube-system"), PodSelector: selector("k8s-app", "kube-dns")}}, Ports: []networkingv1.NetworkPolicyPort{port("UDP", intstr.FromInt32(53)), port("TCP", intstr.FromInt32(53))}},
			{To: []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "0.0.0.0/0", Except: []string{"10.0.0.0/8"}}}}, Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromInt32(443))}},
			{To: []networkingv1.NetworkPolicyPeer{{PodSelector: selector("app", "db")}}, Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromString("sql"))}},
		},
	}))
	// The database lets its port be reached by all.
	e.SetPolicy(networkPolicy("db", networkingv1.NetworkPolicySpec{PodSelector: *selector("app", "db"), Ingress: []networkingv1.NetworkPolicyIngressRule{{}}}))
	sql := port("TCP", intstr.FromString("sql"))
	member := func(addr string, p uint16) []policy.Member {
		return []policy.Member{{Addr: netip.MustParseAddr(addr), Protocol: uint8(min(p, 1)) * 6, Port: p}}
	}
	e.SetPart(netpolicy.Set{Namespaces: selector("kubernetes.io/metadata.name", "kube-system"), Pods: selector("k8s-app", "kube-dns")}.ID(), "10.254.254", member(dnsIP, 0))
	e.SetPart(netpolicy.Set{Namespace: "shop", Pods: selector("app", "db")}.WithPort(&sql).ID(), "10.244.1", member(p2, 9000))
	eventually(t, "DNS", func() bool { return reaches("wpq-p1", "udp4", "", dnsIP+":53") })
	clients := netpolicy.Set{Namespace: "shop", Pods: selector("role", "client")}.ID()
	probes := func(client bool) []probe {
		return []probe{
			{"DNS by TCP", "wpq-p1", "tcp4", "", dnsIP + ":53", true}, {"another port of the node", "wpq-p1", "tcp4", "", "198.51.100.11:6443", false},
			{"the world by 443", "wpq-p1", "tcp4", "", world + ":443", true}, {"the world by 444", "wpq-p1", "tcp4", "", world + ":444", false},
			{"443 by UDP", "wpq-p1", "udp4", "", world + ":443", false}, {"what is excepted", "wpq-p1", "tcp4", "", remote + ":443", false},
			{"the named port of the peer", "wpq-p1", "tcp4", "", p2 + ":9000", true}, {"another of its ports", "wpq-p1", "tcp4", "", p2 + ":8080", false},
			{"a range of ports", outNS, "udp4", remote, p1 + ":8081", true}, {"beyond it", outNS, "udp4", remote, p1 + ":9000", false},
			{"the same by TCP", outNS, "tcp4", remote, p1 + ":8081", false}, {"who is excepted", outNS, "udp4", world, p1 + ":8080", false},
			{"a client elsewhere, by the pod's named port", outNS, "tcp4", remote, p1 + ":8080", client}, {"by another", outNS, "tcp4", remote, p1 + ":9000", false},
		}
	}
	check(t, "nobody is a client", probes(false))
	before := tables.restores.Load()
	e.SetPart(clients, "10.244.2", member(remote, 0))
	eventually(t, "a client came", func() bool { return reaches(outNS, "tcp4", remote, p1+":8080") })
	check(t, "a client came", probes(true))
	e.SetPart(clients, "10.244.2", nil)
	eventually(t, "the client went", func() bool { return cut(outNS, "tcp4", remote, p1+":8080") })
	if n := tables.restores.Load() - before; n > 0 {
		t.Error("iptables ran", n, "times for addresses that came and went")
	}

	// An agent that starts anew changes nothing of what is in force.
	again, tables2, _ := start(t, suffix)
	again.SetPod(web)
	again.Adopt("wpq-p1", netip.MustParseAddr(p1))
	again.SetPolicy(networkPolicy("deny", networkingv1.NetworkPolicySpec{PolicyTypes: both}))
	again.DeletePolicy("shop", "none")
	check(t, "a second agent knows not all", probes(false))
	if n := tables2.restores.Load(); n > 0 {
		t.Error("it wrote rules", n, "times")
	}

	for _, name := range []string{"deny", "web", "db"} {
		e.DeletePolicy("shop", name)
	}
	eventually(t, "open again", func() bool { return reaches("wpq-p2", "tcp4", "", p1+":8080") })
	if err := e.Remove(t.Context()); err != nil {
		t.Error(err)
	}
}

// BenchmarkE2EPodComes to a node with 250 pods, each selected by a policy of its own, of a cluster with 1,000 policies: until its
// rules are in force. First packets then walk 250 sets.
func BenchmarkE2EPodComes(b *testing.B) {
	netnstest.Make(b, nodeNS)
	e, _, _ := start(b, "")
	labels := func(i int) map[string]string { return map[string]string{"app": fmt.Sprint(i)} }
	for i := range 253 {
		name := fmt.Sprint("p", i)
		e.SetPolicy(networkPolicy(name, networkingv1.NetworkPolicySpec{
			PodSelector: *selector("app", fmt.Sprint(i)), Ingress: []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: selector("app", fmt.Sprint(i))}}}},
		}))
		if i < 250 {
			e.SetPod(pod("shop", name, labels(i)))
			e.Adopt(name, netip.AddrFrom4([4]byte{10, 244, 1, byte(i + 1)}))
		}
	}
	e.Synced()
	e.SetPod(pod("shop", "last", labels(0)))
	begin := time.Now()
	if err := e.Attach(b.Context(), "last", netip.MustParseAddr("10.244.1.251")); err != nil {
		b.Fatal(err)
	}
	b.Logf("all of it from nothing: %v", time.Since(begin))
	for _, own := range []bool{false, true} {
		b.Run(fmt.Sprintf("own-group=%v", own), func(b *testing.B) {
			n := 0
			for b.Loop() {
				app := 0
				if own {
					app = 250 + n%2
				}
				n++
				name := fmt.Sprint("new", n)
				e.SetPod(pod("shop", name, labels(app)))
				if err := e.Attach(b.Context(), name, netip.MustParseAddr("10.244.1.252")); err != nil {
					b.Fatal(err)
				}
				e.DeletePod(name)
				e.Detach(name)
			}
		})
	}
}
