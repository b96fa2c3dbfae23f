package network

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
)

func TestIPAMGoesRound(t *testing.T) {
	p := newIPAM(netip.MustParsePrefix("10.244.3.0/29"), t.TempDir())
	var got []string
	for i := range 5 {
		a, err := p.get(fmt.Sprint("pod", i), netip.Addr{})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, a.String())
	}
	if want := "10.244.3.2 10.244.3.3 10.244.3.4 10.244.3.5 10.244.3.6"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	if _, err := p.get("one too many", netip.Addr{}); err == nil || !strings.Contains(err.Error(), "10.244.3.0/29") {
		t.Errorf("a full range must be said in words, got %v", err)
	}
	if a, err := p.get("pod1", netip.Addr{}); err != nil || a.String() != "10.244.3.3" {
		t.Errorf("the same pod must keep its address, got %v %v", a, err)
	}
}

func TestIPAMDoesNotReuseAtOnce(t *testing.T) {
	dir, prefix := filepath.Join(t.TempDir(), "not", "there", "yet"), netip.MustParsePrefix("10.244.3.0/24")
	p := newIPAM(prefix, dir)
	first, _ := p.get("a", netip.Addr{})
	p.release("a")
	second, _ := p.get("b", netip.Addr{})
	if first == second {
		t.Errorf("%s was used again at once", first)
	}
	p = newIPAM(prefix, dir)
	if third, _ := p.get("c", netip.Addr{}); third == first || third == second {
		t.Errorf("after a restart %s was used again at once", third)
	}
}

func TestIPAMAdoptsAndHonoursWish(t *testing.T) {
	p := newIPAM(netip.MustParsePrefix("10.244.3.0/24"), "")
	at := netip.MustParseAddr
	p.adopt([]PodLink{{UID: "u", IP: at("10.244.3.9")}, {UID: "thief", IP: at("10.244.3.9")}, {UID: "odd", IP: at("192.0.2.1")}})
	for _, c := range []struct{ uid, wish, want string }{
		{"u", "10.244.3.50", "10.244.3.9"},        // has one
		{"v", "10.244.3.9", "10.244.3.2"},         // taken
		{"w", "10.244.3.77", "10.244.3.77"},       // free
		{"x", "10.244.3.0", "10.244.3.3"},         // the network's own
		{"y", "10.244.3.1", "10.244.3.4"},         // the gateway
		{"z", "10.244.3.255", "10.244.3.5"},       // broadcast
		{"other", "10.244.4.5", "10.244.3.6"},     // another node's
		{"thief", "10.244.3.200", "10.244.3.200"}, // adopted second: gets its own
	} {
		got, err := p.get(c.uid, at(c.wish))
		if err != nil || got.String() != c.want {
			t.Errorf("%s wishing %s: got %v %v, want %s", c.uid, c.wish, got, err, c.want)
		}
	}
}

func TestAlias(t *testing.T) {
	pod := Pod{UID: "1-2-3", Namespace: "default", Name: "web-1"}
	p, ok := parseAlias(podAlias(pod, netip.MustParseAddr("10.244.1.5")))
	if !ok || p.UID != "1-2-3" || p.IP.String() != "10.244.1.5" || p.Pod != "default/web-1" {
		t.Errorf("got %+v %v", p, ok)
	}
	pod.Name = strings.Repeat("n", 300)
	if a := podAlias(pod, netip.MustParseAddr("10.244.1.5")); len(a) != aliasMax {
		t.Errorf("a long alias must be cut to what the kernel takes, got %d bytes", len(a))
	}
	for _, bad := range []string{"", "uplink", "whalepod", "whalepod uid", "whalepod uid not-an-address"} {
		if _, ok := parseAlias(bad); ok {
			t.Errorf("%q was taken for one of ours", bad)
		}
	}
}

func TestLinkNameFits(t *testing.T) {
	if n := LinkName("7f1c6ed6-0d3e-4a0f-9c3d-111111111111"); len(n) > 15 || n != LinkName("7f1c6ed6-0d3e-4a0f-9c3d-111111111111") {
		t.Errorf("%q is too long for the kernel or not stable", n)
	}
}
