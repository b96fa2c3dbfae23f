package main

import (
	"context"
	"fmt"
)

// The parts that are libraries, by their own Go benchmarks.

func (b *bench) store(ctx context.Context) error {
	found, err := goBench(ctx, "./master/internal/store/bolt", "^BenchmarkUpdate$", "-benchtime", "2s")
	for _, writers := range []int{1, 8, 64} {
		if f, ok := found[fmt.Sprintf("Update/writers=%d", writers)]; ok {
			b.add(fmt.Sprintf("writers: %d", writers), "%s writes/s, p99 %s ms; the disk alone: %s syncs/s",
				figure(f["writes/s"]), figure(f["p99-ms"]), figure(f["disk-syncs/s"]))
		}
	}
	return err
}

func (b *bench) scheduler(ctx context.Context) error {
	found, err := goBench(ctx, "./scheduler", "^BenchmarkSchedule$/^nodes=(1000|5000)$/^affinity=false$", "-benchtime", "1s")
	for _, nodes := range []int{1000, 5000} {
		f, ok := found[fmt.Sprintf("Schedule/nodes=%d/affinity=false", nodes)]
		switch {
		case ok && nodes == 1000:
			b.hold("decisions alone, 1,000 nodes", f["pods/s"], "pods/s", atLeast(3600, "pods/s"))
		case ok:
			b.add("decisions alone, 5,000 nodes", "%s pods/s", figure(f["pods/s"]))
		}
	}
	if err != nil {
		return err
	}
	found, err = goBench(ctx, "./scheduler", "^BenchmarkPreempt$", "-benchtime", "1s")
	for _, nodes := range []int{1000, 5000} {
		if f, ok := found[fmt.Sprintf("Preempt/nodes=%d", nodes)]; ok {
			b.add(fmt.Sprintf("decisions whom to preempt, %s full nodes", figure(float64(nodes))), "%s pods/s", figure(f["pods/s"]))
		}
	}
	if err != nil {
		return err
	}
	found, err = goBench(ctx, "./master/internal/controllers/binding", "^BenchmarkBinding$", "-benchtime", "10000x")
	if f, ok := found["Binding/nodes=1000"]; ok {
		b.hold("10,000 pods bound on 1,000 nodes, on the disk", f["pods/s"], "pods/s", atLeast(3600, "pods/s"))
	}
	if f, ok := found["Binding/nodes=5000"]; ok {
		b.add("10,000 pods bound on 5,000 nodes, on the disk", "%s pods/s", figure(f["pods/s"]))
	}
	return err
}

func (b *bench) proxy(ctx context.Context) error {
	found, err := goBench(ctx, "./proxy/iptables", "^BenchmarkOneServiceChanged$/^(nftables|iptables-nft)$/^(10|1000|5000)services$/^10endpoints$", "-tags", "e2e", "-benchtime", "50x")
	for _, mode := range []string{"nftables", "iptables-nft"} {
		for _, services := range []int{10, 1000, 5000} {
			f, ok := found[fmt.Sprintf("OneServiceChanged/%s/%dservices/10endpoints", mode, services)]
			if !ok {
				continue
			}
			of := fmt.Sprintf("%s, %s Services: ", mode, figure(float64(services)))
			// iptables is for machines that have nothing else; its figures are there to compare.
			hold := func(what string, v float64, unit string, bound bound) {
				if mode == "nftables" {
					b.hold(of+what, v, unit, bound)
				} else {
					b.add(of+what, "%s "+unit, figure(v))
				}
			}
			hold("one changed", f["ms/change"], "ms", atMost(20, "ms"))
			b.add(of+"a client's first packet and its answer, p50", "%s µs, p99 %s; without a Service %s, p99 %s",
				figure(f["us/first-p50"]), figure(f["us/first-p99"]), figure(f["us/direct-p50"]), figure(f["us/direct-p99"]))
			if services == 5000 {
				hold("first sync", f["ms/full"]/1000, "s", atMost(1, "s"))
				b.add(of+"a restarted agent finds all in place", "%s s", figure(f["ms/adopt"]/1000))
			}
		}
	}
	return err
}

func (b *bench) runtime(ctx context.Context) error {
	found, err := goBench(ctx, "./node/runtime/docker", "^BenchmarkPods$", "-tags", "e2e", "-benchtime", "20x")
	for _, workers := range []int{1, 4} {
		if f, ok := found[fmt.Sprintf("Pods/workers=%d", workers)]; ok {
			raw, ours := f["raw-pods/s"], f["engine-pods/s"]
			b.hold(fmt.Sprintf("%d at a time", workers), ours, "pods/s", bound{limit: 0.9 * raw, least: true, text: fmt.Sprintf("raw API, same run: %s pods/s", figure(raw))})
		}
	}
	return err
}
