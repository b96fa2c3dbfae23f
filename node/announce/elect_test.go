package announce

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"pgregory.net/rapid"
)

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

// node is a peer with one link for each address.
func node(name string, addrs ...string) Peer {
	p := Peer{Name: name, Ready: true}
	for i, a := range addrs {
		prefix := netip.MustParsePrefix(a)
		b := prefix.Addr().As4()
		p.Links = append(p.Links, Link{Name: fmt.Sprintf("eth%d", i), Index: i + 1, MAC: MAC{2, byte(i), b[0], b[1], b[2], b[3]}, Addrs: []netip.Prefix{prefix}})
	}
	return p
}

func names(peers []Peer) string {
	var out []string
	for _, p := range peers {
		out = append(out, p.Name)
	}
	return strings.Join(out, " ")
}

func TestCandidates(t *testing.T) {
	a, b := node("a", "198.51.100.11/24"), node("b", "198.51.100.12/24")
	far := node("far", "203.0.113.5/24")
	both := node("both", "203.0.113.6/24", "198.51.100.13/24")
	lame := node("lame", "198.51.100.14/24")
	lame.Ready = false
	for _, c := range []struct {
		what  string
		ip    string
		only  []string // nil: all
		peers []Peer
		want  string
	}{
		{"nodes on the link", "198.51.100.200", nil, []Peer{a, b, far, both}, "a b both"},
		{"a pool that a router sends here", "192.0.2.1", nil, []Peer{a, far}, "a far"},
		{"with an endpoint", "198.51.100.200", []string{"b", "far"}, []Peer{a, b, far}, "b"},
		{"an endpoint on another link", "198.51.100.200", []string{"far"}, []Peer{a, b, far}, ""},
		{"no endpoint at all", "198.51.100.200", []string{}, []Peer{a, b}, ""},
		{"ready ones", "198.51.100.200", nil, []Peer{a, lame}, "a"},
		{"none is ready", "198.51.100.200", nil, []Peer{lame}, "lame"},
		{"the only one with an endpoint is not ready", "198.51.100.200", []string{"lame"}, []Peer{a, lame}, "lame"},
		{"nobody", "198.51.100.200", nil, nil, ""},
	} {
		ad := &Address{IP: ip(c.ip)}
		if c.only != nil {
			ad.Nodes = map[string]bool{}
			for _, n := range c.only {
				ad.Nodes[n] = true
			}
		}
		if got := names(candidates(ad, c.peers)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	if owner, has := ownerOf(ip("203.0.113.6"), []Peer{a, both}); !has || owner != "both" {
		t.Errorf("203.0.113.6 is %q's, %v", owner, has)
	}
}

// TestScoreIsForEver: nodes of two releases have to agree.
func TestScoreIsForEver(t *testing.T) {
	if got := score(ip("198.51.100.200"), "node1"); got != 0x7199c972a63d52ed {
		t.Errorf("%#x", got)
	}
}

func TestElection(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,8}`), 1, 9, rapid.ID).Draw(t, "nodes")
		var peers []Peer
		for _, n := range all {
			peers = append(peers, Peer{Name: n})
		}
		for i := range 20 {
			at := netip.AddrFrom4([4]byte{198, 51, 100, byte(200 + i)})
			winner := elect(at, peers)
			if !slices.Contains(all, winner) {
				t.Fatalf("%q is elected of %v", winner, all)
			}
			shuffled := slices.Clone(peers)
			slices.Reverse(shuffled)
			if got := elect(at, shuffled); got != winner {
				t.Fatalf("%s and %s, by the order of the same nodes", winner, got)
			}
			less := slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool { return p.Name == all[0] })
			if got := elect(at, less); winner != all[0] && got != winner {
				t.Fatalf("%s was not the one, but went, and %s became %s", all[0], winner, got)
			}
		}
	})
	shares := map[string]int{}
	peers := []Peer{{Name: "wp-node1"}, {Name: "wp-node2"}, {Name: "wp-node3"}}
	for i := range 240 {
		shares[elect(netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), peers)]++
	}
	for _, p := range peers {
		if n := shares[p.Name]; n < 50 || n > 110 {
			t.Errorf("240 addresses of three nodes: %v", shares)
		}
	}
}

func TestMeta(t *testing.T) {
	p := node("a", "198.51.100.11/24", "192.168.1.5/24")
	p.Links[1].Addrs = append(p.Links[1].Addrs, netip.MustParsePrefix("192.168.1.6/32"))
	meta := Meta(p.Links, 512)
	if want := "arp 0200c633640b=198.51.100.11/24 0201c0a80105=192.168.1.5/24,192.168.1.6/32"; meta != want {
		t.Errorf("%q, want %q", meta, want)
	}
	got, ok := ParseMeta(meta)
	if !ok || len(got) != 2 || got[1].MAC != p.Links[1].MAC || !slices.Equal(got[1].Addrs, p.Links[1].Addrs) {
		t.Errorf("%v, %v", got, ok)
	}
	if short := Meta(p.Links, 40); short != "arp 0200c633640b=198.51.100.11/24" {
		t.Errorf("cut off: %q", short)
	}
	if _, ok := ParseMeta(Meta(nil, 512)); !ok {
		t.Error("a node without a link takes part")
	}
	for _, other := range []string{"", "leaving", "arpeggio"} {
		if _, ok := ParseMeta(other); ok {
			t.Errorf("%q announces", other)
		}
	}
}

func FuzzParseMeta(f *testing.F) {
	f.Add("arp 0200c633640b=198.51.100.11/24 0201c0a80105=192.168.1.5/24,192.168.1.6/32")
	f.Add("arp zz=1 00=, =, 0200c633640b 0200c633640b=::1/64")
	f.Fuzz(func(t *testing.T, meta string) {
		links, ok := ParseMeta(meta)
		if !ok {
			return
		}
		again, _ := ParseMeta(Meta(links, 1<<20))
		if fmt.Sprint(again) != fmt.Sprint(links) {
			t.Errorf("%v became %v", links, again)
		}
	})
}

func TestPackets(t *testing.T) {
	mine, other := MAC{2, 0, 0, 0, 0, 1}, MAC{2, 0, 0, 0, 0, 2}
	asked := Packet{Op: opRequest, SenderMAC: other, SenderIP: ip("198.51.100.1"), TargetIP: ip("198.51.100.200")}
	for _, c := range []struct {
		p    Packet
		want string
	}{
		{probe(mine, ip("198.51.100.200")), "000108000604000102000000000100000000000000000000c63364c8"},
		{announcement(mine, ip("198.51.100.200"))[0], "0001080006040001020000000001c63364c8000000000000c63364c8"},
		{announcement(mine, ip("198.51.100.200"))[1], "0001080006040002020000000001c63364c8020000000001c63364c8"},
		{answer(mine, asked), "0001080006040002020000000001c63364c8020000000002c6336401"},
	} {
		b := c.p.bytes()
		if got := fmt.Sprintf("%x", b); got != c.want {
			t.Errorf("%+v is\n%s, want\n%s", c.p, got, c.want)
		}
		if back, ok := parsePacket(append(b, make([]byte, 18)...)); !ok || back != c.p {
			t.Errorf("%+v came back as %+v", c.p, back)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(probe(MAC{2}, ip("198.51.100.200")).bytes())
	f.Add([]byte{0, 1, 8})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, ok := parsePacket(b); ok && string(p.bytes()) != string(b[:packetSize]) {
			t.Errorf("%x became %x", b, p.bytes())
		}
	})
}

// TestFilter runs the kernel's program in Go, which does not know the direction of a packet.
func TestFilter(t *testing.T) {
	ours := []netip.Addr{ip("198.51.100.200"), ip("198.51.100.201"), ip("192.0.2.9")}
	asked := func(from, to string) Packet {
		return Packet{Op: opRequest, SenderMAC: MAC{2}, SenderIP: ip(from), TargetIP: ip(to)}
	}
	many := make([]netip.Addr, maxFiltered)
	for i := range many {
		many[i] = netip.AddrFrom4([4]byte{192, 0, byte(i >> 8), byte(i)})
	}
	for _, c := range []struct {
		what  string
		addrs []netip.Addr
		p     Packet
		pass  bool
	}{
		{"asked for", ours, asked("198.51.100.1", "192.0.2.9"), true},
		{"claimed", ours, asked("198.51.100.201", "198.51.100.1"), true},
		{"answered", ours, Packet{Op: opReply, SenderIP: ours[0], TargetIP: ip("198.51.100.11")}, true},
		{"between others", ours, asked("198.51.100.1", "198.51.100.2"), false},
		{"nothing held", nil, asked("198.51.100.1", "198.51.100.200"), false},
		{"the last of many", many, asked("198.51.100.1", many[maxFiltered-1].String()), true},
		{"none of many", many, asked("198.51.100.1", "198.51.100.2"), false},
		{"too many to look", append(slices.Clone(many), ours...), asked("198.51.100.1", "198.51.100.2"), true},
	} {
		program := filterFor(c.addrs)
		if _, err := bpf.Assemble(program); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		vm, err := bpf.NewVM(program[3:])
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		n, err := vm.Run(c.p.bytes())
		if err != nil || n > 0 != c.pass {
			t.Errorf("%s: %d bytes pass, %v", c.what, n, err)
		}
	}
}

// TestAddressesMoveLittle: of the addresses of a node that goes each other node takes some, and nothing else moves.
func TestAddressesMoveLittle(t *testing.T) {
	var peers []Peer
	for i := range 5 {
		peers = append(peers, Peer{Name: fmt.Sprintf("node%d", i)})
	}
	moved := map[string]int{}
	for i := range 250 {
		at := netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})
		before, after := elect(at, peers), elect(at, peers[1:])
		if before != after {
			if before != "node0" {
				t.Fatalf("%s went from %s to %s", at, before, after)
			}
			moved[after]++
		}
	}
	if len(moved) != 4 {
		t.Errorf("node0's addresses went to %v", slices.Sorted(maps.Keys(moved)))
	}
}
