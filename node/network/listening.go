package network

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Listener is a socket that waits for clients.
type Listener struct {
	Protocol string // TCP or UDP
	Address  netip.AddrPort
	// Waiting are the TCP connections that the kernel has made and the program has not taken yet.
	Waiting int
}

// Listeners are the sockets in a network namespace that wait for clients: TCP sockets that listen, and UDP sockets that are
// bound and not connected to anybody. An empty path means the process's own namespace.
func Listeners(netnsPath string) ([]Listener, error) {
	ns, err := openNamespace(netnsPath)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	h, err := ns.netlink(unix.NETLINK_INET_DIAG)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	var out []Listener
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		tcp, err := h.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return nil, fmt.Errorf("TCP sockets of %s: %w", netnsPath, err)
		}
		for _, s := range tcp {
			if s.State == netlink.TCP_LISTEN {
				out = appendListener(out, "TCP", s.ID, int(s.RQueue))
			}
		}
		udp, err := h.SocketDiagUDP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			continue // udp_diag is a module of its own
		}
		for _, s := range udp {
			if s.ID.DestinationPort == 0 {
				out = appendListener(out, "UDP", s.ID, 0)
			}
		}
	}
	return out, nil
}

func appendListener(out []Listener, protocol string, id netlink.SocketID, waiting int) []Listener {
	ip, ok := netip.AddrFromSlice(id.Source)
	if !ok {
		return out
	}
	return append(out, Listener{Protocol: protocol, Address: netip.AddrPortFrom(ip.Unmap(), id.SourcePort), Waiting: waiting})
}

// Inside runs f on a thread that is in a network namespace; sockets that it opens stay there.
func Inside(netnsPath string, f func() error) error {
	ns, err := openNamespace(netnsPath)
	if err != nil {
		return err
	}
	defer ns.Close()
	return ns.do(f)
}

// Via is the name of the device that the node's route to an address leads through; empty when there is no route.
func (n *Network) Via(to netip.Addr) string {
	routes, err := n.nl.RouteGet(to.AsSlice())
	if err != nil || len(routes) == 0 {
		return ""
	}
	link, err := n.nl.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return ""
	}
	return link.Attrs().Name
}
