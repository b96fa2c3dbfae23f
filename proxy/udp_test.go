package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
)

// said is a list of UDP addresses as words.
func said(list []UDPAddress) string {
	var out []string
	for _, a := range list {
		words := []string{a.At.String() + ":"}
		for _, e := range a.Endpoints {
			words = append(words, e.String())
		}
		out = append(out, strings.Join(words, " "))
	}
	return strings.Join(out, "; ")
}

// Whatever changes, flows are only forgotten where they lead to nobody who serves.
func TestUDPFlowsThatMayStay(t *testing.T) {
	here, there := endpoint{ip: "10.244.1.5", node: "n1"}, endpoint{ip: "10.244.2.5", node: "n2"}
	ends := func(e endpoint) endpoint { e.state = "terminating"; return e }
	over := func(e endpoint) endpoint { e.state = "unserving"; return e }
	dns := func(change ...func(*corev1.Service)) *corev1.Service {
		return service("dns", "10.254.0.9", append([]func(*corev1.Service){proto(corev1.ProtocolUDP)}, change...)...)
	}
	at := netip.MustParseAddrPort
	for _, c := range []struct {
		name   string
		change func(*Proxy)
		want   string
	}{
		{"an endpoint is gone", func(p *Proxy) { p.SetSlice(sliceOf("dns", corev1.ProtocolUDP, 53, here)) },
			"0.0.0.0:30053: 10.244.1.5:53; 10.254.0.9:80: 10.244.1.5:53"},
		{"an endpoint ends and still serves", func(p *Proxy) { p.SetSlice(sliceOf("dns", corev1.ProtocolUDP, 53, here, ends(there))) }, ""},
		{"an endpoint has stopped serving", func(p *Proxy) { p.SetSlice(sliceOf("dns", corev1.ProtocolUDP, 53, here, over(there))) },
			"0.0.0.0:30053: 10.244.1.5:53; 10.254.0.9:80: 10.244.1.5:53"},
		{"a node has died", func(p *Proxy) { p.SetDeadNodes(map[string]bool{"n2": true}) },
			"0.0.0.0:30053: 10.244.1.5:53; 10.254.0.9:80: 10.244.1.5:53"},
		{"policies", func(p *Proxy) { p.SetService(dns(nodePort(30053), internalLocal, externalLocal)) }, ""},
		{"a balancer's address comes after endpoints", func(p *Proxy) { p.SetService(dns(nodePort(30053), balancer("203.0.113.5"))) },
			"203.0.113.5:80: 10.244.1.5:53 10.244.2.5:53"},
		{"another node port", func(p *Proxy) { p.SetService(dns(nodePort(30054))) },
			"0.0.0.0:30053:; 0.0.0.0:30054: 10.244.1.5:53 10.244.2.5:53"},
		{"the Service is gone", func(p *Proxy) { p.DeleteService("default", "dns") }, "0.0.0.0:30053:; 10.254.0.9:80:"},
		{"a Service of TCP", func(p *Proxy) { p.DeleteService("default", "web") }, ""},
		{"a Service that the node answers", func(p *Proxy) {
			p.SetService(service("kube-dns", "10.254.254.1", proto(corev1.ProtocolUDP)))
			p.SetSlice(sliceOf("kube-dns", corev1.ProtocolUDP, 53, here))
		}, ""},
		{"a host port", func(p *Proxy) {
			p.SetHostPorts("default/game", []HostPort{{Protocol: corev1.ProtocolUDP, Port: 27015, Pod: at("10.244.1.8:27015")}, {Port: 80, Pod: at("10.244.1.8:80")}})
		}, "0.0.0.0:27015: 10.244.1.8:27015"},
		{"host ports of a pod that is gone", func(p *Proxy) { p.SetHostPorts("default/old", nil) }, "198.51.100.11:514:"},
		{"one that two have", func(p *Proxy) {
			p.SetService(service("dns2", "10.254.0.10", proto(corev1.ProtocolUDP), nodePort(30053)))
			p.SetSlice(sliceOf("dns2", corev1.ProtocolUDP, 53, endpoint{ip: "10.244.1.9", node: "n1"}))
		}, "0.0.0.0:30053: 10.244.1.5:53 10.244.1.9:53 10.244.2.5:53; 10.254.0.10:80: 10.244.1.9:53"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []UDPAddress
			inBubble(t, newFake(), func(cfg *Config) { cfg.StaleUDP = func(l []UDPAddress) error { got = append(got, l...); return nil } }, func(p *Proxy) {
				p.SetService(dns(nodePort(30053)))
				p.SetSlice(sliceOf("dns", corev1.ProtocolUDP, 53, here, there))
				p.SetService(service("web", "10.254.0.11"))
				p.SetSlice(slice("web", 80, endpoint{ip: "10.244.1.6", node: "n1"}))
				p.SetHostPorts("default/old", []HostPort{{Protocol: corev1.ProtocolUDP, HostIP: netip.MustParseAddr("198.51.100.11"), Port: 514, Pod: at("10.244.1.7:514")}})
				p.Synced()
				settleDown()
				const first = "0.0.0.0:30053: 10.244.1.5:53 10.244.2.5:53; 10.254.0.9:80: 10.244.1.5:53 10.244.2.5:53; 198.51.100.11:514: 10.244.1.7:514"
				if d := cmp.Diff(first, said(got)); d != "" {
					t.Errorf("at the start: %s", d)
				}
				got = nil
				c.change(p)
				settleDown()
				if d := cmp.Diff(c.want, said(got)); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

// What could not be forgotten is tried again, and is judged by what there is then.
func TestUDPFlowsAreTriedAgain(t *testing.T) {
	var got []string
	inBubble(t, newFake(), func(c *Config) {
		c.StaleUDP = func(l []UDPAddress) error {
			if got = append(got, said(l)); len(got) < 3 {
				return errors.New("the kernel is busy")
			}
			return nil
		}
	}, func(p *Proxy) {
		p.SetService(service("dns", "10.254.0.9", proto(corev1.ProtocolUDP)))
		p.SetSlice(sliceOf("dns", corev1.ProtocolUDP, 53, endpoint{ip: "10.244.1.5", node: "n1"}))
		p.Synced()
		settleDown()
		p.SetSlice(sliceOf("dns", corev1.ProtocolUDP, 53, endpoint{ip: "10.244.1.6", node: "n1"}))
		settleDown()
		for i := range 2 {
			p.SetService(service(fmt.Sprint("web-", i), fmt.Sprint("10.254.0.", 20+i)))
			settleDown()
		}
		want := []string{"10.254.0.9:80: 10.244.1.5:53", "10.254.0.9:80: 10.244.1.6:53", "10.254.0.9:80: 10.244.1.6:53"}
		if !slices.Equal(got, want) {
			t.Errorf("asked for %q, want %q", got, want)
		}
	})
}
