package ipset

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink/nl"

	"github.com/whalepod/whalepod/proxy/policy"
)

// message is one of a dump, as the kernel writes it.
func message(name string, t policy.SetType, entries ...policy.Entry) []byte {
	out := []byte{2, 0, 0, 0}
	out = append(out, text(nl.IPSET_ATTR_SETNAME, name).Serialize()...)
	if t != "" {
		out = append(out, text(nl.IPSET_ATTR_TYPENAME, string(t)).Serialize()...)
	}
	all := nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), nil)
	for _, e := range entries {
		all.AddChild(entryOf(policy.Ports, e))
	}
	return append(out, all.Serialize()...)
}

func TestParse(t *testing.T) {
	a := policy.Entry{Net: netip.MustParsePrefix("10.244.1.5/32"), Protocol: 17, Port: 5353}
	b := policy.Entry{Net: netip.MustParsePrefix("10.244.1.6/32"), Protocol: 6, Port: 80}
	out := map[string]policy.KernelSet{}
	for _, m := range [][]byte{message("wp-p-x", policy.Ports, a), message("other", policy.Addresses, a), message("wp-p-x", "", b)} {
		if err := parseSet(m, out); err != nil {
			t.Fatal(err)
		}
	}
	if s := out["wp-p-x"]; len(out) != 1 || s.Type != policy.Ports || !slices.Equal(s.Entries, []policy.Entry{a, b}) {
		t.Errorf("%+v", out)
	}
	for _, bad := range [][]byte{nil, {2, 0, 0}, message("wp-x", policy.Ports, a)[:30], append([]byte{2, 0, 0, 0}, 9, 0, 2)} {
		before := len(out)
		_ = parseSet(bad, out) // an error or less, no panic
		if len(out) > before+1 {
			t.Error("a broken message made sets")
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(message("wp-p-x", policy.Ports, policy.Entry{Net: netip.MustParsePrefix("10.244.1.5/32"), Protocol: 6, Port: 80}))
	f.Fuzz(func(t *testing.T, data []byte) {
		out := map[string]policy.KernelSet{}
		if err := parseSet(data, out); err != nil {
			return
		}
		for _, s := range out {
			for _, e := range s.Entries {
				if !e.Net.IsValid() {
					t.Error(e)
				}
			}
		}
	})
}
