package proxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// chainKey names a chain.
type chainKey struct{ table, chain string }

// key names a Service or a slice.
type key struct{ namespace, name string }

func (k key) String() string { return k.namespace + "/" + k.name }

// model holds what the tables should hold, chain by chain, and which chains changed since they were last applied.
// It is not safe for concurrent use.
type model struct {
	cfg       *Config
	services  map[key]*corev1.Service
	slices    map[key]map[string]*discoveryv1.EndpointSlice // by Service, then by the slice's name
	sliceOf   map[key]key                                   // slice → Service
	hostPorts map[string][]HostPort
	adopted   map[string]string // host ports of an earlier agent: pod → rules
	dead      map[string]bool

	compiled map[key]*serviceRules
	dirty    map[key]struct{}
	// parts are the chains that several contribute to: contributor → its rules. The contributor "" is the fixed beginning.
	parts   map[chainKey]map[string]string
	unsure  map[chainKey]struct{} // parts changed, text not yet written
	hairpin map[netip.Addr]int    // how many endpoints and host ports have this address
	want    map[chainKey]string
	changed map[chainKey]struct{}
}

func newModel(cfg *Config) *model {
	m := &model{
		cfg: cfg, services: map[key]*corev1.Service{}, slices: map[key]map[string]*discoveryv1.EndpointSlice{}, sliceOf: map[key]key{},
		hostPorts: map[string][]HostPort{}, adopted: map[string]string{}, compiled: map[key]*serviceRules{}, dirty: map[key]struct{}{},
		parts: map[chainKey]map[string]string{}, unsure: map[chainKey]struct{}{}, hairpin: map[netip.Addr]int{},
		want: map[chainKey]string{}, changed: map[chainKey]struct{}{},
	}
	for table, chains := range cfg.baseRules() {
		for chain, rules := range chains {
			m.contribute(chainKey{table, chain}, "", rules, true)
		}
	}
	return m
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
func (m *model) setDead(dead map[string]bool) (differs bool) {
	turned := map[string]bool{}
	for n := range dead {
		if dead[n] && !m.dead[n] {
			turned[n] = true
		}
	}
	for n := range m.dead {
		if !dead[n] {
			turned[n] = true
		}
	}
	if len(turned) == 0 {
		return false
	}
	m.dead = map[string]bool{}
	for n, is := range dead {
		if is {
			m.dead[n] = true
		}
	}
	for owner, list := range m.slices {
		for _, s := range list {
			if hasEndpointOn(s, turned) {
				m.dirty[owner] = struct{}{}
			}
		}
	}
	return true
}

func (m *model) setHostPorts(pod string, ports []HostPort) {
	delete(m.adopted, pod)
	for _, p := range m.hostPorts[pod] {
		m.countHairpin(p.Pod.Addr(), -1)
	}
	if len(ports) == 0 {
		delete(m.hostPorts, pod)
	} else {
		m.hostPorts[pod] = slices.Clone(ports)
	}
	var b strings.Builder
	for _, p := range ports {
		m.countHairpin(p.Pod.Addr(), 1)
		b.WriteString(p.rules(pod))
	}
	m.contribute(chainKey{tableNat, chainHostPorts}, pod, b.String(), false)
}

// flush compiles the Services that changed, and returns UDP flows that their clients must be freed from.
func (m *model) flush() (stale []UDPFlow) {
	for k := range m.dirty {
		old := m.compiled[k]
		var now *serviceRules
		if svc := m.services[k]; svc != nil {
			now = m.cfg.rulesFor(svc, slices.Collect(maps.Values(m.slices[k])), m.dead)
		}
		m.replace(k.String(), old, now)
		stale = append(stale, staleUDP(old, now)...)
		if now == nil {
			delete(m.compiled, k)
		} else {
			m.compiled[k] = now
		}
	}
	clear(m.dirty)
	for k := range m.unsure {
		m.write(k)
	}
	clear(m.unsure)
	return stale
}

func (m *model) replace(name string, old, now *serviceRules) {
	if old == nil {
		old = &serviceRules{}
	}
	if now == nil {
		now = &serviceRules{}
	}
	for chain := range old.chains {
		if _, ok := now.chains[chain]; !ok {
			m.setText(chainKey{tableNat, chain}, "", false)
		}
	}
	for chain, rules := range now.chains {
		m.setText(chainKey{tableNat, chain}, rules, true)
	}
	before, after := byChain(old.shared), byChain(now.shared)
	for k := range before {
		if _, ok := after[k]; !ok {
			m.contribute(k, name, "", false)
		}
	}
	for k, rules := range after {
		if before[k] != rules {
			m.contribute(k, name, rules, false)
		}
	}
	for _, ip := range now.local {
		m.countHairpin(ip, 1)
	}
	for _, ip := range old.local {
		m.countHairpin(ip, -1)
	}
}

func byChain(rules []sharedRule) map[chainKey]string {
	out := make(map[chainKey]string, len(rules))
	for _, r := range rules {
		out[chainKey{r.table, r.chain}] += r.rules
	}
	return out
}

func (m *model) countHairpin(ip netip.Addr, by int) {
	if !m.cfg.PodCIDR.Contains(ip) {
		return
	}
	n := m.hairpin[ip] + by
	k, rules := chainKey{tableNat, chainHairpin}, ""
	if n > 0 {
		rules = fmt.Sprintf("-A %s -s %s/32 -d %s/32 -j MASQUERADE\n", chainHairpin, ip, ip)
		m.hairpin[ip] = n
	} else {
		delete(m.hairpin, ip)
	}
	m.contribute(k, ip.String(), rules, false)
}

// contribute sets one contributor's rules in a shared chain, and leads to the chain from the one above it.
func (m *model) contribute(k chainKey, who, rules string, keepEmpty bool) {
	part := m.parts[k]
	if had, ok := part[who]; ok && had == rules || !ok && rules == "" && !keepEmpty {
		return
	}
	m.unsure[k] = struct{}{}
	if rules == "" && !keepEmpty {
		delete(part, who)
		if len(part) == 0 {
			delete(m.parts, k)
			if above, _, ok := parentOf(k.chain); ok {
				m.contribute(chainKey{k.table, above}, k.chain, "", false)
			}
		}
		return
	}
	if part == nil {
		part = map[string]string{}
		m.parts[k] = part
		if above, rule, ok := parentOf(k.chain); ok {
			m.contribute(chainKey{k.table, above}, k.chain, rule, false)
		}
	}
	part[who] = rules
}

// write joins the contributions; the fixed beginning sorts first.
func (m *model) write(k chainKey) {
	part, ok := m.parts[k]
	if !ok {
		m.setText(k, "", false)
		return
	}
	var b strings.Builder
	for _, who := range slices.Sorted(maps.Keys(part)) {
		b.WriteString(part[who])
	}
	m.setText(k, b.String(), true)
}

func (m *model) setText(k chainKey, rules string, exists bool) {
	had, was := m.want[k]
	if was == exists && had == rules {
		return
	}
	if exists {
		m.want[k] = rules
	} else {
		delete(m.want, k)
	}
	m.changed[k] = struct{}{}
}

// parentOf tells from a bucket's name which chain leads to it and by which rule.
func parentOf(chain string) (parent, rule string, ok bool) {
	kind, rest, found := strings.Cut(strings.TrimPrefix(chain, Prefix), "-")
	if !found {
		return "", "", false
	}
	var b [4]byte
	switch {
	case kind == "V" && len(rest) == 6:
		_, err := fmt.Sscanf(rest, "%02X%02X%02X", &b[0], &b[1], &b[2])
		parent, rule, ok = Prefix+"V-"+rest[:5], fmt.Sprintf("-d %s/24", netip.AddrFrom4(b)), err == nil
	case kind == "V" && len(rest) == 5:
		_, err := fmt.Sscanf(rest, "%02X%02X%1X", &b[0], &b[1], &b[2])
		b[2] <<= 4
		parent, rule, ok = chainClusterIP, fmt.Sprintf("-d %s/20", netip.AddrFrom4(b)), err == nil
	case kind == "X" && len(rest) == 8:
		_, err := fmt.Sscanf(rest, "%02X%02X%02X%02X", &b[0], &b[1], &b[2], &b[3])
		parent, rule, ok = chainExternal, fmt.Sprintf("-d %s/32", netip.AddrFrom4(b)), err == nil
	case kind == "N":
		proto, number, cut := strings.Cut(rest, "-")
		var n int
		_, err := fmt.Sscanf(number, "%d", &n)
		parent, ok = chainNodePorts, cut && err == nil
		rule = fmt.Sprintf("-p %s -m %s --dport %d:%d", proto, proto, n*bucketPorts, (n+1)*bucketPorts-1)
	}
	return parent, "-A " + parent + " " + rule + " -j " + chain + "\n", ok
}

// Rules is the whole text for iptables-restore: what the tables hold for these Services on this node.
func Rules(cfg Config, services []*corev1.Service, eps []*discoveryv1.EndpointSlice) string {
	m := newModel(&cfg)
	for _, s := range services {
		m.setService(s)
	}
	for _, s := range eps {
		m.setSlice(s)
	}
	m.flush()
	return restoreText(nil, m.want, maps.Keys(m.want))
}
