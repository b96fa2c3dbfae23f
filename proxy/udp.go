package proxy

import (
	"net/netip"
	"slices"
)

// UDPFlow names connection tracking entries: datagrams to Dst that are translated to Endpoint.
// A zero or unspecified part matches any.
type UDPFlow struct {
	Dst, Endpoint netip.AddrPort
}

// staleUDP are the flows that a change leaves pointing at an endpoint that is gone, or past the endpoints that came.
func staleUDP(old, now []Port) []UDPFlow {
	var out []UDPFlow
	after, before := map[netip.AddrPort]*Port{}, map[netip.AddrPort]bool{}
	for i := range now {
		if p := &now[i]; p.Protocol == "udp" {
			after[netip.AddrPortFrom(p.ClusterIP, p.Port)] = p
		}
	}
	for i := range old {
		p := &old[i]
		if p.Protocol != "udp" {
			continue
		}
		at := netip.AddrPortFrom(p.ClusterIP, p.Port)
		before[at] = len(p.Cluster) > 0
		var left []netip.AddrPort
		if a := after[at]; a != nil {
			left = a.Cluster
		}
		for _, e := range p.Cluster {
			if !slices.Contains(left, e) {
				for _, d := range p.addresses() {
					out = append(out, UDPFlow{d, e})
				}
			}
		}
	}
	for at, p := range after {
		if len(p.Cluster) > 0 && !before[at] {
			for _, d := range p.addresses() {
				out = append(out, UDPFlow{Dst: d})
			}
		}
	}
	return out
}

// addresses are all that clients know the port by; a NodePort is on every address of the node.
func (p *Port) addresses() []netip.AddrPort {
	out := []netip.AddrPort{netip.AddrPortFrom(p.ClusterIP, p.Port)}
	for _, ip := range slices.Concat(p.External, p.Balanced) {
		out = append(out, netip.AddrPortFrom(ip, p.Port))
	}
	if p.NodePort > 0 {
		out = append(out, netip.AddrPortFrom(netip.IPv4Unspecified(), p.NodePort))
	}
	return out
}
