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
func staleUDP(old, now *serviceRules) []UDPFlow {
	var out []UDPFlow
	after := map[netip.AddrPort]udpPort{}
	if now != nil {
		for _, u := range now.udp {
			after[u.dst[0]] = u
		}
	}
	before := map[netip.AddrPort]bool{}
	if old != nil {
		for _, u := range old.udp {
			before[u.dst[0]] = len(u.endpoints) > 0
			for _, e := range u.endpoints {
				if !slices.Contains(after[u.dst[0]].endpoints, e) {
					for _, d := range u.dst {
						out = append(out, UDPFlow{d, e})
					}
				}
			}
		}
	}
	for at, u := range after {
		if len(u.endpoints) > 0 && !before[at] {
			for _, d := range u.dst {
				out = append(out, UDPFlow{Dst: d})
			}
		}
	}
	return out
}
