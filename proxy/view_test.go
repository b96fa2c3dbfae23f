package proxy

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var addrs = cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })

// In every scenario the kernel does what is wanted, and what is wanted is not nothing.
func TestViewAgreesWithTheRules(t *testing.T) {
	for name, sc := range scenarios() {
		tables := newFake()
		inBubble(t, tables, nil, func(p *Proxy) {
			for _, s := range sc.services {
				p.SetService(s)
			}
			for _, s := range sc.slices {
				p.SetSlice(s)
			}
			p.Synced()
			settleDown()
			for _, s := range sc.services {
				v, err := p.View(t.Context(), s.Namespace, s.Name)
				if err != nil || !v.Known || !v.Applied || len(v.Ways) == 0 && name != "dns-is-local" && name != "another-proxy" {
					t.Fatalf("%s: %+v, %v", name, v, err)
				}
				for _, w := range v.Ways {
					if w.Want.Action != w.Have.Action || cmp.Diff(w.Want.Endpoints, w.Have.Endpoints, addrs) != "" {
						t.Errorf("%s: %s %s: want %+v, have %+v", name, w.Protocol, w.Address, w.Want, w.Have)
					}
				}
			}
		})
	}
}

func TestViewSeesWhatIsBroken(t *testing.T) {
	at := netip.MustParseAddrPort
	good := Verdict{Action: ToEndpoints, Endpoints: []netip.AddrPort{at("10.244.1.5:8080"), at("10.244.2.7:8080")}}
	for name, c := range map[string]struct {
		damage func(map[string]map[string]string)
		have   []Verdict // of the ClusterIP, of the node port
	}{
		"nothing": {func(map[string]map[string]string) {}, []Verdict{good, good}},
		"jump": {
			func(m map[string]map[string]string) { m["nat"]["PREROUTING"] = "" },
			[]Verdict{{Action: Reject, Missing: "PREROUTING does not lead to WP-SERVICES"}, {Action: Nothing, Missing: "PREROUTING does not lead to WP-SERVICES"}},
		},
		"flushed": {
			func(m map[string]map[string]string) { m["nat"][chainServices] = "" },
			[]Verdict{{Action: Reject, Missing: "chain WP-SERVICES is empty"}, {Action: Nothing, Missing: "chain WP-SERVICES is empty"}},
		},
		"one endpoint less": {
			func(m map[string]map[string]string) {
				for chain, rules := range m["nat"] {
					if strings.HasPrefix(chain, "WP-S-") {
						_, m["nat"][chain], _ = strings.Cut(rules, "\n")
					}
				}
			},
			[]Verdict{{Action: ToEndpoints, Endpoints: good.Endpoints[1:]}, {Action: ToEndpoints, Endpoints: good.Endpoints[1:]}},
		},
		"endpoints flushed": {
			func(m map[string]map[string]string) {
				for chain := range m["nat"] {
					if strings.HasPrefix(chain, "WP-S-") {
						m["nat"][chain] = ""
					}
				}
			},
			[]Verdict{{Action: Reject, Missing: "chain " + hashed(kindCluster, "default/web:http/tcp") + " is empty"}, {Action: Nothing, Missing: "chain " + hashed(kindCluster, "default/web:http/tcp") + " is empty"}},
		},
	} {
		tables := newFake()
		inBubble(t, tables, nil, func(p *Proxy) {
			p.SetService(service("web", "10.254.7.9", nodePort(30080)))
			p.SetSlice(slice("web", 8080, endpoint{ip: "10.244.1.5", node: "n1"}, endpoint{ip: "10.244.2.7", node: "n2"}))
			p.SetService(service("other", "10.254.7.10"))
			p.SetSlice(slice("other", 80, endpoint{ip: "10.244.1.6", node: "n1"}))
			p.SetHostPorts("default/hp", []HostPort{{Port: 8080, Pod: at("10.244.1.5:80")}})
			p.Synced()
			settleDown()
			tables.mu.Lock()
			c.damage(tables.tables)
			tables.mu.Unlock()
			v, err := p.View(t.Context(), "default", "web")
			if err != nil || len(v.Ways) != 2 {
				t.Fatal(v, err)
			}
			for i, w := range v.Ways {
				if d := cmp.Diff(good, w.Want, addrs); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff(c.have[i], w.Have, addrs); d != "" {
					t.Errorf("%s, %s: %s", name, w.Address, d)
				}
			}
		})
	}
}

func TestViewOfWhatIsNotThere(t *testing.T) {
	inBubble(t, newFake(), nil, func(p *Proxy) {
		v, err := p.View(t.Context(), "default", "nobody")
		if err != nil || v.Known || v.Applied || len(v.Ways) != 0 {
			t.Error(v, err)
		}
	})
}

// looking is an Applier that answers for itself.
type looking struct{ *fakeTables }

func (looking) Look(_ context.Context, protocol string, to netip.AddrPort) (Verdict, error) {
	if to.Port() == 81 {
		return Verdict{}, errors.New("netlink is deaf")
	}
	return Verdict{Action: protocol, Missing: to.String()}, nil
}

func TestViewAsksTheBackEnd(t *testing.T) {
	inBubble(t, newFake(), func(c *Config) { c.Applier = looking{newFake()} }, func(p *Proxy) {
		p.SetService(service("web", "10.254.7.9"))
		v, err := p.View(t.Context(), "default", "web")
		if err != nil || v.Ways[0].Have.Action != "tcp" || v.Ways[0].Have.Missing != "10.254.7.9:80" {
			t.Error(v, err)
		}
		s := service("web", "10.254.7.9")
		s.Spec.Ports[0].Port = 81
		p.SetService(s)
		if _, err := p.View(t.Context(), "default", "web"); err == nil || err.Error() != "read the rules of default/web: netlink is deaf" {
			t.Error(err)
		}
	})
}
