package master

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestParsePools(t *testing.T) {
	for _, c := range []struct {
		texts []string
		want  string // or what the error says
	}{
		{nil, "[]"},
		{[]string{"203.0.113.0/28"}, "[203.0.113.0/28]"},
		{[]string{"203.0.113.7"}, "[203.0.113.7/32]"},
		{[]string{"203.0.113.10-203.0.113.20"}, "[203.0.113.10/31 203.0.113.12/30 203.0.113.16/30 203.0.113.20/32]"},
		{[]string{" 203.0.113.10 - 203.0.113.10 "}, "[203.0.113.10/32]"},
		{[]string{"203.0.113.32/30", "203.0.113.0/30"}, "[203.0.113.0/30 203.0.113.32/30]"},
		{[]string{"203.0.113.0/28", "203.0.113.15-203.0.113.16"}, "--lb-pool 203.0.113.15-203.0.113.16: 203.0.113.15/32 is in another --lb-pool already"},
		{[]string{"203.0.113.4", "203.0.113.0/24"}, "203.0.113.4/32 is in another"},
		{[]string{"203.0.113.4", "203.0.113.4"}, "203.0.113.4/32 is in another"},
		{[]string{"203.0.113.5/28"}, "write the range, or the address alone"},
		{[]string{"203.0.113.20-203.0.113.10"}, "203.0.113.10 comes before 203.0.113.20"},
		{[]string{"203.0.113.0/28-203.0.113.40"}, "give IPv4 addresses as"},
		{[]string{"2001:db8::/64"}, "give IPv4 addresses as"},
		{[]string{"2001:db8::1-2001:db8::2"}, "give IPv4 addresses as"},
		{[]string{"2001:db8::1"}, "give IPv4 addresses as"},
		{[]string{"::ffff:203.0.113.1"}, "give IPv4 addresses as"},
		{[]string{""}, "give IPv4 addresses as"},
		{[]string{"203.0.113.4", "none"}, "give IPv4 addresses as"},
		{[]string{"web"}, "give IPv4 addresses as"},
		{[]string{"0.0.0.0/0"}, "larger than a /8"},
		{[]string{"1.0.0.0-200.0.0.0"}, "larger than a /8"},
		{[]string{"127.0.0.1"}, "no machine can have"},
		{[]string{"239.255.255.250-255.255.255.255"}, "no machine can have"},
	} {
		got, err := parsePools(c.texts)
		text := fmt.Sprint(got)
		if err != nil {
			text = err.Error()
		}
		if err == nil && text != c.want || err != nil && (!strings.Contains(text, c.want) || !strings.HasPrefix(text, "--lb-pool ")) {
			t.Errorf("%q: %s; want %s", c.texts, text, c.want)
		}
	}
}

func TestCheckPools(t *testing.T) {
	cfg := Config{
		ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), PodCIDR: netip.MustParsePrefix("10.244.0.0/16"), Advertise: netip.MustParseAddr("198.51.100.1"),
	}
	for text, want := range map[string]string{
		"10.254.3.0/28": "--service-cidr 10.254.0.0/16 overlap", "10.0.0.0/8": "overlap", "10.244.255.255-10.245.0.3": "--pod-cidr 10.244.0.0/16 overlap",
		"198.51.100.0/24": "this machine's own address 198.51.100.1", "198.51.100.2-198.51.100.250": "",
	} {
		pool, err := parsePools([]string{text})
		if err != nil {
			t.Fatal(err)
		}
		if err = checkPools(pool, cfg); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", text, err, want)
		}
	}
}

// TestPrefixesCoverTheRange: every address of a range is in exactly one prefix, and no other is in any.
func TestPrefixesCoverTheRange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		first := rapid.Uint32().Draw(t, "first")
		last := first + rapid.Uint32Range(0, min(3000, ^uint32(0)-first)).Draw(t, "more")
		addr := func(n uint32) netip.Addr {
			return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
		}
		next := uint64(first)
		for _, p := range prefixes(addr(first), addr(last)) {
			if p != p.Masked() || number(p.Addr()) != next {
				t.Fatalf("%s-%s: %s where %d was to come", addr(first), addr(last), p, next)
			}
			next += 1 << (32 - p.Bits())
		}
		if next != uint64(last)+1 {
			t.Fatalf("%s-%s: covered up to %d", addr(first), addr(last), next)
		}
	})
}
