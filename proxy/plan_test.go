package proxy

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

// Hints count when each ready endpoint has one, and one is for us; kube-proxy's own cases.
func TestTrafficDistribution(t *testing.T) {
	two := []endpoint{{ip: "10.244.1.5", node: "n1"}, {ip: "10.244.2.7", node: "n2"}}
	all, first := "10.244.1.5:8080 10.244.2.7:8080", "10.244.1.5:8080"
	unready := slice("web", 8080, append(two, endpoint{ip: "10.244.3.3", node: "n3", state: "notready"})...)
	for name, c := range map[string]struct {
		slice *discoveryv1.EndpointSlice
		zone  string
		want  string
	}{
		"none":                           {slice("web", 8080, two...), "a", all},
		"zone":                           {hinted(slice("web", 8080, two...), "", "a", "b"), "a", first},
		"one without a hint":             {hinted(slice("web", 8080, two...), "", "a", ""), "a", all},
		"none for our zone":              {hinted(slice("web", 8080, two...), "", "b", "b"), "a", all},
		"no zone":                        {hinted(slice("web", 8080, two...), "", "a", "b"), "", all},
		"one that is not ready and none": {hinted(unready, "", "a", "b", ""), "a", first},
		"node before zone":               {hinted(slice("web", 8080, two...), "n", "b", "a"), "a", first},
		"zone while no node is ours":     {hinted(slice("web", 8080, two...), "m", "a", "b"), "a", first},
	} {
		got := backendsOf(&service("web", "10.254.0.9").Spec.Ports[0], []*discoveryv1.EndpointSlice{c.slice}, place{node: "n1", zone: c.zone})
		if s := strings.Trim(fmt.Sprint(got.cluster), "[]"); s != c.want {
			t.Errorf("%s: %s, want %s", name, s, c.want)
		}
	}
	// The last endpoints do not count hints, and neither do endpoints on dead nodes.
	last := hinted(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1", state: "terminating"}), "", "b")
	if got := backendsOf(&service("web", "").Spec.Ports[0], []*discoveryv1.EndpointSlice{last}, place{node: "n1", zone: "a"}); len(got.cluster) != 1 {
		t.Error("a terminating endpoint in another zone:", got)
	}
	dead := hinted(slice("web", 8080, two...), "", "a", "b")
	if got := backendsOf(&service("web", "").Spec.Ports[0], []*discoveryv1.EndpointSlice{dead}, place{node: "n1", zone: "a", dead: map[string]bool{"n1": true}}); len(got.cluster) != 1 {
		t.Error("the near endpoint's node is dead:", got)
	}
}

func TestZoneChangesWhatIsNear(t *testing.T) {
	tables := newFake()
	inBubble(t, tables, nil, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9"))
		p.SetSlice(hinted(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"}, endpoint{ip: "10.244.2.5", node: "n2"}), "", "a", "b"))
		p.Synced()
		settleDown()
		for zone, want := range map[string][2]bool{"a": {true, false}, "b": {false, true}, "c": {true, true}} {
			p.SetZone(zone)
			settleDown()
			s := tables.text(p.cfg)
			if got := [2]bool{strings.Contains(s, "10.244.1.5:8080"), strings.Contains(s, "10.244.2.5:8080")}; got != want {
				t.Errorf("zone %s: %v, want %v", zone, got, want)
			}
		}
	})
}

func TestWhatAnotherProxyServesIsLeftAlone(t *testing.T) {
	eps := slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"})
	for _, name := range []string{labelProxyName, corev1.IsHeadlessService} {
		if p := planOf(testConfig(), []*corev1.Service{service("web", "10.254.0.9", label(name))}, []*discoveryv1.EndpointSlice{eps}); len(p["default/web"]) > 0 {
			t.Errorf("Service labelled %s: %v", name, p)
		}
		other := eps.DeepCopy()
		other.Labels[name] = "x"
		if p := planOf(testConfig(), []*corev1.Service{service("web", "10.254.0.9")}, []*discoveryv1.EndpointSlice{other}); !p["default/web"][0].Dead() {
			t.Errorf("slice labelled %s: %v", name, p)
		}
	}
	p := planOf(testConfig(), []*corev1.Service{service("web", "10.254.0.9", balancer("203.0.113.5"), modeProxy)}, []*discoveryv1.EndpointSlice{eps})
	if len(p["default/web"][0].Balanced) > 0 {
		t.Error("an address of mode Proxy is translated")
	}
}

// anything draws an object as no API server would let it pass.
func anything(r *rapid.T) (*corev1.Service, *discoveryv1.EndpointSlice) {
	word := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"a", "b", "web", "default", "a\"b", "x\n-A FORWARD -j ACCEPT", strings.Repeat("n", 300)}))
	ip := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"10.254.0.9", "10.254.254.1", "203.0.113.5", "0.0.0.0", "None", "", "fd00::1", "10.244.1.5", "10.244.1.6"}))
	number := rapid.OneOf(rapid.Int32(), rapid.SampledFrom([]int32{80, 30080, 53, 0, 65535, 65536}))
	proto := rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP", "SCTP", "", "tcp", "ICMP"})
	name, ns := word.Draw(r, "name"), word.Draw(r, "namespace")
	s := service(name, ip.Draw(r, "ip"))
	s.Namespace = ns
	s.Spec.Type = corev1.ServiceType(rapid.SampledFrom([]string{"ClusterIP", "NodePort", "LoadBalancer", "ExternalName", "x"}).Draw(r, "type"))
	s.Spec.ExternalIPs = rapid.SliceOfN(ip, 0, 3).Draw(r, "external")
	s.Spec.LoadBalancerSourceRanges = rapid.SliceOfN(rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"10.0.0.0/8", "10.1.0.0/16", "0.0.0.0/0", "fd00::/8"})), 0, 3).Draw(r, "ranges")
	for _, a := range rapid.SliceOfN(ip, 0, 2).Draw(r, "balanced") {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a})
	}
	for _, o := range rapid.SliceOfN(rapid.SampledFrom([]func(*corev1.Service){externalLocal, internalLocal, sticky, stickyFor(0), stickyFor(-3)}), 0, 3).Draw(r, "options") {
		o(s)
	}
	s.Spec.Ports = nil
	e := slice(name, 0)
	e.Namespace, e.AddressType = ns, rapid.SampledFrom([]discoveryv1.AddressType{"IPv4", "IPv4", "IPv6", ""}).Draw(r, "family")
	e.Ports = nil
	for range rapid.IntRange(0, 3).Draw(r, "ports") {
		n, p := word.Draw(r, "port"), proto.Draw(r, "protocol")
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: n, Protocol: p, Port: number.Draw(r, "number"), NodePort: number.Draw(r, "node port")})
		e.Ports = append(e.Ports, discoveryv1.EndpointPort{Name: ptr(n), Protocol: &p, Port: ptr(number.Draw(r, "target"))})
	}
	for range rapid.IntRange(0, 4).Draw(r, "endpoints") {
		one := discoveryv1.Endpoint{Addresses: rapid.SliceOfN(ip, 0, 2).Draw(r, "addresses")}
		if rapid.Bool().Draw(r, "known") {
			one.NodeName, one.Conditions.Ready = ptr(rapid.SampledFrom([]string{"n1", "n2", ""}).Draw(r, "node")), ptr(rapid.Bool().Draw(r, "ready"))
			one.Conditions.Serving, one.Conditions.Terminating = ptr(true), ptr(rapid.Bool().Draw(r, "terminating"))
			one.Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: word.Draw(r, "zone")}}}
		}
		e.Endpoints = append(e.Endpoints, one)
	}
	return s, e
}

// rulesOfAnything: whatever the objects are, there is a plan that keeps its promises, and a text that restores; what changed
// twice is as if written once.
func rulesOfAnything(r *rapid.T) {
	cfg, fake := testConfig(), newFake()
	cfg.Applier = fake
	m, to := newModel(&cfg), newTables(&cfg, false)
	if _, err := to.Read(context.Background()); err != nil {
		r.Fatal(err)
	}
	svcs, eps := map[key]*corev1.Service{}, map[key]*discoveryv1.EndpointSlice{}
	for range rapid.IntRange(1, 4).Draw(r, "objects") {
		s, e := anything(r)
		svcs[key{s.Namespace, s.Name}], eps[key{e.Namespace, e.Name}] = s, e
		m.setService(s)
		m.setSlice(e)
		applyModel(r, m, to)
	}
	for _, ports := range m.compiled {
		for i := range ports {
			p := &ports[i]
			if p.Port == 0 || !p.ClusterIP.Is4() || len(p.Cluster) == 0 && len(p.Local) > 0 || strings.ContainsAny(p.String(), "\"\n ") || len(p.String()) > 200 {
				r.Fatalf("%+v", p)
			}
			for _, e := range slices.Concat(p.Cluster, p.Local) {
				if !e.Addr().Is4() || e.Port() == 0 {
					r.Fatalf("endpoint %v", e)
				}
			}
		}
	}
	for line := range strings.Lines(fake.text(cfg)) {
		if word, rest, _ := strings.Cut(strings.TrimSpace(line), " "); word == "-A" && (!strings.HasPrefix(rest, Prefix) || strings.Count(rest, "\"")%2 != 0 || strings.Contains(rest, "invalid")) {
			r.Fatalf("not one of ours: %q", line)
		}
	}
	if want := Rules(cfg, slices.Collect(maps.Values(svcs)), slices.Collect(maps.Values(eps))); want != fake.text(cfg) {
		r.Fatalf("step by step:\n%s\nat once:\n%s", fake.text(cfg), want)
	}
}

func TestRulesOfAnything(t *testing.T) { rapid.Check(t, rulesOfAnything) }

func FuzzRules(f *testing.F) { f.Fuzz(rapid.MakeFuzz(rulesOfAnything)) }

// native is a back end in memory.
type native struct {
	mu sync.Mutex
	planned
	found             map[string][]HostPort
	hosts             map[string][]HostPort
	intact, removed   bool
	reads             int
	fails, removeFail error
}

func newNative() *native {
	return &native{planned: planned{}, hosts: map[string][]HostPort{}, intact: true}
}

// with the lock held, for the test looks at it while a proxy uses it.
func (n *native) with(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

func (n *native) SetPorts(service string, old, now []Port) {
	n.with(func() { n.planned.SetPorts(service, old, now) })
}

func (n *native) SetHostPorts(pod string, ports []HostPort) {
	n.with(func() { n.hosts[pod] = ports })
}

func (n *native) Read(context.Context) (found map[string][]HostPort, err error) {
	n.with(func() { n.reads++; found, err = n.found, n.fails })
	return found, err
}

func (n *native) Apply(context.Context) (int, error) {
	var err error
	n.with(func() { err = n.fails })
	return 1, err
}

func (n *native) Intact(context.Context) (ok bool, err error) {
	n.with(func() { ok = n.intact })
	return ok, nil
}

func (n *native) Remove(context.Context) (err error) {
	n.with(func() { n.removed, err = n.removeFail == nil, n.removeFail })
	return err
}

// Beside a native back end iptables holds what lets pods pass, and nothing of what an agent before may have left there.
func TestBesideANativeBackEnd(t *testing.T) {
	tables, kernel := newFake(), newNative()
	inBubble(t, tables, nil, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9", nodePort(30080)))
		p.SetSlice(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"}))
		p.SetHostPorts("default/left", []HostPort{{Port: 8080, Pod: netip.MustParseAddrPort("10.244.1.6:80")}})
		p.Synced()
		settleDown()
	})
	inBubble(t, tables, func(c *Config) { c.Native = kernel }, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9", nodePort(30080)))
		p.SetSlice(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"}))
		p.Synced()
		settleDown()
		kernel.with(func() {
			if len(kernel.planned["default/web"]) != 1 || len(kernel.hosts["default/left"]) != 1 {
				t.Errorf("given: %v %v", kernel.planned, kernel.hosts)
			}
		})
		tables.mu.Lock()
		for chain := range tables.tables["nat"] {
			if strings.HasPrefix(chain, Prefix) || tables.tables["nat"][chain] != "" {
				t.Errorf("nat still has %s: %s", chain, tables.tables["nat"][chain])
			}
		}
		forward := tables.tables["filter"][chainForward]
		if strings.Contains(forward, "REJECT") || strings.Count(forward, "ACCEPT") != 4 || tables.tables["filter"][chainRefuse] != "" {
			t.Errorf("filter:\n%s", forward)
		}
		tables.mu.Unlock()
		before := 0
		kernel.with(func() { before, kernel.intact = kernel.reads, false })
		time.Sleep(watchEvery + time.Second)
		settleDown()
		kernel.with(func() {
			if kernel.reads == before {
				t.Error("what somebody changed was not read")
			}
		})
	})
	// And back: its rules go when those of iptables are there.
	kernel.found = map[string][]HostPort{"default/other": {{Port: 8081, Pod: netip.MustParseAddrPort("10.244.1.7:80")}}}
	kernel.removeFail = fmt.Errorf("busy")
	inBubble(t, tables, func(c *Config) { c.Native, c.Former = kernel, true }, func(p *Proxy) {
		p.SetService(service("web", "10.254.0.9", nodePort(30080)))
		p.SetSlice(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"}))
		p.Synced()
		settleDown()
		removed := true
		kernel.with(func() { removed = kernel.removed })
		if removed || !strings.Contains(tables.text(p.cfg), "10.244.1.5:8080") || !strings.Contains(tables.text(p.cfg), "10.244.1.7:80") {
			t.Errorf("removed too early, or rules are missing:\n%s", tables.text(p.cfg))
		}
		kernel.with(func() { kernel.removeFail = nil })
		time.Sleep(backoffMax)
		settleDown()
		kernel.with(func() {
			if !kernel.removed {
				t.Error("the former rules are still there")
			}
		})
		if err := p.Remove(t.Context()); err != nil || strings.Contains(tables.text(p.cfg), "10.244.1.5") {
			t.Error(err, tables.text(p.cfg))
		}
	})
}

// planOf is what a node has to do for these Services, by their names.
func planOf(cfg Config, services []*corev1.Service, eps []*discoveryv1.EndpointSlice) map[string][]Port {
	m, out := newModel(&cfg), planned{}
	for _, s := range services {
		m.setService(s)
	}
	for _, s := range eps {
		m.setSlice(s)
	}
	m.flush(out)
	return out
}

// planned is a back end that only remembers.
type planned map[string][]Port

func (p planned) SetPorts(service string, _, now []Port)            { p[service] = now }
func (planned) SetHostPorts(string, []HostPort)                     {}
func (planned) Read(context.Context) (map[string][]HostPort, error) { return nil, nil }
func (planned) Apply(context.Context) (int, error)                  { return 0, nil }
func (planned) Intact(context.Context) (bool, error)                { return true, nil }
func (planned) Remove(context.Context) error                        { return nil }
