package nft

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// commit is what one batch changes.
type commit struct {
	anew     bool // the table is made anew
	all      bool // everything was compared
	entries  map[at]*entry
	newWays  []way
	drop     []string // chains that nothing leads to any more
	del, add []change
	chains   map[string]struct{} // those of ways afterwards
	hairs    map[netip.Addr]struct{}
	leaving  map[netip.Addr]struct{}
}

// change is one element that comes or goes.
type change struct {
	id
	content
}

func (c *commit) empty() bool {
	return c.tidies() && len(c.drop) == 0
}

// tidies tells that nothing is changed but that chains go which nothing leads to.
func (c *commit) tidies() bool {
	return !c.anew && len(c.newWays)+len(c.del)+len(c.add) == 0
}

// changes are those since the last Apply. Chains stay, also those that nothing leads to any more: a change of rules makes the
// kernel walk through all of them.
func (t *Tables) changes() *commit {
	c := &commit{entries: map[at]*entry{}, chains: t.chains}
	ways := map[way]bool{}
	for place := range t.touched {
		old := t.have[place]
		now := t.wanted(place, old)
		c.entries[place] = now
		before := map[id]content{}
		if old != nil {
			old.elements(place, func(i id, what content) { before[i] = what })
		}
		if now != nil {
			now.elements(place, c.compare(before))
			ways[now.way] = true
		}
		c.leftOver(before)
	}
	c.changeHairpins(t)
	c.need(t, ways)
	return c
}

func (c *commit) changeHairpins(t *Tables) {
	c.hairs, c.leaving = maps.Clone(t.hairs), map[netip.Addr]struct{}{}
	for ip := range t.own {
		_, is := c.hairs[ip]
		switch wanted := t.hairpins[ip] > 0; {
		case wanted && !is:
			i, what := hairpin(ip)
			c.add = append(c.add, change{i, what})
			c.hairs[ip] = struct{}{}
		case !wanted && is:
			c.leaving[ip] = struct{}{}
		}
	}
	for ip := range t.leaving {
		if _, is := c.hairs[ip]; is && t.hairpins[ip] == 0 {
			i, what := hairpin(ip)
			c.del = append(c.del, change{i, what})
			delete(c.hairs, ip)
			delete(c.leaving, ip)
		}
	}
}

// compare takes wanted elements; what is right leaves before.
func (c *commit) compare(before map[id]content) func(id, content) {
	return func(i id, what content) {
		is, ok := before[i]
		delete(before, i)
		if ok && is == what {
			return
		}
		if ok {
			c.del = append(c.del, change{i, is})
		}
		c.add = append(c.add, change{i, what})
	}
}

func (c *commit) leftOver(before map[id]content) {
	for i, is := range before {
		c.del = append(c.del, change{i, is})
	}
}

// need notes the ways whose chains are not there.
func (c *commit) need(t *Tables, ways map[way]bool) {
	for w := range ways {
		if w == (way{}) {
			continue
		}
		for _, ch := range t.cfg.chains(w) {
			if _, ok := c.chains[ch.name]; !ok {
				c.newWays = append(c.newWays, w)
				break
			}
		}
	}
}

// whole compares all that is wanted with what Read found.
func (t *Tables) whole() *commit {
	s := t.snapshot
	c := &commit{all: true, anew: !s.sound, entries: map[at]*entry{}, chains: map[string]struct{}{}, hairs: map[netip.Addr]struct{}{}, leaving: map[netip.Addr]struct{}{}}
	before, lists := s.elements, s.lists()
	if c.anew {
		before = map[id]content{}
	}
	for place := range t.have {
		c.entries[place] = nil
	}
	ways := map[way]bool{}
	for place := range t.claims {
		now := t.wanted(place, lists[place])
		c.entries[place] = now
		now.elements(place, c.compare(before))
		ways[now.way] = true
	}
	for ip := range t.hairpins {
		c.hairs[ip] = struct{}{}
	}
	for i := range before {
		if ip := netip.AddrFrom4([4]byte(i.key[:4])); i.set == setHairpins && t.hairpins[ip] == 0 {
			c.leaving[ip] = struct{}{}
			c.hairs[ip] = struct{}{}
		}
	}
	for ip := range c.hairs {
		i, what := hairpin(ip)
		c.compare(before)(i, what)
	}
	c.leftOver(before)
	needed := map[string]bool{}
	for w := range ways {
		for _, ch := range t.cfg.chains(w) {
			needed[ch.name] = true
		}
	}
	if !c.anew {
		for name := range s.ways {
			if needed[name] && s.right(t.cfg.chainsOf(ways, name)) {
				c.chains[name] = struct{}{}
			} else {
				c.drop = append(c.drop, name)
			}
		}
	}
	// A chain that is wrong cannot be mended while others lead to it.
	for _, name := range c.drop {
		if needed[name] {
			c.anew, c.drop, c.chains = true, nil, map[string]struct{}{}
			return t.anew(c, ways)
		}
	}
	c.need(t, ways)
	return c
}

// anew writes everything.
func (t *Tables) anew(c *commit, ways map[way]bool) *commit {
	c.del, c.add = nil, nil
	for place, e := range c.entries {
		if e != nil {
			e.elements(place, func(i id, what content) { c.add = append(c.add, change{i, what}) })
		}
	}
	for ip := range c.hairs {
		i, what := hairpin(ip)
		c.add = append(c.add, change{i, what})
	}
	c.need(t, ways)
	return c
}

// batch is nil when nothing is to be changed.
func (c *commit) batch(t *Tables) *batch {
	if c.empty() {
		return nil
	}
	b := newBatch()
	if c.anew {
		addTable(b, Table, 0) // or the deletion would fail where there is none
		deleteTable(b, Table)
		addTable(b, Table, 0)
		t.cfg.define(b, Table, t.version, t.cfg.base())
	}
	after := maps.Clone(c.chains)
	for _, w := range c.newWays {
		for _, ch := range t.cfg.chains(w) {
			if _, ok := after[ch.name]; !ok {
				after[ch.name] = struct{}{}
				addChain(b, Table, ch)
				addRules(b, Table, ch)
			}
		}
	}
	c.chains = after
	if !c.anew {
		b.elements(unix.NFT_MSG_DELSETELEM, c.del)
	}
	b.elements(unix.NFT_MSG_NEWSETELEM, c.add)
	// What leads to others goes first.
	slices.SortFunc(c.drop, func(x, y string) int { return depth(x) - depth(y) })
	for _, name := range c.drop {
		deleteChain(b, Table, name)
	}
	return b
}

// depth of a way's chain: guarded ones lead to those that mark, and those to the ones that choose.
func depth(name string) int {
	switch {
	case strings.HasPrefix(name, "guarded-"):
		return 0
	case strings.HasPrefix(name, "endpoints-"):
		return 2
	}
	return 1
}

// elements adds messages of one set each, none longer than maxPart.
func (b *batch) elements(typ uint16, list []change) {
	slices.SortStableFunc(list, func(x, y change) int { return int(x.set) - int(y.set) })
	for len(list) > 0 {
		set := list[0].set
		flags := uint16(0)
		if typ == unix.NFT_MSG_NEWSETELEM {
			flags = unix.NLM_F_CREATE
		}
		b.message(typ, flags, func(o *buffer) {
			o.string(unix.NFTA_SET_ELEM_LIST_TABLE, Table)
			o.string(unix.NFTA_SET_ELEM_LIST_SET, sets[set].name)
			start := len(o.b)
			o.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
				for len(list) > 0 && list[0].set == set && len(o.b)-start < maxPart {
					list[0].encode(o, typ == unix.NFT_MSG_NEWSETELEM)
					list = list[1:]
				}
			})
		})
	}
}

func (c *change) encode(b *buffer, whole bool) {
	s := &sets[c.set]
	n := 4 * len(s.key)
	b.nest(unix.NFTA_LIST_ELEM, func() {
		value(b, unix.NFTA_SET_ELEM_KEY, c.key[:n])
		if s.flags&setConcat != 0 {
			const keyEnd = 10 // NFTA_SET_ELEM_KEY_END
			last := c.key
			copy(last[n-4:], c.last[:])
			value(b, keyEnd, last[:n])
		}
		if !whole {
			return
		}
		switch {
		case s.data == nil:
		case len(s.data) > 0:
			value(b, unix.NFTA_SET_ELEM_DATA, c.to[:])
		case c.verdict == refuseDrop:
			b.nest(unix.NFTA_SET_ELEM_DATA, func() { verdict(b, verdictDrop, "") })
		default:
			b.nest(unix.NFTA_SET_ELEM_DATA, func() { verdict(b, verdictGoto, c.verdict) })
		}
		b.bytes(unix.NFTA_SET_ELEM_USERDATA, note(c.comment))
	})
}
