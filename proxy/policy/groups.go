package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

// groupOf is where the pod belongs, and whether anything isolates it.
func (m *model) groupOf(p *pod, d direction) (g *group, isolated bool) {
	if p.object == nil {
		return nil, p.isolated[d]
	}
	if p.object.Spec.HostNetwork {
		return nil, false
	}
	var names []string
	policies := m.policies[p.object.Namespace]
	for name, e := range policies {
		if e.compiled[d] != nil && e.selects(p) {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, false
	}
	slices.Sort(names)
	var id strings.Builder
	fmt.Fprintf(&id, "%d %s", d, p.object.Namespace)
	ports := map[string][]netpolicy.Port{}
	rules := make([]*compiled, len(names))
	for i, name := range names {
		rules[i] = policies[name].compiled[d]
		fmt.Fprintf(&id, "/%s@%s", name, rules[i].version)
		for _, x := range rules[i].matches {
			if x.named != "" {
				proto := corev1.Protocol(strings.ToUpper(x.proto))
				ports[portName(x.named, proto)] = netpolicy.PortsNamed(p.object, x.named, proto)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		fmt.Fprintf(&id, " %s=%v", name, ports[name])
	}
	if g := m.groups[id.String()]; g != nil {
		return g, true
	}
	return m.newGroup(&group{id: id.String(), d: d, namespace: p.object.Namespace, policies: names, rules: rules, ports: ports}), true
}

// named are the ports that the group's pods call so.
func (g *group) named(name string, proto corev1.Protocol) []netpolicy.Port {
	return g.ports[portName(name, proto)]
}

func portName(name string, proto corev1.Protocol) string { return string(proto) + "/" + name }

func (m *model) newGroup(g *group) *group {
	name := hashed(g.id)
	g.chain, g.set = dir[g.d].groupChain+name, dir[g.d].groupSet+strings.ToLower(name)
	m.groups[g.id] = g
	m.dirtyText[g], m.reshape = struct{}{}, true
	return g
}

// regroup puts a pod where it belongs.
func (m *model) regroup(p *pod) {
	for d := range directions {
		g, isolated := m.groupOf(p, d)
		if g == p.groups[d] && isolated == p.isolated[d] {
			continue
		}
		if m.plain {
			m.reshape = true
		}
		m.enter(p, -1)
		p.groups[d], p.isolated[d] = g, isolated
		m.enter(p, 1)
	}
	if p.object == nil && !p.addr.IsValid() {
		delete(m.pods, p.uid)
	}
}

// enter counts the pod's address in its sets, or takes it out.
func (m *model) enter(p *pod, by int) {
	if !p.addr.IsValid() {
		return
	}
	for d := range directions {
		if g := p.groups[d]; g != nil {
			g.pods += by
			m.count(g.set, m.ensure(g.set, Addresses), addrEntry(p.addr), by)
		}
		if p.isolated[d] {
			m.count(dir[d].isolated, m.ensure(dir[d].isolated, Addresses), addrEntry(p.addr), by)
		}
	}
}

func (m *model) ensure(name string, typ SetType) *set {
	s := m.sets[name]
	if s == nil {
		s = &set{typ: typ, entries: map[Entry]int{}}
		m.sets[name] = s
		m.touched[name], m.fresh[name] = map[Entry]struct{}{}, struct{}{}
	}
	return s
}

// isIsolated in any direction; see regroup.
func (p *pod) isIsolated() bool { return p != nil && (p.isolated[ingress] || p.isolated[egress]) }
