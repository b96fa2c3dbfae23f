package policy

import (
	"cmp"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	netutils "k8s.io/utils/net"
)

// addresses lists what ipBlocks stand for together, as few prefixes as possible, in order. What one leaves out another may have.
// No kernel set has to know exceptions this way, and no order matters.
func addresses(blocks []*networkingv1.IPBlock) []netip.Prefix {
	var out []netip.Prefix
	for _, b := range blocks {
		p, ok := parseV4(b.CIDR)
		if !ok {
			continue // IPv6, which pods do not have here
		}
		var except []netip.Prefix
		for _, e := range b.Except {
			if x, ok := parseV4(e); ok {
				except = append(except, x)
			}
		}
		out = without(out, p, except)
	}
	return merge(out)
}

// parseV4 reads a CIDR as the API does: leading zeros, which old manifests have, are let pass.
func parseV4(cidr string) (netip.Prefix, bool) {
	ip, n, err := netutils.ParseCIDRSloppy(cidr)
	if err != nil || ip.To4() == nil {
		return netip.Prefix{}, false
	}
	ones, bits := n.Mask.Size()
	if bits != 32 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(netip.AddrFrom4([4]byte(ip.To4())), ones).Masked(), true
}

// without appends p less the exceptions: halves of halves, until each is in an exception or meets none.
func without(out []netip.Prefix, p netip.Prefix, except []netip.Prefix) []netip.Prefix {
	meets := false
	for _, e := range except {
		if e.Bits() <= p.Bits() && e.Contains(p.Addr()) {
			return out
		}
		meets = meets || p.Overlaps(e)
	}
	if !meets {
		return append(out, p)
	}
	low, high := halves(p)
	return without(without(out, low, except), high, except)
}

func halves(p netip.Prefix) (low, high netip.Prefix) {
	b, bits := p.Addr().As4(), p.Bits()
	b[bits/8] |= 0x80 >> (bits % 8)
	return netip.PrefixFrom(p.Addr(), bits+1), netip.PrefixFrom(netip.AddrFrom4(b), bits+1)
}

// merge drops what is in another prefix, and joins halves.
func merge(list []netip.Prefix) []netip.Prefix {
	slices.SortFunc(list, func(a, b netip.Prefix) int { return cmp.Or(a.Addr().Compare(b.Addr()), a.Bits()-b.Bits()) })
	var out []netip.Prefix
	for _, p := range list {
		if n := len(out); n > 0 && out[n-1].Overlaps(p) {
			continue // the wider one came first
		}
		out = append(out, p)
		for n := len(out); n > 1; n = len(out) {
			a, b := out[n-2], out[n-1]
			if a.Bits() != b.Bits() || a.Bits() == 0 {
				break
			}
			whole := netip.PrefixFrom(a.Addr(), a.Bits()-1).Masked()
			if whole.Addr() != a.Addr() || !whole.Contains(b.Addr()) {
				break
			}
			out = append(out[:n-2], whole)
		}
	}
	return out
}
