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
// endpoint for as long as it keeps trying; TCP needs no such help.
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

func matches(want netip.AddrPort, addr netip.Addr, port uint16) bool {
	if want.Addr().IsValid() && !want.Addr().IsUnspecified() && want.Addr() != addr.Unmap() {
		return false
	}
	return want.Port() == 0 || want.Port() == port
}
