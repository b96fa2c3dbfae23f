package master

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

// NoBalancer is the --lb-pool of those who have installed another load balancer, as MetalLB: two that write the addresses of
// the same Services would take them from each other for ever.
const NoBalancer = "none"

func (m *Master) leavesBalancers() bool { return slices.Equal(m.cfg.LBPools, []string{NoBalancer}) }

// parsePools reads what --lb-pool says: ranges of IPv4 addresses as 203.0.113.0/28, 203.0.113.10-203.0.113.20 or
// 203.0.113.10. What it gives is one sorted list of prefixes, in which a range takes as many as it needs: everybody who
// asks whether an address is one of the pool's, agents included, then has one question to ask.
func parsePools(texts []string) ([]netip.Prefix, error) {
	var pool []netip.Prefix
	for _, text := range texts {
		part, err := parsePool(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("--lb-pool %s: %w", text, err)
		}
		for _, p := range part {
			if i := slices.IndexFunc(pool, p.Overlaps); i >= 0 {
				return nil, fmt.Errorf("--lb-pool %s: %s is in another --lb-pool already", text, common(p, pool[i]))
			}
		}
		pool = append(pool, part...)
	}
	slices.SortFunc(pool, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return pool, nil
}

// common is what two prefixes that overlap have in common: the smaller one.
func common(a, b netip.Prefix) netip.Prefix {
	if a.Bits() < b.Bits() {
		return b
	}
	return a
}

var errPoolForm = errors.New("give IPv4 addresses as 203.0.113.0/28, 203.0.113.10-203.0.113.20 or 203.0.113.10")

// The largest pool is a /8, as of the other ranges: more is a slip of the pen.
const poolMinBits = 8

func parsePool(text string) ([]netip.Prefix, error) {
	if from, to, ranged := strings.Cut(text, "-"); ranged {
		first, err1 := netip.ParseAddr(strings.TrimSpace(from))
		last, err2 := netip.ParseAddr(strings.TrimSpace(to))
		switch {
		case err1 != nil || err2 != nil || !first.Is4() || !last.Is4():
			return nil, errPoolForm
		case last.Less(first):
			return nil, fmt.Errorf("%s comes before %s", last, first)
		}
		return usable(prefixes(first, last))
	}
	p, err := netip.ParsePrefix(text)
	if addr, single := netip.ParseAddr(text); single == nil {
		p, err = netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	if err != nil || !p.Addr().Is4() {
		return nil, errPoolForm
	}
	if p != p.Masked() {
		return nil, fmt.Errorf("%s is an address within the range %s: write the range, or the address alone", p, p.Masked())
	}
	return usable([]netip.Prefix{p})
}

// Addresses that can be nobody's on a link.
var unusable = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), // multicast, reserved ones, and the broadcast address
}

func usable(pool []netip.Prefix) ([]netip.Prefix, error) {
	for _, p := range pool {
		if p.Bits() < poolMinBits {
			return nil, fmt.Errorf("the range is larger than a /%d", poolMinBits)
		}
		if slices.ContainsFunc(unusable, p.Overlaps) {
			return nil, fmt.Errorf("%s holds addresses that no machine can have", p)
		}
	}
	return pool, nil
}

// prefixes covers first to last with as few prefixes as possible.
func prefixes(first, last netip.Addr) (out []netip.Prefix) {
	at, end := number(first), number(last)
	for at <= end {
		// The largest prefix that begins here and does not go beyond the end.
		size := bits.TrailingZeros64(at | 1<<32)
		for uint64(1)<<size > end-at+1 {
			size--
		}
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], uint32(at))
		out = append(out, netip.PrefixFrom(netip.AddrFrom4(b), 32-size))
		at += 1 << size
	}
	return out
}

func number(a netip.Addr) uint64 {
	b := a.As4()
	return uint64(binary.BigEndian.Uint32(b[:]))
}

// checkPools refuses a pool that holds addresses which mean something else in this cluster.
func checkPools(pool []netip.Prefix, cfg Config) error {
	for _, p := range pool {
		switch {
		case p.Overlaps(cfg.ServiceCIDR):
			return fmt.Errorf("--lb-pool: %s and --service-cidr %s overlap; give addresses of the nodes' own network that nothing else uses", p, cfg.ServiceCIDR)
		case p.Overlaps(cfg.PodCIDR):
			return fmt.Errorf("--lb-pool: %s and --pod-cidr %s overlap; give addresses of the nodes' own network that nothing else uses", p, cfg.PodCIDR)
		case p.Contains(cfg.Advertise):
			return fmt.Errorf("--lb-pool: %s holds this machine's own address %s; give addresses that no machine has", p, cfg.Advertise)
		}
	}
	return nil
}
