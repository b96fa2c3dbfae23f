package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

// inBubble runs a proxy over fake tables in virtual time.
func inBubble(t *testing.T, tables *fakeTables, change func(*Config), f func(p *Proxy)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Applier = tables
		if change != nil {
			change(&cfg)
		}
		p, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		f(p)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func settleDown() {
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
}

func TestNothingIsAppliedBeforeEverythingWasGiven(t *testing.T) {
	tables := newFake()
	inBubble(t, tables, nil, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9"))
		time.Sleep(time.Hour)
		synctest.Wait()
		if tables.count() != 0 {
			t.Errorf("applied too early:\n%s", tables.last())
		}
		p.SetSlice(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"}))
		p.Synced()
		settleDown()
		select {
		case <-p.Ready():
		default:
			t.Error("not ready")
		}
		if tables.count() != 1 || !strings.Contains(tables.last(), "10.244.1.5:8080") {
			t.Errorf("%d runs, last:\n%s", tables.count(), tables.last())
		}
	})
	// The next agent finds the same and changes nothing.
	inBubble(t, tables, nil, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9"))
		p.SetSlice(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"}))
		p.Synced()
		settleDown()
		if tables.count() != 1 {
			t.Errorf("a restart rewrote rules that were right:\n%s", tables.last())
		}
	})
	// Another one finds rules of a Service that is gone, and a chain of somebody else.
	tables.tables["nat"]["DOCKER"] = "-A DOCKER -i docker0 -j RETURN\n"
	inBubble(t, tables, nil, func(p *Proxy) {
		p.Synced()
		settleDown()
		if strings.Contains(tables.text(p.cfg), "10.244.1.5") {
			t.Error("rules of a Service that is gone are still there")
		}
	})
	if tables.tables["nat"]["DOCKER"] == "" {
		t.Error("a chain that is not ours was changed")
	}
}

func TestManyChangesAreOneRunAndOnlyWhatChanged(t *testing.T) {
	tables := newFake()
	inBubble(t, tables, nil, func(p *Proxy) {
		svcs, eps := many(300, 2)
		for i := range svcs {
			p.SetService(svcs[i])
			p.SetSlice(eps[i])
		}
		p.Synced()
		settleDown()
		if tables.count() != 1 {
			t.Errorf("%d runs for the first sync", tables.count())
		}
		p.SetSlice(slice("svc-7", 8080, endpoint{ip: "10.244.9.99", node: "n9"}))
		p.SetSlice(slice("svc-7", 8080, endpoint{ip: "10.244.9.98", node: "n9"}))
		settleDown()
		want := "*nat\n:WP-S-CHAIN - [0:0]\n-A WP-S-CHAIN -p tcp -m comment --comment \"default/svc-7:http\" -j DNAT --to-destination 10.244.9.98:8080\nCOMMIT\n"
		got := strings.ReplaceAll(tables.last(), hashed(kindCluster, "default/svc-7:http/tcp"), "WP-S-CHAIN")
		if d := cmp.Diff(want, got); d != "" || tables.count() != 2 {
			t.Errorf("%d runs; %s", tables.count(), d)
		}
		p.SetService(svcs[3]) // the same again
		settleDown()
		if tables.count() != 2 {
			t.Errorf("an update without effect was applied:\n%s", tables.last())
		}
		if tables.reads != 1 {
			t.Errorf("the tables were read %d times", tables.reads)
		}
	})
}

func TestFailureIsTriedAgainFromWhatTheKernelHas(t *testing.T) {
	tables := newFake()
	tables.fail = 3
	inBubble(t, tables, nil, func(p *Proxy) {
		p.Synced()
		time.Sleep(time.Minute)
		synctest.Wait()
		if tables.count() != 4 || tables.reads != 4 || tables.tables["nat"][chainServices] == "" {
			t.Errorf("%d runs, %d reads", tables.count(), tables.reads)
		}
	})
}

// A machine whose tables cannot be written has other worries than reading them again for every change.
func TestChangesDoNotHurryFailures(t *testing.T) {
	tables := newFake()
	tables.fail = 1000
	inBubble(t, tables, nil, func(p *Proxy) {
		p.Synced()
		for i := range 1000 {
			p.SetService(service(fmt.Sprint("web-", i), "10.254.0.9"))
			time.Sleep(10 * time.Millisecond)
		}
		if tables.reads > 10 {
			t.Errorf("%d reads in ten seconds", tables.reads)
		}
		tables.mu.Lock()
		tables.fail = 0
		tables.mu.Unlock()
		time.Sleep(backoffMax)
		synctest.Wait()
		if tables.tables["nat"][chainServices] == "" {
			t.Error("not tried again")
		}
	})
}

func TestFlushedTablesAreRepaired(t *testing.T) {
	for name, damage := range map[string]func(map[string]map[string]string){
		"nat flushed":     func(m map[string]map[string]string) { m["nat"][chainServices], m["nat"]["PREROUTING"] = "", "" },
		"jump gone":       func(m map[string]map[string]string) { m["filter"]["FORWARD"] = "" },
		"all chains gone": func(m map[string]map[string]string) { m["nat"] = newFake().tables["nat"] },
		"rules in disorder": func(m map[string]map[string]string) {
			l := strings.SplitAfter(m["filter"][chainForward], "\n")
			slices.Reverse(l)
			m["filter"][chainForward] = strings.Join(l, "")
		},
	} {
		for _, told := range []bool{true, false} {
			tables := newFake()
			inBubble(t, tables, nil, func(p *Proxy) {
				p.Synced()
				settleDown()
				want := tables.text(p.cfg)
				tables.mu.Lock()
				damage(tables.tables)
				tables.mu.Unlock()
				if told {
					p.Repair()
					settleDown()
				} else {
					time.Sleep(watchEvery + time.Second)
					synctest.Wait()
				}
				if d := cmp.Diff(want, tables.text(p.cfg)); d != "" {
					t.Errorf("%s (told: %v): %s", name, told, d)
				}
			})
		}
	}
}

func TestRemoveTakesAllOfOursAndNothingElse(t *testing.T) {
	tables := newFake()
	tables.tables["nat"]["DOCKER"] = "-A DOCKER -i docker0 -j RETURN\n"
	cfg := testConfig()
	cfg.Applier = tables
	inBubble(t, tables, nil, func(p *Proxy) {
		svcs, eps := many(20, 2)
		for i := range svcs {
			p.SetService(svcs[i])
			p.SetSlice(eps[i])
		}
		p.Synced()
		settleDown()
	})
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := newFake().tables
	want["nat"]["DOCKER"] = "-A DOCKER -i docker0 -j RETURN\n"
	if d := cmp.Diff(want, tables.tables); d != "" {
		t.Error(d)
	}
}

func TestDeadNodesLeaveAtOnce(t *testing.T) {
	tables := newFake()
	inBubble(t, tables, nil, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9"))
		p.SetSlice(slice("web", 80, endpoint{ip: "10.244.1.5", node: "n1"}, endpoint{ip: "10.244.2.5", node: "n2"}))
		p.Synced()
		settleDown()
		before := tables.text(p.cfg)
		p.SetDeadNodes(map[string]bool{"n2": true})
		settleDown()
		if s := tables.text(p.cfg); strings.Contains(s, "10.244.2.5") || !strings.Contains(s, "10.244.1.5") {
			t.Errorf("after n2's death:\n%s", s)
		}
		p.SetDeadNodes(nil)
		settleDown()
		if d := cmp.Diff(before, tables.text(p.cfg)); d != "" {
			t.Errorf("after n2 came back: %s", d)
		}
	})
}

func TestWithdrawnNodesAreToldOnceAndAfterTheRules(t *testing.T) {
	tables := newFake()
	var got []string
	inBubble(t, tables, func(c *Config) {
		c.Withdrawn = func(nodes []string) error {
			if strings.Contains(tables.text(*c), "10.244.2.5") {
				t.Error("told before the rules were in force")
			}
			got = append(got, nodes...)
			return errors.New("ignored")
		}
	}, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9"))
		p.SetSlice(slice("web", 80, endpoint{ip: "10.244.1.5", node: "n1"}, endpoint{ip: "10.244.2.5", node: "n2"}))
		p.Synced()
		settleDown()
		p.SetDeadNodes(map[string]bool{"n2": true})
		settleDown()
		p.SetDeadNodes(map[string]bool{"n2": true, "n3": true})
		settleDown()
		p.SetDeadNodes(nil)
		settleDown()
		if !slices.Equal(got, []string{"n2", "n3"}) {
			t.Errorf("withdrawn: %v", got)
		}
	})
}

func TestEndpointChoice(t *testing.T) {
	for name, c := range map[string]struct {
		eps            []endpoint
		cluster, local string
	}{
		"ready only":                  {[]endpoint{{ip: "10.244.1.2", node: "n1"}, {ip: "10.244.2.2", node: "n2", state: "notready"}}, "10.244.1.2:80", "10.244.1.2:80"},
		"terminating while none else": {[]endpoint{{ip: "10.244.2.2", node: "n2", state: "terminating"}, {ip: "10.244.2.3", node: "n2", state: "unserving"}}, "10.244.2.2:80", ""},
		"terminating not when ready":  {[]endpoint{{ip: "10.244.2.2", node: "n2", state: "terminating"}, {ip: "10.244.2.3", node: "n2"}}, "10.244.2.3:80", ""},
		"local terminating":           {[]endpoint{{ip: "10.244.1.2", node: "n1", state: "terminating"}, {ip: "10.244.2.3", node: "n2"}}, "10.244.2.3:80", "10.244.1.2:80"},
		"doubles, bad addresses":      {[]endpoint{{ip: "10.244.1.2", node: "n1"}, {ip: "10.244.1.2", node: "n1"}, {ip: "fd00::1"}, {ip: "x"}}, "10.244.1.2:80", "10.244.1.2:80"},
		"dead node":                   {[]endpoint{{ip: "10.244.9.2", node: "dead"}}, "", ""},
	} {
		s := slice("web", 80, c.eps...)
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{})
		b := backendsOf(&service("web", "10.254.0.9").Spec.Ports[0], []*discoveryv1.EndpointSlice{s}, place{node: "n1", dead: map[string]bool{"dead": true}})
		show := func(l []netip.AddrPort) string {
			var out []string
			for _, a := range l {
				out = append(out, a.String())
			}
			return strings.Join(out, " ")
		}
		if show(b.cluster) != c.cluster || show(b.local) != c.local {
			t.Errorf("%s: cluster %q local %q, want %q %q", name, show(b.cluster), show(b.local), c.cluster, c.local)
		}
	}
}

// Whatever the order of changes, the tables end up as if written at once.
func TestIncrementalEqualsWhole(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		cfg := testConfig()
		fake := newFake()
		cfg.Applier = fake
		m, to := newModel(&cfg), newTables(&cfg, false)
		if _, err := to.Read(context.Background()); err != nil {
			r.Fatal(err)
		}
		names := []string{"a", "b", "c", "d"}
		svcs, eps := map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}
		options := []func(*corev1.Service){nodePort(30080), nodePort(30081), externalLocal, internalLocal, sticky, external("203.0.113.5"),
			balancer("203.0.113.5", "203.0.113.6"), ranges("192.0.2.0/24"), proto(corev1.ProtocolUDP)}
		for range rapid.IntRange(1, 20).Draw(r, "steps") {
			n := rapid.SampledFrom(names).Draw(r, "name")
			switch rapid.IntRange(0, 3).Draw(r, "what") {
			case 0:
				s := service(n, "10.254.0."+string('1'+rune(slices.Index(names, n))))
				for _, o := range rapid.SliceOfN(rapid.SampledFrom(options), 0, 4).Draw(r, "options") {
					o(s)
				}
				svcs[n] = s
				m.setService(s)
			case 1:
				delete(svcs, n)
				m.deleteService(key{"default", n})
			case 2:
				s := slice(n, 80, podsOf(rapid.IntRange(0, 3).Draw(r, "pods"), rapid.IntRange(0, 3).Draw(r, "count"))...)
				eps[n] = s
				m.setSlice(s)
			case 3:
				delete(eps, n)
				m.deleteSlice(key{"default", n + "-x"})
			}
			if !rapid.Bool().Draw(r, "apply") {
				continue
			}
			applyModel(r, m, to)
		}
		applyModel(r, m, to)
		var s []*corev1.Service
		var e []*discoveryv1.EndpointSlice
		for _, n := range names {
			if svcs[n] != nil {
				s = append(s, svcs[n])
			}
			if eps[n] != nil {
				e = append(e, eps[n])
			}
		}
		if d := cmp.Diff(Rules(cfg, s, e), fake.text(cfg)); d != "" {
			r.Fatal(d)
		}
	})
}

// applyModel applies twice: hairpins go a change later.
func applyModel(r *rapid.T, m *model, to *tables) {
	m.flush(to)
	for range 2 {
		if _, err := to.Apply(context.Background()); err != nil {
			r.Fatal(err)
		}
	}
}

func TestProbabilitiesAreEqual(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, 100} {
		left := 1.0
		for i := range n {
			p := 1.0
			if n-i > 1 {
				var err error
				if p, err = parseFloat(probability(n - i)); err != nil {
					t.Fatal(err)
				}
			}
			if share := left * p; share < 1/float64(n)-1e-7 || share > 1/float64(n)+1e-7 {
				t.Errorf("endpoint %d of %d gets %v", i, n, share)
			}
			left *= 1 - p
		}
	}
}

// Rules of an agent that marked packets otherwise go when this one's are there.
func TestAnotherMarkOfAnOlderAgentGoes(t *testing.T) {
	const older = "0x40000/0x40000"
	for _, bare := range []bool{false, true} {
		kernel, cfg := newFake(), testConfig()
		cfg.Applier = kernel
		run := func() {
			tables := newTables(&cfg, bare)
			if !bare {
				for name, ports := range planOf(cfg, []*corev1.Service{service("web", "10.254.0.9", nodePort(30080))}, []*discoveryv1.EndpointSlice{slice("web", 8080, endpoint{ip: "10.244.2.7", node: "n2"})}) {
					tables.SetPorts(name, nil, ports)
				}
			}
			if _, err := tables.Read(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := tables.Apply(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		run()
		want, changed := kernel.text(cfg), 0
		for _, chains := range kernel.tables {
			for chain, rules := range chains {
				chains[chain] = strings.NewReplacer(masqMark, older, unmark, "0x0/0x40000").Replace(rules)
				if chains[chain] != rules {
					changed++
				}
			}
		}
		if changed == 0 {
			t.Fatal("no rule has the mark:", want)
		}
		run()
		if d := cmp.Diff(want, kernel.text(cfg)); d != "" {
			t.Errorf("bare %v: %s", bare, d)
		}
	}
}
