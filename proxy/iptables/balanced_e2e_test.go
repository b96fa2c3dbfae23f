//go:build e2e

package iptables_test

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/proxy/netnstest"
)

// A load balancer's own address refuses what it has no port for, as a machine would; what is to be silent stays so, and
// addresses of machines are not concerned.
func TestE2EPortsThatNobodyHas(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		topology(t, "1")
		serve(t, "wpp-p1", ":8080")
		// The pool is on the node's link, and a machine has an address of it: this one.
		netnstest.RunIn(t, nodeNS, "ip", "route", "add", "203.0.113.192/27", "dev", "eth0")
		netnstest.RunIn(t, nodeNS, "ip", "addr", "add", "203.0.113.203/32", "dev", "eth0")
		serve(t, nodeNS, "203.0.113.203:22")
		r := start(t, b)
		defer r.stop()
		local := func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal }
		r.apply(t, func() {
			r.SetService(svc("open", "10.254.0.50", balancer("203.0.113.200")))
			r.SetService(svc("ranges", "10.254.0.51", balancer("203.0.113.201"), func(s *corev1.Service) {
				s.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
			}))
			r.SetService(svc("away", "10.254.0.52", balancer("203.0.113.202"), local))
			r.SetService(svc("taken", "10.254.0.53", balancer("203.0.113.203")))
			for _, name := range []string{"open", "ranges", "taken"} {
				r.SetSlice(eps(name, "TCP", 8080, podIPs["wpp-p1"]))
			}
			elsewhere, n2 := eps("away", "TCP", 8080, podIPs["wpp-p1"]), "n2"
			elsewhere.Endpoints[0].NodeName = &n2
			r.SetSlice(elsewhere)
			r.Synced()
		})
		for _, c := range [][3]string{{clientNS, "203.0.113.200:80", "wpp-p1"}, {"wpp-p2", "203.0.113.200:80", "wpp-p1"}, {clientNS, "203.0.113.203:22", nodeNS}} {
			if pod, _, err := ask(c[0], "", c[1]); err != nil || pod != c[2] {
				t.Errorf("%s → %s: %q answered, %v", c[0], c[1], pod, err)
			}
		}
		for _, ns := range []string{clientNS, "wpp-p2", nodeNS} {
			for _, to := range []string{"203.0.113.200:81", "203.0.113.201:81", "203.0.113.202:81"} {
				if _, _, err := ask(ns, "", to); !errors.Is(err, syscall.ECONNREFUSED) {
					t.Errorf("%s → %s: %v", ns, to, err)
				}
			}
		}
		if _, err := askUDP("wpp-p2", "203.0.113.200:80"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("the port by UDP: %v", err)
		}
		var silent sync.WaitGroup
		for _, to := range []string{"203.0.113.201:80", "203.0.113.202:80"} {
			silent.Go(func() {
				var timeout net.Error
				if _, _, err := askWithin(silence, clientNS, "", to); !errors.As(err, &timeout) || !timeout.Timeout() {
					t.Errorf("%s: %v, wanted silence", to, err)
				}
			})
		}
		silent.Wait()
		// It goes with the Service.
		r.apply(t, func() { r.DeleteService("default", "open") })
		d := net.Dialer{Timeout: 300 * time.Millisecond}
		err := netnstest.Inside(clientNS, func() error { _, err := d.Dial("tcp4", "203.0.113.200:81"); return err })
		if errors.Is(err, syscall.ECONNREFUSED) {
			t.Error("an address that is no Service's any more is refused:", err)
		}
	})
}
