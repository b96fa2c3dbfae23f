package network

import (
	"net/netip"
	"testing"
)

func TestParsePlace(t *testing.T) {
	for in, want := range map[string]string{
		"198.51.100.0/24 mtu 1500":   "198.51.100.0/24 mtu 1500",
		"198.51.100.11/24 mtu 1500":  "198.51.100.0/24 mtu 1500",
		"198.51.100.11/32 mtu 65535": "198.51.100.11/32 mtu 65535",
		"":                           "",
		"198.51.100.0/24":            "",
		"198.51.100.0/24 mtu":        "",
		"198.51.100.0/24 mtu 67":     "",
		"198.51.100.0/24 mtu 65536":  "",
		"198.51.100.0 mtu 1500":      "",
		"2001:db8::/64 mtu 1500":     "",
		"198.51.100.0/24 mtu -1":     "",
		"mtu 1500 mtu 1500 mtu 1500": "",
	} {
		l, err := ParsePlace(in)
		if want == "" {
			if err == nil {
				t.Errorf("%q was taken for %s", in, l)
			}
			continue
		}
		if err != nil || l.String() != want {
			t.Errorf("%q: %s, %v", in, l, err)
		}
	}
}

// Whatever two nodes say of themselves, both come to the same conclusion.
func TestBothOfAPairChooseTheSame(t *testing.T) {
	link := func(s string) Place {
		l, err := ParsePlace(s)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name   string
		a, b   netip.Addr
		la, lb Place
		plain  bool
	}{
		{"one link", addr("198.51.100.11"), addr("198.51.100.12"), link("198.51.100.0/24 mtu 1500"), link("198.51.100.0/24 mtu 1500"), true},
		{"two links", addr("198.51.100.11"), addr("203.0.113.12"), link("198.51.100.0/24 mtu 1500"), link("203.0.113.0/24 mtu 1500"), false},
		{"one of them tunnels always", addr("198.51.100.11"), addr("198.51.100.12"), link("198.51.100.0/24 mtu 1500"), link("198.51.100.12/32 mtu 1500"), false},
		{"masks that differ, inside both", addr("198.51.100.11"), addr("198.51.100.12"), link("198.51.100.0/24 mtu 1500"), link("198.51.0.0/16 mtu 1500"), true},
		{"masks that differ, inside one", addr("198.51.100.11"), addr("198.51.7.12"), link("198.51.100.0/24 mtu 1500"), link("198.51.0.0/16 mtu 1500"), false},
	} {
		there := neighbours(c.a, c.la, Peer{IP: c.b, Place: c.lb})
		back := neighbours(c.b, c.lb, Peer{IP: c.a, Place: c.la})
		if there != c.plain || back != c.plain {
			t.Errorf("%s: plain %v there, %v back", c.name, there, back)
		}
	}
	if !neighbours(addr("198.51.100.11"), link("198.51.100.0/24 mtu 1500"), Peer{IP: addr("198.51.100.12")}) {
		t.Error("a neighbour that has said nothing yet is not tunnelled to")
	}
}

func TestMTUTo(t *testing.T) {
	for _, c := range []struct {
		own, peer int
		via       string
		want      int
	}{
		{1500, 1500, viaLink, 1500},
		{1500, 1500, viaVXLAN, 1450},
		{1500, 1400, viaVXLAN, 1350},
		{1400, 1500, viaVXLAN, 1350},
		{9000, 1500, viaLink, 1500},
		{1500, 0, viaVXLAN, 1450}, // has not said anything
	} {
		if got := mtuTo(Place{MTU: c.own}, Place{MTU: c.peer}, c.via); got != c.want {
			t.Errorf("%d to %d by %s: %d, want %d", c.own, c.peer, c.via, got, c.want)
		}
	}
}
