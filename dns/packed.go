package dns

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxVariants bounds how many rotations of an answer are kept ready; those of a large one have rotationBytes together.
	maxVariants   = 8
	rotationBytes = 32 << 10
)

// packed is a finished answer. What follows the question is the same bytes for every client: names are compressed
// against the question, which has the same length however its letters are cased.
type packed struct {
	flags      uint16 // AA, RA and the response code
	an, ns, ar uint16
	variants   []variant
	bytes      int       // of memory, about
	generation uint64    // of the zone, for answers that come from it or begin in it; otherwise 0
	stored     time.Time // for answers from upstream, whose TTLs run down
	expires    time.Time
}

// variant is the records in one order: all, or as many as a message can have.
type variant struct {
	body []byte
	ends []int // where each answer record ends
	ttls []int // where each record's TTL stands
	cut  bool  // there are more records
}

// pack makes the finished answer to a question of the given name and type.
func pack(name string, flags uint16, answer, auth, extra []dns.RR) (*packed, error) {
	p := &packed{flags: flags, an: uint16(len(answer)), ns: uint16(len(auth)), ar: uint16(len(extra))}
	// Packing writes each record's length into it, and records may be shared: the zone's SOA, an upstream's answer.
	answer, auth, extra = copies(answer), copies(auth), copies(extra)
	n := 1
	for i := 0; i < n; i++ {
		// Spread the rotations over long lists.
		k := i * len(answer) / n
		order := append(append(make([]dns.RR, 0, len(answer)), answer[k:]...), answer[:k]...)
		v, err := packVariant(name, order, auth, extra)
		if err != nil {
			return nil, err
		}
		if i == 0 && rotates(answer) {
			n = min(len(answer), max(2, min(maxVariants, rotationBytes/len(v.body))))
		}
		p.variants = append(p.variants, v)
		p.bytes += v.bytes()
	}
	p.bytes += packedBytes
	return p, nil
}

// packedBytes is what a packed and its place in a map take, without its variants and the question.
const packedBytes = 250

func (v *variant) bytes() int { return 72 + cap(v.body) + 8*(cap(v.ends)+cap(v.ttls)) }

func copies(list []dns.RR) []dns.RR {
	out := make([]dns.RR, len(list))
	for i, rr := range list {
		out[i] = dns.Copy(rr)
	}
	return out
}

// rotates tells whether the order of the records means nothing: several of one address type or SRV.
func rotates(answer []dns.RR) bool {
	if len(answer) < 2 {
		return false
	}
	for _, rr := range answer {
		t := rr.Header().Rrtype
		if t != answer[0].Header().Rrtype || t != dns.TypeA && t != dns.TypeAAAA && t != dns.TypeSRV {
			return false
		}
	}
	return true
}

func packVariant(name string, answer, auth, extra []dns.RR) (variant, error) {
	size := headerLen + 260
	for _, list := range [][]dns.RR{answer, auth, extra} {
		for _, rr := range list {
			size += dns.Len(rr)
		}
	}
	buf := make([]byte, min(size, math.MaxUint16-optLen))
	names := map[string]int{}
	off, err := dns.PackDomainName(name, buf, headerLen, names, true)
	if err != nil {
		return variant{}, err
	}
	off += 4
	start := off
	var v variant
	for i, list := range [][]dns.RR{answer, auth, extra} {
		for _, rr := range list {
			at := off
			if off, err = dns.PackRR(rr, buf, off, names, true); err != nil {
				if size <= len(buf) {
					return variant{}, err
				}
				off, v.cut = at, true
				break
			}
			v.ttls = append(v.ttls, skipName(buf[:off], at)+4-start)
			if i == 0 {
				v.ends = append(v.ends, off-start)
			}
		}
		if v.cut {
			break
		}
	}
	v.body = append([]byte(nil), buf[start:off]...)
	return v, nil
}

// write puts the answer to q into out and returns it. limit is the most it may have; what does not fit is left out and
// said to be (TC): old clients use what there is, others ask again by TCP.
func (p *packed) write(q *question, out []byte, limit int, turn uint32, now time.Time) []byte {
	v := &p.variants[0]
	if n := uint32(len(p.variants)); n > 1 {
		v = &p.variants[turn%n]
	}
	flags := flagQR | q.flags&(flagRD|flagCD) | p.flags
	room := limit - headerLen - len(q.wire)
	if q.edns {
		room -= optLen
	}
	body, an, ns, ar := v.body, p.an, p.ns, p.ar
	if len(body) > room || v.cut {
		body, an, ns, ar = v.fit(room)
		// What the answer does not need may be dropped silently: additional records, and others' name servers (RFC 2181, 9).
		if an < p.an || p.ns > 0 && (p.an == 0 || p.flags&0xf != 0) {
			flags |= flagTC
		}
	}
	if q.edns {
		ar++
	}
	out = out[:headerLen]
	binary.BigEndian.PutUint16(out, q.id)
	binary.BigEndian.PutUint16(out[2:], flags)
	binary.BigEndian.PutUint16(out[4:], 1)
	binary.BigEndian.PutUint16(out[6:], an)
	binary.BigEndian.PutUint16(out[8:], ns)
	binary.BigEndian.PutUint16(out[10:], ar)
	out = append(out, q.wire...)
	at := len(out)
	out = append(out, body...)
	if !p.stored.IsZero() {
		age(out[at:], v.ttls, now.Sub(p.stored))
	}
	if q.edns {
		out = appendOPT(out, q, 0)
	}
	return out
}

// fit returns as many answer records as there is room for.
func (v *variant) fit(room int) (body []byte, an, ns, ar uint16) {
	n := 0
	for n < len(v.ends) && v.ends[n] <= room {
		n++
	}
	if n == 0 {
		return nil, 0, 0, 0
	}
	return v.body[:v.ends[n-1]], uint16(n), 0, 0
}

func age(body []byte, ttls []int, passed time.Duration) {
	seconds := uint32(passed / time.Second)
	for _, at := range ttls {
		if at+4 > len(body) {
			return // cut off
		}
		ttl := binary.BigEndian.Uint32(body[at:])
		binary.BigEndian.PutUint32(body[at:], ttl-min(ttl, seconds))
	}
}

func appendOPT(out []byte, q *question, extendedRcode byte) []byte {
	do := byte(0)
	if q.dnssecOK {
		do = 0x80
	}
	return append(out, 0, 0, byte(dns.TypeOPT), byte(udpMost>>8), byte(udpMost&0xff), extendedRcode, 0, do, 0, 0, 0)
}

// refuse is an answer without records. A question that could not be read is not repeated.
func refuse(q *question, out []byte, rcode int) []byte {
	out = out[:headerLen]
	clear(out)
	binary.BigEndian.PutUint16(out, q.id)
	binary.BigEndian.PutUint16(out[2:], flagQR|q.flags&(0xf<<11|flagRD|flagCD)|flagRA|uint16(rcode&0xf))
	if q.wire != nil {
		out[5] = 1
		out = append(out, q.wire...)
	}
	if q.edns {
		out[11] = 1
		out = appendOPT(out, q, byte(rcode>>4))
	}
	return out
}
