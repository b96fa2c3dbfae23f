package network

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestTranslatedTo(t *testing.T) {
	dead := translatedTo{netip.MustParsePrefix("10.244.2.0/24"), netip.MustParsePrefix("198.51.100.13/32")}
	tests := []struct {
		name          string
		dst, endpoint string
		want          bool
	}{
		{"Service to a pod there", "10.254.0.7:80", "10.244.2.5:8080", true},
		{"NodePort to its own address", "198.51.100.11:30080", "198.51.100.13:80", true},
		{"NodePort of its own, from here", "198.51.100.13:30080", "198.51.100.13:80", true},
		{"Service to a pod elsewhere", "10.254.0.7:80", "10.244.1.5:8080", false},
		{"not translated", "10.244.2.5:8080", "10.244.2.5:8080", false},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			dst, end := netip.MustParseAddrPort(c.dst), netip.MustParseAddrPort(c.endpoint)
			// The kernel's answers hold addresses of 4 bytes, the library's own of 16.
			for _, ip := range []func(netip.Addr) net.IP{func(a netip.Addr) net.IP { return a.AsSlice() }, func(a netip.Addr) net.IP { b := a.As16(); return b[:] }} {
				f := &netlink.ConntrackFlow{
					Forward: netlink.IPTuple{DstIP: ip(dst.Addr()), DstPort: dst.Port()},
					Reverse: netlink.IPTuple{SrcIP: ip(end.Addr()), SrcPort: end.Port()},
				}
				if got := dead.MatchConntrackFlow(f); got != c.want {
					t.Errorf("matches: %v, want %v", got, c.want)
				}
			}
		})
	}
	if dead.MatchConntrackFlow(&netlink.ConntrackFlow{}) {
		t.Error("an empty flow matches")
	}
}
