package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
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

// BenchmarkUDP measures queries and answers over a loopback socket; clients and server share the cores given by -cpu.
func BenchmarkUDP(b *testing.B) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{Zone: manyServices(5000), PacketConns: []net.PacketConn{pc}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	wire, _ := query("svc-7.default.svc.cluster.local.", dns.TypeA).Pack()
	const clients, window = 4, 32
	var wg sync.WaitGroup
	b.ResetTimer()
	per := b.N/clients + 1
	to := netip.MustParseAddrPort(pc.LocalAddr().String())
	for range clients {
		wg.Go(func() {
			c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			pipeline(b, c, wire, per, window)
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
	cancel()
	<-done
}

func pipeline(b *testing.B, c *net.UDPConn, wire []byte, n, window int) {
	buf := make([]byte, 1500)
	out := 0
	for got := 0; got < n; {
		for out-got < window && out < n {
			if _, err := c.Write(wire); err != nil {
				b.Error(err)
				return
			}
			out++
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(buf); err != nil {
			out = got // lost: send again
			continue
		}
		got++
	}
}
