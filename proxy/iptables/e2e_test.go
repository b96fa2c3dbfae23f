//go:build e2e

package iptables_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/iptables"
	"github.com/whalepod/whalepod/proxy/nft"
)

// These tests need root. Every namespace is made by the test and has no uplink:
//
//	wpp-cli 198.51.100.1 ─── 198.51.100.11 wpp-node: wp0 10.244.1.1 ─┬─ wpp-p1 10.244.1.5
//	                                       docker0 172.17.0.1         └─ wpp-p2 10.244.1.6
const (
	nodeNS, clientNS = "wpp-node", "wpp-cli"
	nodeIP           = "198.51.100.11"
)

var podIPs = map[string]string{"wpp-p1": "10.244.1.5", "wpp-p2": "10.244.1.6"}

func run(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func enter(ns string) []string { return []string{"nsenter", "--net=/run/netns/" + ns} }

func runIn(t testing.TB, ns string, args ...string) string {
	t.Helper()
	return run(t, append(enter(ns), args...)...)
}

func makeNS(t testing.TB, name string) {
	t.Helper()
	_ = exec.Command("ip", "netns", "del", name).Run()
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	run(t, "ip", "-n", name, "link", "set", "lo", "up")
}

func topology(t testing.TB, bridgeNF string) {
	t.Helper()
	makeNS(t, nodeNS)
	makeNS(t, clientNS)
	sh := func(ns, script string) { t.Helper(); runIn(t, ns, "sh", "-ec", script) }
	sh(nodeNS, `ip link add eth0 type veth peer name eth0 netns `+clientNS+`; ip addr add `+nodeIP+`/24 dev eth0; ip link set eth0 up
		ip link add docker0 type bridge; ip addr add 172.17.0.1/16 dev docker0; ip link set docker0 up
		ip link add wp0 type bridge; ip link set wp0 address 0a:57:0a:f4:01:01; ip addr add 10.244.1.1/24 dev wp0; ip addr add 10.254.254.1/32 dev wp0; ip link set wp0 up
		ip route add 10.254.0.0/16 dev wp0 src 10.244.1.1
		sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.wp0.send_redirects=0 net.ipv4.conf.wp0.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1
		if [ -e /proc/sys/net/bridge ]; then sysctl -qw net.bridge.bridge-nf-call-iptables=`+bridgeNF+`; fi`)
	sh(clientNS, `ip addr add 198.51.100.1/24 dev eth0; ip addr add 198.51.100.2/24 dev eth0; ip link set eth0 up; ip route add default via `+nodeIP)
	for ns, ip := range podIPs {
		makeNS(t, ns)
		sh(nodeNS, fmt.Sprintf(`ip link add v%s type veth peer name eth0 netns %s; ip link set v%s master wp0 up; bridge link set dev v%s hairpin on`, ns, ns, ns, ns))
		sh(ns, fmt.Sprintf(`ip addr add %s/32 dev eth0; ip link set eth0 up; ip route add 10.244.1.1 dev eth0; ip route add default via 10.244.1.1`, ip))
	}
}

// inside runs f on a thread in the namespace; the thread is not used again.
func inside(ns string, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := os.Open("/run/netns/" + ns)
		if err == nil {
			err = unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET)
			_ = fd.Close()
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// serve answers every TCP connection with the pod's name and the client's address, then echoes.
func serve(t testing.TB, ns, addr string) {
	t.Helper()
	var ln net.Listener
	if err := inside(ns, func() (err error) { ln, err = net.Listen("tcp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				from := netip.MustParseAddrPort(c.RemoteAddr().String()).Addr()
				_, _ = fmt.Fprintf(c, "%s %s\n", ns, from)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

func serveUDP(t *testing.T, ns, addr string) {
	t.Helper()
	var pc net.PacketConn
	if err := inside(ns, func() (err error) { pc, err = net.ListenPacket("udp4", addr); return err }); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		b := make([]byte, 1500)
		for {
			_, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(ns+"\n"), from)
		}
	}()
}

func dial(ns, network, from, to string) (c net.Conn, err error) {
	d := net.Dialer{Timeout: 2 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	err = inside(ns, func() error { c, err = d.Dial(network, to); return err })
	return c, err
}

// ask returns who answered and whom it saw.
func ask(ns, from, to string) (pod, seen string, err error) {
	c, err := dial(ns, "tcp4", from, to)
	if err != nil {
		return "", "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	_, err = fmt.Fscanln(c, &pod, &seen)
	return pod, seen, err
}

func svc(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "p", Protocol: corev1.ProtocolTCP, Port: 80}}},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func eps(name string, proto corev1.Protocol, port int32, ips ...string) *discoveryv1.EndpointSlice {
	p, node := "p", "n1"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &p, Protocol: &proto, Port: &port}},
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node})
	}
	return s
}

// running is a proxy at work in the node's namespace.
type running struct {
	*proxy.Proxy
	mark    uint64
	inForce chan uint64
	stop    func()
}

func config(tables proxy.Applier) proxy.Config {
	p := netip.MustParsePrefix
	return proxy.Config{
		NodeName: "n1", PodCIDR: p("10.244.1.0/24"), ClusterPodCIDR: p("10.244.0.0/16"), ServiceCIDR: p("10.254.0.0/16"),
		LocalIPs: []netip.Addr{netip.MustParseAddr("10.254.254.1")}, Applier: tables,
	}
}

func newTables(t testing.TB, suffix string) *iptables.Tables {
	t.Helper()
	tables, err := iptables.New(t.Context(), iptables.Config{Prefix: proxy.Prefix, Suffix: suffix, Enter: enter(nodeNS)})
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

// native opens nf_tables in the node's namespace.
func native(t testing.TB) *nft.Tables {
	t.Helper()
	cfg := config(nil)
	var out *nft.Tables
	err := inside(nodeNS, func() (err error) {
		out, err = nft.New(nft.Config{PodCIDR: cfg.PodCIDR, ClusterPodCIDR: cfg.ClusterPodCIDR, ServiceCIDR: cfg.ServiceCIDR, LocalIPs: cfg.LocalIPs})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	if err := out.Try(); err != nil {
		t.Fatal(err)
	}
	return out
}

// backend is one of ours over one of the machine's.
type backend struct {
	name, suffix string
	native       bool
}

var backends = []backend{{"nftables", "-nft", true}, {"iptables-nft", "-nft", false}, {"iptables-legacy", "-legacy", false}}

func eachBackend(t *testing.T, f func(t *testing.T, b backend)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { f(t, b) })
	}
}

func start(t testing.TB, b backend) *running {
	t.Helper()
	tables := newTables(t, b.suffix)
	cfg := config(tables)
	cfg.RandomFully = tables.RandomFully()
	if b.suffix == "-nft" {
		cfg.Native, cfg.Former = native(t), !b.native
	}
	r := &running{inForce: make(chan uint64, 100)}
	cfg.InForce = func(mark uint64) { r.inForce <- mark }
	if log, ok := t.(*testing.T); ok {
		cfg.Logger = slog.New(slog.NewTextHandler(log.Output(), nil))
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	r.Proxy = p
	r.stop = func() { cancel(); <-done }
	t.Cleanup(cancel)
	return r
}

// apply makes changes and waits until they are in force.
func (r *running) apply(t testing.TB, f func()) {
	t.Helper()
	f()
	r.mark++
	r.Reached(r.mark)
	deadline := time.After(20 * time.Second)
	for {
		select {
		case <-deadline:
			t.Fatal("the rules were not applied")
		case m := <-r.inForce:
			if m == r.mark {
				return
			}
		}
	}
}

func TestE2EGoldenFilesAreAcceptedAndReadBackTheSame(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		if b.native {
			return // they are not its
		}
		files, err := filepath.Glob("../testdata/*.rules")
		if err != nil || len(files) < 10 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			makeNS(t, nodeNS)
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			tables := newTables(t, b.suffix)
			if err := tables.Test(t.Context(), string(text)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			if err := tables.Restore(t.Context(), string(text)); err != nil {
				t.Errorf("%s: %v", file, err)
			}
			back, err := tables.Read(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for table, chains := range wanted(string(text)) {
				if d := cmp.Diff(chains, back[table]); d != "" {
					t.Errorf("%s, table %s: what was read back differs (- written, + read):\n%s", file, table, d)
				}
			}
			for _, chain := range []string{"WP-SERVICES", "PREROUTING", "WP-NONE"} {
				if got, err := tables.List(t.Context(), "nat", chain); err != nil || got != back["nat"][chain] {
					t.Errorf("list %s: %q %v, want %q", chain, got, err, back["nat"][chain])
				}
			}
		}
	})
}

// wanted takes the text of a golden file apart.
func wanted(text string) map[string]map[string]string {
	out := map[string]map[string]string{}
	var chains map[string]string
	for line := range strings.Lines(text) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		chain, _, _ := strings.Cut(rest, " ")
		switch {
		case line[0] == '*':
			chains = map[string]string{}
			out[word[1:]] = chains
		case line[0] == ':':
			chains[word[1:]] = ""
		case word == "-A" || word == "-I":
			chains[chain] += "-A " + rest + "\n"
		}
	}
	return out
}

func TestE2ETraffic(t *testing.T) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNF, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, b backend) { traffic(t, b, bridgeNF) })
		})
	}
}

func traffic(t *testing.T, b backend, bridgeNF string) {
	topology(t, bridgeNF)
	runIn(t, nodeNS, "iptables"+b.suffix, "-P", "FORWARD", "DROP") // as Docker leaves it
	for ns := range podIPs {
		serve(t, ns, ":8080")
		serveUDP(t, ns, ":5353")
	}
	serve(t, nodeNS, nodeIP+":6443")
	serve(t, nodeNS, "127.0.0.1:9999")
	serve(t, clientNS, "198.51.100.1:7777")
	r := start(t, b)
	defer r.stop()
	np := func(n int32) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, n }
	}
	r.apply(t, func() {
		r.SetService(svc("one", "10.254.0.11", np(30080)))
		r.SetSlice(eps("one", "TCP", 8080, podIPs["wpp-p1"]))
		r.SetService(svc("two", "10.254.0.12", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.7"} }))
		r.SetSlice(eps("two", "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
		r.SetService(svc("none", "10.254.0.13", np(30081)))
		r.SetService(svc("api", "10.254.0.1"))
		r.SetSlice(eps("api", "TCP", 6443, nodeIP))
		r.SetService(svc("local", "10.254.0.14", np(30082), func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" }))
		r.SetSlice(eps("local", "TCP", 8080, podIPs["wpp-p1"]))
		r.SetService(svc("udp", "10.254.0.15", np(30053), func(s *corev1.Service) { s.Spec.Ports[0].Protocol = "UDP" }))
		r.SetSlice(eps("udp", "UDP", 5353, podIPs["wpp-p2"]))
		r.SetHostPorts("default/p2", []proxy.HostPort{{Port: 8088, Pod: netip.MustParseAddrPort(podIPs["wpp-p2"] + ":8080")}})
		r.Synced()
	})
	for _, c := range []struct{ what, ns, from, to, pod, seen string }{
		{"pod, other pod's ClusterIP", "wpp-p2", "", "10.254.0.11:80", "wpp-p1", "10.244.1.6"},
		{"hairpin by ClusterIP", "wpp-p1", "", "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"hairpin by NodePort", "wpp-p1", "", nodeIP + ":30080", "wpp-p1", "10.244.1.1"},
		{"pod to pod", "wpp-p1", "", "10.244.1.6:8080", "wpp-p2", "10.244.1.5"},
		{"node, ClusterIP", nodeNS, "", "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"node bound to its address, ClusterIP", nodeNS, nodeIP, "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on its address", nodeNS, "", nodeIP + ":30080", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on 127.0.0.1", nodeNS, "", "127.0.0.1:30080", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on docker0", nodeNS, "", "172.17.0.1:30080", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on wp0", nodeNS, "", "10.244.1.1:30080", "wpp-p1", "10.244.1.1"},
		{"outside, NodePort", clientNS, "", nodeIP + ":30080", "wpp-p1", "10.244.1.1"},
		{"outside, NodePort on docker0", clientNS, "", "172.17.0.1:30080", "wpp-p1", "10.244.1.1"},
		{"outside, ClusterIP through the node", clientNS, "", "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"node, the API's ClusterIP", nodeNS, "", "10.254.0.1:80", nodeNS, "10.244.1.1"},
		{"pod, the API's ClusterIP", "wpp-p1", "", "10.254.0.1:80", nodeNS, "10.244.1.5"},
		{"outside, NodePort Local", clientNS, "", nodeIP + ":30082", "wpp-p1", "198.51.100.1"},
		{"node, NodePort Local on 127.0.0.1", nodeNS, "", "127.0.0.1:30082", "wpp-p1", "10.244.1.1"},
		{"outside, host port", clientNS, "", nodeIP + ":8088", "wpp-p2", "198.51.100.1"},
		{"node, host port on 127.0.0.1", nodeNS, "", "127.0.0.1:8088", "wpp-p2", "10.244.1.1"},
		{"hairpin by host port", "wpp-p2", "", nodeIP + ":8088", "wpp-p2", "10.244.1.1"},
		{"pod out of the cluster", "wpp-p1", "", "198.51.100.1:7777", clientNS, nodeIP},
	} {
		pod, seen, err := ask(c.ns, c.from, c.to)
		if err != nil || pod != c.pod || seen != c.seen {
			t.Errorf("%s: %s answered and saw %s (%v), want %s seeing %s", c.what, pod, seen, err, c.pod, c.seen)
		}
	}
	balanced(t, r)
	refused(t)
	for _, c := range [][2]string{{"wpp-p1", "10.254.0.15:80"}, {nodeNS, "127.0.0.1:30053"}, {clientNS, nodeIP + ":30053"}, {"wpp-p2", "10.254.0.15:80"}} {
		if got, err := askUDP(c[0], c[1]); err != nil || got != "wpp-p2" {
			t.Errorf("UDP %s → %s: %q %v", c[0], c[1], got, err)
		}
	}
}

func askUDP(ns, to string) (pod string, err error) {
	c, err := dial(ns, "udp4", "", to)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err = c.Write([]byte("x")); err != nil {
		return "", err
	}
	b := make([]byte, 100)
	n, err := c.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

func balanced(t *testing.T, r *running) {
	t.Helper()
	got := map[string]int{}
	for range 60 {
		pod, _, err := ask(clientNS, "", "203.0.113.7:80")
		if err != nil {
			t.Fatal(err)
		}
		got[pod]++
	}
	if got["wpp-p1"] < 12 || got["wpp-p2"] < 12 {
		t.Errorf("60 connections were spread as %v", got)
	}
	// One connection stays open while its Service changes under it.
	c, err := dial(clientNS, "tcp4", "", "203.0.113.7:80")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	var pod, seen string
	if _, err := fmt.Fscanln(c, &pod, &seen); err != nil {
		t.Fatal(err)
	}
	r.apply(t, func() {
		r.SetService(svc("two", "10.254.0.12", func(s *corev1.Service) {
			s.Spec.ExternalIPs, s.Spec.SessionAffinity = []string{"203.0.113.7"}, "ClientIP"
		}))
	})
	if _, err := c.Write([]byte("still here\n")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 11)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "still here\n" {
		t.Errorf("an open connection did not outlive an update: %q %v", b, err)
	}
	for _, from := range []string{"198.51.100.1", "198.51.100.2"} {
		first, _, err := ask(clientNS, from, "203.0.113.7:80")
		for range 20 {
			pod, _, again := ask(clientNS, from, "203.0.113.7:80")
			if err != nil || again != nil || pod != first {
				t.Fatalf("affinity: %s went to %s, then to %s (%v %v)", from, first, pod, err, again)
			}
		}
	}
}

func refused(t *testing.T) {
	t.Helper()
	for _, c := range [][2]string{
		{"wpp-p1", "10.254.0.13:80"}, {nodeNS, "10.254.0.13:80"}, {clientNS, "10.254.0.13:80"}, {clientNS, nodeIP + ":30081"},
		{nodeNS, "127.0.0.1:30081"}, {"wpp-p1", nodeIP + ":30081"}, {"wpp-p1", "10.254.99.99:80"}, {nodeNS, "10.254.99.99:80"}, {"wpp-p1", "10.254.0.11:81"},
	} {
		if _, _, err := ask(c[0], "", c[1]); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s → %s must be refused at once, got %v", c[0], c[1], err)
		}
	}
	// What listens on 127.0.0.1 only is not for the neighbours, though route_localnet is on.
	runIn(t, clientNS, "sh", "-c", "ip link set lo down; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via "+nodeIP+" src 198.51.100.1; sysctl -qw net.ipv4.conf.eth0.route_localnet=1")
	if _, _, err := ask(clientNS, "", "127.0.0.1:9999"); err == nil {
		t.Error("a neighbour reached what listens on the node's 127.0.0.1")
	}
	runIn(t, clientNS, "sh", "-c", "ip route del 127.0.0.1; ip link set lo up")
	if pod, _, err := ask(nodeNS, "", "127.0.0.1:9999"); err != nil || pod != nodeNS {
		t.Errorf("the node's own 127.0.0.1: %q %v", pod, err)
	}
}

func TestE2ERemovalLeavesForeignRulesAsTheyWere(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		makeNS(t, nodeNS)
		foreign := "*nat\n:DOCKER - [0:0]\n-A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER\n-A DOCKER -i docker0 -j RETURN\n-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE\nCOMMIT\n" +
			"*filter\n:FORWARD DROP [0:0]\n:DOCKER-USER - [0:0]\n-A FORWARD -j DOCKER-USER\n-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\nCOMMIT\n*mangle\n-A PREROUTING -p tcp -j MARK --set-xmark 0x7/0xffffffff\nCOMMIT\n"
		cmd := exec.Command("nsenter", "--net=/run/netns/"+nodeNS, "iptables"+b.suffix+"-restore")
		cmd.Stdin = strings.NewReader(foreign)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, out)
		}
		before := save(t, b)
		r := start(t, b)
		r.apply(t, func() {
			for i := range 50 {
				name := fmt.Sprint("s", i)
				r.SetService(svc(name, fmt.Sprintf("10.254.1.%d", i+1)))
				r.SetSlice(eps(name, "TCP", 80, fmt.Sprintf("10.244.3.%d", i+2)))
			}
			r.Synced()
		})
		if got := withoutOurs(save(t, b)); got != before {
			t.Errorf("foreign rules while we run: %s", cmp.Diff(before, got))
		}
		// Somebody flushes; the next repair puts ours back.
		with := save(t, b)
		if b.native {
			runIn(t, nodeNS, "nft", "flush", "chain", "ip", nft.Table, "services")
			r.apply(t, r.Repair)
			if got := save(t, b); got != with {
				t.Errorf("after the repair of a flushed chain: %s", cmp.Diff(with, got))
			}
			runIn(t, nodeNS, "nft", "flush", "map", "ip", nft.Table, "services")
			r.apply(t, r.Repair)
			if got := save(t, b); got != with {
				t.Errorf("after the repair of a flushed map: %s", cmp.Diff(with, got))
			}
			runIn(t, nodeNS, "nft", "delete", "table", "ip", nft.Table)
		}
		if b.native {
			runIn(t, nodeNS, "iptables"+b.suffix, "-F", "WP-FORWARD")
			r.apply(t, r.Repair)
			if got := save(t, b); got != with {
				t.Errorf("after the repair of a table that was deleted: %s", cmp.Diff(with, got))
			}
		}
		runIn(t, nodeNS, "iptables"+b.suffix, "-t", "nat", "-F", "PREROUTING")
		runIn(t, nodeNS, "iptables"+b.suffix, "-t", "nat", "-A", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "DOCKER")
		runIn(t, nodeNS, "iptables"+b.suffix, "-F", "WP-FORWARD")
		r.apply(t, r.Repair)
		if got := save(t, b); got != with {
			t.Errorf("after the repair: %s", cmp.Diff(with, got))
		}
		r.stop()
		if err := r.Remove(t.Context()); err != nil {
			t.Fatal(err)
		}
		if after := save(t, b); after != before {
			t.Errorf("after removal: %s", cmp.Diff(before, after))
		}
	})
}

// save reads all tables without what changes by itself.
func save(t *testing.T, b backend) string {
	t.Helper()
	var out []string
	for line := range strings.Lines(runIn(t, nodeNS, "iptables"+b.suffix+"-save")) {
		if !strings.HasPrefix(line, "#") {
			before, _, _ := strings.Cut(line, " [")
			out = append(out, strings.TrimSpace(before))
		}
	}
	if tables := runIn(t, nodeNS, "nft", "list", "tables"); strings.Contains(tables, "ip "+nft.Table) {
		// The order of elements is the kernel's, and comes after each line's comment.
		lines := strings.Split(runIn(t, nodeNS, "nft", "list", "table", "ip", nft.Table), "\n")
		for i := range lines {
			lines[i] = "WP-NFT " + strings.Trim(strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(lines[i]), "elements = {")), "}"), " ,")
		}
		lines = slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, " expires ") }) // clients that are remembered
		slices.Sort(lines)
		out = append(out, lines...)
	}
	return strings.Join(out, "\n")
}

func withoutOurs(text string) string {
	var out []string
	for _, line := range strings.Split(text, "\n") {
		if !strings.Contains(line, "WP-") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
