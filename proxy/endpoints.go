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
}

// backendsOf picks the endpoints that may get new connections: the ready ones, or while there are none those that
// are terminating and still serve. Endpoints on dead nodes are out at once.
func backendsOf(port *corev1.ServicePort, eps []*discoveryv1.EndpointSlice, node string, dead map[string]bool) backends {
	var ready, readyLocal, last, lastLocal []netip.AddrPort
	for _, s := range eps {
		if s.AddressType != discoveryv1.AddressTypeIPv4 {
			continue
		}
		target, ok := targetPort(s, port)
		if !ok {
			continue
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			on := ""
			if e.NodeName != nil {
				on = *e.NodeName
			}
			if len(e.Addresses) == 0 || dead[on] {
				continue
			}
			ip, err := netip.ParseAddr(e.Addresses[0])
			if err != nil || !ip.Is4() {
				continue
			}
			at := netip.AddrPortFrom(ip, target)
			isReady := e.Conditions.Ready == nil || *e.Conditions.Ready
			serving := isReady
			if e.Conditions.Serving != nil {
				serving = *e.Conditions.Serving
			}
			terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
			local := on != "" && on == node
			switch {
			case isReady:
				ready = append(ready, at)
				if local {
					readyLocal = append(readyLocal, at)
				}
			case serving && terminating:
				last = append(last, at)
				if local {
					lastLocal = append(lastLocal, at)
				}
			}
		}
	}
	return backends{cluster: tidy(ready, last), local: tidy(readyLocal, lastLocal)}
}

func tidy(first, otherwise []netip.AddrPort) []netip.AddrPort {
	if len(first) == 0 {
		first = otherwise
	}
	slices.SortFunc(first, netip.AddrPort.Compare)
	return slices.Compact(first)
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

// has tells whether a slice has an endpoint on one of the nodes.
func hasEndpointOn(s *discoveryv1.EndpointSlice, nodes map[string]bool) bool {
	return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.NodeName != nil && nodes[*e.NodeName] })
}
