package dns

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func BenchmarkHandler(b *testing.B) {
	s, err := New(Config{Zone: manyServices(5000)})
	if err != nil {
		b.Fatal(err)
	}
	var wires [][]byte
	for i := range 1000 {
		m := query(fmt.Sprintf("svc-%d.default.svc.cluster.local.", i), dns.TypeA)
		wire, _ := m.SetEdns0(1232, false).Pack()
		wires = append(wires, wire)
	}
	out := make([]byte, udpMost)
	now := time.Now()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		var q question
		if a, done := s.quick(&q, wires[i%len(wires)], out, 0, now); !done || a == nil {
			b.Fatal("no answer")
		}
		i++
	}
}

func BenchmarkHandlerUncached(b *testing.B) {
	s, err := New(Config{Zone: manyServices(5000), CacheSize: 16})
	if err != nil {
		b.Fatal(err)
	}
	var wires [][]byte
	for i := range 1000 {
		wire, _ := query(fmt.Sprintf("svc-%d.default.svc.cluster.local.", i), dns.TypeA).Pack()
		wires = append(wires, wire)
	}
	out := make([]byte, udpMost)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		var q question
		s.quick(&q, wires[i%len(wires)], out, 0, time.Now())
		i++
	}
}

// BenchmarkOneCore measures a server that has one core, as a process of its own, over a loopback socket; the clients have another.
// Run it with -benchtime 1x: it lasts as long as it needs. With WP_COREDNS, the path of that program, and WP_KUBECONFIG, which
// leads to a cluster with the Services svc-0 to svc-4999 in default, CoreDNS is measured the same way.
func BenchmarkOneCore(b *testing.B) {
	core := pinned(b)
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("whalepod", func(b *testing.B) {
		addr := freeAddress(b)
		measure(b, startOn(b, core, []string{serveVariable + "=" + addr}, self), addr)
	})
	program := os.Getenv("WP_COREDNS")
	if program == "" {
		return
	}
	for name, extra := range map[string]string{"coredns": "", "coredns-cache": "\tcache 30\n"} {
		b.Run(name, func(b *testing.B) {
			addr := freeAddress(b)
			_, port, _ := net.SplitHostPort(addr)
			corefile := filepath.Join(b.TempDir(), "Corefile")
			text := fmt.Sprintf(".:%s {\n\tbind 127.0.0.1\n\terrors\n\tkubernetes cluster.local in-addr.arpa ip6.arpa {\n\t\tkubeconfig %s\n\t\tpods insecure\n\t}\n%s}\n", port, os.Getenv("WP_KUBECONFIG"), extra)
			if err := os.WriteFile(corefile, []byte(text), 0o600); err != nil {
				b.Fatal(err)
			}
			measure(b, startOn(b, core, nil, program, "-conf", corefile), addr)
		})
	}
}
