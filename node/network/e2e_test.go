//go:build e2e

package network

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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// These tests need root. Every namespace is made by the test and has no uplink.

func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func nsPath(name string) string { return "/run/netns/" + name }

func makeNS(t *testing.T, name string) string {
	t.Helper()
	_ = exec.Command("ip", "netns", "del", name).Run()
	run(t, "ip", "netns", "add", name)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", name).Run() })
	run(t, "ip", "-n", name, "link", "set", "lo", "up")
	return name
}

// cable links two namespaces.
func cable(t *testing.T, a, aName, b, bName string) {
	t.Helper()
	run(t, "ip", "-n", a, "link", "add", aName, "type", "veth", "peer", "name", bName, "netns", b)
	run(t, "ip", "-n", a, "link", "set", aName, "up")
	run(t, "ip", "-n", b, "link", "set", bName, "up")
}

type host struct {
	*Network
	ns   string
	pods map[string]netip.Addr
}

func makeNode(t *testing.T, ns, ip, podCIDR string, change ...func(*Config)) *host {
	t.Helper()
	cfg := Config{
		NodeName: ns, NodeIP: netip.MustParseAddr(ip), PodCIDR: netip.MustParsePrefix(podCIDR),
		ClusterPodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"),
		DNSIP: netip.MustParseAddr("10.254.254.1"), StateDir: t.TempDir(), NetNS: nsPath(ns),
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	for _, c := range change {
		c(&cfg)
	}
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if err := n.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	return &host{Network: n, ns: ns, pods: map[string]netip.Addr{}}
}

// peer is what the others know of the node.
func (h *host) peer(t *testing.T) Peer {
	t.Helper()
	place, err := PlaceOf(h.cfg)
	if err != nil {
		t.Fatal(err)
	}
	return Peer{Name: strings.TrimPrefix(h.ns, "wpn-"), IP: h.cfg.NodeIP, PodCIDR: h.cfg.PodCIDR, Place: place}
}

func (h *host) pod(t *testing.T, name string) netip.Addr {
	t.Helper()
	makeNS(t, name)
	return h.attach(t, name)
}

func (h *host) attach(t *testing.T, name string) netip.Addr {
	t.Helper()
	ip, err := h.AttachPod(t.Context(), nsPath(name), Pod{UID: "uid-" + name, Namespace: "default", Name: name})
	if err != nil {
		t.Fatal(err)
	}
	h.pods[name] = ip
	return ip
}

// exchange sends size bytes by TCP from one namespace to a listener in another, which sends them back.
func exchange(t *testing.T, fromNS, toNS string, to netip.Addr, size int) {
	t.Helper()
	var ln net.Listener
	inside(t, toNS, func() (err error) { ln, err = net.Listen("tcp4", netip.AddrPortFrom(to, 0).String()); return err })
	defer func() { _ = ln.Close() }()
	go func() {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = c.Close() }()
		_, _ = io.CopyN(c, c, int64(size))
	}()
	inside(t, fromNS, func() error {
		c, err := (&net.Dialer{Timeout: 30 * time.Second}).Dial("tcp4", ln.Addr().String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		go func() { _, _ = c.Write(make([]byte, size)) }()
		_, err = io.CopyN(io.Discard, c, int64(size))
		return err
	})
}

// datagram sends size bytes by UDP and waits for them to come back; discovery is what the programs at both ends say of
// path MTU discovery.
func datagram(t *testing.T, fromNS, toNS string, to netip.Addr, size int, discovery int) {
	t.Helper()
	option := func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, discovery)
		})
		return errors.Join(err, e)
	}
	var server net.PacketConn
	inside(t, toNS, func() (err error) {
		lc := net.ListenConfig{Control: option}
		server, err = lc.ListenPacket(t.Context(), "udp4", netip.AddrPortFrom(to, 0).String())
		return err
	})
	defer func() { _ = server.Close() }()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := server.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = server.WriteTo(b[:n], from)
		}
	}()
	const largest = 60000
	inside(t, fromNS, func() error {
		c, err := (&net.Dialer{Control: option}).Dial("udp4", server.LocalAddr().String())
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		// One after the other: nobody said that UDP loses nothing when buffers are full.
		for left := size; left > 0; {
			n := min(left, largest)
			if _, err := c.Write(make([]byte, n)); err != nil {
				return err
			}
			got, err := c.Read(make([]byte, 65536))
			if err != nil {
				return fmt.Errorf("%d bytes before the end of %d: %w", left, size, err)
			}
			if got != n {
				return fmt.Errorf("%d of %d bytes came back", got, n)
			}
			left -= n
		}
		return nil
	})
}

func inside(t *testing.T, name string, f func() error) {
	t.Helper()
	ns, err := openNamespace(nsPath(name))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.do(f); err != nil {
		t.Fatalf("in %s: %v", name, err)
	}
}

func TestE2ETwoNodesOnOneLink(t *testing.T) {
	makeNS(t, "wpn-sw")
	run(t, "ip", "-n", "wpn-sw", "link", "add", "br0", "type", "bridge")
	run(t, "ip", "-n", "wpn-sw", "link", "set", "br0", "up")
	for i, ns := range []string{"wpn-a", "wpn-b"} {
		makeNS(t, ns)
		cable(t, ns, "eth0", "wpn-sw", fmt.Sprint("p", i))
		run(t, "ip", "-n", "wpn-sw", "link", "set", fmt.Sprint("p", i), "master", "br0")
		run(t, "ip", "-n", ns, "addr", "add", fmt.Sprintf("198.51.100.%d/24", 11+i), "dev", "eth0")
	}
	a, b := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24"), makeNode(t, "wpn-b", "198.51.100.12", "10.244.2.0/24")
	peers := []Peer{a.peer(t), b.peer(t)}
	for _, h := range []*host{a, b} {
		if err := h.SetPeers(t.Context(), peers); err != nil {
			t.Fatal(err)
		}
	}
	a1, a2, b1 := a.pod(t, "wpn-a1"), a.pod(t, "wpn-a2"), b.pod(t, "wpn-b1")
	// By link-local addresses neighbours would go past the rules of network policies.
	if out, err := exec.Command("ip", "-n", "wpn-a1", "-6", "addr", "show", "dev", "eth0").CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("a pod has addresses of IPv6: %s %v", out, err)
	}
	for _, size := range []int{1, 1400, 1 << 20} {
		exchange(t, "wpn-a1", "wpn-a2", a2, size)
		exchange(t, "wpn-a1", "wpn-b1", b1, size)
		exchange(t, "wpn-b1", "wpn-a1", a1, size)
		exchange(t, "wpn-a", "wpn-b1", b1, size)
		exchange(t, "wpn-a", "wpn-a1", a1, size)
		exchange(t, "wpn-b1", "wpn-b", netip.MustParseAddr("10.254.254.1"), size)
	}
	datagram(t, "wpn-a1", "wpn-b1", b1, 1, unix.IP_PMTUDISC_WANT)
	if out := run(t, "ip", "-n", "wpn-a", "link", "show", "type", "vxlan"); out != "" {
		t.Errorf("a tunnel on one link:\n%s", out)
	}

	// A node that is gone: its route is withdrawn and its addresses fail at once.
	if err := a.SetPeers(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ip", "-n", "wpn-a", "route", "get", b1.String()).CombinedOutput(); err == nil {
		t.Errorf("there is still a route to a node that is gone: %s", out)
	}
	foreign := "203.0.113.0/24 via 198.51.100.12"
	run(t, "ip", "-n", "wpn-a", "route", "add", "203.0.113.0/24", "via", "198.51.100.12")
	if err := a.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "ip", "-n", "wpn-a", "-br", "link"); strings.Contains(out, "wp") {
		t.Errorf("links left:\n%s", out)
	}
	out := run(t, "ip", "-n", "wpn-a", "route", "show", "table", "all")
	if strings.Contains(out, "10.244.") || strings.Contains(out, "10.254.") || !strings.Contains(out, foreign) {
		t.Errorf("routes after removal:\n%s", out)
	}
}

func TestE2EVXLANAcrossARouter(t *testing.T) {
	makeNS(t, "wpn-r")
	run(t, "nsenter", "--net=/run/netns/wpn-r", "sysctl", "-qw", "net.ipv4.ip_forward=1")
	for i, ns := range []string{"wpn-a", "wpn-b"} {
		makeNS(t, ns)
		cable(t, ns, "eth0", "wpn-r", fmt.Sprint("p", i))
		run(t, "ip", "-n", ns, "addr", "add", fmt.Sprintf("198.51.%d.11/24", 100+i), "dev", "eth0")
		run(t, "ip", "-n", "wpn-r", "addr", "add", fmt.Sprintf("198.51.%d.1/24", 100+i), "dev", fmt.Sprint("p", i))
	}
	a, b := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24"), makeNode(t, "wpn-b", "198.51.101.11", "10.244.2.0/24")
	peers := []Peer{a.peer(t), b.peer(t)}
	if err := a.SetPeers(t.Context(), peers); err == nil || !strings.Contains(err.Error(), "no route to node b") {
		t.Errorf("without a route the peer must be named, got %v", err)
	}
	// Run notices the default route by itself.
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error, 1)
	go func() { finished <- a.Run(ctx) }()
	run(t, "ip", "-n", "wpn-b", "route", "add", "default", "via", "198.51.101.1")
	if err := b.SetPeers(t.Context(), peers); err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "-n", "wpn-a", "route", "add", "default", "via", "198.51.100.1")
	waitFor(t, func() bool {
		_, err := exec.Command("ip", "-n", "wpn-a", "route", "get", "10.244.2.2", "oif", VXLANName).CombinedOutput()
		return err == nil
	})
	cancel()
	if err := <-finished; err != nil {
		t.Errorf("Run: %v", err)
	}
	a1, b1 := a.pod(t, "wpn-a1"), b.pod(t, "wpn-b1")
	for _, size := range []int{1, 1400, 1 << 20} {
		exchange(t, "wpn-a1", "wpn-b1", b1, size)
		exchange(t, "wpn-b1", "wpn-a1", a1, size)
		exchange(t, "wpn-a", "wpn-b1", b1, size)
	}
	if out := run(t, "ip", "-n", "wpn-a", "-d", "link", "show", VXLANName); !strings.Contains(out, "mtu 1500") {
		t.Errorf("the tunnel's MTU:\n%s", out)
	}
	// Datagrams that fit the tunnel, the pod's link, and neither.
	for _, size := range []int{1, 1400, 8000} {
		datagram(t, "wpn-a1", "wpn-b1", b1, size, unix.IP_PMTUDISC_DONT)
	}

	// The peer moves to another address: old entries go.
	run(t, "ip", "-n", "wpn-b", "addr", "add", "198.51.101.77/24", "dev", "eth0")
	peers[1].IP = netip.MustParseAddr("198.51.101.77")
	if err := a.SetPeers(t.Context(), peers); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "nsenter", "--net=/run/netns/wpn-a", "bridge", "fdb", "show", "dev", VXLANName); strings.Contains(out, "198.51.101.11") || !strings.Contains(out, "198.51.101.77") {
		t.Errorf("forwarding entries:\n%s", out)
	}
	if err := a.SetPeers(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if out := run(t, "ip", "-n", "wpn-a", "link", "show", "type", "vxlan"); out != "" {
		t.Errorf("the tunnel outlived its peers:\n%s", out)
	}
}

func TestE2ERoutesComeBackWithTheLink(t *testing.T) {
	a := oneNode(t)
	peer := Peer{Name: "b", IP: netip.MustParseAddr("198.51.100.12"), PodCIDR: netip.MustParsePrefix("10.244.2.0/24")}
	if err := a.SetPeers(t.Context(), []Peer{peer}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	finished := make(chan error, 1)
	go func() { finished <- a.Run(ctx) }()
	has := func() bool {
		return strings.Contains(run(t, "ip", "-n", "wpn-a", "route"), "10.244.2.0/24 via 198.51.100.12")
	}
	if !has() {
		t.Fatal("no route to begin with")
	}
	run(t, "ip", "-n", "wpn-a", "link", "set", "eth0", "down")
	waitFor(t, func() bool { return !has() })
	run(t, "ip", "-n", "wpn-a", "link", "set", "eth0", "up")
	waitFor(t, has)
	// Somebody removes our route by hand, then something else changes.
	run(t, "ip", "-n", "wpn-a", "route", "del", "10.244.2.0/24")
	run(t, "ip", "-n", "wpn-a", "route", "add", "203.0.113.0/24", "via", "198.51.100.12")
	waitFor(t, has)
	cancel()
	if err := <-finished; err != nil {
		t.Error(err)
	}
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(time.Minute), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("it did not happen within a minute")
		case <-tick.C:
		}
	}
}

func oneNode(t *testing.T) *host {
	t.Helper()
	makeNS(t, "wpn-a")
	makeNS(t, "wpn-x")
	cable(t, "wpn-a", "eth0", "wpn-x", "eth0")
	run(t, "ip", "-n", "wpn-a", "addr", "add", "198.51.100.11/24", "dev", "eth0")
	return makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24")
}

func TestE2EAgentRestartAdoptsPods(t *testing.T) {
	a := oneNode(t)
	ip := a.pod(t, "wpn-a1")
	before := run(t, "ip", "-n", "wpn-a1", "addr", "show", "eth0")
	again := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24")
	links, err := again.List(t.Context())
	if err != nil || len(links) != 1 || links[0].UID != "uid-wpn-a1" || links[0].IP != ip || links[0].Pod != "default/wpn-a1" {
		t.Fatalf("got %+v %v", links, err)
	}
	if other := again.pod(t, "wpn-a2"); other == ip {
		t.Errorf("%s was given twice", ip)
	}
	if got := again.attach(t, "wpn-a1"); got != ip {
		t.Errorf("after a restart the pod has %s, had %s", got, ip)
	}
	if after := run(t, "ip", "-n", "wpn-a1", "addr", "show", "eth0"); after != before {
		t.Errorf("the pod's link was touched:\n%s\n%s", before, after)
	}
}

func TestE2EHalfDoneWorkIsCompleted(t *testing.T) {
	a := oneNode(t)
	ip := a.pod(t, "wpn-a1")
	link := LinkName("uid-wpn-a1")
	ns := "--net=/run/netns/wpn-a1"
	for what, damage := range map[string][]string{
		"address gone":  {"ip", "-n", "wpn-a1", "addr", "flush", "dev", "eth0"},
		"route gone":    {"ip", "-n", "wpn-a1", "route", "flush", "dev", "eth0"},
		"loopback down": {"ip", "-n", "wpn-a1", "link", "set", "lo", "down"},
		"pod end down":  {"ip", "-n", "wpn-a1", "link", "set", "eth0", "down"},
		"node end down": {"ip", "-n", "wpn-a", "link", "set", link, "down"},
		"off bridge":    {"ip", "-n", "wpn-a", "link", "set", link, "nomaster"},
		"no label":      {"ip", "-n", "wpn-a", "link", "set", link, "alias", ""},
		"link gone":     {"ip", "-n", "wpn-a", "link", "del", link},
		"bridge gone":   {"ip", "-n", "wpn-a", "link", "del", BridgeName},
		"strange eth0":  {"nsenter", ns, "sh", "-c", "ip link del eth0; ip link add eth0 type veth peer name other"},
	} {
		run(t, damage...)
		if err := a.Setup(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if got := a.attach(t, "wpn-a1"); got != ip {
			t.Errorf("%s: address was %s, is %s", what, ip, got)
		}
		exchange(t, "wpn-a", "wpn-a1", ip, 10)
		exchange(t, "wpn-a1", "wpn-a1", netip.MustParseAddr("127.0.0.1"), 10)
	}
	// The pod's sandbox was made anew: same pod, another namespace.
	run(t, "ip", "netns", "del", "wpn-a1")
	if got := a.pod(t, "wpn-a1"); got != ip {
		t.Errorf("in a new sandbox the pod has %s, had %s", got, ip)
	}
	if _, err := a.AttachPod(t.Context(), "/run/netns/wpn-none", Pod{UID: "u", Namespace: "d", Name: "n"}); err == nil || !strings.Contains(err.Error(), "d/n") {
		t.Errorf("a namespace that is gone: %v", err)
	}
	if _, err := a.AttachPod(t.Context(), nsPath("wpn-a"), Pod{UID: "u", Namespace: "d", Name: "n"}); err == nil {
		t.Error("the node's own namespace was accepted")
	}
}

func TestE2EManyAttachesLeakNothing(t *testing.T) {
	a := oneNode(t)
	makeNS(t, "wpn-a1")
	files := func() int {
		l, err := filepath.Glob("/proc/self/fd/*")
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	seen := map[netip.Addr]int{}
	before := 0
	for i := range 300 {
		pod := Pod{UID: fmt.Sprint("uid", i), Namespace: "d", Name: fmt.Sprint("p", i)}
		ip, err := a.AttachPod(t.Context(), nsPath("wpn-a1"), pod)
		if err != nil {
			t.Fatal(err)
		}
		seen[ip]++
		if err := a.DetachPod(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
		if i == 20 {
			before = files()
		}
	}
	if after := files(); after > before+5 {
		t.Errorf("%d open files, then %d", before, after)
	}
	if len(seen) != 253 {
		t.Errorf("%d addresses used, want all 253 before one comes again", len(seen))
	}
	if links, err := a.List(t.Context()); err != nil || len(links) != 0 {
		t.Errorf("left: %v %v", links, err)
	}
	if err := a.DetachPod(t.Context(), "never seen"); err != nil {
		t.Error(err)
	}
}

func TestE2EClearUDP(t *testing.T) {
	a := oneNode(t)
	h, err := a.Network.ns.netlink(unix.NETLINK_NETFILTER)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	flow := func(from uint16, dst string, port uint16, endpoint string) *netlink.ConntrackFlow {
		ip := func(s string) net.IP { return net.ParseIP(s).To4() }
		return &netlink.ConntrackFlow{
			FamilyType: unix.AF_INET, TimeOut: 100,
			Forward: netlink.IPTuple{SrcIP: ip("10.244.1.9"), DstIP: ip(dst), SrcPort: from, DstPort: port, Protocol: unix.IPPROTO_UDP},
			Reverse: netlink.IPTuple{SrcIP: ip(endpoint), DstIP: ip("10.244.1.9"), SrcPort: port, DstPort: from, Protocol: unix.IPPROTO_UDP},
		}
	}
	const nodePort = 30053
	for _, f := range []*netlink.ConntrackFlow{
		flow(1, "10.254.0.7", 53, "10.244.1.2"), flow(2, "10.254.0.7", 53, "10.244.1.3"), flow(3, "10.254.0.7", 54, "10.244.1.3"),
		flow(4, "10.244.1.1", nodePort, "10.244.1.3"), flow(5, "10.244.1.1", nodePort, "10.244.1.2"), flow(6, "203.0.113.9", nodePort, "203.0.113.9"),
	} {
		if err := h.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, f); err != nil {
			t.Fatal(err)
		}
	}
	err = a.ClearUDP([]UDPAddress{
		{At: netip.MustParseAddrPort("10.254.0.7:53"), Endpoints: []netip.AddrPort{netip.MustParseAddrPort("10.244.1.2:53")}},
		{At: netip.AddrPortFrom(netip.IPv4Unspecified(), nodePort), Endpoints: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("10.244.1.2"), nodePort)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	list, err := h.ConntrackTableList(netlink.ConntrackTable, unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	var left []uint16
	for _, f := range list {
		left = append(left, f.Forward.SrcPort)
	}
	if slices.Sort(left); !slices.Equal(left, []uint16{1, 3, 5, 6}) {
		t.Errorf("left: %v", left)
	}
}

func TestE2EMissingNodeAddressIsSaidInWords(t *testing.T) {
	makeNS(t, "wpn-a")
	n, err := New(Config{NodeIP: netip.MustParseAddr("198.51.100.99"), PodCIDR: netip.MustParsePrefix("10.244.1.0/24"),
		ClusterPodCIDR: netip.MustParsePrefix("10.244.0.0/16"), ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), NetNS: nsPath("wpn-a")})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if err := n.Setup(t.Context()); err == nil || !strings.Contains(err.Error(), "--node-ip") {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat("/sys/class/net/" + BridgeName); err == nil {
		t.Error("the machine's own namespace was touched")
	}
}
