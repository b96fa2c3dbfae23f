package node

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/whalepod/whalepod/node/announce"
	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/healthport"
)

// edge knows the Services that are reached from outside by more than the proxy's rules: those with the address of a load
// balancer, and those with a health check port; and the EndpointSlices of those whose externalTrafficPolicy is Local. All
// others cost it a look at their type.
type edge struct {
	services map[string]*corev1.Service
	slices   map[string]map[string]*discoveryv1.EndpointSlice // by the Service's key, by their own
	owner    map[string]string                                // a slice's key → its Service's
}

func newEdge() *edge {
	return &edge{services: map[string]*corev1.Service{}, slices: map[string]map[string]*discoveryv1.EndpointSlice{}, owner: map[string]string{}}
}

func externalLocal(s *corev1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// healthCheckPort is 0 for Services without one.
func healthCheckPort(s *corev1.Service) uint16 {
	if p := s.Spec.HealthCheckNodePort; s.Spec.Type == corev1.ServiceTypeLoadBalancer && externalLocal(s) && p > 0 && p < 1<<16 {
		return uint16(p)
	}
	return 0
}

// setService takes a Service as it is now, nil when it is gone, and all EndpointSlices to find its own in. It returns whether
// that changes anything here.
func (e *edge) setService(key string, s *corev1.Service, all func() []*discoveryv1.EndpointSlice) bool {
	if s == nil || s.Spec.Type != corev1.ServiceTypeLoadBalancer || len(s.Status.LoadBalancer.Ingress) == 0 && healthCheckPort(s) == 0 {
		_, was := e.services[key]
		delete(e.services, key)
		e.forgetSlices(key)
		return was
	}
	e.services[key] = s
	switch {
	case !externalLocal(s):
		e.forgetSlices(key)
	case e.slices[key] == nil:
		e.slices[key] = map[string]*discoveryv1.EndpointSlice{}
		for _, slice := range all() {
			e.setSlice(desired.Key(slice.Namespace, slice.Name), slice)
		}
	}
	return true
}

func (e *edge) forgetSlices(service string) {
	for slice := range e.slices[service] {
		delete(e.owner, slice)
	}
	delete(e.slices, service)
}

// setSlice takes an EndpointSlice as it is now, nil when it is gone. It returns whether that changes anything here.
func (e *edge) setSlice(key string, s *discoveryv1.EndpointSlice) (changed bool) {
	if was, ok := e.owner[key]; ok {
		delete(e.slices[was], key)
		delete(e.owner, key)
		changed = true
	}
	if s == nil || s.AddressType != discoveryv1.AddressTypeIPv4 {
		return changed
	}
	service := desired.Key(s.Namespace, s.Labels[discoveryv1.LabelServiceName])
	if e.slices[service] == nil {
		return changed
	}
	e.slices[service][key], e.owner[key] = s, service
	return true
}

// addresses are what is to be announced: the Services' addresses in the cluster's pools.
func (e *edge) addresses(pools []netip.Prefix) []announce.Address {
	by := map[netip.Addr]*announce.Address{}
	for _, key := range slices.Sorted(maps.Keys(e.services)) {
		s := e.services[key]
		for _, in := range s.Status.LoadBalancer.Ingress {
			ip, err := netip.ParseAddr(in.IP)
			if err != nil || !ip.Is4() || !slices.ContainsFunc(pools, func(p netip.Prefix) bool { return p.Contains(ip) }) {
				continue
			}
			a := by[ip]
			if a == nil {
				a = &announce.Address{IP: ip}
				by[ip] = a
			}
			a.Services = append(a.Services, announce.Service{Namespace: s.Namespace, Name: s.Name, UID: s.UID})
			if externalLocal(s) {
				a.Nodes = e.nodesWithEndpoints(key)
			}
		}
	}
	out := make([]announce.Address, 0, len(by))
	for _, a := range by {
		out = append(out, *a)
	}
	slices.SortFunc(out, func(a, b announce.Address) int { return a.IP.Compare(b.IP) })
	return out
}

// nodesWithEndpoints are those with a ready one; while there is none anywhere, those with one that still serves as it ends.
func (e *edge) nodesWithEndpoints(service string) map[string]bool {
	ready, last := map[string]bool{}, map[string]bool{}
	for _, s := range e.slices[service] {
		for i := range s.Endpoints {
			ep := &s.Endpoints[i]
			switch {
			case ep.NodeName == nil:
			case readyEndpoint(ep):
				ready[*ep.NodeName] = true
			case isTrue(ep.Conditions.Serving) && isTrue(ep.Conditions.Terminating):
				last[*ep.NodeName] = true
			}
		}
	}
	if len(ready) == 0 {
		return last
	}
	return ready
}

func isTrue(b *bool) bool { return b != nil && *b }

// readyEndpoint: a condition that is not known counts as true.
func readyEndpoint(ep *discoveryv1.Endpoint) bool {
	return ep.Conditions.Ready == nil || *ep.Conditions.Ready
}

// healthPorts are what is answered on this node at health check ports. As in kube-proxy, endpoints count by their addresses,
// and only ready ones do.
func (e *edge) healthPorts(node string) []healthport.Service {
	var out []healthport.Service
	for key, s := range e.services {
		port := healthCheckPort(s)
		if port == 0 {
			continue
		}
		ips := map[string]bool{}
		for _, slice := range e.slices[key] {
			for i := range slice.Endpoints {
				ep := &slice.Endpoints[i]
				if ep.NodeName != nil && *ep.NodeName == node && readyEndpoint(ep) && len(ep.Addresses) > 0 {
					ips[ep.Addresses[0]] = true
				}
			}
		}
		out = append(out, healthport.Service{Namespace: s.Namespace, Name: s.Name, UID: string(s.UID), Port: port, Endpoints: len(ips)})
	}
	slices.SortFunc(out, func(a, b healthport.Service) int { return cmp.Compare(a.Port, b.Port) })
	return out
}
