package proxy

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

func TestHostPorts(t *testing.T) {
	tables := newFake()
	inBubble(t, tables, nil, func(p *Proxy) {
		p.Synced()
		settleDown()
		before := tables.text(p.cfg)
		p.SetHostPorts("default/web", []HostPort{{Port: 8080, Pod: netip.MustParseAddrPort("10.244.1.5:80")},
			{Protocol: corev1.ProtocolUDP, HostIP: netip.MustParseAddr("198.51.100.11"), Port: 53, Pod: netip.MustParseAddrPort("10.244.1.5:5353")}})
		settleDown()
		want := `-A WP-HOSTPORTS -s 127.0.0.0/8 -p tcp -m comment --comment "default/web hostPort" -m tcp --dport 8080 -j MARK --set-xmark 0x1000/0x3000
-A WP-HOSTPORTS -p tcp -m comment --comment "default/web hostPort" -m tcp --dport 8080 -j DNAT --to-destination 10.244.1.5:80
-A WP-HOSTPORTS -s 127.0.0.0/8 -d 198.51.100.11/32 -p udp -m comment --comment "default/web hostPort" -m udp --dport 53 -j MARK --set-xmark 0x1000/0x3000
-A WP-HOSTPORTS -d 198.51.100.11/32 -p udp -m comment --comment "default/web hostPort" -m udp --dport 53 -j DNAT --to-destination 10.244.1.5:5353
`
		if d := cmp.Diff(want, tables.tables["nat"][chainHostPorts]); d != "" {
			t.Error(d)
		}
		if !strings.Contains(tables.tables["nat"][chainHairpin], "-s 10.244.1.5/32 -d 10.244.1.5/32") {
			t.Error("no hairpin for a pod behind a host port")
		}
		p.SetHostPorts("default/web", nil)
		settleDown()
		p.Repair() // hairpins go a change later
		settleDown()
		if d := cmp.Diff(before, tables.text(p.cfg)); d != "" {
			t.Error(d)
		}
	})
}

func TestHostPortsOutliveARestart(t *testing.T) {
	tables := newFake()
	at := netip.MustParseAddrPort
	inBubble(t, tables, nil, func(p *Proxy) {
		p.SetHostPorts("default/stays", []HostPort{{Port: 8080, Pod: at("10.244.1.5:80")}})
		p.SetHostPorts("default/gone", []HostPort{{Port: 8081, Pod: at("10.244.1.6:80")}})
		p.Synced()
		settleDown()
	})
	inBubble(t, tables, nil, func(p *Proxy) {
		p.Synced()
		settleDown()
		if s := tables.tables["nat"][chainHostPorts]; strings.Count(s, "DNAT") != 2 {
			t.Errorf("a restart withdrew host ports:\n%s", s)
		}
		p.SetHostPorts("default/stays", []HostPort{{Port: 8080, Pod: at("10.244.1.5:81")}})
		settleDown()
		time.Sleep(adoptGrace)
		synctest.Wait()
		settleDown()
		if s := tables.tables["nat"][chainHostPorts]; strings.Count(s, "DNAT") != 1 || !strings.Contains(s, "10.244.1.5:81") {
			t.Errorf("after the grace:\n%s", s)
		}
	})
}

// A pod that came while no agent ran has its ports at once: they cannot be those of one that is still there.
func TestHostPortsOfPodsThatWentWhileNoAgentRan(t *testing.T) {
	at, ip := netip.MustParseAddrPort, netip.MustParseAddr
	old := map[string][]HostPort{
		"default/a-web":   {{Port: 80, Pod: at("10.244.1.5:80")}, {Port: 443, Pod: at("10.244.1.5:443")}},
		"default/a-one":   {{Port: 53, HostIP: ip("198.51.100.11"), Pod: at("10.244.1.6:53")}},
		"default/a-told":  {{Port: 81, Pod: at("10.244.1.7:80")}},
		"default/a-udp":   {{Port: 82, Protocol: corev1.ProtocolUDP, Pod: at("10.244.1.8:80")}},
		"default/a-other": {{Port: 83, HostIP: ip("198.51.100.11"), Pod: at("10.244.1.9:80")}},
	}
	for _, when := range []string{"before the rules are read", "after"} {
		t.Run(when, func(t *testing.T) {
			tables := newFake()
			inBubble(t, tables, nil, func(p *Proxy) {
				for pod, ports := range old {
					p.SetHostPorts(pod, ports)
				}
				p.Synced()
				settleDown()
			})
			inBubble(t, tables, nil, func(p *Proxy) {
				if when == "after" {
					p.Synced()
					settleDown()
				}
				p.SetHostPorts("default/b-web", []HostPort{{Port: 443, Protocol: corev1.ProtocolTCP, Pod: at("10.244.1.25:443")}})
				p.SetHostPorts("default/b-one", []HostPort{{Port: 53, Pod: at("10.244.1.26:53")}})
				p.SetHostPorts("default/a-told", nil)
				p.SetHostPorts("default/b-tcp", []HostPort{{Port: 82, Pod: at("10.244.1.28:80")}})
				p.SetHostPorts("default/b-other", []HostPort{{Port: 83, HostIP: ip("198.51.100.12"), Pod: at("10.244.1.29:80")}})
				p.Synced()
				settleDown()
				var got []string
				for line := range strings.Lines(tables.tables["nat"][chainHostPorts]) {
					if _, to, ok := strings.Cut(strings.TrimSpace(line), "--to-destination "); ok {
						got = append(got, to)
					}
				}
				slices.Sort(got)
				want := []string{"10.244.1.25:443", "10.244.1.26:53", "10.244.1.28:80", "10.244.1.29:80", "10.244.1.8:80", "10.244.1.9:80"}
				if d := cmp.Diff(want, got); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

// A pod's name may have 253 letters, its namespace's 63; a comment of iptables that is longer than 255 fails, and all rules with it.
func TestHostPortsOfPodsWithLongNames(t *testing.T) {
	tables := newFake()
	pod := strings.Repeat("n", 63) + "/" + strings.Repeat("p", 253)
	for range 2 { // a restart finds them, too
		inBubble(t, tables, nil, func(p *Proxy) {
			if len(tables.texts) == 0 {
				p.SetHostPorts(pod, []HostPort{{Port: 80, Pod: netip.MustParseAddrPort("10.244.1.5:80")}})
			}
			p.Synced()
			settleDown()
			rules := tables.tables["nat"][chainHostPorts]
			_, comment, _ := strings.Cut(rules, "--comment \"")
			comment, _, _ = strings.Cut(comment, "\"")
			if len(comment) < 100 || len(comment) > 255 || !strings.HasSuffix(comment, "p hostPort") {
				t.Errorf("comment %q of\n%s", comment, rules)
			}
		})
	}
}

// There are no rules for IPv6: what is for one such address is not to be open at all others.
func TestHostPortsOfIPv6(t *testing.T) {
	tables := newFake()
	inBubble(t, tables, nil, func(p *Proxy) {
		to, ip := netip.MustParseAddrPort("10.244.1.5:80"), netip.MustParseAddr
		p.SetHostPorts("default/web", []HostPort{{Port: 81, HostIP: ip("::1"), Pod: to}, {Port: 82, HostIP: ip("2001:db8::1"), Pod: to},
			{Port: 83, HostIP: ip("::ffff:198.51.100.11"), Pod: to}, {Port: 84, HostIP: ip("::"), Pod: to}})
		p.Synced()
		settleDown()
		rules := tables.tables["nat"][chainHostPorts]
		if strings.Count(rules, "DNAT") != 2 || !strings.Contains(rules, "-d 198.51.100.11/32 -p tcp -m comment --comment \"default/web hostPort\" -m tcp --dport 83 -j DNAT") || !strings.Contains(rules, "--dport 84") {
			t.Errorf("rules:\n%s", rules)
		}
	})
}
