package nft

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// fakeKernel understands batches and lists as nf_tables does, as far as the package uses it, and is as strict.
type fakeKernel struct {
	table   *fakeTable
	gen     uint32
	commits int
	fail    error // of the next commit
	restive bool  // other tables change all the time
}

type fakeTable struct {
	chains []string
	rules  map[string][][]byte // the rules' attributes
	sets   []string
	elems  map[string]map[string][]byte // set → key and end → the element's attributes
}

func (t *fakeTable) clone() *fakeTable {
	if t == nil {
		return nil
	}
	c := &fakeTable{slices.Clone(t.chains), maps.Clone(t.rules), slices.Clone(t.sets), map[string]map[string][]byte{}}
	for s, e := range t.elems {
		c.elems[s] = maps.Clone(e)
	}
	return c
}

func (k *fakeKernel) close() {}

func (k *fakeKernel) commit(b *batch) error {
	k.commits++
	if k.fail != nil {
		err := k.fail
		k.fail = nil
		return err
	}
	b.control(unix.NFNL_MSG_BATCH_END)
	tables := map[string]*fakeTable{}
	if k.table != nil {
		tables[Table] = k.table.clone()
	}
	messages := 0
	for rest := b.b; len(rest) > 0; {
		size := int(binary.NativeEndian.Uint32(rest))
		if size < headers || size > len(rest) || size%4 != 0 {
			return fmt.Errorf("message of %d bytes, %d are left", size, len(rest))
		}
		if rest[5] == unix.NFNL_SUBSYS_NFTABLES {
			messages++
			if err := do(tables, rest[4], rest[headers:size]); err != nil {
				return fmt.Errorf("%s: %w", actions[rest[4]], err)
			}
		}
		rest = rest[size:]
	}
	for name := range tables {
		if name != Table {
			return fmt.Errorf("the table %s is left behind", name)
		}
	}
	if messages == 0 {
		return fmt.Errorf("an empty batch")
	}
	k.table = tables[Table]
	k.gen++
	return nil
}

func do(tables map[string]*fakeTable, typ byte, attrs []byte) error {
	name := text(get(attrs, 1))
	t := tables[name]
	switch {
	case typ == unix.NFT_MSG_NEWTABLE && t == nil:
		tables[name] = &fakeTable{rules: map[string][][]byte{}, elems: map[string]map[string][]byte{}}
		return nil
	case typ == unix.NFT_MSG_NEWTABLE:
		return nil
	case t == nil:
		return unix.ENOENT
	}
	switch typ {
	case unix.NFT_MSG_DELTABLE:
		delete(tables, name)
	case unix.NFT_MSG_NEWCHAIN:
		if c := text(get(attrs, unix.NFTA_CHAIN_NAME)); !slices.Contains(t.chains, c) {
			t.chains = append(t.chains, c)
		}
	case unix.NFT_MSG_NEWRULE:
		return t.addRule(attrs)
	case unix.NFT_MSG_DELRULE:
		c := text(get(attrs, unix.NFTA_RULE_CHAIN))
		if !slices.Contains(t.chains, c) {
			return fmt.Errorf("%w: %s", unix.ENOENT, c)
		}
		delete(t.rules, c)
	case unix.NFT_MSG_DELCHAIN:
		return t.deleteChain(text(get(attrs, unix.NFTA_CHAIN_NAME)))
	case unix.NFT_MSG_NEWSET:
		s := text(get(attrs, unix.NFTA_SET_NAME))
		t.sets = append(t.sets, s)
		t.elems[s] = map[string][]byte{}
	case unix.NFT_MSG_DELSET:
		return t.deleteSet(text(get(attrs, unix.NFTA_SET_NAME)))
	case unix.NFT_MSG_NEWSETELEM, unix.NFT_MSG_DELSETELEM:
		return t.element(typ == unix.NFT_MSG_NEWSETELEM, attrs)
	default:
		return fmt.Errorf("what is message %d?", typ)
	}
	return nil
}

func (t *fakeTable) addRule(attrs []byte) error {
	c := text(get(attrs, unix.NFTA_RULE_CHAIN))
	if !slices.Contains(t.chains, c) {
		return fmt.Errorf("%w: chain %s", unix.ENOENT, c)
	}
	for _, to := range leads(attrs) {
		if !slices.Contains(t.chains, to) {
			return fmt.Errorf("%w: chain %s for a rule of %s", unix.ENOENT, to, c)
		}
	}
	for _, s := range looksIn(attrs) {
		if t.elems[s] == nil {
			return fmt.Errorf("%w: set %q", unix.ENOENT, s)
		}
	}
	t.rules[c] = append(slices.Clone(t.rules[c]), bytes.Clone(attrs))
	return nil
}

// looksIn are the sets that a rule names.
func looksIn(rule []byte) (out []string) {
	each(get(rule, unix.NFTA_RULE_EXPRESSIONS), func(_ uint16, e []byte) {
		if n := text(get(e, unix.NFTA_EXPR_NAME)); n == "lookup" || n == "dynset" {
			out = append(out, text(get(get(e, unix.NFTA_EXPR_DATA), 1)))
		}
	})
	return out
}

func (t *fakeTable) deleteSet(name string) error {
	i := slices.Index(t.sets, name)
	if i < 0 {
		return fmt.Errorf("%w: %s", unix.ENOENT, name)
	}
	for c, rules := range t.rules {
		for _, r := range rules {
			if slices.Contains(looksIn(r), name) {
				return fmt.Errorf("%w: %s is looked up in %s", unix.EBUSY, name, c)
			}
		}
	}
	t.sets = slices.Delete(slices.Clone(t.sets), i, i+1)
	delete(t.elems, name)
	return nil
}

// leads are the chains that a rule goes to.
func leads(rule []byte) (out []string) {
	each(get(rule, unix.NFTA_RULE_EXPRESSIONS), func(_ uint16, e []byte) {
		v := get(get(get(e, unix.NFTA_EXPR_DATA), unix.NFTA_IMMEDIATE_DATA), unix.NFTA_DATA_VERDICT)
		if text(get(e, unix.NFTA_EXPR_NAME)) == "immediate" && v != nil {
			if name := get(v, unix.NFTA_VERDICT_CHAIN); name != nil {
				out = append(out, text(name))
			}
		}
	})
	return out
}

func verdictOf(element []byte) string {
	return text(get(get(get(element, unix.NFTA_SET_ELEM_DATA), unix.NFTA_DATA_VERDICT), unix.NFTA_VERDICT_CHAIN))
}

func (t *fakeTable) deleteChain(name string) error {
	i := slices.Index(t.chains, name)
	if i < 0 {
		return fmt.Errorf("%w: %s", unix.ENOENT, name)
	}
	for c, rules := range t.rules {
		for _, r := range rules {
			if slices.Contains(leads(r), name) {
				return fmt.Errorf("%w: %s is led to by %s", unix.EBUSY, name, c)
			}
		}
	}
	for _, elems := range t.elems {
		for _, e := range elems {
			if verdictOf(e) == name {
				return fmt.Errorf("%w: an element leads to %s", unix.EBUSY, name)
			}
		}
	}
	t.chains = slices.Delete(t.chains, i, i+1)
	return nil
}

func (t *fakeTable) element(add bool, attrs []byte) (err error) {
	name := text(get(attrs, unix.NFTA_SET_ELEM_LIST_SET))
	elems := t.elems[name]
	if elems == nil {
		return fmt.Errorf("%w: %s", unix.ENOENT, name)
	}
	each(get(attrs, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, e []byte) {
		key := string(get(get(e, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE)) + string(get(get(e, 10), unix.NFTA_DATA_VALUE))
		is, there := elems[key]
		chain := verdictOf(e)
		switch {
		case !add && !there:
			err = fmt.Errorf("%w: element %x of %s", unix.ENOENT, key, name)
		case !add:
			delete(elems, key)
		case there && !bytes.Equal(get(is, unix.NFTA_SET_ELEM_DATA), get(e, unix.NFTA_SET_ELEM_DATA)):
			err = fmt.Errorf("%w: element %x of %s", unix.EEXIST, key, name)
		case chain != "" && !slices.Contains(t.chains, chain):
			err = fmt.Errorf("%w: chain %s for an element of %s", unix.ENOENT, chain, name)
		case name == "allowed" && overlaps(elems, key):
			err = fmt.Errorf("%w: %x", unix.ENOTEMPTY, key)
		default:
			elems[key] = bytes.Clone(e)
		}
	})
	return err
}

func overlaps(elems map[string][]byte, key string) bool {
	for other := range elems {
		if other != key && other[:12] == key[:12] && other[12:16] <= key[28:32] && key[12:16] <= other[28:32] {
			return true
		}
	}
	return false
}

func (k *fakeKernel) dump(typ uint16, flags uint16, ask func(*buffer), f func(attrs []byte)) error {
	err := k.list(typ, flags, ask, f)
	if err == nil && k.restive && flags&unix.NLM_F_DUMP != 0 {
		return errInterrupted
	}
	return err
}

func (k *fakeKernel) list(typ uint16, flags uint16, ask func(*buffer), f func(attrs []byte)) error {
	var q, out buffer
	ask(&q)
	give := func(fill func()) {
		out.b = out.b[:0]
		fill()
		f(out.b)
	}
	t := k.table
	if typ == unix.NFT_MSG_GETGEN {
		give(func() { out.u32(unix.NFTA_GEN_ID, k.gen) })
		return nil
	}
	if t == nil {
		if flags == 0 {
			return unix.ENOENT
		}
		return nil
	}
	switch typ {
	case unix.NFT_MSG_GETTABLE:
		give(func() { out.string(unix.NFTA_TABLE_NAME, Table) })
	case unix.NFT_MSG_GETCHAIN:
		for _, c := range t.chains {
			give(func() { out.string(unix.NFTA_CHAIN_TABLE, Table); out.string(unix.NFTA_CHAIN_NAME, c) })
		}
	case unix.NFT_MSG_GETRULE:
		for _, c := range t.chains {
			for _, r := range t.rules[c] {
				f(r)
			}
		}
	case unix.NFT_MSG_GETSET:
		for _, s := range t.sets {
			give(func() { out.string(unix.NFTA_SET_TABLE, Table); out.string(unix.NFTA_SET_NAME, s) })
		}
	case unix.NFT_MSG_GETSETELEM:
		return k.elements(flags, q.b, f)
	}
	return nil
}

func (k *fakeKernel) elements(flags uint16, ask []byte, f func(attrs []byte)) error {
	set := text(get(ask, unix.NFTA_SET_ELEM_LIST_SET))
	wanted := ""
	if flags&unix.NLM_F_DUMP == 0 {
		each(get(ask, unix.NFTA_SET_ELEM_LIST_ELEMENTS), func(_ uint16, e []byte) {
			wanted = string(get(get(e, unix.NFTA_SET_ELEM_KEY), unix.NFTA_DATA_VALUE))
		})
		if k.table.elems[set][wanted] == nil {
			return unix.ENOENT
		}
	}
	var out buffer
	out.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS, func() {
		for key, e := range k.table.elems[set] {
			if wanted == "" || key == wanted {
				out.bytes(unix.NFTA_LIST_ELEM|nested, e)
			}
		}
	})
	f(out.b)
	return nil
}

// String is all that packets meet, in words, without chains that nothing leads to.
func (k *fakeKernel) String() string {
	if k.table == nil {
		return ""
	}
	var lines []string
	used := map[string]bool{}
	for i := range sets {
		for _, e := range k.table.elems[sets[i].name] {
			id, c := decode(uint8(i), e, map[string]string{})
			lines = append(lines, fmt.Sprintf("%s %x %x: %x %s # %s", sets[i].name, id.key, id.last, c.to, c.verdict, c.comment))
			used[c.verdict] = true
		}
	}
	for changed := true; changed; {
		changed = false
		for c := range used {
			for _, r := range k.table.rules[c] {
				for _, to := range leads(r) {
					changed = changed || !used[to]
					used[to] = true
				}
			}
		}
	}
	for c, rules := range k.table.rules {
		for i, r := range rules {
			if used[c] || !strings.ContainsAny(c, "0123456789") && !strings.HasPrefix(c, "hostport") {
				lines = append(lines, fmt.Sprintf("rule %s %d: %x # %s", c, i, get(r, unix.NFTA_RULE_EXPRESSIONS), noted(get(r, unix.NFTA_RULE_USERDATA))))
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// affinity are the chains that Services with session affinity have for themselves.
func (k *fakeKernel) affinity() (out []string) {
	if k.table == nil {
		return nil
	}
	for _, c := range k.table.chains {
		if strings.Contains(c, "-sticky-") || strings.HasPrefix(c, clientsChain) {
			out = append(out, c)
		}
	}
	slices.Sort(out)
	return out
}
