//go:build e2e

package iptables_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/netnstest"
	"github.com/whalepod/whalepod/proxy/nft"
)

func nodePort(n int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, n }
}

func balancer(ip string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: ip}}
	}
}

// What of a Service's options changes who may come and who sees whom.
func TestE2EPolicies(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		topology(t, "1")
		// Of these the node itself would refuse what no rule drops.
		netnstest.RunIn(t, nodeNS, "sh", "-ec", "ip addr add 203.0.113.21/32 dev eth0; ip addr add 203.0.113.23/32 dev eth0")
		for ns := range podIPs {
			serve(t, ns, ":8080")
		}
		r := start(t, b)
		defer r.stop()
		at := netip.MustParseAddrPort
		second := int32(1)
		r.apply(t, func() {
			r.SetService(svc("open", "10.254.0.20", nodePort(30120), balancer("203.0.113.20")))
			r.SetService(svc("ranges", "10.254.0.21", balancer("203.0.113.21"), func(s *corev1.Service) {
				s.Spec.LoadBalancerSourceRanges = []string{"198.51.100.2/32", "198.51.100.2/31", "192.0.2.0/24"}
			}))
			r.SetService(svc("kept", "10.254.0.22", balancer("203.0.113.22"), func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" }))
			r.SetService(svc("away", "10.254.0.23", balancer("203.0.113.23"), func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" }))
			r.SetService(svc("brief", "10.254.0.24", func(s *corev1.Service) {
				s.Spec.SessionAffinity = "ClientIP"
				s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &second}}
			}))
			r.SetService(svc("inside", "10.254.0.25", func(s *corev1.Service) {
				local := corev1.ServiceInternalTrafficPolicyLocal
				s.Spec.InternalTrafficPolicy = &local
			}))
			for _, name := range []string{"open", "ranges", "kept", "brief"} {
				r.SetSlice(eps(name, "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
			}
			for _, name := range []string{"away", "inside"} {
				elsewhere, n2 := eps(name, "TCP", 8080, podIPs["wpp-p1"]), "n2"
				elsewhere.Endpoints[0].NodeName = &n2
				r.SetSlice(elsewhere)
			}
			// Two pods may have the same port on different addresses of the node.
			r.SetHostPorts("default/p1", []proxy.HostPort{{Port: 8089, HostIP: netip.MustParseAddr(nodeIP), Pod: at(podIPs["wpp-p1"] + ":8080")}})
			r.SetHostPorts("default/p2", []proxy.HostPort{{Port: 8089, HostIP: netip.MustParseAddr("172.17.0.1"), Pod: at(podIPs["wpp-p2"] + ":8080")}})
			r.Synced()
		})
		for _, c := range []struct{ what, ns, from, to, pod, seen string }{
			{"load balancer", clientNS, "", "203.0.113.20:80", "", "10.244.1.1"},
			{"its node port", clientNS, "", nodeIP + ":30120", "", "10.244.1.1"},
			{"allowed range", clientNS, "198.51.100.2", "203.0.113.21:80", "", "10.244.1.1"},
			{"ranges are no matter for the ClusterIP", "wpp-p1", "", "10.254.0.21:80", "", ""},
			{"policy Local keeps the client's address", clientNS, "198.51.100.2", "203.0.113.22:80", "", "198.51.100.2"},
			{"policy Local, pods reach endpoints elsewhere", "wpp-p2", "", "203.0.113.23:80", "wpp-p1", "10.244.1.6"},
			{"host port on one address", clientNS, "", nodeIP + ":8089", "wpp-p1", "198.51.100.1"},
			{"host port on the other", clientNS, "", "172.17.0.1:8089", "wpp-p2", "198.51.100.1"},
		} {
			pod, seen, err := ask(c.ns, c.from, c.to)
			if err != nil || c.pod != "" && pod != c.pod || c.seen != "" && seen != c.seen {
				t.Errorf("%s: %q answered and saw %q (%v), want %q seeing %q", c.what, pod, seen, err, c.pod, c.seen)
			}
		}
		var silent sync.WaitGroup
		for _, c := range [][3]string{
			{clientNS, "198.51.100.1", "203.0.113.21:80"}, // outside of the ranges
			{clientNS, "", "203.0.113.23:80"},             // policy Local without an endpoint here
			{"wpp-p2", "", "10.254.0.25:80"},              // internal policy Local without one
			{nodeNS, "", "10.254.0.25:80"},
		} {
			silent.Go(func() {
				var timeout net.Error
				if pod, _, err := askWithin(silence, c[0], c[1], c[2]); !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("%s %s → %s: %q answered, %v; nobody should", c[0], c[1], c[2], pod, err)
				}
			})
		}
		silent.Wait()
		if pod, _, err := askWithin(silence, clientNS, "", "10.244.1.1:8089"); err == nil {
			t.Errorf("a host port on another address: %s answered", pod)
		}
		// Affinity ends: some time after a second of silence the client comes to the other endpoint.
		first, _, err := ask(clientNS, "", "10.254.0.24:80")
		if err != nil {
			t.Fatal(err)
		}
		tick := time.NewTicker(1200 * time.Millisecond)
		defer tick.Stop()
		for range 20 {
			<-tick.C
			if pod, _, err := ask(clientNS, "", "10.254.0.24:80"); err == nil && pod != first {
				return
			}
		}
		t.Errorf("after 20 pauses longer than the timeout the client was still sent to %s", first)
	})
}

// Marks that others are known to set do not have their packets masqueraded, and are no obstacle to masquerading ours.
func TestE2EMarksOfOthers(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		topology(t, "1")
		serve(t, "wpp-p1", ":8080")
		r := start(t, b)
		defer r.stop()
		r.apply(t, func() {
			r.SetService(svc("web", "10.254.0.9", nodePort(30080)))
			r.SetSlice(eps("web", "TCP", 8080, podIPs["wpp-p1"]))
			r.Synced()
		})
		netnstest.RunIn(t, nodeNS, "nft", "add table ip others; add chain ip others prerouting { type filter hook prerouting priority -150; }")
		for _, mark := range []string{"0x40000", "0x80000", "0x2000", "0x4000", "0x8000", "0x1bd00", "0x1bd10", "0xca6c", "0xd0c4e3", "0xffff0000", "0x0f00"} {
			netnstest.RunIn(t, nodeNS, "nft", "flush chain ip others prerouting; add rule ip others prerouting ip saddr 198.51.100.1 meta mark set "+mark)
			for to, seen := range map[string]string{podIPs["wpp-p1"] + ":8080": "198.51.100.1", nodeIP + ":30080": "10.244.1.1"} {
				if _, saw, err := ask(clientNS, "198.51.100.1", to); err != nil || saw != seen {
					t.Errorf("marked %s, to %s: the pod saw %q (%v), want %q", mark, to, saw, err, seen)
				}
			}
		}
	})
}

// load keeps opening connections through each kind of address until it is stopped, and counts those that failed.
type load struct {
	opened, failed atomic.Int64
	wrong          sync.Map
	stop           func()
}

const perSecond = 500

func startLoad(t *testing.T, targets [][2]string) *load {
	l, done, stopped := &load{}, make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		tick := time.NewTicker(time.Second / perSecond)
		defer tick.Stop()
		var all sync.WaitGroup
		defer all.Wait()
		for i := 0; ; i++ {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			c := targets[i%len(targets)]
			all.Go(func() {
				l.opened.Add(1)
				if _, _, err := ask(c[0], "", c[1]); err != nil {
					l.failed.Add(1)
					l.wrong.Store(fmt.Sprintf("%s → %s: %v", c[0], c[1], err), true)
				}
			})
		}
	}()
	l.stop = sync.OnceFunc(func() { close(done); <-stopped })
	t.Cleanup(l.stop)
	return l
}

func (l *load) check(t *testing.T) {
	t.Helper()
	l.stop()
	t.Logf("%d connections", l.opened.Load())
	if l.failed.Load() > 0 {
		var what []string
		l.wrong.Range(func(k, _ any) bool { what = append(what, k.(string)); return true })
		t.Errorf("%d of %d connections failed: %s", l.failed.Load(), l.opened.Load(), strings.Join(what, "\n"))
	}
}

var loaded = [][2]string{{clientNS, nodeIP + ":30130"}, {"wpp-p2", "10.254.0.30:80"}, {clientNS, "203.0.113.30:80"}, {clientNS, nodeIP + ":30131"}}

func (r *running) serveLoaded(t *testing.T) {
	r.apply(t, func() {
		r.SetService(svc("busy", "10.254.0.30", nodePort(30130), balancer("203.0.113.30")))
		r.SetSlice(eps("busy", "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
		r.SetService(svc("sticky", "10.254.0.31", nodePort(30131), func(s *corev1.Service) { s.Spec.SessionAffinity = "ClientIP" }))
		r.SetSlice(eps("sticky", "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
		r.Synced()
	})
}

// Endpoints come and go a thousand times, and everything is read back and compared now and then: no new connection notices.
func TestE2EChangesUnderLoadLoseNothing(t *testing.T) {
	for _, b := range backends[:2] {
		t.Run(b.name, func(t *testing.T) {
			topology(t, "1")
			for ns := range podIPs {
				for _, port := range []string{":8080", ":8081", ":8082"} {
					serve(t, ns, port)
				}
			}
			r := start(t, b)
			defer r.stop()
			r.serveLoaded(t)
			l := startLoad(t, loaded)
			p1, p2 := podIPs["wpp-p1"], podIPs["wpp-p2"]
			changes, began, patience := 0, time.Now(), 4*time.Second
			if b.native { // iptables takes longer for each; it gets as many as it can do in the time
				patience = 15 * time.Second
			}
			for ; changes < 1000 && time.Since(began) < patience; changes++ {
				ips := [][]string{{p1}, {p1, p2}, {p2}}[changes%3]
				r.apply(t, func() {
					r.SetSlice(eps("busy", "TCP", 8080+int32(changes%2), ips...))
					r.SetSlice(eps("sticky", "TCP", 8080+int32(changes/2%3), ips...))
					if changes%100 == 99 {
						r.Repair()
					}
				})
			}
			t.Logf("%d changes in %v", changes, time.Since(began))
			l.check(t)
		})
	}
}

// A new agent, with the same or the other back end, finds what is there and takes it over without a gap.
func TestE2ETakingOver(t *testing.T) {
	topology(t, "1")
	for ns := range podIPs {
		serve(t, ns, ":8080")
	}
	targets := append([][2]string{{clientNS, nodeIP + ":8088"}}, loaded...)
	var l *load
	var before string
	for i, b := range []backend{backends[1], backends[0], backends[0], backends[1], backends[1]} {
		r := start(t, b)
		if i == 0 {
			r.SetHostPorts("default/p2", []proxy.HostPort{{Port: 8088, Pod: netip.MustParseAddrPort(podIPs["wpp-p2"] + ":8080")}})
		}
		r.serveLoaded(t)
		if i == 0 {
			l = startLoad(t, targets)
		}
		text := save(t, b)
		if has := strings.Contains(text, "WP-NFT"); has != b.native || strings.Contains(text, "WP-CLUSTERIP") == b.native {
			t.Errorf("%d: rules of the other back end are still there, or its own are not:\n%s", i, text)
		}
		if i == 2 || i == 4 {
			if d := cmp.Diff(before, text); d != "" {
				t.Errorf("%d: a restart changed %s", i, d)
			}
		}
		before = text
		r.stop()
	}
	l.check(t)
}

// A Service is looked up in the kernel, not in memory.
func TestE2ELook(t *testing.T) {
	topology(t, "1")
	r := start(t, backends[0])
	defer r.stop()
	r.apply(t, func() {
		r.SetService(svc("web", "10.254.0.40", nodePort(30140), balancer("203.0.113.40")))
		r.SetSlice(eps("web", "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
		r.SetService(svc("none", "10.254.0.41", nodePort(30141)))
		r.SetService(svc("inside", "10.254.0.42", func(s *corev1.Service) {
			local := corev1.ServiceInternalTrafficPolicyLocal
			s.Spec.InternalTrafficPolicy = &local
		}))
		elsewhere, n2 := eps("inside", "TCP", 8080, "10.244.2.5"), "n2"
		elsewhere.Endpoints[0].NodeName = &n2
		r.SetSlice(elsewhere)
		r.Synced()
	})
	for name, ways := range map[string]int{"web": 3, "none": 2, "inside": 1} {
		v, err := r.View(t.Context(), "default", name)
		if err != nil || len(v.Ways) != ways {
			t.Fatal(v, err)
		}
		for _, w := range v.Ways {
			if d := cmp.Diff(fmt.Sprint(w.Want), fmt.Sprint(w.Have)); d != "" {
				t.Errorf("%s %s: %s", name, w.Address, d)
			}
		}
	}
	netnstest.RunIn(t, nodeNS, "nft", "flush", "map", "ip", nft.Table, "endpoints")
	v, err := r.View(t.Context(), "default", "web")
	if err != nil || v.Ways[0].Have.Action != proxy.Reject {
		t.Errorf("of a map that was flushed: %+v, %v", v, err)
	}
	netnstest.RunIn(t, nodeNS, "nft", "delete", "table", "ip", nft.Table)
	v, err = r.View(t.Context(), "default", "web")
	if err != nil || v.Ways[0].Have.Missing != "table ip whalepod has no rule in its chain prerouting" {
		t.Errorf("of a table that is gone: %+v, %v", v, err)
	}
}
