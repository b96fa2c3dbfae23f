//go:build e2e

package iptables_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/iptables"
)

// timedTables says how long each Restore took, and when it was done.
type timedTables struct {
	*iptables.Tables
	done chan time.Time
}

func (c *timedTables) Restore(ctx context.Context, text string) error {
	err := c.Tables.Restore(ctx, text)
	c.done <- time.Now()
	return err
}

// BenchmarkOneServiceChanged measures from the change given to the proxy until its rules are in force. It also reports
// the first sync of all Services, and a restarted agent's, which finds everything in place.
func BenchmarkOneServiceChanged(b *testing.B) {
	for _, suffix := range []string{"-nft", "-legacy"} {
		for _, n := range []int{10, 1000, 5000} {
			for _, e := range []int{2, 10} {
				b.Run(fmt.Sprintf("iptables%s/%dservices/%dendpoints", suffix, n, e), func(b *testing.B) { oneServiceChanged(b, suffix, n, e) })
			}
		}
	}
}

func oneServiceChanged(b *testing.B, suffix string, n, e int) {
	makeNS(b, nodeNS)
	tables, err := iptables.New(b.Context(), iptables.Config{Prefix: proxy.Prefix, Suffix: suffix, Enter: enter(nodeNS)})
	if err != nil {
		b.Fatal(err)
	}
	timed := &timedTables{tables, make(chan time.Time, 10)}
	fill := func(p *proxy.Proxy) {
		for i := range n {
			name := fmt.Sprint("svc-", i)
			p.SetService(svc(name, fmt.Sprintf("10.254.%d.%d", i/250, i%250+1)))
			p.SetSlice(eps(name, "TCP", 8080, addrs(i, e)...))
		}
		p.Synced()
	}
	p, stop := runProxy(b, timed)
	start := time.Now()
	fill(p)
	full := (<-timed.done).Sub(start)
	b.ResetTimer()
	var total time.Duration
	for i := range b.N {
		start := time.Now()
		p.SetSlice(eps("svc-3", "TCP", 8080, addrs(i+5, e)...))
		total += (<-timed.done).Sub(start)
	}
	b.StopTimer()
	p.SetSlice(eps("svc-3", "TCP", 8080, addrs(3, e)...))
	<-timed.done
	stop()
	again, stop := runProxy(b, timed)
	start = time.Now()
	fill(again)
	<-again.Ready()
	adopt := time.Since(start)
	stop()
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(total.Microseconds())/float64(b.N)/1000, "ms/change")
	b.ReportMetric(float64(full.Milliseconds()), "ms/full")
	b.ReportMetric(float64(adopt.Milliseconds()), "ms/adopt")
}

func addrs(i, e int) (out []string) {
	for k := range e {
		out = append(out, fmt.Sprintf("10.244.%d.%d", 2+i%200, k+2))
	}
	return out
}

func runProxy(b *testing.B, tables *timedTables) (*proxy.Proxy, func()) {
	cfg := config(tables)
	cfg.RandomFully = tables.RandomFully()
	p, err := proxy.New(cfg)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	return p, func() { cancel(); <-done }
}
