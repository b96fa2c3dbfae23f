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
	wishes   *wishes
	newChain []chain
	newSets  []string
	drop     []string // chains that nothing leads to any more
	dropSets []string
	del, add []change
	chains   map[string]struct{} // those of ways and memories afterwards
	sets     map[string]struct{} // those of memories afterwards
	hairs    map[netip.Addr]struct{}
	leaving  map[netip.Addr]struct{}
}

// change is one element that comes or goes.
type change struct {
	id
	content
}

func (c *commit) empty() bool {
	return c.tidies() && len(c.drop)+len(c.dropSets) == 0
}

// tidies tells that nothing is changed but that chains and sets go which nothing leads to.
func (c *commit) tidies() bool {
	return !c.anew && len(c.newChain)+len(c.newSets)+len(c.del)+len(c.add) == 0
}

// changes are those since the last Apply. Chains that Services share stay, also those that nothing leads to any more: a new rule
// makes the kernel walk through all of them.
func (t *Tables) changes() *commit {
	c := &commit{entries: map[at]*entry{}, wishes: newWishes(&t.cfg), chains: t.chains, sets: t.sets}
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
			c.wishes.add(now)
		}
		c.leftOver(before)
	}
	c.changeHairpins(t)
	c.outgrow(t)
	c.need()
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

// need notes what is wished for and not there.
func (c *commit) need() {
	for _, ch := range c.wishes.chains {
		if _, ok := c.chains[ch.name]; !ok {
			c.newChain = append(c.newChain, ch)
		}
	}
	for _, name := range c.wishes.sets {
		if _, ok := c.sets[name]; !ok {
			c.newSets = append(c.newSets, name)
		}
	}
}

// whole compares all that is wanted with what Read found.
func (t *Tables) whole() *commit {
	s := t.snapshot
	c := &commit{all: true, anew: !s.sound, entries: map[at]*entry{}, wishes: newWishes(&t.cfg), chains: map[string]struct{}{}, sets: map[string]struct{}{}, hairs: map[netip.Addr]struct{}{}, leaving: map[netip.Addr]struct{}{}}
	before, lists := s.elements, s.lists()
	if c.anew {
		before = map[id]content{}
	}
	for place := range t.have {
		c.entries[place] = nil
	}
	for place := range t.claims {
		now := t.wanted(place, lists[place])
		c.entries[place] = now
		now.elements(place, c.compare(before))
		c.wishes.add(now)
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
	if !c.anew {
		for name := range s.ways {
			ch := c.wishes.chain(name)
			if s.right(ch) {
				c.chains[name] = struct{}{}
				continue
			}
			if ch != nil { // it cannot be mended while others lead to it
				return t.anew(c)
			}
			c.drop = append(c.drop, name)
		}
		for name := range s.clients {
			if c.wishes.known[name] {
				c.sets[name] = struct{}{}
			} else {
				c.dropSets = append(c.dropSets, name)
			}
		}
	}
	c.need()
	return c
}

// anew writes everything.
func (t *Tables) anew(c *commit) *commit {
	c.anew, c.del, c.add, c.drop, c.chains = true, nil, nil, nil, map[string]struct{}{}
	for place, e := range c.entries {
		if e != nil {
			e.elements(place, func(i id, what content) { c.add = append(c.add, change{i, what}) })
		}
	}
	for ip := range c.hairs {
		i, what := hairpin(ip)
		c.add = append(c.add, change{i, what})
	}
	c.need()
	return c
}

// batches are none when nothing is to be changed.
func (c *commit) batches(t *Tables) (out []*batch) {
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
	if len(c.newChain)+len(c.newSets)+len(c.drop)+len(c.dropSets) > 0 {
		c.chains, c.sets = maps.Clone(c.chains), maps.Clone(c.sets)
	}
	for _, name := range c.newSets {
		c.sets[name] = struct{}{}
		addSet(b, Table, memorySet(name))
	}
	for _, ch := range c.newChain {
		c.chains[ch.name] = struct{}{}
		addChain(b, Table, ch)
		addRules(b, Table, ch)
	}
	if len(c.newChain)+len(c.newSets) > 0 && !c.anew {
		out = append(out, b)
		b = newBatch()
	}
	if len(c.del)+len(c.add)+len(c.drop)+len(c.dropSets) == 0 && !c.anew {
		return out
	}
	if !c.anew {
		b.elements(unix.NFT_MSG_DELSETELEM, c.del)
	}
	b.elements(unix.NFT_MSG_NEWSETELEM, c.add)
	// What leads to others goes first.
	slices.SortFunc(c.drop, func(x, y string) int { return depth(x) - depth(y) })
	for _, name := range c.drop {
		delete(c.chains, name)
		deleteChain(b, Table, name)
	}
	for _, name := range c.dropSets {
		delete(c.sets, name)
		deleteSet(b, Table, name)
	}
	return append(out, b)
}

// depth of a chain: guarded ones lead to those that mark, and those to the ones that choose.
func depth(name string) int {
	switch {
	case strings.HasPrefix(name, "guarded-"):
		return 0
	case strings.HasPrefix(name, "endpoints-"), strings.HasPrefix(name, clientsChain):
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
