package proxy

import (
	"cmp"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// backends are the endpoints of one port of a Service as seen from one node, sorted and without doubles.
type backends struct {
	cluster, local []netip.AddrPort
	serving        []netip.AddrPort // all that still serve; for UDP only
}

// place is where the endpoints are looked at from.
type place struct {
	node, zone string
	dead       map[string]bool // nodes
}

// candidate is one endpoint that could serve.
type candidate struct {
	at    netip.AddrPort
	ready bool // otherwise it terminates and still serves
	local bool
	hints *discoveryv1.EndpointHints
}

// backendsOf picks the endpoints that may get new connections: the ready ones, or while there are none those that
// are terminating and still serve. Endpoints on dead nodes are out at once.
func backendsOf(port *corev1.ServicePort, eps []*discoveryv1.EndpointSlice, at place) backends {
	all := candidates(port, eps, at)
	near := nearness(all, at)
	ready := make([]netip.AddrPort, 0, len(all))
	var readyLocal, last, lastLocal []netip.AddrPort
	for i := range all {
		c := &all[i]
		switch {
		case c.ready:
			if near == nil || near(c.hints) {
				ready = append(ready, c.at)
			}
			if c.local {
				readyLocal = append(readyLocal, c.at)
			}
		default:
			last = append(last, c.at)
			if c.local {
				lastLocal = append(lastLocal, c.at)
			}
		}
	}
	out := backends{cluster: tidy(ready, last), local: tidy(readyLocal, lastLocal)}
	if port.Protocol == corev1.ProtocolUDP {
		for i := range all {
			out.serving = append(out.serving, all[i].at)
		}
		out.serving = tidy(out.serving, nil)
	}
	return out
}

func candidates(port *corev1.ServicePort, eps []*discoveryv1.EndpointSlice, from place) (out []candidate) {
	for _, s := range eps {
		if s.AddressType != discoveryv1.AddressTypeIPv4 || elsewhere(s.Labels) {
			continue
		}
		target, ok := targetPort(s, port)
		if !ok {
			continue
		}
		out = slices.Grow(out, len(s.Endpoints))
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			on := ""
			if e.NodeName != nil {
				on = *e.NodeName
			}
			if len(e.Addresses) == 0 || from.dead[on] {
				continue
			}
			ip, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !ip.Is4() {
				continue
			}
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			serving := ready
			if e.Conditions.Serving != nil {
				serving = *e.Conditions.Serving
			}
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			if !ready && (!serving || !terminating) {
				continue
			}
			out = append(out, candidate{at: netip.AddrPortFrom(ip, target), ready: ready, local: on != "" && on == from.node, hints: e.Hints})
		}
	}
	return out
}

// nearness is how spec.trafficDistribution reaches a proxy (kube-proxy's topologyModeFromHints): when each ready endpoint is
// hinted for some node, and one for this, those hinted for this node are taken, and no other; else the same with zones. It is
// nil when all endpoints are to be taken.
func nearness(all []candidate, from place) func(*discoveryv1.EndpointHints) bool {
	forNode := func(h *discoveryv1.EndpointHints) bool {
		return h != nil && slices.ContainsFunc(h.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == from.node })
	}
	forZone := func(h *discoveryv1.EndpointHints) bool {
		return h != nil && slices.ContainsFunc(h.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == from.zone })
	}
	allNodes, someNode, allZones, someZone := true, false, true, false
	for i := range all {
		if c := &all[i]; c.ready {
			allNodes = allNodes && c.hints != nil && len(c.hints.ForNodes) > 0
			allZones = allZones && c.hints != nil && len(c.hints.ForZones) > 0
			someNode = someNode || forNode(c.hints)
			someZone = someZone || forZone(c.hints)
		}
	}
	switch {
	case allNodes && someNode:
		return forNode
	case allZones && someZone:
		return forZone
	}
	return nil
}

func tidy(first, otherwise []netip.AddrPort) []netip.AddrPort {
	if len(first) == 0 {
		first = otherwise
	}
	slices.SortFunc(first, netip.AddrPort.Compare)
	return slices.Clip(slices.Compact(first))
}

// targetPort finds the port of the slice that serves the Service's port: the one of the same name.
func targetPort(s *discoveryv1.EndpointSlice, port *corev1.ServicePort) (uint16, bool) {
	for i := range s.Ports {
		p := &s.Ports[i]
		name, proto := "", corev1.ProtocolTCP
		if p.Name != nil {
			name = *p.Name
		}
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		if name == port.Name && proto == cmp.Or(port.Protocol, corev1.ProtocolTCP) && p.Port != nil && *p.Port > 0 && *p.Port < 1<<16 {
			return uint16(*p.Port), true
		}
	}
	return 0, false
}

// hasEndpointOn tells whether a slice has an endpoint on one of the nodes.
func hasEndpointOn(s *discoveryv1.EndpointSlice, nodes map[string]bool) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.NodeName != nil && nodes[*e.NodeName] })
}

// hasHints tells whether a slice says which zones should use which endpoints.
func hasHints(s *discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Hints != nil && len(e.Hints.ForZones) > 0 })
}
