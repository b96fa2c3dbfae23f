package proxy

import (
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// key names a Service or a slice.
type key struct{ namespace, name string }

func (k key) String() string { return k.namespace + "/" + k.name }

// model keeps what the proxy was told, what that means for this node, and what of it changed since the back end heard of it.
// It is not safe for concurrent use.
type model struct {
	cfg       *Config
	at        place
	services  map[key]*corev1.Service
	slices    map[key]map[string]*discoveryv1.EndpointSlice // by Service, then by the slice's name
	sliceOf   map[key]key                                   // slice → Service
	hostPorts map[string][]HostPort
	adopted   map[string]struct{} // pods with host ports of an earlier agent

	compiled  map[key][]Port
	dirty     map[key]struct{}
	dirtyPods map[string]struct{}
	udp       *udpAddresses
}

func newModel(cfg *Config) *model {
	return &model{
		cfg: cfg, at: place{node: cfg.NodeName, zone: cfg.Zone}, services: map[key]*corev1.Service{}, slices: map[key]map[string]*discoveryv1.EndpointSlice{},
		sliceOf: map[key]key{}, hostPorts: map[string][]HostPort{}, adopted: map[string]struct{}{}, compiled: map[key][]Port{},
		dirty: map[key]struct{}{}, dirtyPods: map[string]struct{}{}, udp: newUDPAddresses(),
	}
}

func (m *model) setService(svc *corev1.Service) {
	k := key{svc.Namespace, svc.Name}
	m.services[k] = svc
	m.dirty[k] = struct{}{}
}

func (m *model) deleteService(k key) {
	delete(m.services, k)
	m.dirty[k] = struct{}{}
}

func (m *model) setSlice(s *discoveryv1.EndpointSlice) {
	self := key{s.Namespace, s.Name}
	owner := key{s.Namespace, s.Labels[discoveryv1.LabelServiceName]}
	if was, ok := m.sliceOf[self]; ok && was != owner {
		m.deleteSlice(self)
	}
	if owner.name == "" {
		return
	}
	if m.slices[owner] == nil {
		m.slices[owner] = map[string]*discoveryv1.EndpointSlice{}
	}
	m.slices[owner][s.Name], m.sliceOf[self] = s, owner
	m.dirty[owner] = struct{}{}
}

func (m *model) deleteSlice(self key) {
	owner, ok := m.sliceOf[self]
	if !ok {
		return
	}
	delete(m.sliceOf, self)
	delete(m.slices[owner], self.name)
	if len(m.slices[owner]) == 0 {
		delete(m.slices, owner)
	}
	m.dirty[owner] = struct{}{}
}

// setDead replaces the set of dead nodes and marks the Services with endpoints on nodes that died or came back.
func (m *model) setDead(dead map[string]bool) {
	turned := map[string]bool{}
	for n := range dead {
		if dead[n] && !m.at.dead[n] {
			turned[n] = true
		}
	}
	for n := range m.at.dead {
		if !dead[n] {
			turned[n] = true
		}
	}
	if len(turned) == 0 {
		return
	}
	m.at.dead = map[string]bool{}
	for n, is := range dead {
		if is {
			m.at.dead[n] = true
		}
	}
	m.touch(func(s *discoveryv1.EndpointSlice) bool { return hasEndpointOn(s, turned) })
}

// setZone says in which zone the node is, and marks the Services that care.
func (m *model) setZone(zone string) {
	if m.at.zone != zone {
		m.at.zone = zone
		m.touch(hasHints)
	}
}

func (m *model) touch(which func(*discoveryv1.EndpointSlice) bool) {
	for owner, list := range m.slices {
		for _, s := range list {
			if which(s) {
				m.dirty[owner] = struct{}{}
			}
		}
	}
}

func (m *model) setHostPorts(pod string, ports []HostPort) {
	ports = usable(ports)
	delete(m.adopted, pod)
	for other := range m.adopted {
		// No two pods on a node have the same: the other went while no agent ran.
		if overlap(m.hostPorts[other], ports) {
			m.setHostPorts(other, nil)
		}
	}
	if len(ports) == 0 {
		delete(m.hostPorts, pod)
	} else {
		m.hostPorts[pod] = ports
	}
	m.dirtyPods[pod] = struct{}{}
}

// adopt keeps host ports that an earlier agent left, for pods not yet known; setHostPorts replaces a pod's.
func (m *model) adopt(found map[string][]HostPort) {
	taken := slices.Concat(slices.Collect(maps.Values(m.hostPorts))...)
	for pod, ports := range found {
		if _, spokenOf := m.dirtyPods[pod]; !spokenOf && !overlap(ports, taken) {
			m.setHostPorts(pod, ports)
			m.adopted[pod] = struct{}{}
		}
	}
}

// dropAdopted ends the grace.
func (m *model) dropAdopted() {
	for pod := range m.adopted {
		m.setHostPorts(pod, nil)
	}
}

// flush compiles the Services that changed, and hands what is new to the back end.
func (m *model) flush(to Backend) {
	for k := range m.dirty {
		var now []Port
		old := m.compiled[k]
		if svc := m.services[k]; svc != nil {
			now = m.cfg.compile(svc, slices.Collect(maps.Values(m.slices[k])), m.at)
		}
		if equalPorts(old, now) {
			continue
		}
		to.SetPorts(k.String(), old, now)
		m.udp.set("service "+k.String(), udpOf(now))
		if now == nil {
			delete(m.compiled, k)
		} else {
			m.compiled[k] = now
		}
	}
	clear(m.dirty)
	for pod := range m.dirtyPods {
		to.SetHostPorts(pod, m.hostPorts[pod])
		m.udp.set("pod "+pod, udpOfPod(m.hostPorts[pod]))
	}
	clear(m.dirtyPods)
}

// onThisNode counts the endpoints of this node's pod range; hairpins need to know them.
func (c *Config) onThisNode(ports []Port) map[netip.Addr]int {
	out := map[netip.Addr]int{}
	for i := range ports {
		for _, list := range [][]netip.AddrPort{ports[i].Cluster, ports[i].Local} {
			for _, e := range list {
				if c.PodCIDR.Contains(e.Addr()) {
					out[e.Addr()]++
				}
			}
		}
	}
	return out
}
