//go:build e2e

package iptables_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/whalepod/whalepod/proxy/netnstest"
)

// BenchmarkOneServiceChanged measures from the change given to the proxy until its rules are in force. It also reports the
// first sync of all Services, a restarted agent's, which finds everything in place, a full comparison of a running one, and
// how long a client waits for its first packet: TCP connections from another namespace to the last of the Services, and to
// its pod without any.
func BenchmarkOneServiceChanged(b *testing.B) {
	for _, kind := range backends {
		for _, n := range []int{10, 1000, 5000} {
			for _, e := range []int{2, 10} {
				b.Run(fmt.Sprintf("%s/%dservices/%dendpoints", kind.name, n, e), func(b *testing.B) { oneServiceChanged(b, kind, n, e) })
			}
		}
	}
}

func oneServiceChanged(b *testing.B, kind backend, n, e int) {
	topology(b, "1")
	const server = "wpp-p1"
	serve(b, server, ":8080")
	fill := func(r *running) {
		for i := range n {
			name := fmt.Sprint("svc-", i)
			r.SetService(svc(name, fmt.Sprintf("10.254.%d.%d", 1+i/250, i%250+1)))
			r.SetSlice(eps(name, "TCP", 8080, addrs(i, e)...))
		}
		r.SetService(svc("zz-last", "10.254.200.200"))
		r.SetSlice(eps("zz-last", "TCP", 8080, podIPs[server]))
		r.Synced()
	}
	r := start(b, kind)
	began := time.Now()
	r.apply(b, func() { fill(r) })
	full := time.Since(began)
	b.ResetTimer()
	var total time.Duration
	for i := range b.N {
		began := time.Now()
		r.apply(b, func() { r.SetSlice(eps("svc-3", "TCP", 8080, addrs(i+5, e)...)) })
		total += time.Since(began)
	}
	b.StopTimer()
	r.apply(b, func() { r.SetSlice(eps("svc-3", "TCP", 8080, addrs(3, e)...)) })
	began = time.Now()
	r.apply(b, r.Repair)
	compare := time.Since(began)
	first, direct := connects(b, "10.254.200.200:80"), connects(b, podIPs[server]+":8080")
	r.stop()
	again := start(b, kind)
	began = time.Now()
	again.apply(b, func() { fill(again) })
	adopt := time.Since(began)
	again.stop()
	b.ReportMetric(0, "ns/op")
	ms := func(d time.Duration, what string) { b.ReportMetric(float64(d.Microseconds())/1000, what) }
	ms(total/time.Duration(b.N), "ms/change")
	ms(full, "ms/full")
	ms(adopt, "ms/adopt")
	ms(compare, "ms/compare")
	us := func(list []time.Duration, at int, what string) {
		b.ReportMetric(float64(list[len(list)*at/100].Nanoseconds())/1000, what)
	}
	us(first, 50, "us/first-p50")
	us(first, 99, "us/first-p99")
	us(direct, 50, "us/direct-p50")
	us(direct, 99, "us/direct-p99")
}

// connects opens connections one after the other on one thread in the client's namespace, and says how long each took.
func connects(b *testing.B, to string) (took []time.Duration) {
	b.Helper()
	const many = 1000
	err := netnstest.Inside(clientNS, func() error {
		for range many {
			began := time.Now()
			c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(to)))
			if err != nil {
				return err
			}
			took = append(took, time.Since(began))
			_ = c.SetLinger(0)
			_ = c.Close()
		}
		return nil
	})
	if err != nil {
		b.Fatal(err)
	}
	slices.Sort(took)
	return took
}

func addrs(i, e int) (out []string) {
	for k := range e {
		out = append(out, fmt.Sprintf("10.244.%d.%d", 2+i%200, k+2))
	}
	return out
}
