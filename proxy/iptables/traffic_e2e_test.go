//go:build e2e

package iptables_test

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/netnstest"
)

func TestE2ETraffic(t *testing.T) {
	for _, bridgeNF := range []string{"0", "1"} {
		t.Run("bridge-nf-call-iptables="+bridgeNF, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, b backend) { traffic(t, b, bridgeNF) })
		})
	}
}

func traffic(t *testing.T, b backend, bridgeNF string) {
	topology(t, bridgeNF)
	netnstest.RunIn(t, nodeNS, "iptables"+b.suffix, "-P", "FORWARD", "DROP") // as Docker leaves it
	for ns := range podIPs {
		serve(t, ns, ":8080")
		serveUDP(t, ns, ":5353")
	}
	serve(t, nodeNS, nodeIP+":6443")
	serve(t, nodeNS, "127.0.0.1:9999")
	serve(t, clientNS, "198.51.100.1:7777")
	r := start(t, b)
	defer r.stop()
	np := func(n int32) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, n }
	}
	r.apply(t, func() {
		r.SetService(svc("one", "10.254.0.11", np(30080)))
		r.SetSlice(eps("one", "TCP", 8080, podIPs["wpp-p1"]))
		r.SetService(svc("two", "10.254.0.12", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.7"} }))
		r.SetSlice(eps("two", "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
		r.SetService(svc("none", "10.254.0.13", np(30081)))
		r.SetService(svc("api", "10.254.0.1"))
		r.SetSlice(eps("api", "TCP", 6443, nodeIP))
		r.SetService(svc("local", "10.254.0.14", np(30082), func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = "Local" }))
		r.SetSlice(eps("local", "TCP", 8080, podIPs["wpp-p1"]))
		r.SetService(svc("udp", "10.254.0.15", np(30053), func(s *corev1.Service) { s.Spec.Ports[0].Protocol = "UDP" }))
		r.SetSlice(eps("udp", "UDP", 5353, podIPs["wpp-p2"]))
		r.SetHostPorts("default/p2", []proxy.HostPort{{Port: 8088, Pod: netip.MustParseAddrPort(podIPs["wpp-p2"] + ":8080")}})
		r.Synced()
	})
	for _, c := range []struct{ what, ns, from, to, pod, seen string }{
		{"pod, other pod's ClusterIP", "wpp-p2", "", "10.254.0.11:80", "wpp-p1", "10.244.1.6"},
		{"hairpin by ClusterIP", "wpp-p1", "", "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"hairpin by NodePort", "wpp-p1", "", nodeIP + ":30080", "wpp-p1", "10.244.1.1"},
		{"pod to pod", "wpp-p1", "", "10.244.1.6:8080", "wpp-p2", "10.244.1.5"},
		{"node, ClusterIP", nodeNS, "", "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"node bound to its address, ClusterIP", nodeNS, nodeIP, "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on its address", nodeNS, "", nodeIP + ":30080", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on 127.0.0.1", nodeNS, "", "127.0.0.1:30080", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on docker0", nodeNS, "", "172.17.0.1:30080", "wpp-p1", "10.244.1.1"},
		{"node, NodePort on wp0", nodeNS, "", "10.244.1.1:30080", "wpp-p1", "10.244.1.1"},
		{"outside, NodePort", clientNS, "", nodeIP + ":30080", "wpp-p1", "10.244.1.1"},
		{"outside, NodePort on docker0", clientNS, "", "172.17.0.1:30080", "wpp-p1", "10.244.1.1"},
		{"outside, ClusterIP through the node", clientNS, "", "10.254.0.11:80", "wpp-p1", "10.244.1.1"},
		{"node, the API's ClusterIP", nodeNS, "", "10.254.0.1:80", nodeNS, "10.244.1.1"},
		{"pod, the API's ClusterIP", "wpp-p1", "", "10.254.0.1:80", nodeNS, "10.244.1.5"},
		{"outside, NodePort Local", clientNS, "", nodeIP + ":30082", "wpp-p1", "198.51.100.1"},
		{"node, NodePort Local on 127.0.0.1", nodeNS, "", "127.0.0.1:30082", "wpp-p1", "10.244.1.1"},
		{"outside, host port", clientNS, "", nodeIP + ":8088", "wpp-p2", "198.51.100.1"},
		{"node, host port on 127.0.0.1", nodeNS, "", "127.0.0.1:8088", "wpp-p2", "10.244.1.1"},
		{"hairpin by host port", "wpp-p2", "", nodeIP + ":8088", "wpp-p2", "10.244.1.1"},
		{"pod out of the cluster", "wpp-p1", "", "198.51.100.1:7777", clientNS, nodeIP},
	} {
		pod, seen, err := ask(c.ns, c.from, c.to)
		if err != nil || pod != c.pod || seen != c.seen {
			t.Errorf("%s: %s answered and saw %s (%v), want %s seeing %s", c.what, pod, seen, err, c.pod, c.seen)
		}
	}
	balanced(t, r)
	refused(t)
	for _, c := range [][2]string{{"wpp-p1", "10.254.0.15:80"}, {nodeNS, "127.0.0.1:30053"}, {clientNS, nodeIP + ":30053"}, {"wpp-p2", "10.254.0.15:80"}} {
		if got, err := askUDP(c[0], c[1]); err != nil || got != "wpp-p2" {
			t.Errorf("UDP %s → %s: %q %v", c[0], c[1], got, err)
		}
	}
}

func balanced(t *testing.T, r *running) {
	t.Helper()
	got := map[string]int{}
	for range 60 {
		pod, _, err := ask(clientNS, "", "203.0.113.7:80")
		if err != nil {
			t.Fatal(err)
		}
		got[pod]++
	}
	if got["wpp-p1"] < 12 || got["wpp-p2"] < 12 {
		t.Errorf("60 connections were spread as %v", got)
	}
	// One connection stays open while its Service changes under it.
	c, err := dial(clientNS, "tcp4", "", "203.0.113.7:80", answerLimit)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	_ = c.SetDeadline(time.Now().Add(answerLimit))
	var pod, seen string
	if _, err := fmt.Fscanln(c, &pod, &seen); err != nil {
		t.Fatal(err)
	}
	r.apply(t, func() {
		r.SetService(svc("two", "10.254.0.12", func(s *corev1.Service) {
			s.Spec.ExternalIPs, s.Spec.SessionAffinity = []string{"203.0.113.7"}, "ClientIP"
		}))
	})
	if _, err := c.Write([]byte("still here\n")); err != nil {
		t.Error(err)
	}
	b := make([]byte, 11)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "still here\n" {
		t.Errorf("an open connection did not outlive an update: %q %v", b, err)
	}
	for _, from := range []string{"198.51.100.1", "198.51.100.2"} {
		first, _, err := ask(clientNS, from, "203.0.113.7:80")
		for range 20 {
			pod, _, again := ask(clientNS, from, "203.0.113.7:80")
			if err != nil || again != nil || pod != first {
				t.Fatalf("affinity: %s went to %s, then to %s (%v %v)", from, first, pod, err, again)
			}
		}
	}
}

func refused(t *testing.T) {
	t.Helper()
	for _, c := range [][2]string{
		{"wpp-p1", "10.254.0.13:80"}, {nodeNS, "10.254.0.13:80"}, {clientNS, "10.254.0.13:80"}, {clientNS, nodeIP + ":30081"},
		{nodeNS, "127.0.0.1:30081"}, {"wpp-p1", nodeIP + ":30081"}, {"wpp-p1", "10.254.99.99:80"}, {nodeNS, "10.254.99.99:80"}, {"wpp-p1", "10.254.0.11:81"},
	} {
		if _, _, err := ask(c[0], "", c[1]); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s → %s must be refused at once, got %v", c[0], c[1], err)
		}
	}
	// What listens on 127.0.0.1 only is not for the neighbours, though route_localnet is on.
	netnstest.RunIn(t, clientNS, "sh", "-c", "ip link set lo down; ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via "+nodeIP+" src 198.51.100.1; sysctl -qw net.ipv4.conf.eth0.route_localnet=1")
	if _, _, err := askWithin(silence, clientNS, "", "127.0.0.1:9999"); err == nil {
		t.Error("a neighbour reached what listens on the node's 127.0.0.1")
	}
	netnstest.RunIn(t, clientNS, "sh", "-c", "ip route del 127.0.0.1; ip link set lo up")
	if pod, _, err := ask(nodeNS, "", "127.0.0.1:9999"); err != nil || pod != nodeNS {
		t.Errorf("the node's own 127.0.0.1: %q %v", pod, err)
	}
}
