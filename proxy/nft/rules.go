package nft

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Table is the name of the table; its family is ip.
const Table = "whalepod"

// The sets and maps.
const (
	setServices = iota
	setEndpoints
	setRefused
	setAllowed
	setHairpins
)

// Types of nft, six bits each in a concatenation.
const (
	typeAddr, typeProto, typePort, typeMark = 7, 12, 13, 19
	typeVerdict                             = 0xffffff00
)

// set describes one of them.
type set struct {
	name  string
	flags uint32
	key   []uint32 // types; each takes four bytes
	data  []uint32 // nil: no map; empty: verdicts
}

var sets = [...]set{
	setServices:  {"services", unix.NFT_SET_MAP, []uint32{typeAddr, typeProto, typePort}, []uint32{}},
	setEndpoints: {"endpoints", unix.NFT_SET_MAP, []uint32{typeAddr, typeProto, typePort, typeMark}, []uint32{typeAddr, typePort}},
	setRefused:   {"refused", unix.NFT_SET_MAP, []uint32{typeAddr, typeProto, typePort}, []uint32{}},
	setAllowed:   {"allowed", unix.NFT_SET_INTERVAL | setConcat, []uint32{typeAddr, typeProto, typePort, typeAddr}, nil},
	setHairpins:  {"hairpins", 0, []uint32{typeAddr, typeAddr}, nil},
}

const (
	setConcat = 0x80
	// masqMark is what the bits masqBits of a packet's mark are when it must be masqueraded; the same in package proxy for iptables.
	masqMark, masqBits = 0x1000, 0x3000
	// localList is added to the number of an endpoint in the list for clients from outside of a Service with policy Local.
	localList = 0x10000
	// Before and after those of iptables: what we refuse is refused, what we translate is translated.
	priorityDNAT, prioritySNAT, priorityFilter = -105, 95, -5
)

const (
	stateInvalid, stateEstablished, stateRelated, stateNew = 1, 2, 4, 8
	statusDNAT                                             = 1 << 5
	addrLocal                                              = unix.RTN_LOCAL
)

// rule is one with its comment.
type rule struct {
	comment string
	steps   []expression
}

// chain is one with its rules; a base chain has a hook.
type chain struct {
	name     string
	typ      string // "" for one that is only led to
	hook     uint32
	priority int32
	rules    []rule
}

func steps(groups ...[]expression) (out []expression) {
	for _, g := range groups {
		out = append(out, g...)
	}
	return out
}

func native(v uint32) []byte { return binary.NativeEndian.AppendUint32(nil, v) }

func prefixMatch(load expression, p netip.Prefix, op uint32) []expression {
	addr, mask := p.Addr().As4(), binary.BigEndian.AppendUint32(nil, ^uint32(0)<<(32-p.Bits()))
	if p.Bits() == 0 {
		mask = make([]byte, 4)
	}
	if p.Bits() == 32 {
		return []expression{load, compare(0, op, addr[:])}
	}
	return []expression{load, bitwise(0, mask, make([]byte, 4)), compare(0, op, addr[:])}
}

func from(p netip.Prefix) []expression    { return prefixMatch(saddr(0), p, unix.NFT_CMP_EQ) }
func notFrom(p netip.Prefix) []expression { return prefixMatch(saddr(0), p, unix.NFT_CMP_NEQ) }
func to(p netip.Prefix) []expression      { return prefixMatch(daddr(0), p, unix.NFT_CMP_EQ) }
func notTo(p netip.Prefix) []expression   { return prefixMatch(daddr(0), p, unix.NFT_CMP_NEQ) }

// some matches when one of the bits is set, none when no one is.
func some(load expression, bits uint32) []expression {
	return []expression{load, bitwise(0, native(bits), make([]byte, 4)), compare(0, unix.NFT_CMP_NEQ, make([]byte, 4))}
}

func none(load expression, bits uint32) []expression {
	return []expression{load, bitwise(0, native(bits), make([]byte, 4)), compare(0, unix.NFT_CMP_EQ, make([]byte, 4))}
}

func isNew() []expression { return some(ct(0, unix.NFT_CT_STATE), stateNew) }

func local(flag uint32) []expression {
	return []expression{fibType(0, flag), compare(0, unix.NFT_CMP_EQ, native(addrLocal))}
}

func notLocal(flag uint32) []expression {
	return []expression{fibType(0, flag), compare(0, unix.NFT_CMP_NEQ, native(addrLocal))}
}

func mark() []expression {
	return []expression{meta(0, unix.NFT_META_MARK), bitwise(0, native(^uint32(masqBits)), native(masqMark)), setMark(0)}
}

func unmark() []expression {
	return []expression{meta(0, unix.NFT_META_MARK), bitwise(0, native(^uint32(masqBits)), make([]byte, 4)), setMark(0)}
}

func marked() []expression {
	return []expression{meta(0, unix.NFT_META_MARK), bitwise(0, native(masqBits), make([]byte, 4)), compare(0, unix.NFT_CMP_EQ, native(masqMark))}
}

// where loads what Services are looked up by: the address that the packet goes to, or 0.0.0.0 for any of the node's.
func where(r reg, node bool) []expression {
	load := []expression{daddr(r)}
	if node {
		// A constant would do; nft shows this better ("ip daddr & 0.0.0.0").
		load = append(load, bitwise(r, make([]byte, 4), make([]byte, 4)))
	}
	return append(load, meta(r+1, unix.NFT_META_L4PROTO), dport(r+2))
}

// whole is where for all of an address.
func whole(r reg) []expression {
	zero := func(r reg, load expression) []expression {
		return []expression{load, bitwise(r, make([]byte, 4), make([]byte, 4))}
	}
	return steps(one(daddr(r)), zero(r+1, meta(r+1, unix.NFT_META_L4PROTO)), zero(r+2, meta(r+2, unix.NFT_META_L4PROTO)))
}

func one(e expression) []expression { return []expression{e} }

func leadTo(chain string) []expression { return one(decide(verdictGoto, chain)) }

// base are the chains that do not depend on Services.
func (c *Config) base() []chain {
	service := []rule{{"services", steps(where(0, false), one(follow("services", 0)))}}
	output := []rule{}
	for _, ip := range c.LocalIPs {
		own := netip.PrefixFrom(ip, 32)
		service = append(service, rule{"answered by the node itself", steps(to(own), one(decide(verdictReturn, "")))})
		output = append(output, rule{"answered by the node itself", steps(to(own), one(decide(verdictReturn, "")))})
	}
	service = append(service, rule{"ports of the node", steps(local(unix.NFTA_FIB_F_DADDR), where(0, true), one(follow("services", 0)))})
	// A jump comes back for what is known by no other name than its address.
	refuse := rule{"services without endpoints", steps(isNew(), one(decide(unix.NFT_JUMP, "refuse")))}
	unknown := rule{"no such service, or no endpoint", steps(to(c.ServiceCIDR), one(reject()))}
	loopback := netip.MustParsePrefix("127.0.0.0/8")
	const randomFully = unix.NF_NAT_RANGE_PROTO_RANDOM_FULLY
	return []chain{
		{name: "services", rules: service},
		{name: "reject", rules: []rule{{"nobody answers", one(reject())}}},
		// TCP is reset: the kernel sends few ICMP errors to a client, and none beside the redirects that packets get which leave
		// by the link on which they came.
		{name: "closed", rules: []rule{
			{"no such port", []expression{meta(0, unix.NFT_META_L4PROTO), compare(0, unix.NFT_CMP_EQ, []byte{unix.IPPROTO_TCP}), reset()}},
			{"no such port", one(reject())},
		}},
		{name: "refuse", rules: []rule{
			{"addresses", steps(where(0, false), one(follow("refused", 0)))},
			{"ports of the node", steps(local(unix.NFTA_FIB_F_DADDR), where(0, true), one(follow("refused", 0)))},
			{"addresses of load balancers", steps(notLocal(unix.NFTA_FIB_F_DADDR), whole(0), one(follow("refused", 0)))},
		}},
		{"prerouting", "nat", unix.NF_INET_PRE_ROUTING, priorityDNAT, []rule{{"services", leadTo("services")}}},
		{"output", "nat", unix.NF_INET_LOCAL_OUT, priorityDNAT, []rule{{"services", leadTo("services")}}},
		{"postrouting", "nat", unix.NF_INET_POST_ROUTING, prioritySNAT, []rule{
			// The mark must not go on into a tunnel's outer packet.
			{"marked", steps(marked(), unmark(), one(masquerade(randomFully)))},
			{"pods that reach themselves", steps(from(c.PodCIDR), to(c.PodCIDR), some(ct(0, unix.NFT_CT_STATUS), statusDNAT),
				[]expression{saddr(0), daddr(1), in("hairpins", 0), masquerade(0)})},
			{"leaves the cluster", steps(from(c.PodCIDR), notTo(c.ClusterPodCIDR),
				[]expression{meta(0, unix.NFT_META_OIFNAME), compare(0, unix.NFT_CMP_NEQ, append([]byte("lo"), make([]byte, 14)...)), masquerade(randomFully)})},
		}},
		{"filter-input", "filter", unix.NF_INET_LOCAL_IN, priorityFilter, []rule{
			// route_localnet lets NodePorts work on 127.0.0.1; without this rule the neighbours on the link could reach what
			// listens there only (CVE-2020-8558).
			{"guards 127.0.0.1", steps(notFrom(loopback), to(loopback), none(ct(0, unix.NFT_CT_STATE), stateEstablished|stateRelated),
				none(ct(0, unix.NFT_CT_STATUS), statusDNAT), one(decide(verdictDrop, "")))},
			refuse,
		}},
		{"filter-forward", "filter", unix.NF_INET_FORWARD, priorityFilter, []rule{
			// A packet that connection tracking cannot place would reach the client untranslated and end its connection.
			{"belongs to no connection", steps(from(c.ClusterPodCIDR), some(ct(0, unix.NFT_CT_STATE), stateInvalid), one(decide(verdictDrop, "")))},
			refuse, unknown,
		}},
		{"filter-output", "filter", unix.NF_INET_LOCAL_OUT, priorityFilter, append(output, refuse, unknown)},
	}
}

// way is how a Service is reached. Ways that are alike share their chains.
type way struct {
	kind     string // one of the kinds below
	node     bool   // a port of the node, looked up with 0.0.0.0
	n, local int    // endpoints for the cluster, and for clients from outside with policy Local
	guarded  bool
	// With session affinity: whose port it is, and what the memories of the two lists are called. Such chains are not shared.
	sticky, all, here string
}

const (
	wayCluster  = "cluster"  // the ClusterIP
	wayExternal = "external" // from outside, to any endpoint
	wayLocal    = "local"    // from outside, to endpoints on this node
	wayHost     = "hostport"
)

func (w way) String() string {
	name := w.kind
	switch {
	case w.kind == wayHost:
		return name + suffix(w.node, "-node")
	case w.kind == wayLocal:
		name = fmt.Sprintf("external-%d-local-%d", w.n, w.local)
	default:
		name = fmt.Sprintf("%s-%d", name, w.n)
	}
	if w.sticky != "" {
		name += "-sticky-" + w.sticky + suffix(w.all != "", "-"+w.all) + suffix(w.here != "", "-"+w.here)
	}
	return suffix(w.guarded, "guarded-") + name + suffix(w.node, "-node")
}

func suffix(yes bool, s string) string {
	if yes {
		return s
	}
	return ""
}

// spread is a chain that chooses an endpoint.
type spread struct {
	n     int
	local bool // of the list for policy Local
	node  bool
}

func (s spread) String() string {
	return fmt.Sprintf("endpoints-%d", s.n) + suffix(s.local, "-local") + suffix(s.node, "-node")
}

// chains that the way needs besides those of memories; those led to come first.
func (c *Config) chains(w way) []chain {
	var out []chain
	var rules []rule
	// choose leads those who match to an endpoint of the list. A memory comes back with those of whom it has no room to take note.
	choose := func(comment, memory string, s spread, match ...expression) {
		if memory != "" {
			rules = append(rules, rule{comment + ", the same again", steps(match, one(decide(unix.NFT_JUMP, memoryChain(w.sticky, memory))))})
		}
		if name := s.String(); len(out) == 0 || out[len(out)-1].name != name {
			out = append(out, chain{name: name, rules: s.rules()})
		}
		rules = append(rules, rule{comment, steps(match, leadTo(s.String()))})
	}
	all := spread{n: w.n, node: w.node}
	switch w.kind {
	case wayCluster:
		rules = append(rules, rule{"not from a pod", steps(notFrom(c.ClusterPodCIDR), mark())})
		choose("any endpoint", w.all, all)
	case wayExternal:
		// The endpoint may be on another node and must answer through this one.
		rules = append(rules, rule{"from outside", mark()})
		choose("any endpoint", w.all, all)
	case wayLocal:
		if w.n > 0 {
			// Pods and the node itself are inside: they reach every endpoint.
			choose("pods reach any", w.all, all, from(c.ClusterPodCIDR)...)
			rules = append(rules, rule{"from the node itself", steps(local(unix.NFTA_FIB_F_SADDR), mark())})
			choose("the node reaches any", w.all, all, local(unix.NFTA_FIB_F_SADDR)...)
		}
		if w.local > 0 {
			choose("endpoints on this node", w.here, spread{w.local, true, w.node})
		}
	case wayHost:
		rules = append(rules,
			rule{"not this node's", steps([]expression{fibType(0, unix.NFTA_FIB_F_DADDR), compare(0, unix.NFT_CMP_NEQ, native(addrLocal)), decide(verdictReturn, "")})},
			// A client on 127.0.0.1 is masqueraded, since the pod could not answer it.
			rule{"from the node's loopback", steps(from(netip.MustParsePrefix("127.0.0.0/8")), mark())})
		choose("the pod", "", spread{n: 1, node: w.node})
	}
	if w.guarded {
		open := w
		open.guarded = false
		out = append(out, chain{name: open.String(), rules: rules})
		rules = []rule{{"loadBalancerSourceRanges", steps(where(0, w.node), one(saddr(3)), one(in("allowed", 0)), leadTo(open.String()))}}
	}
	return append(out, chain{name: w.String(), rules: rules})
}

// rules choose an endpoint and translate to it.
func (s spread) rules() (out []rule) {
	first := uint32(0)
	if s.local {
		first = localList
	}
	// A number of a choice of one is a constant that nft can show.
	at := func(n uint32) []expression { return steps(where(0, s.node), one(random(3, 1, first+n))) }
	out = append(out, rule{fmt.Sprintf("one of %d", s.n), steps(where(0, s.node), []expression{random(3, uint32(s.n), first), mapped("endpoints", 0, 4), dnat(4, 5)})})
	if s.n > 1 {
		// Between the look at services and the one at endpoints their number may have become smaller.
		out = append(out, rule{"while the list changes", steps(at(0), []expression{mapped("endpoints", 0, 4), dnat(4, 5)})})
	}
	return out
}

// sample are ways of each kind: what a kernel must know.
func (c *Config) sample() *wishes {
	all, here := newMemory("sample", 10800, []target{1 << 16, 2 << 16}), newMemory("sample", 1, []target{1 << 16})
	sticky := entry{way: way{kind: wayLocal, n: 2, local: 1, node: true}}
	sticky.remember(all, here)
	w := newWishes(c)
	for _, e := range []*entry{
		{way: way{kind: wayCluster, n: 2}}, {way: way{kind: wayExternal, n: 1, guarded: true}}, {way: way{kind: wayLocal, n: 2, local: 2, node: true}},
		{way: way{kind: wayHost}}, {way: way{kind: wayHost, node: true}}, &sticky,
	} {
		w.add(e)
	}
	return w
}

// version changes with everything that stands in the rules.
func (c *Config) version() string {
	b := &batch{}
	c.define(b, Table, "", c.base())
	c.sample().write(b, Table)
	sum := sha256.Sum256(b.b)
	return fmt.Sprintf("%x", sum[:6])
}

// define adds a table's sets and base chains. The version stands in the first rule's comment.
func (c *Config) define(b *batch, table, version string, base []chain) {
	for i := range sets {
		addSet(b, table, &sets[i])
	}
	for _, ch := range base {
		addChain(b, table, ch)
	}
	for i, ch := range base {
		if i == 0 {
			ch.rules[0].comment += versionNote + version
		}
		addRules(b, table, ch)
	}
}

const versionNote = ", rules of version "

func addTable(b *batch, table string, flags uint32) {
	b.message(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, func(b *buffer) {
		b.string(unix.NFTA_TABLE_NAME, table)
		b.u32(unix.NFTA_TABLE_FLAGS, flags)
	})
}

func deleteTable(b *batch, table string) {
	b.message(unix.NFT_MSG_DELTABLE, 0, func(b *buffer) { b.string(unix.NFTA_TABLE_NAME, table) })
}

func addSet(b *batch, table string, s *set) {
	number := b.seq // another for each; nobody asks for it
	b.message(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE, func(b *buffer) {
		b.string(unix.NFTA_SET_TABLE, table)
		b.string(unix.NFTA_SET_NAME, s.name)
		b.u32(unix.NFTA_SET_FLAGS, s.flags)
		b.u32(unix.NFTA_SET_KEY_TYPE, concat(s.key))
		b.u32(unix.NFTA_SET_KEY_LEN, uint32(4*len(s.key)))
		switch {
		case s.data == nil:
		case len(s.data) == 0:
			b.u32(unix.NFTA_SET_DATA_TYPE, typeVerdict)
		default:
			b.u32(unix.NFTA_SET_DATA_TYPE, concat(s.data))
			b.u32(unix.NFTA_SET_DATA_LEN, uint32(4*len(s.data)))
		}
		b.u32(unix.NFTA_SET_ID, number)
		if s.flags&unix.NFT_SET_TIMEOUT != 0 {
			b.u32(unix.NFTA_SET_GC_INTERVAL, tidyEvery)
		}
		if s.flags&setConcat != 0 {
			b.nest(unix.NFTA_SET_DESC, func() { describe(b, s.key) })
		}
	})
}

func deleteSet(b *batch, table, name string) {
	b.message(unix.NFT_MSG_DELSET, 0, func(b *buffer) {
		b.string(unix.NFTA_SET_TABLE, table)
		b.string(unix.NFTA_SET_NAME, name)
	})
}

// describe tells the kernel of which fields a key with ranges consists.
func describe(b *buffer, key []uint32) {
	const descConcat, fieldLen = 2, 1
	b.nest(descConcat, func() {
		for _, t := range key {
			size := map[uint32]uint32{typeProto: 1, typePort: 2}[t]
			if size == 0 {
				size = 4
			}
			b.nest(unix.NFTA_LIST_ELEM, func() { b.u32(fieldLen, size) })
		}
	})
}

func concat(types []uint32) (out uint32) {
	for _, t := range types {
		out = out<<6 | t
	}
	return out
}

func addChain(b *batch, table string, c chain) {
	b.message(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE, func(b *buffer) {
		b.string(unix.NFTA_CHAIN_TABLE, table)
		b.string(unix.NFTA_CHAIN_NAME, c.name)
		if c.typ != "" {
			b.nest(unix.NFTA_CHAIN_HOOK, func() {
				b.u32(unix.NFTA_HOOK_HOOKNUM, c.hook)
				b.u32(unix.NFTA_HOOK_PRIORITY, uint32(c.priority))
			})
			b.string(unix.NFTA_CHAIN_TYPE, c.typ)
		}
	})
}

func deleteChain(b *batch, table, name string) {
	b.message(unix.NFT_MSG_DELRULE, 0, func(b *buffer) {
		b.string(unix.NFTA_RULE_TABLE, table)
		b.string(unix.NFTA_RULE_CHAIN, name)
	})
	b.message(unix.NFT_MSG_DELCHAIN, 0, func(b *buffer) {
		b.string(unix.NFTA_CHAIN_TABLE, table)
		b.string(unix.NFTA_CHAIN_NAME, name)
	})
}

func addRules(b *batch, table string, c chain) {
	for _, r := range c.rules {
		b.message(unix.NFT_MSG_NEWRULE, unix.NLM_F_CREATE|unix.NLM_F_APPEND, func(b *buffer) {
			b.string(unix.NFTA_RULE_TABLE, table)
			b.string(unix.NFTA_RULE_CHAIN, c.name)
			b.nest(unix.NFTA_RULE_EXPRESSIONS, func() {
				for _, e := range r.steps {
					e(b)
				}
			})
			b.bytes(unix.NFTA_RULE_USERDATA, note(r.comment))
		})
	}
}
