package nft

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/whalepod/whalepod/proxy"
)

func testConfig() Config {
	p := netip.MustParsePrefix
	return Config{PodCIDR: p("10.244.1.0/24"), ClusterPodCIDR: p("10.244.0.0/16"), ServiceCIDR: p("10.254.0.0/16"), LocalIPs: []netip.Addr{netip.MustParseAddr("10.254.254.1")}}
}

type failer interface {
	Helper()
	Fatal(...any)
}

func newTables(t failer, k kernel) *Tables {
	t.Helper()
	tables, err := over(testConfig(), k, k)
	if err != nil {
		t.Fatal(err)
	}
	read(t, tables)
	return tables
}

func read(t failer, tables *Tables) map[string][]proxy.HostPort {
	t.Helper()
	found, err := tables.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func apply(t failer, tables *Tables) int {
	t.Helper()
	n, err := tables.Apply(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func addrPorts(list ...string) (out []netip.AddrPort) {
	for _, s := range list {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func web(change ...func(*proxy.Port)) []proxy.Port {
	p := proxy.Port{Service: "default/web", Name: "http", Protocol: "tcp", ClusterIP: netip.MustParseAddr("10.254.0.9"), Port: 80,
		Cluster: addrPorts("10.244.1.5:8080", "10.244.2.7:8080", "10.244.3.3:8080")}
	for _, f := range change {
		f(&p)
	}
	return []proxy.Port{p}
}

func TestPartsOfASession(t *testing.T) {
	k := &fakeKernel{}
	if err := newTables(t, k).Try(); err != nil || k.table != nil {
		t.Fatal("a try leaves nothing:", err, k.table)
	}
	tables := newTables(t, k)
	tables.SetPorts("default/web", nil, web())
	tables.SetHostPorts("default/pod", []proxy.HostPort{{Protocol: "UDP", Port: 53, Pod: addrPorts("10.244.1.6:5353")[0]}})
	if n := apply(t, tables); n == 0 || k.commits != 2 {
		t.Fatal(n, k.commits)
	}
	if n := apply(t, tables); n != 0 || k.commits != 2 {
		t.Error("nothing changed, but was written:", n)
	}
	// One endpoint less is one element less and one that takes its number.
	tables.SetPorts("default/web", web(), web(func(p *proxy.Port) { p.Cluster = p.Cluster[1:] }))
	if n := apply(t, tables); n > 2000 {
		t.Errorf("a small change took %d bytes", n)
	}
	tables.SetPorts("default/web", web(func(p *proxy.Port) { p.Cluster = p.Cluster[1:] }), web())
	apply(t, tables)
	if ok, err := tables.Intact(t.Context()); err != nil || !ok {
		t.Error("not intact:", err)
	}
	// Others change theirs; now and then everything is read even so, and what is ours is missed at once.
	thoroughly := 0
	for range 2 * thorough {
		k.gen++
		if ok, err := tables.Intact(t.Context()); err != nil {
			t.Fatal(err)
		} else if !ok {
			thoroughly++
			read(t, tables)
			if n := apply(t, tables); n != 0 { // chains that nothing leads to any more go
				t.Errorf("%d bytes to put right what is right", n)
			}
		}
	}
	if thoroughly != 2 {
		t.Errorf("read %d times in %d looks", thoroughly, 2*thorough)
	}
	for _, chain := range []string{"services", "endpoints-3"} {
		rules := k.table.rules[chain]
		k.gen++
		delete(k.table.rules, chain)
		if ok, err := tables.Intact(t.Context()); err != nil || ok {
			t.Errorf("without %s: %v %v", chain, ok, err)
		}
		k.table.rules[chain] = rules
	}
	k.restive = true
	read(t, tables)
	if n := apply(t, tables); n != 0 {
		t.Errorf("%d bytes to put right what is right, while others change theirs", n)
	}
	k.restive = false
	// A restarted agent finds what it needs, and its host ports.
	again := newTables(t, k)
	again.SetPorts("default/web", nil, web())
	found := read(t, again)
	if len(found["default/pod"]) != 1 || found["default/pod"][0].Pod.String() != "10.244.1.6:5353" || found["default/pod"][0].Protocol != "UDP" {
		t.Error("host ports found:", found)
	}
	again.SetHostPorts("default/pod", found["default/pod"])
	state := k.String()
	n := apply(t, again)
	if d := cmp.Diff(state, k.String()); d != "" || n != 0 || slices.Contains(k.table.chains, "endpoints-2") {
		t.Errorf("a restart changed %s", d)
	}
	read(t, again)
	if n := apply(t, again); n != 0 {
		t.Errorf("nothing is wrong, but was written: %d bytes", n)
	}
	if err := again.Remove(t.Context()); err != nil || k.table != nil {
		t.Error(err, k.table)
	}
	if ok, _ := again.Intact(t.Context()); ok {
		t.Error("what was removed is intact")
	}
	if err := again.Remove(t.Context()); err != nil {
		t.Error("nothing to remove:", err)
	}
}

// A comment has room for the name of few pods with long names; that they are host ports is seen nevertheless.
func TestHostPortsOfPodsWithLongNames(t *testing.T) {
	k := &fakeKernel{}
	tables := newTables(t, k)
	pod := strings.Repeat("n", 63) + "/" + strings.Repeat("p", 253)
	tables.SetHostPorts(pod, []proxy.HostPort{{Port: 80, Pod: addrPorts("10.244.1.6:8080")[0]}})
	apply(t, tables)
	found := read(t, newTables(t, k))
	if len(found) != 1 {
		t.Fatal(found)
	}
	for name, ports := range found {
		if !strings.HasPrefix(pod, name) || len(name) < 100 || len(ports) != 1 || ports[0].Pod.String() != "10.244.1.6:8080" {
			t.Error(name, ports)
		}
	}
}

func TestWhatSomebodyChangedIsPutRight(t *testing.T) {
	for name, damage := range map[string]func(*fakeTable){
		"an element less":       func(t *fakeTable) { clear(t.elems["services"]) },
		"an element more":       func(t *fakeTable) { t.elems["endpoints"]["abcdabcdabcdabcd"] = element("abcdabcdabcdabcd") },
		"a rule less":           func(t *fakeTable) { t.rules["services"] = t.rules["services"][1:] },
		"a chain empty":         func(t *fakeTable) { delete(t.rules, "endpoints-3") },
		"a chain more":          func(t *fakeTable) { t.chains = append(t.chains, "somebodys") },
		"rules in disorder":     func(t *fakeTable) { slices.Reverse(t.rules["filter-forward"]) },
		"a set less":            func(t *fakeTable) { t.sets = t.sets[1:] },
		"of another version":    func(t *fakeTable) { t.rules["services"][0] = t.rules["refuse"][0] },
		"another address there": func(t *fakeTable) { swap(t.elems["endpoints"]) },
	} {
		k := &fakeKernel{}
		tables := newTables(t, k)
		tables.SetPorts("default/web", nil, web())
		apply(t, tables)
		want := k.String()
		damage(k.table)
		read(t, tables)
		apply(t, tables)
		if d := cmp.Diff(meaning(t, k, want), meaning(t, k, k.String())); d != "" || slices.Contains(k.table.chains, "somebodys") {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func element(key string) []byte {
	c := change{id: id{set: setEndpoints}}
	copy(c.key[:], key)
	var b buffer
	c.encode(&b, true)
	return b.b[attrHeader:]
}

func swap(elems map[string][]byte) {
	for key, e := range elems {
		e = slices.Clone(e)
		data := get(get(e, unix.NFTA_SET_ELEM_DATA), unix.NFTA_DATA_VALUE)
		data[3] ^= 77
		elems[key] = e
		return
	}
}

func TestFailureIsTriedAgainFromWhatTheKernelHas(t *testing.T) {
	k := &fakeKernel{}
	tables := newTables(t, k)
	tables.SetPorts("default/web", nil, web())
	k.fail = errors.New("busy")
	if _, err := tables.Apply(t.Context()); err == nil {
		t.Fatal("no error")
	}
	read(t, tables)
	apply(t, tables)
	if len(k.table.elems["endpoints"]) != 3 {
		t.Error(k.String())
	}
}

func TestEndpointsKeepTheirNumbers(t *testing.T) {
	list := func(s string) (out []target) {
		for _, c := range s {
			if c == '.' { // nobody
				out = append(out, 0)
			} else {
				out = append(out, target(c))
			}
		}
		return out
	}
	for _, c := range []struct{ old, want, arranged string }{
		{"", "abc", "abc"},
		{"abc", "abc", "abc"},
		{"abc", "bc", "cb"},
		{"abc", "ac", "ac"},
		{"abc", "ab", "ab"},
		{"abc", "abcd", "abcd"},
		{"abc", "bcd", "dbc"},
		{"abc", "xyz", "xyz"},
		{".bc", "abc", "abc"},
		{"abc", "", ""},
		{"abcdefghijklmnopqrstuvwxyz", "zy", "yz"},
	} {
		old, want := list(c.old), list(c.want)
		slices.Sort(want)
		if got := arranged(old, want); !slices.Equal(got, list(c.arranged)) {
			t.Errorf("%s → %s: arranged as %v, want %v", c.old, c.want, got, list(c.arranged))
		}
	}
}

// The address that two want goes to the same one whatever the order in which they came, and to the other when it goes.
func TestOneAddressHasOneOwner(t *testing.T) {
	with := func(name string) []proxy.Port {
		return web(func(p *proxy.Port) {
			p.Service, p.NodePort, p.External, p.ClusterIP = "default/"+name, 30080, []netip.Addr{netip.MustParseAddr("203.0.113.5")}, netip.Addr(netip.AddrFrom4([4]byte{10, 254, 0, name[0]}))
		})
	}
	var states []string
	for _, order := range [][]string{{"a", "b"}, {"b", "a"}} {
		k := &fakeKernel{}
		tables := newTables(t, k)
		for _, name := range order {
			tables.SetPorts("default/"+name, nil, with(name))
			apply(t, tables)
		}
		states = append(states, k.String())
		if s := k.String(); strings.Count(s, "# default/a:http") != 3*4 || strings.Count(s, "# default/b:http") != 4 {
			t.Errorf("%v:\n%s", order, s)
		}
		tables.SetPorts("default/a", with("a"), nil)
		apply(t, tables)
		if s := k.String(); strings.Count(s, "# default/b:http") != 3*4 {
			t.Errorf("%v, after the first went:\n%s", order, s)
		}
	}
	if d := cmp.Diff(states[0], states[1]); d != "" {
		t.Error(d)
	}
}

var numbers = regexp.MustCompile(`-\d+`)

// meaning is a state without what may differ between two that do the same: the numbers of endpoints. They must be right, though.
func meaning(t failer, k *fakeKernel, state string) string {
	t.Helper()
	lists, names := map[string][]uint32{}, map[string]string{}
	var lines []string
	for _, line := range strings.Split(state, "\n") {
		set, rest, _ := strings.Cut(line, " ")
		switch {
		case strings.HasPrefix(line, "rule "), set == "":
			continue
		case set == "endpoints":
			place, n := rest[:24], rest[24:32]
			var b [4]byte
			fmt.Sscanf(n, "%2x%2x%2x%2x", &b[0], &b[1], &b[2], &b[3])
			number := binary.NativeEndian.Uint32(b[:])
			kind := "cluster"
			if number >= localList {
				kind, number = "local", number-localList
			}
			lists[place+kind] = append(lists[place+kind], number)
			lines = append(lines, "endpoints "+place+kind+rest[32:])
		case set == "services":
			_, verdict, _ := strings.Cut(rest, ": ")
			verdict, _, _ = strings.Cut(strings.TrimLeft(verdict, "0123456789abcdef"), " #")
			names[rest[:24]] = strings.TrimSpace(verdict)
			lines = append(lines, "services "+rest[:24]+numbers.ReplaceAllString(rest[24:], "-N"))
		default:
			lines = append(lines, line)
		}
	}
	for place, chain := range names {
		n := numbers.FindAllString(chain, -1)
		for i, kind := range []string{"cluster", "local"} {
			list := lists[place+kind]
			slices.Sort(list)
			size := 1
			if i < len(n) && (i == 0 || strings.Contains(chain, "local")) {
				size, _ = strconv.Atoi(n[i][1:])
			} else if i == 1 {
				size = len(list)
			}
			if len(list) > 0 && int(list[len(list)-1])+1 != size || len(list) > 0 && len(list) != size {
				t.Fatal(place, kind, "leads to", chain, "but has numbers", list)
			}
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func drawPort(r *rapid.T, name string) proxy.Port {
	ip := func(s string) netip.Addr { return netip.MustParseAddr(s) }
	p := proxy.Port{Service: "default/" + name, Name: "p", Protocol: rapid.SampledFrom([]string{"tcp", "udp", "sctp"}).Draw(r, "protocol"),
		ClusterIP: netip.AddrFrom4([4]byte{10, 254, 0, name[0]}), Port: rapid.SampledFrom([]uint16{80, 81}).Draw(r, "port")}
	all := addrPorts("10.244.1.5:8080", "10.244.1.6:8080", "10.244.1.7:8080", "10.244.2.5:8080", "10.244.2.6:8080", "10.244.2.6:8081")
	for i, e := range all {
		if rapid.Bool().Draw(r, "endpoint") {
			p.Cluster = append(p.Cluster, e)
			if i < 3 && rapid.Bool().Draw(r, "local") {
				p.Local = append(p.Local, e)
			}
		}
	}
	p.NodeAnswers = rapid.Bool().Draw(r, "node answers")
	p.NodePort = rapid.SampledFrom([]uint16{0, 30080, 30081}).Draw(r, "node port")
	p.External = rapid.SampledFrom([][]netip.Addr{nil, {ip("203.0.113.5")}, {ip("203.0.113.5"), ip("203.0.113.6")}}).Draw(r, "external")
	p.Alone = rapid.SampledFrom([][]netip.Addr{nil, {ip("203.0.113.7")}}).Draw(r, "alone")
	p.Balanced = rapid.SampledFrom([][]netip.Addr{nil, {ip("203.0.113.7")}, {ip("203.0.113.8")}}).Draw(r, "balanced")
	p.InternalLocal, p.ExternalLocal = rapid.Bool().Draw(r, "internal"), rapid.Bool().Draw(r, "external")
	p.Sticky = rapid.SampledFrom([]int32{0, 0, 1, 10800}).Draw(r, "sticky")
	if p.Guarded = rapid.Bool().Draw(r, "guarded"); p.Guarded {
		for _, s := range rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "192.0.2.1/32", "192.0.2.0/31"}), 0, 3).Draw(r, "sources") {
			p.Sources = append(p.Sources, netip.MustParsePrefix(s))
		}
	}
	return p
}

func incrementalEqualsWhole(r *rapid.T) {
	k := &fakeKernel{}
	stepByStep(r, k, k, true)
}

// stepByStep: whatever the order of changes, restarts, failures and damage, the kernel ends up as if all had been written at
// once. over is k, or does what k does somewhere else, too.
func stepByStep(r *rapid.T, k *fakeKernel, over kernel, damage bool) {
	tables := newTables(r, over)
	ports, hosts := map[string][]proxy.Port{}, map[string][]proxy.HostPort{}
	fill := func(to *Tables) {
		for name, p := range ports {
			to.SetPorts(name, nil, p)
		}
		for pod, p := range hosts {
			to.SetHostPorts(pod, p)
		}
	}
	for range rapid.IntRange(1, 12).Draw(r, "steps") {
		name := "default/" + rapid.SampledFrom([]string{"a", "b", "c"}).Draw(r, "name")
		switch rapid.IntRange(0, 9).Draw(r, "what") {
		default:
			var now []proxy.Port
			for range rapid.IntRange(0, 2).Draw(r, "ports") {
				now = append(now, drawPort(r, strings.TrimPrefix(name, "default/")))
			}
			tables.SetPorts(name, ports[name], now)
			ports[name] = now
		case 0:
			var now []proxy.HostPort
			for range rapid.IntRange(0, 2).Draw(r, "host ports") {
				now = append(now, proxy.HostPort{Port: rapid.SampledFrom([]uint16{80, 30080}).Draw(r, "port"), Pod: addrPorts("10.244.1.8:80")[0],
					HostIP: rapid.SampledFrom([]netip.Addr{{}, netip.MustParseAddr("203.0.113.5")}).Draw(r, "host")})
			}
			tables.SetHostPorts(name, now)
			hosts[name] = now
		case 1:
			tables = newTables(r, over)
			fill(tables)
		case 2:
			read(r, tables)
		case 3:
			k.fail = unix.ENOBUFS
			if _, err := tables.Apply(context.Background()); err != nil {
				read(r, tables)
			}
			k.fail = nil
		case 4:
			if k.table != nil && damage {
				set := rapid.SampledFrom([]string{"services", "endpoints", "refused", "allowed", "hairpins"}).Draw(r, "set")
				for key := range k.table.elems[set] {
					delete(k.table.elems[set], key)
					break
				}
				read(r, tables)
			}
		}
		if rapid.Bool().Draw(r, "apply") {
			apply(r, tables)
		}
	}
	apply(r, tables)
	apply(r, tables) // hairpins go a change later
	fresh := &fakeKernel{}
	other := newTables(r, fresh)
	fill(other)
	apply(r, other)
	if d := cmp.Diff(meaning(r, fresh, fresh.String()), meaning(r, k, k.String())); d != "" {
		r.Fatalf("(- at once, + step by step)\n%s", d)
	}
	if n := len(slices.Collect(maps.Keys(tables.have))); n != len(tables.claims) {
		r.Fatalf("%d entries for %d claims", n, len(tables.claims))
	}
	if d := cmp.Diff(fresh.affinity(), k.affinity()); d != "" {
		r.Fatalf("of session affinity (- at once, + step by step)\n%s", d)
	}
	again := newTables(r, over)
	fill(again)
	before := k.String()
	apply(r, again)
	if k.table != nil {
		if d := cmp.Diff(slices.Sorted(slices.Values(fresh.table.sets)), slices.Sorted(slices.Values(k.table.sets))); d != "" {
			r.Fatalf("sets (- at once, + step by step)\n%s", d)
		}
	}
	if d := cmp.Diff(before, k.String()); d != "" {
		r.Fatalf("a restart changed\n%s", d)
	}
}

func TestIncrementalEqualsWhole(t *testing.T) { rapid.Check(t, incrementalEqualsWhole) }

func FuzzRules(f *testing.F) { f.Fuzz(rapid.MakeFuzz(incrementalEqualsWhole)) }

// Chains of session affinity and sets of clients follow their Service at once, and clients of endpoints that stay are remembered.
func TestChainsOfAffinityComeAndGo(t *testing.T) {
	k := &fakeKernel{}
	tables := newTables(t, k)
	sticky := func(name string, n int) []proxy.Port {
		return web(func(p *proxy.Port) {
			p.Service, p.ClusterIP, p.Sticky, p.NodePort = "default/"+name, netip.AddrFrom4([4]byte{10, 254, 0, name[0]}), 10800, 30080
			p.Cluster = p.Cluster[:n]
		})
	}
	// a has its chain of clients, and those of ClusterIP and NodePort; b's NodePort is the same and a's.
	tables.SetPorts("default/a", nil, sticky("a", 3))
	tables.SetPorts("default/b", nil, sticky("b", 3))
	apply(t, tables)
	of := func(port string) string { return newMemory(port, 1, []target{1 << 16}).owner }
	a, b := of("default/a:http/tcp"), of("default/b:http/tcp")
	expect := func(what string, aChains, aSets, bChains, bSets int) {
		t.Helper()
		chains, sets := strings.Join(k.affinity(), "\n")+"\n", strings.Join(k.table.sets, "\n")
		got := []int{strings.Count(chains, a), strings.Count(sets, a), strings.Count(chains, b), strings.Count(sets, b)}
		if want := []int{aChains, aSets, bChains, bSets}; !slices.Equal(got, want) {
			t.Errorf("%s: %d chains and sets of a and b, want %d:\n%s\n%s", what, got, want, chains, sets)
		}
	}
	expect("at first", 3, 3, 2, 3)
	first := clientsSet + a + "-10.244.1.5/8080"
	k.table.elems[first]["a client"] = nil
	tables.SetPorts("default/a", sticky("a", 3), sticky("a", 2))
	apply(t, tables)
	expect("an endpoint less", 3, 2, 2, 3)
	tables.SetPorts("default/a", sticky("a", 2), sticky("a", 3))
	apply(t, tables)
	expect("all again", 3, 3, 2, 3)
	for range 2 {
		tables = newTables(t, k)
		tables.SetPorts("default/a", nil, sticky("a", 3))
		tables.SetPorts("default/b", nil, sticky("b", 3))
		if n := apply(t, tables); n != 0 {
			t.Errorf("a restart wrote %d bytes", n)
		}
	}
	if len(k.table.elems[first]) != 1 {
		t.Error("clients were forgotten")
	}
	tables.SetPorts("default/a", sticky("a", 3), nil)
	apply(t, tables)
	expect("a is gone, and b gets the port", 0, 0, 3, 3)
	tables.SetPorts("default/a", nil, sticky("a", 3))
	apply(t, tables)
	expect("and gives it back", 3, 3, 2, 3)
	// What a killed agent left.
	k.table.chains, k.table.sets = append(k.table.chains, "clients-X-Y"), append(k.table.sets, "affinity-X-10.244.1.5/80")
	tables = newTables(t, k)
	tables.SetPorts("default/b", nil, sticky("b", 3))
	apply(t, tables)
	expect("another agent without a", 0, 0, 3, 3)
	if len(k.affinity()) != 3 || len(k.table.sets) != len(sets)+3 {
		t.Error("left over:", k.affinity(), k.table.sets)
	}
}

// A batch of elements is cut into messages that the kernel can take, and none is lost.
func TestManyElementsAreManyMessages(t *testing.T) {
	k := &fakeKernel{}
	tables := newTables(t, k)
	for i := range 2000 {
		p := web(func(p *proxy.Port) {
			p.Service, p.ClusterIP = fmt.Sprint("default/web-", i), netip.AddrFrom4([4]byte{10, 254, byte(1 + i/250), byte(i % 250)})
		})
		tables.SetPorts(p[0].Service, nil, p)
	}
	apply(t, tables)
	if n := len(k.table.elems["endpoints"]); n != 6000 {
		t.Errorf("%d elements", n)
	}
	v, err := tables.Look(t.Context(), "tcp", addrPorts("10.254.3.7:80")[0])
	if err != nil || v.Action != proxy.ToEndpoints || len(v.Endpoints) != 3 {
		t.Error(v, err)
	}
	k.restive = true // Docker at work is no reason to say nothing
	if again, err := tables.Look(t.Context(), "tcp", addrPorts("10.254.3.7:80")[0]); err != nil || !reflect.DeepEqual(again, v) {
		t.Error(again, err)
	}
	k.restive = false
	if v, err = tables.Look(t.Context(), "udp", addrPorts("10.254.3.7:80")[0]); err != nil || v.Action != proxy.Reject {
		t.Error(v, err)
	}
	if v, err = tables.Look(t.Context(), "tcp", addrPorts("0.0.0.0:80")[0]); err != nil || v.Action != proxy.Nothing {
		t.Error(v, err)
	}
}

func TestErrorsOfTheKernelSayWhatWasWrong(t *testing.T) {
	b := newBatch()
	addChain(b, Table, chain{name: "web"})
	if got := b.describe(b.seq); got != "add chain whalepod web" {
		t.Error(got)
	}
	if got := b.describe(1); got != "the whole batch" {
		t.Error(got)
	}
	body := binary.NativeEndian.AppendUint32(nil, uint32(0xffffffff&-int64(unix.ENOENT)))
	if err := kernelError(0, body); !errors.Is(err, unix.ENOENT) || err.Error() != "nf_tables: no such file or directory" {
		t.Error(err)
	}
	words := buffer{append(body, make([]byte, unix.NLMSG_HDRLEN)...)}
	words.string(1, "what is that")
	if err := kernelError(0x200, words.b); !errors.Is(err, unix.ENOENT) || err.Error() != "nf_tables: no such file or directory: what is that" {
		t.Error(err)
	}
}
