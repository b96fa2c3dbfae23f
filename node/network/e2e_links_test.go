//go:build e2e

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// twoLinks makes a router with two links and prepares a node's namespace on each. Everything but the router drops
// what does not come from where its answer would go to (rp_filter), as CentOS does by default.
func twoLinks(t *testing.T) {
	t.Helper()
	makeNS(t, "wpn-r")
	set(t, "wpn-r", "net.ipv4.ip_forward=1")
	for i, ns := range []string{"wpn-a", "wpn-b"} {
		makeNS(t, ns)
		strict(t, ns)
		link := fmt.Sprint("p", i)
		cable(t, ns, "eth0", "wpn-r", link)
		network := []string{"198.51.100.", "203.0.113."}[i]
		run(t, "ip", "-n", ns, "addr", "add", network+"11/24", "dev", "eth0")
		run(t, "ip", "-n", "wpn-r", "addr", "add", network+"1/24", "dev", link)
		run(t, "ip", "-n", ns, "route", "add", "default", "via", network+"1")
	}
}

func set(t *testing.T, ns string, settings ...string) {
	t.Helper()
	for _, s := range settings {
		run(t, "nsenter", "--net=/run/netns/"+ns, "sysctl", "-qw", s)
	}
}

func strict(t *testing.T, ns string) {
	t.Helper()
	set(t, ns, "net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.default.rp_filter=1")
}

// narrow makes the router take no packets larger than this, in both directions. (A smaller MTU of its links would make it
// drop what comes in, which no router does.)
func narrow(t *testing.T, mtu int) {
	t.Helper()
	for i, network := range []string{"198.51.100.", "203.0.113."} {
		run(t, "ip", "-n", "wpn-r", "route", "replace", network+"0/24", "dev", fmt.Sprint("p", i), "proto", "kernel", "scope", "link",
			"src", network+"1", "mtu", "lock", fmt.Sprint(mtu))
	}
}

// capture looks at every packet that passes a namespace.
type capture struct {
	mu       sync.Mutex
	tunneled int
	bare     []string
}

// watch captures in a namespace until the test ends.
func watch(t *testing.T, ns string) *capture {
	t.Helper()
	c := &capture{}
	all := int(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)))
	fd := -1
	inside(t, ns, func() (err error) {
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000})
	})
	ended, stop := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		b := make([]byte, 65536)
		for {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, b, 0)
			if at, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && at.Pkttype != unix.PACKET_OTHERHOST {
				c.see(b[:n])
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended; _ = unix.Close(fd) })
	return c
}

func (c *capture) see(p []byte) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return
	}
	src, _ := netip.AddrFromSlice(p[12:16])
	dst, _ := netip.AddrFromSlice(p[16:20])
	ours := netip.MustParsePrefix("10.0.0.0/8")
	c.mu.Lock()
	defer c.mu.Unlock()
	if ours.Contains(src) || ours.Contains(dst) {
		c.bare = append(c.bare, fmt.Sprintf("%s to %s, protocol %d", src, dst, p[9]))
	}
	if header := int(p[0]&15) * 4; p[9] == unix.IPPROTO_UDP && len(p) >= header+4 && binary.BigEndian.Uint16(p[header+2:]) == vxlanPort {
		c.tunneled++
	}
}

// check that something was seen, and no bare packet of a pod among it.
func (c *capture) check(t *testing.T) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tunneled == 0 || len(c.bare) > 0 {
		t.Errorf("the router saw %d packets of the tunnel and %d bare ones of pods: %.300v", c.tunneled, len(c.bare), c.bare)
	}
}

func introduce(t *testing.T, hosts ...*host) {
	t.Helper()
	var peers []Peer
	for _, h := range hosts {
		peers = append(peers, h.peer(t))
	}
	for _, h := range hosts {
		if err := h.SetPeers(t.Context(), peers); err != nil {
			t.Fatal(err)
		}
	}
}

// everyWay exchanges all sizes between the nodes' pods, and nodes and pods, in both directions.
func everyWay(t *testing.T, a1, b1 netip.Addr) {
	t.Helper()
	for _, size := range []int{1, 1400, 1 << 20} {
		exchange(t, "wpn-a1", "wpn-b1", b1, size)
		exchange(t, "wpn-b1", "wpn-a1", a1, size)
		exchange(t, "wpn-a", "wpn-b1", b1, size)
		exchange(t, "wpn-b", "wpn-a1", a1, size)
	}
	// What a client outside sends by a NodePort comes in as large as its own link allows, with DF.
	for _, from := range []string{"wpn-a", "wpn-b"} {
		to, pod := "wpn-b1", b1
		if from == "wpn-b" {
			to, pod = "wpn-a1", a1
		}
		for _, size := range []int{1472, 1473} {
			datagram(t, from, to, pod, size, unix.IP_PMTUDISC_WANT)
		}
	}
	// 1422 is the largest datagram that fits the tunnel whole, 1472 the largest for the pods' own links. With
	// the default, DF is set on what fits: the first one must arrive all the same.
	for _, size := range []int{1, 1400, 1422, 1423, 1472, 1473, 8000, 1 << 20} {
		for _, discovery := range []int{unix.IP_PMTUDISC_WANT, unix.IP_PMTUDISC_DONT} {
			datagram(t, "wpn-a1", "wpn-b1", b1, size, discovery)
			datagram(t, "wpn-b1", "wpn-a1", a1, size, discovery)
			datagram(t, "wpn-b", "wpn-a1", a1, size, discovery)
		}
	}
}

func TestE2ETwoLinks(t *testing.T) {
	twoLinks(t)
	a, b := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24"), makeNode(t, "wpn-b", "203.0.113.11", "10.244.2.0/24")
	introduce(t, a, b)
	a1, b1 := a.pod(t, "wpn-a1"), b.pod(t, "wpn-b1")
	seen := watch(t, "wpn-r")
	everyWay(t, a1, b1)
	t.Run("narrow between the links", func(t *testing.T) {
		narrow(t, 1400)
		exchange(t, "wpn-a", "wpn-b", b.cfg.NodeIP, 1<<20)
		if out := run(t, "ip", "-n", "wpn-a", "route", "get", "203.0.113.11"); !strings.Contains(out, "mtu 1400") {
			t.Errorf("the node has not learned how narrow the way is: %s", out)
		}
		everyWay(t, a1, b1)
		if out := run(t, "ip", "-n", "wpn-a", "route", "get", b1.String()); !strings.Contains(out, "mtu lock 1500") {
			t.Errorf("the tunnel refuses what does not fit: %s", out)
		}
	})
	t.Run("narrow at one end", func(t *testing.T) {
		run(t, "ip", "-n", "wpn-r", "link", "set", "p1", "mtu", "1400")
		run(t, "ip", "-n", "wpn-b", "link", "set", "eth0", "mtu", "1400")
		if err := b.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
		introduce(t, a, b)
		everyWay(t, a1, b1)
		for _, ns := range []string{"wpn-a1", "wpn-b1"} {
			if out := run(t, "ip", "-n", ns, "route", "get", "10.244.7.7"); !strings.Contains(out, "mtu 1350") {
				t.Errorf("%s sends more than both ends take: %s", ns, out)
			}
		}
	})
	seen.check(t)
	t.Run("nobody there", func(t *testing.T) {
		inside(t, "wpn-a1", func() error {
			const tries = 5 // at once, unless the machine is too busy just then
			for try := 1; ; try++ {
				began := time.Now()
				_, err := (&net.Dialer{Timeout: 20 * time.Second}).Dial("tcp4", "10.244.9.9:80")
				took := time.Since(began)
				if errors.Is(err, syscall.EHOSTUNREACH) && took < 2*time.Second {
					return nil
				}
				if try == tries {
					return fmt.Errorf("an address of no node: %w after %s", err, took)
				}
			}
		})
	})
}

// Pods that run when the first node behind a router comes learn of it, and of its going.
func TestE2EPodsLearnOfTheTunnel(t *testing.T) {
	twoLinks(t)
	a, b := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24"), makeNode(t, "wpn-b", "203.0.113.11", "10.244.2.0/24")
	routes := func(ns string) string {
		return run(t, "ip", "-n", ns, "route", "show", "proto", fmt.Sprint(int(routeProtocol)))
	}
	expect := func(what string, mtu bool) {
		t.Helper()
		for ns := range a.pods {
			out := routes(ns)
			for _, cidr := range []string{"10.244.0.0/16", "10.254.0.0/16"} {
				if strings.Contains(out, cidr+" via 10.244.1.1 dev eth0 mtu 1450") != mtu {
					t.Errorf("%s, %s has\n%s", what, ns, out)
				}
			}
		}
	}
	a.pod(t, "wpn-a1")
	expect("before anybody is known", false)
	if err := a.SetPeers(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	expect("alone", false)
	introduce(t, a, b)
	expect("with a tunnel", true)
	a.pod(t, "wpn-a2")
	expect("with a tunnel", true)
	if out := run(t, "ip", "-n", "wpn-a1", "route", "get", "192.0.2.1"); strings.Contains(out, "mtu") {
		t.Errorf("what leaves the cluster is made smaller, too: %s", out)
	}

	// An agent that starts anew leaves all of it as it is until it knows of the peers.
	before := run(t, "ip", "-n", "wpn-a", "route")
	again := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24")
	again.attach(t, "wpn-a1")
	if after := run(t, "ip", "-n", "wpn-a", "route", "show", "10.244.2.0/24"); !strings.Contains(after, VXLANName) {
		t.Errorf("the route to the other node is gone: %s; before:\n%s", after, before)
	}
	expect("after a restart", true)
	introduce(t, again, b)
	expect("after a restart", true)

	// A sandbox that has ended, and a namespace that is another pod's now, are let be.
	run(t, "ip", "netns", "del", "wpn-a2")
	delete(a.pods, "wpn-a2")
	if err := a.SetPeers(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	expect("alone again", false)
}

// One node has been told to tunnel always: the others do, too, to it alone, although all are on one link.
func TestE2EOneNodeTunnelsAlways(t *testing.T) {
	makeNS(t, "wpn-sw")
	run(t, "ip", "-n", "wpn-sw", "link", "add", "br0", "type", "bridge")
	run(t, "ip", "-n", "wpn-sw", "link", "set", "br0", "up")
	var hosts []*host
	for i, ns := range []string{"wpn-a", "wpn-b", "wpn-c"} {
		makeNS(t, ns)
		strict(t, ns)
		cable(t, ns, "eth0", "wpn-sw", fmt.Sprint("p", i))
		run(t, "ip", "-n", "wpn-sw", "link", "set", fmt.Sprint("p", i), "master", "br0")
		ip := fmt.Sprintf("198.51.100.%d", 11+i)
		run(t, "ip", "-n", ns, "addr", "add", ip+"/24", "dev", "eth0")
		hosts = append(hosts, makeNode(t, ns, ip, fmt.Sprintf("10.244.%d.0/24", i+1), func(c *Config) { c.AlwaysVXLAN = i == 1 }))
	}
	introduce(t, hosts...)
	pods := []string{"wpn-a1", "wpn-b1", "wpn-c1"}
	for i, h := range hosts {
		h.pod(t, pods[i])
	}
	for i, from := range pods {
		for j, to := range pods {
			if i != j {
				exchange(t, from, to, hosts[j].pods[to], 1<<20)
				datagram(t, from, to, hosts[j].pods[to], 1472, unix.IP_PMTUDISC_WANT)
			}
		}
	}
	for from, ways := range map[string]map[string]string{
		"wpn-a": {"10.244.2.2": VXLANName, "10.244.3.2": "eth0"},
		"wpn-b": {"10.244.1.2": VXLANName, "10.244.3.2": VXLANName},
		"wpn-c": {"10.244.1.2": "eth0", "10.244.2.2": VXLANName},
	} {
		for to, dev := range ways {
			if out := run(t, "ip", "-n", from, "route", "get", to); !strings.Contains(out, "dev "+dev+" ") {
				t.Errorf("%s to %s: %s", from, to, out)
			}
		}
	}
}

// A node moves to another link: both sides change their ways, and connections begin anew at once.
func TestE2ENodeChangesLink(t *testing.T) {
	twoLinks(t)
	a, b := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24"), makeNode(t, "wpn-b", "203.0.113.11", "10.244.2.0/24")
	introduce(t, a, b)
	a1, b1 := a.pod(t, "wpn-a1"), b.pod(t, "wpn-b1")
	exchange(t, "wpn-a1", "wpn-b1", b1, 1400)
	// The router becomes a switch.
	run(t, "ip", "-n", "wpn-r", "link", "add", "br0", "type", "bridge")
	run(t, "ip", "-n", "wpn-r", "link", "set", "br0", "up")
	for _, p := range []string{"p0", "p1"} {
		run(t, "ip", "-n", "wpn-r", "addr", "flush", "dev", p)
		run(t, "ip", "-n", "wpn-r", "link", "set", p, "master", "br0")
	}
	run(t, "ip", "-n", "wpn-b", "addr", "flush", "dev", "eth0")
	run(t, "ip", "-n", "wpn-b", "addr", "add", "198.51.100.12/24", "dev", "eth0")
	moved := makeNode(t, "wpn-b", "198.51.100.12", "10.244.2.0/24")
	moved.attach(t, "wpn-b1")
	introduce(t, a, moved)
	exchange(t, "wpn-a1", "wpn-b1", b1, 1400)
	exchange(t, "wpn-b1", "wpn-a1", a1, 1400)
	for _, ns := range []string{"wpn-a", "wpn-b"} {
		if out := run(t, "ip", "-n", ns, "link", "show", "type", "vxlan"); out != "" {
			t.Errorf("%s still has a tunnel:\n%s", ns, out)
		}
	}
	if out := run(t, "ip", "-n", "wpn-a1", "route"); strings.Contains(out, "mtu") {
		t.Errorf("pods still send smaller packets:\n%s", out)
	}
}

// A router on the way that says nothing of large packets (some firewalls drop ICMP) does no harm, since outer packets may be cut.
func TestE2ESilentNarrowRouter(t *testing.T) {
	twoLinks(t)
	a, b := makeNode(t, "wpn-a", "198.51.100.11", "10.244.1.0/24"), makeNode(t, "wpn-b", "203.0.113.11", "10.244.2.0/24")
	introduce(t, a, b)
	a1, b1 := a.pod(t, "wpn-a1"), b.pod(t, "wpn-b1")
	narrow(t, 1300)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, ns := range []string{"wpn-a", "wpn-b"} {
		if out, err := exec.CommandContext(ctx, "nsenter", "--net=/run/netns/"+ns, "iptables", "-I", "INPUT", "-i", "eth0", "-p", "icmp", "-j", "DROP").CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	exchange(t, "wpn-a1", "wpn-b1", b1, 1<<20)
	exchange(t, "wpn-b1", "wpn-a1", a1, 1<<20)
	datagram(t, "wpn-a1", "wpn-b1", b1, 1472, unix.IP_PMTUDISC_WANT)
}
