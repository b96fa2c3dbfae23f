//go:build e2e

package announce

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/proxy/netnstest"
)

// The machines of the tests: two nodes and a client on one link, each in a network namespace.
var machines = []string{"wpan1", "wpan2", "wpanc"}

func sh(t *testing.T, format string, args ...any) string {
	t.Helper()
	return netnstest.Run(t, "sh", "-ec", fmt.Sprintf(format, args...))
}

// plugIn makes the link and the machines.
func plugIn(t *testing.T) {
	t.Helper()
	netnstest.Make(t, "wpansw")
	sh(t, "ip -n wpansw link add sw type bridge; ip -n wpansw link set sw up")
	for i, m := range machines {
		netnstest.Make(t, m)
		sh(t, "ip -n wpansw link add %[1]s type veth peer name eth0 netns %[1]s && ip -n wpansw link set %[1]s master sw up && "+
			"ip -n %[1]s addr add 198.51.100.%[2]d/24 dev eth0 && ip -n %[1]s link set eth0 up", m, 11+i)
	}
}

// linksOf reads the link of a machine as node/network would.
func linksOf(t *testing.T, m string) []Link {
	t.Helper()
	fields := strings.Fields(sh(t, "ip -n %s -o link show eth0", m))
	var index int
	if _, err := fmt.Sscanf(fields[0], "%d:", &index); err != nil {
		t.Fatal(err)
	}
	var mac net.HardwareAddr
	var err error
	for i, f := range fields {
		if f == "link/ether" {
			mac, err = net.ParseMAC(fields[i+1])
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	addr := strings.Fields(sh(t, "ip -n %s -4 -o addr show dev eth0", m))[3]
	return []Link{{Name: "eth0", Index: index, MAC: MAC(mac), Addrs: []netip.Prefix{netip.MustParsePrefix(addr)}}}
}

func openIn(m string) func(Link) (Conn, error) {
	return func(l Link) (conn Conn, err error) {
		err = netnstest.Inside(m, func() (err error) {
			conn, err = Open(l)
			return err
		})
		return conn, err
	}
}

// knows is the client's neighbour entry for an address.
func knows(t *testing.T, at netip.Addr) string {
	t.Helper()
	return sh(t, "ip -n wpanc neigh show %s dev eth0", at)
}

// asks makes the client's kernel find out where the address is.
func asks(t *testing.T, at netip.Addr, want MAC) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		// The kernel needs the address to send a datagram, which nobody answers.
		if err := netnstest.Inside("wpanc", func() error {
			c, err := new(net.Dialer).DialContext(t.Context(), "udp4", netip.AddrPortFrom(at, 9).String())
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte{0})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		got := knows(t, at)
		if strings.Contains(got, want.String()) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the client believes %q, not %s", got, want)
		}
	}
}

// TestKernelsBelieve: clients of a real kernel find the address at the node that announces it, and follow it at once.
func TestKernelsBelieve(t *testing.T) {
	plugIn(t)
	at := ip("198.51.100.200")
	var nodes []Peer
	for _, m := range machines[:2] {
		nodes = append(nodes, Peer{Name: m, Links: linksOf(t, m), Ready: true})
	}
	announcer := func(i int) (*Announcer, func()) {
		a := New(Config{
			Node: nodes[i].Name, NodeIP: nodes[i].Links[0].Addrs[0].Addr(), Listen: openIn(machines[i]),
			Links: func() ([]Link, error) { return nodes[i].Links, nil },
		})
		a.Set([]Address{{IP: at}})
		a.SetPeers(nodes)
		return a, run(t, a)
	}
	first, second := 0, 1
	if elect(at, nodes) != nodes[0].Name {
		first, second = 1, 0
	}
	_, stop := announcer(first)
	other, _ := announcer(second)
	asks(t, at, nodes[first].Links[0].MAC)
	stop()
	begin := time.Now()
	other.SetPeers(nodes[second : second+1])
	for !strings.Contains(knows(t, at), nodes[second].Links[0].MAC.String()) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("the client still believes %s", knows(t, at))
		}
	}
	t.Logf("the client, which asked nobody, knows the other node after %s", time.Since(begin))
	asks(t, at, nodes[second].Links[0].MAC)

	// A link that goes down and comes back is used again.
	sh(t, "ip -n %s link set eth0 down", machines[second])
	sh(t, "ip -n %s link set eth0 up", machines[second])
	sh(t, "ip -n wpanc neigh flush all")
	asks(t, at, nodes[second].Links[0].MAC)

	// A machine that has an address of the pool keeps it.
	theirs := ip("198.51.100.201")
	sh(t, "ip -n wpanc addr add %s/24 dev eth0", theirs)
	events := make(chan string, 10)
	third := New(Config{
		Node: machines[second], NodeIP: nodes[second].Links[0].Addrs[0].Addr(), Listen: openIn(machines[second]),
		Links: func() ([]Link, error) { return nodes[second].Links, nil },
		Event: func(_ Service, _, reason, _ string) { events <- reason },
	})
	third.Set([]Address{{IP: theirs, Services: []Service{{Name: "web"}}}})
	third.SetPeers(nodes[second : second+1])
	run(t, third)
	select {
	case got := <-events:
		if got != ReasonConflict {
			t.Errorf("event %s", got)
		}
	case <-time.After(time.Minute):
		t.Error("the other machine was not noticed")
	}
}
