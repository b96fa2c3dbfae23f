//go:build e2e

package iptables_test

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/iptables"
	"github.com/whalepod/whalepod/proxy/netnstest"
	"github.com/whalepod/whalepod/proxy/nft"
)

func svc(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Name: "p", Protocol: corev1.ProtocolTCP, Port: 80}}},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func eps(name string, proto corev1.Protocol, port int32, ips ...string) *discoveryv1.EndpointSlice {
	p, node := "p", "n1"
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &p, Protocol: &proto, Port: &port}},
	}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node})
	}
	return s
}

// running is a proxy at work in the node's namespace.
type running struct {
	*proxy.Proxy
	mark    uint64
	inForce chan uint64
	stop    func()
}

func config(tables proxy.Applier) proxy.Config {
	p := netip.MustParsePrefix
	return proxy.Config{
		NodeName: "n1", PodCIDR: p("10.244.1.0/24"), ClusterPodCIDR: p("10.244.0.0/16"), ServiceCIDR: p("10.254.0.0/16"),
		LocalIPs: []netip.Addr{netip.MustParseAddr("10.254.254.1")}, Applier: tables,
		Announced: func(ip netip.Addr) bool { return p("203.0.113.200/29").Contains(ip) },
	}
}

func newTables(t testing.TB, suffix string) *iptables.Tables {
	t.Helper()
	tables, err := iptables.New(t.Context(), iptables.Config{Prefix: proxy.Prefix, Suffix: suffix, Enter: netnstest.Enter(nodeNS)})
	if err != nil {
		t.Fatal(err)
	}
	return tables
}

// native opens nf_tables in the node's namespace.
func native(t testing.TB) *nft.Tables {
	t.Helper()
	cfg := config(nil)
	var out *nft.Tables
	err := netnstest.Inside(nodeNS, func() (err error) {
		out, err = nft.New(nft.Config{PodCIDR: cfg.PodCIDR, ClusterPodCIDR: cfg.ClusterPodCIDR, ServiceCIDR: cfg.ServiceCIDR, LocalIPs: cfg.LocalIPs})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(out.Close)
	if err := out.Try(); err != nil {
		t.Fatal(err)
	}
	return out
}

// backend is one of ours over one of the machine's.
type backend struct {
	name, suffix string
	native       bool
}

var backends = []backend{{"nftables", "-nft", true}, {"iptables-nft", "-nft", false}, {"iptables-legacy", "-legacy", false}}

func eachBackend(t *testing.T, f func(t *testing.T, b backend)) {
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) { f(t, b) })
	}
}

func start(t testing.TB, b backend) *running {
	t.Helper()
	tables := newTables(t, b.suffix)
	cfg := config(tables)
	cfg.RandomFully = tables.RandomFully()
	if b.suffix == "-nft" {
		cfg.Native, cfg.Former = native(t), !b.native
	}
	r := &running{inForce: make(chan uint64, 100)}
	cfg.InForce = func(mark uint64) { r.inForce <- mark }
	if log, ok := t.(*testing.T); ok {
		cfg.Logger = slog.New(slog.NewTextHandler(log.Output(), nil))
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	r.Proxy = p
	r.stop = func() { cancel(); <-done }
	t.Cleanup(cancel)
	return r
}

// apply makes changes and waits until they are in force.
func (r *running) apply(t testing.TB, f func()) {
	t.Helper()
	f()
	r.mark++
	r.Reached(r.mark)
	deadline := time.After(2 * time.Minute)
	for {
		select {
		case <-deadline:
			t.Fatal("the rules were not applied")
		case m := <-r.inForce:
			if m == r.mark {
				return
			}
		}
	}
}
