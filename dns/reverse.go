package dns

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// Suffixes of the names of addresses.
const inAddr, ip6 = ".in-addr.arpa.", ".ip6.arpa."

// reverseZone is a range of the cluster's own addresses and the SOA record that answers about it carry.
type reverseZone struct {
	netip.Prefix
	soa *dns.SOA
}

// lookupReverse answers for the names of addresses: those of the cluster's ranges, whether anything has them or not, and those
// elsewhere that a headless Service leads to.
func (s *Snapshot) lookupReverse(name string, qtype uint16) Result {
	p, below := reversePrefix(name)
	i := slices.IndexFunc(s.reverse, func(z reverseZone) bool { return p.Bits() >= z.Bits() && z.Contains(p.Addr()) })
	if i < 0 {
		known := s.pointersTo(p)
		if below || len(known) == 0 {
			return Result{} // not ours to say
		}
		_, parent, _ := strings.Cut(name, ".")
		return result(pointerRecords(name, qtype, known), nil, true, "", s.startOf(parent))
	}
	soa := s.reverse[i].soa
	switch {
	case !s.synced:
		return Result{Ours: true, Rcode: dns.RcodeServerFailure}
	case below:
		return result(nil, nil, false, "", soa)
	case !p.IsSingleIP(): // a step on the way to addresses
		if name == soa.Hdr.Name && asks(qtype, dns.TypeSOA) {
			return result([]dns.RR{soa}, nil, true, "", soa)
		}
		return result(nil, nil, true, "", soa)
	}
	known := s.pointersTo(p)
	return result(pointerRecords(name, qtype, known), nil, len(known) > 0, "", soa)
}

// pointersTo the names that an address leads back to.
func (s *Snapshot) pointersTo(p netip.Prefix) []pointer {
	if !p.IsSingleIP() {
		return nil
	}
	known := s.pointers[addressShard(p.Addr())][p.Addr()]
	if len(known) == 0 && p.Addr() == s.ServerIP {
		return []pointer{{name: s.soa.Ns}}
	}
	return known
}

func pointerRecords(name string, qtype uint16, known []pointer) (rrs []dns.RR) {
	if asks(qtype, dns.TypePTR) {
		for _, p := range known {
			rrs = append(rrs, &dns.PTR{Hdr: header(name, dns.TypePTR), Ptr: p.name})
		}
	}
	return rrs
}

// reversePrefix is the range that a name below in-addr.arpa or ip6.arpa stands for; below says that the name goes on with what
// is no part of an address.
func reversePrefix(name string) (p netip.Prefix, below bool) {
	var b [16]byte
	text, size, base, bits := strings.TrimSuffix(name, inAddr), 4, 10, 8
	if strings.HasSuffix(name, ip6) {
		text, size, base, bits = strings.TrimSuffix(name, ip6), 16, 16, 4
	}
	labels := strings.Split(text, ".")
	slices.Reverse(labels)
	n := 0
	for _, l := range labels {
		v, err := strconv.ParseUint(l, base, bits)
		if n == 8*size || err != nil || len(l) > 1 && (l[0] == '0' || size == 16) {
			below = true
			break
		}
		b[n/8] |= byte(v) << (8 - bits - n%8)
		n += bits
	}
	ip, _ := netip.AddrFromSlice(b[:size])
	return netip.PrefixFrom(ip, n), below
}

// ReverseName is the name below in-addr.arpa or ip6.arpa of the smallest range that has one of its own and contains p.
func ReverseName(p netip.Prefix) string {
	var b strings.Builder
	bytes := p.Addr().AsSlice()
	if p.Addr().Is4() {
		for i := p.Bits()/8 - 1; i >= 0; i-- {
			b.WriteString(strconv.Itoa(int(bytes[i])) + ".")
		}
		return b.String() + inAddr[1:]
	}
	for i := p.Bits()/4 - 1; i >= 0; i-- {
		b.WriteString(strconv.FormatUint(uint64(bytes[i/2]>>(4-4*(i%2))&0xf), 16) + ".")
	}
	return b.String() + ip6[1:]
}
