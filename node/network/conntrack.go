package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// UDPAddress is where clients send datagrams to, and the endpoints that they may be translated to. With an unspecified address
// it is the port of every address of the node.
type UDPAddress struct {
	At        netip.AddrPort
	Endpoints []netip.AddrPort
}

// ClearUDP makes the kernel forget the flows to these addresses that are not translated to one of their endpoints. A UDP client
// that keeps its port would otherwise be sent to a dead endpoint, or past an address that is older than its rules, for as
// long as it keeps trying. TCP needs no such help while the endpoint's machine answers for it; for when it does not, see
// ClearDead.
func (n *Network) ClearUDP(list []UDPAddress) error {
	if len(list) == 0 {
		return nil
	}
	own, err := n.nl.AddrList(nil, unix.AF_INET)
	if err != nil {
		return fmt.Errorf("list the node's addresses: %w", err)
	}
	h, err := n.ns.netlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	local := map[netip.Addr]bool{}
	for _, a := range own {
		ip, _ := netip.AddrFromSlice(a.IP)
		local[ip.Unmap()] = true
	}
	if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, newUDPFlows(list, local)); err != nil {
		return fmt.Errorf("clear UDP flows: %w", err)
	}
	return nil
}

// udpFlows matches a flow against all addresses, so that one dump of the table serves them all.
type udpFlows struct {
	endpoints map[netip.AddrPort]map[netip.AddrPort]bool // by address
	local     map[netip.Addr]bool                        // the node's addresses
}

func newUDPFlows(list []UDPAddress, local map[netip.Addr]bool) udpFlows {
	u := udpFlows{endpoints: map[netip.AddrPort]map[netip.AddrPort]bool{}, local: local}
	for _, a := range list {
		ends := map[netip.AddrPort]bool{}
		for _, e := range a.Endpoints {
			ends[e] = true
		}
		u.endpoints[a.At] = ends
	}
	return u
}

func (u udpFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
	endpoint, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	dst, endpoint = dst.Unmap(), endpoint.Unmap()
	ends, ok := u.endpoints[netip.AddrPortFrom(dst, f.Forward.DstPort)]
	if !ok && (u.local[dst] || dst.IsLoopback()) { // what only passes through to that port of others is none of ours
		ends, ok = u.endpoints[netip.AddrPortFrom(netip.IPv4Unspecified(), f.Forward.DstPort)]
	}
	return ok && !ends[netip.AddrPortFrom(endpoint, f.Reverse.SrcPort)]
}

// ClearDead makes the kernel forget the connections that it translates to these addresses, which belong to a machine that is
// dead. An attempt under way then reaches another endpoint with its next SYN, a second later; an established connection is
// reset instead of hanging; and a client that comes to use the same port again is not sent after the dead (an unanswered
// SYN is remembered for two minutes: nf_conntrack_tcp_timeout_syn_sent).
func (n *Network) ClearDead(addrs []netip.Prefix) error {
	if len(addrs) == 0 {
		return nil
	}
	h, err := n.ns.netlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, translatedTo(addrs)); err != nil {
		return fmt.Errorf("clear connections to a dead node: %w", err)
	}
	return nil
}

// translatedTo matches flows whose destination was changed to one of the addresses.
type translatedTo []netip.Prefix

func (t translatedTo) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
	endpoint, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	dst, endpoint = dst.Unmap(), endpoint.Unmap()
	if dst == endpoint && f.Forward.DstPort == f.Reverse.SrcPort {
		return false
	}
	for _, p := range t {
		if p.Contains(endpoint) {
			return true
		}
	}
	return false
}
