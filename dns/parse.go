package dns

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

const (
	headerLen = 12
	// optLen is the size of an OPT record without options.
	optLen = 11
	// udpPlain is what a client without EDNS0 takes (RFC 1035), udpMost what we send at most by UDP: more would be
	// fragmented on the way (DNS flag day 2020).
	udpPlain, udpMost = 512, 1232
)

// question is a query taken apart, pointing into the message it came in.
type question struct {
	id       uint16
	flags    uint16
	wire     []byte // name, type and class as they came
	qtype    uint16
	edns     bool
	dnssecOK bool
	size     int // largest UDP answer the client takes
	key      [maxKey]byte
	keyLen   int
}

const maxKey = 255 + 3

const (
	flagQR = 1 << 15
	flagAA = 1 << 10
	flagTC = 1 << 9
	flagRD = 1 << 8
	flagRA = 1 << 7
	flagAD = 1 << 5
	flagCD = 1 << 4
)

// parse reads a query. It returns the response code to refuse it with, or ignore when it deserves no answer at all.
func (q *question) parse(msg []byte) (rcode int, ok bool) {
	if len(msg) < headerLen {
		return ignore, false
	}
	q.id, q.flags = binary.BigEndian.Uint16(msg), binary.BigEndian.Uint16(msg[2:])
	if q.flags&flagQR != 0 {
		return ignore, false
	}
	q.size = udpPlain
	if opcode := q.flags >> 11 & 0xf; opcode != dns.OpcodeQuery {
		return dns.RcodeNotImplemented, false
	}
	qd, an, ns, ar := binary.BigEndian.Uint16(msg[4:]), binary.BigEndian.Uint16(msg[6:]), binary.BigEndian.Uint16(msg[8:]), binary.BigEndian.Uint16(msg[10:])
	if qd != 1 || an != 0 || ns != 0 || ar > 2 {
		return dns.RcodeFormatError, false
	}
	off := q.readName(msg)
	if off < 0 {
		return dns.RcodeFormatError, false
	}
	if off+4 > len(msg) {
		return dns.RcodeFormatError, false
	}
	q.qtype = binary.BigEndian.Uint16(msg[off:])
	q.keyLen = off - headerLen
	q.key[q.keyLen], q.key[q.keyLen+1] = msg[off], msg[off+1]
	q.keyLen += 2
	q.wire = msg[headerLen : off+4]
	class := binary.BigEndian.Uint16(msg[off+2:])
	off += 4
	for range ar {
		var good bool
		if off, good = q.additional(msg, off); !good {
			return dns.RcodeFormatError, false
		}
	}
	if q.dnssecOK {
		q.key[q.keyLen] = 1
	} else {
		q.key[q.keyLen] = 0
	}
	q.keyLen++
	switch {
	case class != dns.ClassINET:
		return dns.RcodeRefused, false
	case q.qtype == dns.TypeAXFR || q.qtype == dns.TypeIXFR || q.qtype == dns.TypeOPT:
		return dns.RcodeRefused, false
	case q.edns && q.size < 0:
		q.size = udpPlain
		return dns.RcodeBadVers, false
	}
	return dns.RcodeSuccess, true
}

// readName copies the question's name into the key, in lower case, and returns where it ends, or -1. A question's name
// is the first in its message and so cannot be compressed.
func (q *question) readName(msg []byte) int {
	off := headerLen
	for {
		if off >= len(msg) {
			return -1
		}
		n := int(msg[off])
		if n > 63 || off+1+n > len(msg) || off+1+n-headerLen > 255 {
			return -1
		}
		q.key[off-headerLen] = byte(n)
		for i := off + 1; i <= off+n; i++ {
			c := msg[i]
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			q.key[i-headerLen] = c
		}
		off += 1 + n
		if n == 0 {
			return off
		}
	}
}

// ignore is no response code: the packet gets no answer.
const ignore = -1

// additional reads one record after the question: OPT, or another that is skipped (TSIG).
func (q *question) additional(msg []byte, off int) (next int, ok bool) {
	root := off < len(msg) && msg[off] == 0
	off = skipName(msg, off)
	if off < 0 || off+10 > len(msg) {
		return 0, false
	}
	rrtype, size, ttl := binary.BigEndian.Uint16(msg[off:]), binary.BigEndian.Uint16(msg[off+2:]), binary.BigEndian.Uint32(msg[off+4:])
	next = off + 10 + int(binary.BigEndian.Uint16(msg[off+8:]))
	if next > len(msg) {
		return 0, false
	}
	if rrtype == dns.TypeOPT && root {
		if q.edns {
			return 0, false
		}
		q.edns = true
		q.dnssecOK = ttl&(1<<15) != 0
		q.size = min(max(int(size), udpPlain), udpMost)
		if ttl>>16&0xff != 0 {
			q.size = -1 // a version we do not know
		}
	}
	return next, true
}

// skipName returns the offset after a name that may be compressed, or -1.
func skipName(msg []byte, off int) int {
	for off < len(msg) {
		switch n := int(msg[off]); {
		case n == 0:
			return off + 1
		case n&0xc0 == 0xc0:
			if off+2 > len(msg) {
				return -1
			}
			return off + 2
		case n > 63:
			return -1
		default:
			off += 1 + n
		}
	}
	return -1
}

// name is the question's name in presentation form, lower case; only needed when no finished answer is there.
func (q *question) name() string {
	name, _, err := dns.UnpackDomainName(q.key[:q.keyLen], 0)
	if err != nil {
		return "."
	}
	return name
}
