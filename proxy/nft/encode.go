package nft

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// buffer is appended to as netlink wants it: attributes of a type, a length and a value, each aligned to 4 bytes.
type buffer struct{ b []byte }

const (
	attrHeader = 4
	nested     = unix.NLA_F_NESTED
	typeMask   = 0x3fff
)

func align(n int) int { return (n + 3) &^ 3 }

func (b *buffer) bytes(typ uint16, value []byte) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(attrHeader+len(value)))
	b.b = binary.NativeEndian.AppendUint16(b.b, typ)
	b.b = append(b.b, value...)
	b.pad()
}

func (b *buffer) pad() {
	for len(b.b)&3 != 0 {
		b.b = append(b.b, 0)
	}
}

// string is ended by a zero, as the kernel expects names.
func (b *buffer) string(typ uint16, s string) {
	b.b = binary.NativeEndian.AppendUint16(b.b, uint16(attrHeader+len(s)+1))
	b.b = binary.NativeEndian.AppendUint16(b.b, typ)
	b.b = append(append(b.b, s...), 0)
	b.pad()
}

// u32 is in network order, as all numbers of nf_tables are.
func (b *buffer) u32(typ uint16, v uint32) { b.bytes(typ, binary.BigEndian.AppendUint32(nil, v)) }

func (b *buffer) u64(typ uint16, v uint64) { b.bytes(typ, binary.BigEndian.AppendUint64(nil, v)) }

func (b *buffer) nest(typ uint16, fill func()) {
	at := b.open(typ)
	fill()
	b.shut(at)
}

func (b *buffer) open(typ uint16) (at int) {
	at = len(b.b)
	b.b = binary.NativeEndian.AppendUint16(b.b, 0)
	b.b = binary.NativeEndian.AppendUint16(b.b, typ|nested)
	return at
}

func (b *buffer) shut(at int) { binary.NativeEndian.PutUint16(b.b[at:], uint16(len(b.b)-at)) }

// each walks over attributes.
func each(attrs []byte, f func(typ uint16, value []byte)) {
	for len(attrs) >= attrHeader {
		size := int(binary.NativeEndian.Uint16(attrs))
		if size < attrHeader || size > len(attrs) {
			return
		}
		f(binary.NativeEndian.Uint16(attrs[2:])&typeMask, attrs[attrHeader:size])
		attrs = attrs[min(align(size), len(attrs)):]
	}
}

// get is one attribute's value, or nil.
func get(attrs []byte, typ uint16) (out []byte) {
	each(attrs, func(t uint16, value []byte) {
		if t == typ && out == nil {
			out = value
		}
	})
	return out
}

func text(value []byte) string {
	if i := bytes.IndexByte(value, 0); i >= 0 {
		value = value[:i]
	}
	return string(value)
}

// note is a comment as nft shows it (libnftnl's user data): of a rule and of an element it has the same number.
func note(s string) []byte {
	if len(s) > maxNote {
		s = s[:maxNote]
	}
	return append(append([]byte{0, byte(len(s) + 1)}, s...), 0)
}

// maxNote is nft's own limit.
const maxNote = 127

// noted reads it.
func noted(userdata []byte) string {
	for len(userdata) >= 2 && int(userdata[1])+2 <= len(userdata) {
		if userdata[0] == 0 {
			return text(userdata[2 : 2+userdata[1]])
		}
		userdata = userdata[2+userdata[1]:]
	}
	return ""
}

// expression is one step of a rule. The first that does not match ends the rule.
type expression func(*buffer)

func express(name string, fill func(*buffer)) expression {
	return func(b *buffer) {
		b.nest(unix.NFTA_LIST_ELEM, func() {
			b.string(unix.NFTA_EXPR_NAME, name)
			b.nest(unix.NFTA_EXPR_DATA, func() { fill(b) })
		})
	}
}

// reg is one of the sixteen registers of four bytes; a value of more takes several in a row.
type reg uint32

func (r reg) number() uint32 { return unix.NFT_REG32_00 + uint32(r) }

const (
	networkHeader, transportHeader = 1, 2
	sourceOffset, destOffset       = 12, 16 // in an IPv4 header
	portOffset                     = 2      // of the destination port: the same for TCP, UDP and SCTP
)

func payload(to reg, base, offset, size uint32) expression {
	return express("payload", func(b *buffer) {
		b.u32(unix.NFTA_PAYLOAD_DREG, to.number())
		b.u32(unix.NFTA_PAYLOAD_BASE, base)
		b.u32(unix.NFTA_PAYLOAD_OFFSET, offset)
		b.u32(unix.NFTA_PAYLOAD_LEN, size)
	})
}

func saddr(to reg) expression { return payload(to, networkHeader, sourceOffset, 4) }
func daddr(to reg) expression { return payload(to, networkHeader, destOffset, 4) }
func dport(to reg) expression { return payload(to, transportHeader, portOffset, 2) }

func meta(to reg, key uint32) expression {
	return express("meta", func(b *buffer) {
		b.u32(unix.NFTA_META_DREG, to.number())
		b.u32(unix.NFTA_META_KEY, key)
	})
}

func setMark(from reg) expression {
	return express("meta", func(b *buffer) {
		b.u32(unix.NFTA_META_KEY, unix.NFT_META_MARK)
		b.u32(unix.NFTA_META_SREG, from.number())
	})
}

func ct(to reg, key uint32) expression {
	return express("ct", func(b *buffer) {
		b.u32(unix.NFTA_CT_DREG, to.number())
		b.u32(unix.NFTA_CT_KEY, key)
	})
}

func fibType(to reg, flag uint32) expression {
	return express("fib", func(b *buffer) {
		b.u32(unix.NFTA_FIB_DREG, to.number())
		b.u32(unix.NFTA_FIB_RESULT, unix.NFT_FIB_RESULT_ADDRTYPE)
		b.u32(unix.NFTA_FIB_FLAGS, flag)
	})
}

func value(b *buffer, typ uint16, data []byte) {
	b.nest(typ, func() { b.bytes(unix.NFTA_DATA_VALUE, data) })
}

func bitwise(r reg, mask, xor []byte) expression {
	return express("bitwise", func(b *buffer) {
		b.u32(unix.NFTA_BITWISE_SREG, r.number())
		b.u32(unix.NFTA_BITWISE_DREG, r.number())
		b.u32(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		value(b, unix.NFTA_BITWISE_MASK, mask)
		value(b, unix.NFTA_BITWISE_XOR, xor)
	})
}

func compare(r reg, op uint32, data []byte) expression {
	return express("cmp", func(b *buffer) {
		b.u32(unix.NFTA_CMP_SREG, r.number())
		b.u32(unix.NFTA_CMP_OP, op)
		value(b, unix.NFTA_CMP_DATA, data)
	})
}

// load puts what is known beforehand into a register.
func load(to reg, data []byte) expression {
	return express("immediate", func(b *buffer) {
		b.u32(unix.NFTA_IMMEDIATE_DREG, to.number())
		value(b, unix.NFTA_IMMEDIATE_DATA, data)
	})
}

// decide ends the rule with a verdict; chain names where to go.
func decide(code int32, chain string) expression {
	return express("immediate", func(b *buffer) {
		b.u32(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		b.nest(unix.NFTA_IMMEDIATE_DATA, func() { verdict(b, code, chain) })
	})
}

func verdict(b *buffer, code int32, chain string) {
	b.nest(unix.NFTA_DATA_VERDICT, func() {
		b.u32(unix.NFTA_VERDICT_CODE, uint32(code))
		if chain != "" {
			b.string(unix.NFTA_VERDICT_CHAIN, chain)
		}
	})
}

const (
	verdictDrop   = 0
	verdictGoto   = unix.NFT_GOTO
	verdictReturn = unix.NFT_RETURN
)

// in matches when the set has what the registers from the first on hold.
func in(set string, from reg) expression {
	return express("lookup", func(b *buffer) {
		b.string(unix.NFTA_LOOKUP_SET, set)
		b.u32(unix.NFTA_LOOKUP_SREG, from.number())
	})
}

// mapped puts what the map has for that into other registers.
func mapped(set string, from, to reg) expression { return lookup(set, from, to.number()) }

// follow goes where the map says.
func follow(set string, from reg) expression { return lookup(set, from, unix.NFT_REG_VERDICT) }

func lookup(set string, from reg, to uint32) expression {
	return express("lookup", func(b *buffer) {
		b.string(unix.NFTA_LOOKUP_SET, set)
		b.u32(unix.NFTA_LOOKUP_SREG, from.number())
		b.u32(unix.NFTA_LOOKUP_DREG, to)
	})
}

const (
	dynsetUpdate = unix.NFT_DYNSET_OP_UPDATE
)

// remember writes into a set from within a rule.
func remember(set string, op uint32, key reg, milliseconds uint64) expression {
	return express("dynset", func(b *buffer) {
		b.string(unix.NFTA_DYNSET_SET_NAME, set)
		b.u32(unix.NFTA_DYNSET_OP, op)
		b.u32(unix.NFTA_DYNSET_SREG_KEY, key.number())
		if op == dynsetUpdate {
			b.u64(unix.NFTA_DYNSET_TIMEOUT, milliseconds)
		}
	})
}

// random is a number from first on, below first+n.
func random(to reg, n, first uint32) expression {
	return express("numgen", func(b *buffer) {
		b.u32(unix.NFTA_NG_DREG, to.number())
		b.u32(unix.NFTA_NG_MODULUS, n)
		b.u32(unix.NFTA_NG_TYPE, unix.NFT_NG_RANDOM)
		b.u32(unix.NFTA_NG_OFFSET, first)
	})
}

func dnat(addr, port reg) expression {
	return express("nat", func(b *buffer) {
		b.u32(unix.NFTA_NAT_TYPE, 1) // NFT_NAT_DNAT
		b.u32(unix.NFTA_NAT_FAMILY, unix.AF_INET)
		b.u32(unix.NFTA_NAT_REG_ADDR_MIN, addr.number())
		b.u32(unix.NFTA_NAT_REG_PROTO_MIN, port.number())
	})
}

func masquerade(flags uint32) expression {
	return express("masq", func(b *buffer) {
		if flags != 0 {
			b.u32(unix.NFTA_MASQ_FLAGS, flags)
		}
	})
}

// reset answers TCP.
func reset() expression {
	return express("reject", func(b *buffer) {
		b.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST)
		b.bytes(unix.NFTA_REJECT_ICMP_CODE, []byte{0})
	})
}

func reject() expression {
	return express("reject", func(b *buffer) {
		b.u32(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMP_UNREACH)
		b.bytes(unix.NFTA_REJECT_ICMP_CODE, []byte{3}) // ICMP_PORT_UNREACH
	})
}
