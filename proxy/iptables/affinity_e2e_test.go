//go:build e2e

package iptables_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/proxy/netnstest"
	"github.com/whalepod/whalepod/proxy/nft"
)

// A client with affinity stays where it is whatever happens to the others, to the agent, and to the rules.
func TestE2EAffinityOutlivesChanges(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		topology(t, "1")
		for ns := range podIPs {
			serve(t, ns, ":8080")
		}
		r := start(t, b)
		const nobody = "10.244.1.4" // comes before the others in every list
		p1, p2 := podIPs["wpp-p1"], podIPs["wpp-p2"]
		all := func(ips ...string) func() {
			return func() {
				r.SetService(svc("sticky", "10.254.0.31", nodePort(30131), sticky))
				r.SetSlice(eps("sticky", "TCP", 8080, ips...))
				r.Synced()
			}
		}
		r.apply(t, all(p1, p2))
		first, _, err := ask(clientNS, "", nodeIP+":30131")
		if err != nil {
			t.Fatal(err)
		}
		for _, step := range []struct {
			what string
			do   func()
		}{
			{"an endpoint more", func() { r.apply(t, all(nobody, p1, p2)) }},
			{"the others are gone", func() { r.apply(t, all(podIPs[first])) }},
			{"others again", func() { r.apply(t, all(nobody, p1, p2)) }},
			{"everything compared", func() { r.apply(t, r.Repair) }},
			{"another agent", func() {
				r.stop()
				r = start(t, b)
				r.apply(t, all(nobody, p1, p2))
			}},
		} {
			step.do()
			for i := range 10 {
				to := []string{nodeIP + ":30131", "10.254.0.31:80"}[i%2]
				if pod, _, err := ask(clientNS, "", to); err != nil || pod != first {
					t.Fatalf("%s: the client of %s came by %s to %q, %v", step.what, first, to, pod, err)
				}
			}
		}
		// A client whose pod went stays with the next one when the first is there again.
		second := "wpp-p1"
		if first == second {
			second = "wpp-p2"
		}
		for _, pods := range [][]string{{podIPs[second]}, {p1, p2}, {nobody, p1, p2}} {
			r.apply(t, all(pods...))
			for range 5 {
				if pod, _, err := ask(clientNS, "", nodeIP+":30131"); err != nil || pod != second {
					t.Fatalf("%v, after %s had gone: the client came to %q, %v", pods, first, pod, err)
				}
			}
		}
		r.stop()
	})
}

func sticky(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

// Affinity is the Service's, not the address's: a client comes to the same pod by whatever address of it.
func TestE2EAffinityByAnyAddress(t *testing.T) {
	eachBackend(t, func(t *testing.T, b backend) {
		topology(t, "1")
		for ns := range podIPs {
			serve(t, ns, ":8080")
		}
		var clients []string // enough that all come to the same pod by chance once in a million times
		for i := range 10 {
			clients = append(clients, fmt.Sprintf("198.51.100.%d", 20+i))
			netnstest.RunIn(t, clientNS, "ip", "addr", "add", clients[i]+"/24", "dev", "eth0")
		}
		r := start(t, b)
		defer r.stop()
		r.apply(t, func() {
			r.SetService(svc("all", "10.254.0.31", nodePort(30131), balancer("203.0.113.31"), sticky))
			r.SetService(svc("near", "10.254.0.32", nodePort(30132), balancer("203.0.113.32"), sticky, func(s *corev1.Service) {
				s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				s.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
			}))
			for _, name := range []string{"all", "near"} {
				r.SetSlice(eps(name, "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
			}
			r.Synced()
		})
		for _, addresses := range [][]string{{"10.254.0.31:80", nodeIP + ":30131", "203.0.113.31:80"}, {"10.254.0.32:80", nodeIP + ":30132", "203.0.113.32:80"}} {
			came := map[string]int{}
			for i, client := range clients {
				first := ""
				for k := range 2 * len(addresses) {
					to := addresses[(i+k)%len(addresses)]
					pod, _, err := ask(clientNS, client, to)
					if err != nil || first != "" && pod != first {
						t.Fatalf("%s, which was sent to %q, came by %s to %q, %v", client, first, to, pod, err)
					}
					first = pod
				}
				came[first]++
			}
			if len(came) != len(podIPs) {
				t.Errorf("clients of %v came to %v", addresses, came)
			}
		}
	})
}

// A Service of which no more clients can be remembered sends new ones anywhere, and those of others are remembered.
func TestE2EMemoryOfOneServiceIsFull(t *testing.T) {
	topology(t, "1")
	for ns := range podIPs {
		serve(t, ns, ":8080")
	}
	var clients []string
	for i := range 10 {
		clients = append(clients, fmt.Sprintf("198.51.100.%d", 20+i))
		netnstest.RunIn(t, clientNS, "ip", "addr", "add", clients[i]+"/24", "dev", "eth0")
	}
	r := start(t, backends[0])
	defer r.stop()
	add := func(name, ip string) {
		r.SetService(svc(name, ip, sticky))
		r.SetSlice(eps(name, "TCP", 8080, podIPs["wpp-p1"], podIPs["wpp-p2"]))
	}
	r.apply(t, func() { add("busy", "10.254.0.31"); r.Synced() })
	known := clients[0]
	first, _, err := ask(clientNS, known, "10.254.0.31:80")
	if err != nil {
		t.Fatal(err)
	}
	var fill strings.Builder
	for line := range strings.Lines(netnstest.RunIn(t, nodeNS, "nft", "list", "sets")) {
		name, ok := strings.CutPrefix(strings.TrimSuffix(strings.TrimSpace(line), " {"), "set affinity-")
		if !ok {
			continue
		}
		left := 65535
		if strings.Contains(name, podIPs[first]) {
			left-- // known is there
		}
		fmt.Fprintf(&fill, "add element ip %s affinity-%s { ", nft.Table, name)
		for i := range left {
			fmt.Fprintf(&fill, "10.1.%d.%d timeout 1h, ", i>>8&255, i&255)
		}
		fill.WriteString("}\n")
	}
	file := filepath.Join(t.TempDir(), "fill")
	if err := os.WriteFile(file, []byte(fill.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	netnstest.RunIn(t, nodeNS, "nft", "-f", file)
	r.apply(t, func() { add("other", "10.254.0.32") })
	moved := 0
	for _, client := range clients {
		pods := map[string]map[string]bool{}
		for _, to := range []string{"10.254.0.31:80", "10.254.0.32:80"} {
			pods[to] = map[string]bool{}
			for range 6 {
				pod, _, err := ask(clientNS, client, to)
				if err != nil {
					t.Fatalf("%s → %s: %v", client, to, err)
				}
				pods[to][pod] = true
			}
		}
		if len(pods["10.254.0.32:80"]) != 1 {
			t.Errorf("%s of the other Service came to %v", client, pods)
		}
		if client == known && (len(pods["10.254.0.31:80"]) != 1 || !pods["10.254.0.31:80"][first]) {
			t.Errorf("%s, known before as a client of %s, came to %v", client, first, pods)
		}
		moved += len(pods["10.254.0.31:80"]) - 1
	}
	if moved == 0 {
		t.Error("the memory was not full")
	}
}
