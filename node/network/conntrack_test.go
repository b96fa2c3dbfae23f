package network

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestUDPFlows(t *testing.T) {
	at := netip.MustParseAddrPort
	flows := newUDPFlows([]UDPAddress{
		{At: at("10.254.0.7:53"), Endpoints: []netip.AddrPort{at("10.244.1.2:5353"), at("10.244.2.2:5353")}},
		{At: at("0.0.0.0:30053"), Endpoints: []netip.AddrPort{at("10.244.1.2:5353")}},
		{At: at("198.51.100.11:514"), Endpoints: []netip.AddrPort{at("10.244.1.3:514")}},
		{At: at("0.0.0.0:514"), Endpoints: []netip.AddrPort{at("10.244.1.4:514")}},
		{At: at("10.254.0.8:53")},
	}, map[netip.Addr]bool{netip.MustParseAddr("198.51.100.11"): true, netip.MustParseAddr("172.17.0.1"): true})
	for _, c := range []struct {
		name, dst, endpoint string
		forget              bool
	}{
		{"to an endpoint", "10.254.0.7:53", "10.244.2.2:5353", false},
		{"to one that is gone", "10.254.0.7:53", "10.244.3.2:5353", true},
		{"to its other port", "10.254.0.7:53", "10.244.2.2:5354", true},
		{"older than the rules", "10.254.0.7:53", "10.254.0.7:53", true},
		{"another port", "10.254.0.7:54", "10.244.3.2:5353", false},
		{"nobody is left", "10.254.0.8:53", "10.244.1.2:5353", true},
		{"node port", "198.51.100.11:30053", "10.244.1.2:5353", false},
		{"node port on another address, to one that is gone", "172.17.0.1:30053", "10.244.2.2:5353", true},
		{"node port on loopback, to one that is gone", "127.0.0.1:30053", "10.244.2.2:5353", true},
		{"that port of somebody outside", "203.0.113.9:30053", "203.0.113.9:30053", false},
		{"a host port of one address", "198.51.100.11:514", "10.244.1.3:514", false},
		{"of the others", "172.17.0.1:514", "10.244.1.3:514", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dst, end := at(c.dst), at(c.endpoint)
			for _, ip := range []func(netip.Addr) net.IP{func(a netip.Addr) net.IP { return a.AsSlice() }, func(a netip.Addr) net.IP { b := a.As16(); return b[:] }} {
				f := &netlink.ConntrackFlow{
					Forward: netlink.IPTuple{Protocol: unix.IPPROTO_UDP, DstIP: ip(dst.Addr()), DstPort: dst.Port()},
					Reverse: netlink.IPTuple{Protocol: unix.IPPROTO_UDP, SrcIP: ip(end.Addr()), SrcPort: end.Port()},
				}
				if got := flows.MatchConntrackFlow(f); got != c.forget {
					t.Errorf("forgotten: %v, want %v", got, c.forget)
				}
				f.Forward.Protocol = unix.IPPROTO_TCP
				if flows.MatchConntrackFlow(f) {
					t.Error("one of TCP is forgotten")
				}
			}
		})
	}
}

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
