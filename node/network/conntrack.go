package network

import (
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// UDPFlow names connection tracking entries of UDP: datagrams sent to Dst that are translated to Endpoint.
// A zero address or port in either matches any.
type UDPFlow struct {
	Dst, Endpoint netip.AddrPort
}

// ClearUDP makes the kernel forget these flows. A UDP client that keeps its port would otherwise be sent to a dead
// endpoint for as long as it keeps trying. TCP needs no such help while the endpoint's machine answers for it; for when it
// does not, see ClearDead.
func (n *Network) ClearUDP(flows []UDPFlow) error {
	if len(flows) == 0 {
		return nil
	}
	h, err := n.ns.netlink(unix.NETLINK_NETFILTER)
	if err != nil {
		return err
	}
	defer h.Close()
	if _, err := h.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, udpFlows(flows)); err != nil {
		return fmt.Errorf("clear UDP flows: %w", err)
	}
	return nil
}

// udpFlows matches a flow against all wanted ones, so that one dump of the table serves them all.
type udpFlows []UDPFlow

func (u udpFlows) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	dst, _ := netip.AddrFromSlice(f.Forward.DstIP)
	endpoint, _ := netip.AddrFromSlice(f.Reverse.SrcIP)
	for _, w := range u {
		if matches(w.Dst, dst, f.Forward.DstPort) && matches(w.Endpoint, endpoint, f.Reverse.SrcPort) {
			return true
		}
	}
	return false
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

func matches(want netip.AddrPort, addr netip.Addr, port uint16) bool {
	if want.Addr().IsValid() && !want.Addr().IsUnspecified() && want.Addr() != addr.Unmap() {
		return false
	}
	return want.Port() == 0 || want.Port() == port
}
