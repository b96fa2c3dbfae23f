package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

// flush brings want and sets up to date with what was told.
func (m *model) flush() {
	for uid := range m.dirtyPods {
		if p := m.pods[uid]; p != nil {
			m.regroup(p)
		}
	}
	clear(m.dirtyPods)
	if m.reshape {
		m.reshape = false
		m.shape()
	}
}

// shape says which groups, chains and sets there are. It runs when groups or policies change, not when a pod joins others; then, too,
// groups without pods go: a Deployment that is rolled out to other pods keeps its chains.
func (m *model) shape() {
	for id, g := range m.groups {
		if g.pods == 0 && !m.awaited(g) {
			delete(m.groups, id)
			delete(m.dirtyText, g)
			m.setText(g.chain, "", false)
		}
	}
	active := false
	for _, p := range m.pods {
		active = active || p.isIsolated()
	}
	m.shapeSets(active)
	for g := range m.dirtyText {
		if m.plain {
			m.setText(g.chain, "", false)
			continue
		}
		m.setText(g.chain, g.text(), true)
	}
	clear(m.dirtyText)
	m.dispatch(active)
}

// awaited: a pod is in the group that has no address yet.
func (m *model) awaited(g *group) bool {
	for _, p := range m.pods {
		if p.groups[g.d] == g {
			return true
		}
	}
	return false
}

// shapeSets makes the sets that rules need and drops the others.
func (m *model) shapeSets(active bool) {
	need := map[string]struct{}{}
	if active && !m.plain {
		for _, name := range []string{setIngress, setEgress} {
			m.ensure(name, Addresses)
			need[name] = struct{}{}
		}
	}
	for _, g := range m.groups {
		if m.plain {
			break
		}
		m.ensure(g.set, Addresses)
		need[g.set] = struct{}{}
		for _, c := range g.rules {
			for id, s := range c.peers {
				m.needPeer(id, s)
				need[peerSet(id)] = struct{}{}
			}
			for name, nets := range c.networks {
				if m.sets[name] == nil {
					s := m.ensure(name, Networks)
					for _, n := range nets {
						m.count(name, s, Entry{Net: n}, 1)
					}
				}
				need[name] = struct{}{}
			}
		}
	}
	for name, s := range m.sets {
		if _, ok := need[name]; !ok && (!m.plain || len(s.entries) == 0 || !ownEntries(name)) {
			delete(m.sets, name)
			if m.touched[name] == nil {
				m.touched[name] = map[Entry]struct{}{}
			}
		}
	}
}

// ownEntries: the set's entries are counted as pods come and go, so it must not be dropped while it has some.
func ownEntries(name string) bool {
	return isolates(name) || strings.HasPrefix(name, "wp-i-") || strings.HasPrefix(name, "wp-e-")
}

func (m *model) needPeer(id string, spec netpolicy.Set) {
	name := peerSet(id)
	if m.sets[name] != nil {
		return
	}
	typ := Addresses
	if spec.Port != "" {
		typ = Ports
	}
	s := m.ensure(name, typ)
	for _, part := range m.parts[id] {
		m.countMembers(id, s, part, 1)
	}
}

// text of a group's chain.
func (g *group) text() string {
	var b strings.Builder
	for _, c := range g.rules {
		c.lines(&b, g.chain, g.d, g.named)
	}
	fmt.Fprintf(&b, "-A %s %s -j DROP\n", g.chain, comment("not allowed by "+g.namespace+"/"+strings.Join(g.policies, ", ")))
	return b.String()
}

// dispatch writes the chains that lead to the groups.
func (m *model) dispatch(active bool) {
	for _, chain := range []string{chainForward, chainInput, dir[ingress].chain, dir[egress].chain} {
		if !active {
			m.setText(chain, "", false)
		}
	}
	if !active {
		return
	}
	for d := range directions {
		var b strings.Builder
		if m.plain {
			m.plainDrops(&b, d)
		} else {
			if !m.noSelf {
				fmt.Fprintf(&b, "-A %s %s %s -j RETURN\n", dir[d].chain, comment("a pod to itself"), isSelf)
			}
			for _, id := range slices.Sorted(maps.Keys(m.groups)) {
				if g := m.groups[id]; g.d == d {
					fmt.Fprintf(&b, "-A %s -m set --match-set %s %s -g %s\n", dir[d].chain, g.set, dir[d].pod, g.chain)
				}
			}
			fmt.Fprintf(&b, "-A %s -j DROP\n", dir[d].chain)
		}
		m.setText(dir[d].chain, b.String(), true)
	}
	known := "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
	lead := func(from string, d direction) string {
		if m.plain {
			return fmt.Sprintf("-A %s -j %s\n", from, dir[d].chain)
		}
		return fmt.Sprintf("-A %s -m set --match-set %s %s -j %s\n", from, dir[d].isolated, dir[d].pod, dir[d].chain)
	}
	m.setText(chainForward, fmt.Sprintf("-A %s %s\n", chainForward, known)+lead(chainForward, egress)+lead(chainForward, ingress), true)
	m.setText(chainInput, fmt.Sprintf("-A %s %s\n", chainInput, known)+lead(chainInput, egress), true)
}

// plainDrops are for kernels without sets: who is isolated gets nothing at all, rather than everything.
func (m *model) plainDrops(b *strings.Builder, d direction) {
	var lines []string
	for _, p := range m.pods {
		if p.isolated[d] && p.addr.IsValid() {
			lines = append(lines, fmt.Sprintf("-A %s %s %s/32 %s -j DROP\n", dir[d].chain, dir[d].podFlag, p.addr, comment("isolated; the kernel has no sets")))
		}
	}
	slices.Sort(lines)
	b.WriteString(strings.Join(lines, ""))
}

func (m *model) setText(chain, rules string, exists bool) {
	had, was := m.want[chain]
	if was == exists && had == rules {
		return
	}
	if exists {
		m.want[chain] = rules
	} else {
		delete(m.want, chain)
	}
	m.changed[chain] = struct{}{}
}

// setPlain turns to rules without sets, or back.
func (m *model) setPlain(plain bool) {
	if m.plain == plain {
		return
	}
	m.plain, m.reshape = plain, true
	for _, g := range m.groups {
		m.dirtyText[g] = struct{}{}
	}
}
