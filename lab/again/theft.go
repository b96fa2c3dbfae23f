package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"
)

const (
	// robbery: when the host took more than this share of the processors' time for a minute, nothing can be said about times.
	robbery = 0.2
	look    = 5 * time.Second
	// window, in looks, is what the share is of.
	window = 12
)

// processors is what the kernel says of their time, in its ticks, since it started.
type processors struct{ all, stolen uint64 }

// readProcessors reads /proc/stat (proc_pid_stat(5)): user nice system idle iowait irq softirq steal; what guests of our own
// use is in user and nice.
func readProcessors() (p processors, err error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return p, err
	}
	return parseProcessors(string(b))
}

func parseProcessors(stat string) (p processors, err error) {
	var t [8]uint64
	if _, err := fmt.Sscanf(stat, "cpu %d %d %d %d %d %d %d %d", &t[0], &t[1], &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]); err != nil {
		return p, fmt.Errorf("/proc/stat: %w", err)
	}
	for _, n := range t {
		p.all += n
	}
	p.stolen = t[7]
	return p, nil
}

// watchTheft begins to look, and returns what ends that and gives the largest share that was stolen in a minute.
func watchTheft(ctx context.Context, read func() (processors, error)) (largest func() float64) {
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	var seen []processors
	looking.Go(func() {
		tick := time.NewTicker(look)
		defer tick.Stop()
		for {
			if p, err := read(); err == nil { // a machine that cannot tell is taken at its word
				seen = append(seen, p)
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return func() float64 {
		cancel()
		looking.Wait()
		return worst(seen)
	}
}

// worst share over a window; over all there is if that is less.
func worst(seen []processors) (share float64) {
	for i, now := range seen {
		was := seen[max(0, i-window)]
		if i < window && i < len(seen)-1 || now.all <= was.all || now.stolen < was.stolen {
			continue
		}
		share = max(share, float64(now.stolen-was.stolen)/float64(now.all-was.all))
	}
	return share
}
