package diagnose

import (
	"net/netip"
	"slices"
)

// Scope is what may be dialed.
type Scope struct {
	// Pods and Services are the cluster's ranges: every port of them, for pods reach each other so anyway.
	Pods, Services netip.Prefix
	// Nodes are the addresses of the cluster's machines: only node ports.
	Nodes []netip.Addr
	// Extra are addresses and ports that Services and EndpointSlices name: external addresses, endpoints outside.
	Extra []netip.AddrPort
}

// The range that Services' node ports are from.
const firstNodePort, lastNodePort = 30000, 32767

// Allows tells whether an address may be dialed.
func (s Scope) Allows(to netip.AddrPort) bool {
	ip := to.Addr().Unmap()
	if !ip.IsGlobalUnicast() {
		return false
	}
	switch {
	case s.Pods.IsValid() && s.Pods.Contains(ip), s.Services.IsValid() && s.Services.Contains(ip):
		return true
	case slices.Contains(s.Nodes, ip) && to.Port() >= firstNodePort && to.Port() <= lastNodePort:
		return true
	}
	return slices.Contains(s.Extra, netip.AddrPortFrom(ip, to.Port()))
}
