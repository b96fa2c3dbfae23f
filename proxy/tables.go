package proxy

import (
	"context"
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

// tables is the back end of iptables: what its tables should hold, chain by chain, and what they do hold as far as is known.
type tables struct {
	cfg *Config

	compiled map[string]*serviceRules
	// parts are the chains that several contribute to: contributor → its rules. The contributor "" is the fixed beginning.
	parts   map[chainKey]map[string]string
	unsure  map[chainKey]struct{} // parts changed, text not yet written
	hairpin map[netip.Addr]int    // how many endpoints and host ports have this address
	// A packet that has been sent to a pod by the old rules may meet the new ones on its way out: hairpins go one change later
	// than what leads to them.
	leaving, left map[netip.Addr]struct{}
	hostPorts     map[string][]HostPort
	want          map[chainKey]string
	changed       map[chainKey]struct{}
	have          map[chainKey]string // nil: not read yet
}

// newTables with bare set keeps only the rules that let traffic of pods pass beside a native back end.
func newTables(cfg *Config, bare bool) *tables {
	t := &tables{
		cfg: cfg, compiled: map[string]*serviceRules{}, parts: map[chainKey]map[string]string{}, unsure: map[chainKey]struct{}{},
		hairpin: map[netip.Addr]int{}, leaving: map[netip.Addr]struct{}{}, left: map[netip.Addr]struct{}{}, hostPorts: map[string][]HostPort{}, want: map[chainKey]string{}, changed: map[chainKey]struct{}{},
	}
	base := cfg.baseRules()
	if bare {
		base = cfg.passRules()
	}
	for table, chains := range base {
		for chain, rules := range chains {
			t.contribute(chainKey{table, chain}, "", rules, true)
		}
	}
	return t
}

// SetPorts implements Backend.
func (t *tables) SetPorts(service string, _, now []Port) {
	old := t.compiled[service]
	var rules *serviceRules
	if len(now) > 0 {
		rules = t.cfg.rulesFor(now)
	}
	t.replace(service, old, rules)
	if rules == nil {
		delete(t.compiled, service)
	} else {
		t.compiled[service] = rules
	}
}

// SetHostPorts implements Backend.
func (t *tables) SetHostPorts(pod string, ports []HostPort) {
	for _, p := range t.hostPorts[pod] {
		t.countHairpin(p.Pod.Addr(), -1)
	}
	var b strings.Builder
	for _, p := range ports {
		t.countHairpin(p.Pod.Addr(), 1)
		b.WriteString(p.rules(pod))
	}
	if len(ports) == 0 {
		delete(t.hostPorts, pod)
	} else {
		t.hostPorts[pod] = ports
	}
	t.contribute(chainKey{tableNat, chainHostPorts}, pod, b.String(), false)
}

func (t *tables) replace(name string, old, now *serviceRules) {
	if old == nil {
		old = &serviceRules{}
	}
	if now == nil {
		now = &serviceRules{}
	}
	for chain := range old.chains {
		if _, ok := now.chains[chain]; !ok {
			t.setText(chainKey{tableNat, chain}, "", false)
		}
	}
	for chain, rules := range now.chains {
		t.setText(chainKey{tableNat, chain}, rules, true)
	}
	before, after := byChain(old.shared), byChain(now.shared)
	for k := range before {
		if _, ok := after[k]; !ok {
			t.contribute(k, name, "", false)
		}
	}
	for k, rules := range after {
		if before[k] != rules {
			t.contribute(k, name, rules, false)
		}
	}
	for ip, n := range now.local {
		t.countHairpin(ip, n)
	}
	for ip, n := range old.local {
		t.countHairpin(ip, -n)
	}
}

func byChain(rules []sharedRule) map[chainKey]string {
	out := make(map[chainKey]string, len(rules))
	for _, r := range rules {
		out[chainKey{r.table, r.chain}] += r.rules
	}
	return out
}

func (t *tables) countHairpin(ip netip.Addr, by int) {
	if !t.cfg.PodCIDR.Contains(ip) {
		return
	}
	if t.hairpin[ip] += by; t.hairpin[ip] == 0 {
		delete(t.hairpin, ip)
		t.leaving[ip] = struct{}{}
		return
	}
	delete(t.leaving, ip)
	t.contribute(chainKey{tableNat, chainHairpin}, ip.String(), fmt.Sprintf("-A %s -s %s/32 -d %s/32 -j MASQUERADE\n", chainHairpin, ip, ip), false)
}

// dropHairpins takes away those that were not needed any more at the last change.
func (t *tables) dropHairpins() {
	for ip := range t.left {
		if t.hairpin[ip] == 0 {
			t.contribute(chainKey{tableNat, chainHairpin}, ip.String(), "", false)
		}
	}
}

// contribute sets one contributor's rules in a shared chain, and leads to the chain from the one above it.
func (t *tables) contribute(k chainKey, who, rules string, keepEmpty bool) {
	part := t.parts[k]
	if had, ok := part[who]; ok && had == rules || !ok && rules == "" && !keepEmpty {
		return
	}
	t.unsure[k] = struct{}{}
	if rules == "" && !keepEmpty {
		delete(part, who)
		if len(part) == 0 {
			delete(t.parts, k)
			if above, _, ok := parentOf(k.chain); ok {
				t.contribute(chainKey{k.table, above}, k.chain, "", false)
			}
		}
		return
	}
	if part == nil {
		part = map[string]string{}
		t.parts[k] = part
		if above, rule, ok := parentOf(k.chain); ok {
			t.contribute(chainKey{k.table, above}, k.chain, rule, false)
		}
	}
	part[who] = rules
}

// write joins the contributions of the chains in doubt; the fixed beginning sorts first.
func (t *tables) write() {
	for k := range t.unsure {
		part, ok := t.parts[k]
		var b strings.Builder
		for _, who := range slices.Sorted(maps.Keys(part)) {
			b.WriteString(part[who])
		}
		t.setText(k, b.String(), ok)
	}
	clear(t.unsure)
}

func (t *tables) setText(k chainKey, rules string, exists bool) {
	had, was := t.want[k]
	if was == exists && had == rules {
		return
	}
	if exists {
		t.want[k] = rules
	} else {
		delete(t.want, k)
	}
	t.changed[k] = struct{}{}
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
		rule = fmt.Sprintf("-p %s %s", proto, dport(proto, n*bucketPorts, (n+1)*bucketPorts-1))
	}
	return parent, "-A " + parent + " " + rule + " -j " + chain + "\n", ok
}

// Read implements Backend.
func (t *tables) Read(ctx context.Context) (map[string][]HostPort, error) {
	t.have = nil
	all, err := t.cfg.Applier.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the tables: %w", err)
	}
	t.have = map[chainKey]string{}
	for table, chains := range all {
		for chain, rules := range chains {
			if strings.HasPrefix(chain, Prefix) {
				t.have[chainKey{table, chain}] = rules
				continue
			}
			for line := range strings.Lines(rules) {
				if strings.Contains(line, "-j "+Prefix) { // never touch another, whatever the applier says
					t.have[chainKey{table, chain}] += line
				}
			}
		}
	}
	for k := range t.have {
		t.changed[k] = struct{}{}
	}
	for k := range t.want {
		t.changed[k] = struct{}{}
	}
	return readHostPorts(t.have[chainKey{tableNat, chainHostPorts}]), nil
}

// Apply implements Backend.
func (t *tables) Apply(ctx context.Context) (int, error) {
	t.dropHairpins()
	t.write()
	text := restoreText(t.have, t.want, maps.Keys(t.changed))
	if text != "" {
		if err := t.cfg.Applier.Restore(ctx, text); err != nil {
			return 0, err
		}
	}
	for k := range t.changed {
		if rules, ok := t.want[k]; ok {
			t.have[k] = rules
		} else if strings.HasPrefix(k.chain, Prefix) {
			delete(t.have, k)
		}
	}
	clear(t.changed)
	clear(t.left)
	t.left, t.leaving = t.leaving, t.left
	for _, j := range jumps {
		if hasChain(t.want, j) {
			t.have[chainKey{j.table, j.chain}] = "-A " + j.rule() + "\n"
		} else {
			delete(t.have, chainKey{j.table, j.chain})
		}
	}
	return len(text), nil
}

// Intact implements Backend. It looks at two jumps and two chains; a flush or another program's reload empties at least one of
// them.
func (t *tables) Intact(ctx context.Context) (bool, error) {
	for _, k := range []chainKey{{tableNat, "PREROUTING"}, {tableNat, chainServices}, {tableFilter, "FORWARD"}, {tableFilter, chainForward}} {
		if t.have[k] == "" && t.want[k] == "" {
			continue
		}
		rules, err := t.cfg.Applier.List(ctx, k.table, k.chain)
		if err != nil {
			return false, err
		}
		if rules != t.have[k] {
			return false, nil
		}
	}
	return true, nil
}

// Remove implements Backend.
func (t *tables) Remove(ctx context.Context) error {
	if _, err := t.Read(ctx); err != nil {
		return err
	}
	have := t.have
	t.have = nil
	if text := removalText(have); text != "" {
		return t.cfg.Applier.Restore(ctx, text)
	}
	return nil
}

// Rules is the whole text for iptables-restore: what the tables hold for these Services on this node.
func Rules(cfg Config, services []*corev1.Service, eps []*discoveryv1.EndpointSlice) string {
	m, t := newModel(&cfg), newTables(&cfg, false)
	for _, s := range services {
		m.setService(s)
	}
	for _, s := range eps {
		m.setSlice(s)
	}
	m.flush(t)
	t.write()
	return restoreText(nil, t.want, maps.Keys(t.want))
}
