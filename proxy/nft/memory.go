package nft

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

// memory is session affinity for one list of endpoints of a Service's port: a chain that sends clients where they have been sent
// before. Each endpoint of the port has a set of its clients. So it does not matter by which of the port's addresses a client comes, a
// set that is full is nobody else's, and clients of an endpoint that is gone are forgotten: they would leave the one they have
// when it comes again.
type memory struct {
	owner   string // whose port, in a word
	content string // seconds and targets, in a word
	seconds int32
	targets []target
}

const (
	// Prefixes of the names of sets and chains.
	clientsSet, clientsChain = "affinity-", "clients-"
	// tidyEvery is when the kernel takes those out whose time is over, in milliseconds; nobody finds them until then. It would do so
	// every second.
	tidyEvery = 30_000
)

// newMemory of a list without endpoints is nil.
func newMemory(port string, seconds int32, targets []target) *memory {
	if len(targets) == 0 {
		return nil
	}
	all := binary.BigEndian.AppendUint32(nil, uint32(seconds))
	for _, e := range targets {
		all = binary.BigEndian.AppendUint64(all, uint64(e))
	}
	owner, content := sha256.Sum256([]byte(port)), sha256.Sum256(all)
	return &memory{base32.StdEncoding.EncodeToString(owner[:10]), base32.StdEncoding.EncodeToString(content[:5]), seconds, targets}
}

func memoryChain(owner, content string) string { return clientsChain + owner + "-" + content }

// clientsOf names the set of an endpoint's clients.
func (m *memory) clientsOf(e target) string {
	at := e.addrPort()
	return fmt.Sprintf("%s%s-%s/%d", clientsSet, m.owner, at.Addr(), at.Port())
}

// memorySet has room for 65,535 clients, as the kernel decides where rules write into a set of no size; more are sent anywhere. To
// one with a size the kernel would give room for all at once: 1 MB.
func memorySet(name string) *set {
	return &set{name, unix.NFT_SET_TIMEOUT | unix.NFT_SET_EVAL, []uint32{typeAddr}, nil}
}

// remember makes the entry's way lead through memories: of all endpoints, and of those for policy Local.
func (e *entry) remember(all, here *memory) {
	if all != nil {
		e.way.sticky, e.way.all, e.memories = all.owner, all.content, append(e.memories, all)
	}
	if here != nil {
		e.way.sticky, e.way.here, e.memories = here.owner, here.content, append(e.memories, here)
	}
}

// chain tries each endpoint: nft 1.0 cannot show a rule that looks up what a map gave, and dies.
func (m *memory) chain() chain {
	out := chain{name: memoryChain(m.owner, m.content)}
	for _, e := range m.targets {
		out.rules = append(out.rules, rule{fmt.Sprint("clients of ", e.addrPort()), steps([]expression{saddr(8), in(m.clientsOf(e), 8)}, m.send(e))})
	}
	for i, e := range m.targets {
		chance := []expression{random(0, uint32(len(m.targets)-i), 0), compare(0, unix.NFT_CMP_EQ, native(0)), saddr(8)}
		out.rules = append(out.rules, rule{fmt.Sprint("new clients of ", e.addrPort()), steps(chance, m.send(e))})
	}
	return out
}

// send takes note of the client, which ends the rule where there is no room, and sends it to the endpoint.
func (m *memory) send(e target) []expression {
	b := e.bytes()
	return []expression{remember(m.clientsOf(e), dynsetUpdate, 8, uint64(m.seconds)*1000), load(0, b[:4]), load(1, b[4:6]), dnat(0, 1)}
}

// own are the names of the way's chains that no other Service has.
func (w way) own() (out []string) {
	if w.sticky == "" {
		return nil
	}
	for _, content := range []string{w.all, w.here} {
		if content != "" {
			out = append(out, memoryChain(w.sticky, content))
		}
	}
	if w.guarded {
		out = append(out, w.String())
		w.guarded = false
	}
	return append(out, w.String())
}

// outgrow drops the chains and sets of Services with affinity that nothing leads to any more: each has its own, and there would be
// more with every change of its endpoints.
func (c *commit) outgrow(t *Tables) {
	chains, sets, owners := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for place := range c.entries {
		old := t.have[place]
		if old == nil || old.way.sticky == "" {
			continue
		}
		for _, name := range old.way.own() {
			chains[name] = c.wishes.chain(name) == nil
		}
		for _, m := range old.memories {
			for _, e := range m.targets {
				sets[m.clientsOf(e)] = !c.wishes.known[m.clientsOf(e)]
			}
		}
		owners[old.way.sticky] = true
	}
	if len(owners) == 0 {
		return
	}
	// A place that somebody else gets is not all that its former owner had.
	for place, e := range t.have {
		if _, changed := c.entries[place]; changed || !owners[e.way.sticky] {
			continue
		}
		for _, name := range e.way.own() {
			delete(chains, name)
		}
		for _, m := range e.memories {
			for _, e := range m.targets {
				delete(sets, m.clientsOf(e))
			}
		}
	}
	leave := func(names map[string]bool, have map[string]struct{}) (out []string) {
		for name, gone := range names {
			if _, there := have[name]; there && gone {
				out = append(out, name)
			}
		}
		return out
	}
	c.drop, c.dropSets = leave(chains, c.chains), leave(sets, c.sets)
}

// wishes are the chains and sets that entries lead to; chains that are led to come first.
type wishes struct {
	cfg    *Config
	ways   map[way]bool
	index  map[string]int // of chains
	chains []chain
	sets   []string
	known  map[string]bool // sets
}

func newWishes(c *Config) *wishes {
	return &wishes{cfg: c, ways: map[way]bool{{}: true}, index: map[string]int{}, known: map[string]bool{}}
}

func (w *wishes) add(e *entry) {
	if w.ways[e.way] {
		return
	}
	w.ways[e.way] = true
	for _, m := range e.memories {
		for _, e := range m.targets {
			if set := m.clientsOf(e); !w.known[set] {
				w.known[set] = true
				w.sets = append(w.sets, set)
			}
		}
		if w.chain(memoryChain(m.owner, m.content)) == nil {
			w.put(m.chain())
		}
	}
	for _, ch := range w.cfg.chains(e.way) {
		if w.chain(ch.name) == nil {
			w.put(ch)
		}
	}
}

func (w *wishes) put(ch chain) {
	w.index[ch.name] = len(w.chains)
	w.chains = append(w.chains, ch)
}

// chain is nil when nothing leads to it.
func (w *wishes) chain(name string) *chain {
	i, ok := w.index[name]
	if !ok {
		return nil
	}
	return &w.chains[i]
}

// write makes all of them.
func (w *wishes) write(b *batch, table string) {
	for _, name := range w.sets {
		addSet(b, table, memorySet(name))
	}
	for _, ch := range w.chains {
		addChain(b, table, ch)
		addRules(b, table, ch)
	}
}
