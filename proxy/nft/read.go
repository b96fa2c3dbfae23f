package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/whalepod/whalepod/proxy"
)

// snapshot is what the kernel holds.
type snapshot struct {
	sound    bool // sets and base chains are as they should be
	rules    map[string][]string
	ways     map[string]struct{} // chains that are not base chains
	clients  map[string]struct{} // sets of memories
	elements map[id]content
}

func placeOf(key [maxKey]byte) at {
	return at{[4]byte(key[:4]), key[4], binary.BigEndian.Uint16(key[8:])}
}

// patience is how often Read begins anew because tables changed meanwhile. The kernel does not say whose: it is others', for
// nobody else should write into ours, and what was read is right then.
const patience = 3

func (t *Tables) list(typ uint16, flags uint16, ask func(*buffer), f func(attrs []byte)) error {
	err := t.sock.dump(typ, flags, ask, f)
	if errors.Is(err, errInterrupted) && t.again >= patience {
		return nil
	}
	return err
}

// there tells whether the table exists.
func (t *Tables) there() (found bool, err error) {
	err = t.list(unix.NFT_MSG_GETTABLE, unix.NLM_F_DUMP, func(*buffer) {}, func(attrs []byte) {
		found = found || text(get(attrs, unix.NFTA_TABLE_NAME)) == Table
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil // the kernel knows no nf_tables
	}
	return found, err
}

func (t *Tables) generation() (gen uint32, err error) {
	err = t.list(unix.NFT_MSG_GETGEN, 0, func(*buffer) {}, func(attrs []byte) {
		if v := get(attrs, unix.NFTA_GEN_ID); len(v) == 4 {
			gen = binary.BigEndian.Uint32(v)
		}
	})
	return gen, err
}

// readShape reads everything but elements.
func (t *Tables) readShape() (s *snapshot, present map[string]bool, err error) {
	s, present = &snapshot{rules: map[string][]string{}, ways: map[string]struct{}{}, clients: map[string]struct{}{}, elements: map[id]content{}}, map[string]bool{}
	there, err := t.there()
	if err != nil || !there {
		return s, present, err
	}
	if err := t.readChains(s); err != nil {
		return nil, nil, err
	}
	err = t.list(unix.NFT_MSG_GETSET, unix.NLM_F_DUMP, func(b *buffer) { b.string(unix.NFTA_SET_TABLE, Table) }, func(attrs []byte) {
		if text(get(attrs, unix.NFTA_SET_TABLE)) == Table {
			name := text(get(attrs, unix.NFTA_SET_NAME))
			if strings.HasPrefix(name, clientsSet) {
				s.clients[name] = struct{}{}
			} else {
				present[name] = true
			}
		}
	})
	return s, present, err
}

// complete tells whether sets and base chains are as they should be.
func (t *Tables) complete(s *snapshot, present map[string]bool) bool {
	for i := range sets {
		if !present[sets[i].name] {
			return false
		}
	}
	return t.sound(s)
}

func (t *Tables) read() (*snapshot, error) {
	s, present, err := t.readShape()
	if err != nil {
		return nil, err
	}
	s.sound = t.complete(s, present)
	if !s.sound && (!present[sets[setServices].name] || !present[sets[setEndpoints].name]) {
		return s, nil // without these not even host ports are known
	}
	words := map[string]string{}
	for i := range sets {
		if !present[sets[i].name] {
			continue
		}
		if err := t.readSet(s, uint8(i), words); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (t *Tables) readChains(s *snapshot) error {
	base := map[string]bool{}
	for _, ch := range t.cfg.base() {
		base[ch.name] = true
	}
	err := t.list(unix.NFT_MSG_GETCHAIN, unix.NLM_F_DUMP, func(b *buffer) { b.string(unix.NFTA_CHAIN_TABLE, Table) }, func(attrs []byte) {
		if name := text(get(attrs, unix.NFTA_CHAIN_NAME)); text(get(attrs, unix.NFTA_CHAIN_TABLE)) == Table && !base[name] {
			s.ways[name] = struct{}{}
		}
	})
	if err != nil {
		return err
	}
	return t.list(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, func(b *buffer) { b.string(unix.NFTA_RULE_TABLE, Table) }, func(attrs []byte) {
		if text(get(attrs, unix.NFTA_RULE_TABLE)) == Table {
			ch := text(get(attrs, unix.NFTA_RULE_CHAIN))
			s.rules[ch] = append(s.rules[ch], noted(get(attrs, unix.NFTA_RULE_USERDATA)))
		}
	})
}

// sound compares the base chains by their rules' comments; the version in the first says what the rules are.
func (t *Tables) sound(s *snapshot) bool {
	for i, ch := range t.cfg.base() {
		if i == 0 {
			ch.rules[0].comment += versionNote + t.version
		}
		if !s.right(&ch) {
			return false
		}
	}
	return true
}

func (s *snapshot) right(ch *chain) bool {
	return ch != nil && slices.EqualFunc(ch.rules, s.rules[ch.name], func(r rule, comment string) bool { return r.comment == comment })
}

func (t *Tables) readSet(s *snapshot, which uint8, words map[string]string) error {
	return t.list(unix.NFT_MSG_GETSETELEM, unix.NLM_F_DUMP, func(b *buffer) {
		b.string(unix.NFTA_SET_ELEM_LIST_TABLE, Table)
		b.string(unix.NFTA_SET_ELEM_LIST_SET, sets[which].name)
	}, func(attrs []byte) {
		each(get(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, element []byte) {
			i, what := decode(which, element, words)
			s.elements[i] = what
		})
	})
}

// decode reads an element. The words are those seen before: most occur many times.
func decode(which uint8, element []byte, words map[string]string) (i id, what content) {
	i.set = which
	known := func(s string) string {
		if w, ok := words[s]; ok {
			return w
		}
		words[s] = s
		return s
	}
	each(element, func(typ uint16, v []byte) {
		const keyEnd = 10
		switch typ {
		case unix.NFTA_SET_ELEM_KEY:
			copy(i.key[:], get(v, unix.NFTA_DATA_VALUE))
		case keyEnd:
			if end := get(v, unix.NFTA_DATA_VALUE); len(end) == 4*len(sets[which].key) {
				copy(i.last[:], end[len(end)-4:])
			}
		case unix.NFTA_SET_ELEM_DATA:
			copy(what.to[:], get(v, unix.NFTA_DATA_VALUE))
			if d := get(v, unix.NFTA_DATA_VERDICT); d != nil {
				what.verdict = refuseDrop
				if name := get(d, unix.NFTA_VERDICT_CHAIN); name != nil {
					what.verdict = known(text(name))
				}
			}
		case unix.NFTA_SET_ELEM_USERDATA:
			what.comment = known(noted(v))
		}
	})
	return i, what
}

// lists are the endpoints by place, each at its number.
func (s *snapshot) lists() map[at]*entry {
	out := map[at]*entry{}
	for i, c := range s.elements {
		if i.set != setEndpoints {
			continue
		}
		n := binary.NativeEndian.Uint32(i.key[12:])
		place := placeOf(i.key)
		e := out[place]
		if e == nil {
			e = &entry{}
			out[place] = e
		}
		list := &e.cluster
		if n >= localList {
			list, n = &e.local, n-localList
		}
		if n >= localList {
			continue // none of ours
		}
		for uint32(len(*list)) <= n {
			*list = append(*list, 0)
		}
		(*list)[n] = targetOf(c.to[:])
	}
	return out
}

// Look implements proxy.Looker: it asks the kernel for the elements of one address.
func (t *Tables) Look(_ context.Context, protocol string, to netip.AddrPort) (proxy.Verdict, error) {
	if !to.Addr().Is4() {
		return proxy.Verdict{Action: proxy.Nothing}, nil
	}
	place := at{to.Addr().As4(), protocols[protocol], to.Port()}
	leads, err := false, errInterrupted
	for i := 0; i <= patience && !leads && errors.Is(err, errInterrupted); i++ {
		err = t.look.dump(unix.NFT_MSG_GETRULE, unix.NLM_F_DUMP, func(b *buffer) { b.string(unix.NFTA_RULE_TABLE, Table) }, func(attrs []byte) {
			leads = leads || text(get(attrs, unix.NFTA_RULE_TABLE)) == Table && text(get(attrs, unix.NFTA_RULE_CHAIN)) == "prerouting"
		})
	}
	if err != nil && !errors.Is(err, errInterrupted) {
		return proxy.Verdict{}, err
	}
	if !leads {
		return proxy.Verdict{Action: proxy.Nothing, Missing: "table ip " + Table + " has no rule in its chain prerouting"}, nil
	}
	key := place.key()
	service, ok, err := t.element(id{set: setServices, key: key})
	if err != nil {
		return proxy.Verdict{}, err
	}
	if ok {
		if eps, err := t.endpointsAt(key, service.verdict); err != nil || len(eps) > 0 {
			return proxy.Verdict{Action: proxy.ToEndpoints, Endpoints: eps}, err
		}
	}
	refused, ok, err := t.element(id{set: setRefused, key: key})
	switch {
	case err != nil:
		return proxy.Verdict{}, err
	case ok && refused.verdict == refuseDrop:
		return proxy.Verdict{Action: proxy.Drop}, nil
	case ok, t.cfg.ServiceCIDR.Contains(to.Addr()):
		return proxy.Verdict{Action: proxy.Reject}, nil
	}
	return proxy.Verdict{Action: proxy.Nothing}, nil
}

// endpointsAt are those that the chain chooses from for clients in the cluster.
func (t *Tables) endpointsAt(key [maxKey]byte, chain string) ([]netip.AddrPort, error) {
	n := 1
	for word := range strings.SplitSeq(chain, "-") {
		if _, err := fmt.Sscanf(word, "%d", &n); err == nil {
			break
		}
	}
	var out []netip.AddrPort
	for k := range uint32(n) {
		binary.NativeEndian.PutUint32(key[12:], k)
		e, ok, err := t.element(id{set: setEndpoints, key: key})
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, targetOf(e.to[:]).addrPort())
		}
	}
	slices.SortFunc(out, netip.AddrPort.Compare)
	return out, nil
}

// element asks for one.
func (t *Tables) element(i id) (what content, ok bool, err error) {
	err = t.look.dump(unix.NFT_MSG_GETSETELEM, 0, func(b *buffer) {
		b.string(unix.NFTA_SET_ELEM_LIST_TABLE, Table)
		b.string(unix.NFTA_SET_ELEM_LIST_SET, sets[i.set].name)
		b.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() { (&change{id: i}).encode(b, false) })
	}, func(attrs []byte) {
		each(get(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, element []byte) {
			_, what = decode(i.set, element, map[string]string{})
			ok = true
		})
	})
	if errors.Is(err, unix.ENOENT) {
		return content{}, false, nil
	}
	return what, ok, err
}
