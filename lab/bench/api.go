package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

const (
	podsPath = "/api/v1/namespaces/default/pods"
	asTable  = "application/json;as=Table;v=v1;g=meta.k8s.io"
	// quiet is how long a process is left alone before its memory is read: once a
	// minute it gives back what it can.
	quiet = 65 * time.Second
)

// api measures a wp-master without nodes: creates, memory, lists and watches. Its
// pods belong to another scheduler, so that only what the client asks for is
// written; they get a status as running ones have it.
func (b *bench) api(ctx context.Context) error {
	m, err := b.startMaster(ctx, filepath.Join(b.dir, "api"))
	if err != nil {
		return err
	}
	defer func() { _ = m.stop() }()
	if err := m.waitServiceAccount(ctx); err != nil {
		return err
	}
	budgets := map[int]bound{32: atLeast(4*825, "creates/s")}
	for _, part := range []struct{ clients, pods int }{{1, 500}, {8, 1500}, {32, 3000}} {
		cpu, err := processorTime(m.cmd.Process.Pid)
		if err != nil {
			return err
		}
		rate, took, err := m.each(ctx, part.clients, part.pods, m.create)
		if err != nil {
			return err
		}
		after, err := processorTime(m.cmd.Process.Pid)
		if err != nil {
			return err
		}
		b.hold(fmt.Sprintf("durable creates, clients: %d", part.clients), rate, "creates/s", budgets[part.clients], "p50 "+ms(took, 0.5),
			figure((after-cpu).Seconds()*1000/float64(part.pods))+" ms of a core each")
		if part.clients == 32 {
			b.hold("slowest of 100 of them", percentile(took, 0.99).Seconds()*1000, "ms", atMost(30, "ms"))
		}
	}
	if err := b.runAll(ctx, m, 0, 5000); err != nil {
		return err
	}
	wait(ctx, quiet)
	if err := b.memory(m, "memory with 5,000 running pods", atMost(110, "MB")); err != nil {
		return err
	}
	if err := b.lists(ctx, m); err != nil {
		return err
	}
	if err := b.watchers(ctx, m); err != nil {
		return err
	}
	if _, _, err := m.each(ctx, 32, 15_000, m.create); err != nil {
		return err
	}
	if err := b.runAll(ctx, m, 5000, 20_000); err != nil {
		return err
	}
	wait(ctx, quiet)
	return b.memory(m, "memory with 20,000 running pods", atMost(250, "MB"))
}

func ms(took []time.Duration, p float64) string {
	return figure(percentile(took, p).Seconds()*1000) + " ms"
}

func (b *bench) memory(m *masterProcess, what string, budget bound) error {
	mem, err := resident(m.cmd.Process.Pid)
	if err == nil {
		b.hold(what, mem.rss, "MB", budget, mem.String())
	}
	return err
}

// runAll gives pods the status of running ones.
func (b *bench) runAll(ctx context.Context, m *masterProcess, from, to int) error {
	rate, took, err := m.each(ctx, 32, to-from, func(ctx context.Context, c *http.Client, i int) error {
		return do(ctx, c, http.MethodPatch, fmt.Sprintf("%s%s/%s/status", m.url, podsPath, podName(from+i)), "application/merge-patch+json", runningStatus(from+i), nil)
	})
	if err == nil && from == 0 {
		b.add("their status patched, 32 clients", "%s patches/s, p99 %s", figure(rate), ms(took, 0.99))
	}
	return err
}

// waitServiceAccount waits for what pods need to be admitted.
func (m *masterProcess) waitServiceAccount(ctx context.Context) error {
	c, err := m.connect()
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	for range 500 {
		if err = do(ctx, c, http.MethodGet, m.url+"/api/v1/namespaces/default/serviceaccounts/default", "", nil, nil); err == nil {
			return nil
		}
		wait(ctx, 20*time.Millisecond)
	}
	return err
}

// each does something n times by so many clients, and says how many it was a second
// and how long each took.
func (m *masterProcess) each(ctx context.Context, clients, n int, act func(ctx context.Context, c *http.Client, i int) error) (float64, []time.Duration, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	took := make([]time.Duration, n)
	conns := make([]*http.Client, clients)
	for i := range conns {
		var err error
		if conns[i], err = m.connect(); err != nil {
			return 0, nil, err
		}
		defer conns[i].CloseIdleConnections()
		if err := do(ctx, conns[i], http.MethodGet, m.url+"/readyz", "", nil, nil); err != nil {
			return 0, nil, err
		}
	}
	var next atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for _, c := range conns {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				start := time.Now()
				if err := act(ctx, c, i); err != nil {
					cancel(err)
					return
				}
				took[i] = time.Since(start)
			}
		})
	}
	all.Wait()
	rate := float64(n) / time.Since(began).Seconds()
	return rate, took, context.Cause(ctx)
}

// create makes the next pod; which of n it is does not matter, the names go on.
func (m *masterProcess) create(ctx context.Context, c *http.Client, _ int) error {
	return do(ctx, c, http.MethodPost, m.url+podsPath, "application/json", podBody(int(m.pods.Add(1))-1), nil)
}

// lists reads all pods by one client.
func (b *bench) lists(ctx context.Context, m *masterProcess) error {
	c, err := m.connect()
	if err != nil {
		return err
	}
	defer c.CloseIdleConnections()
	for _, form := range []struct {
		name, accept string
		budget       bound
	}{{"JSON", "application/json", atMost(80, "ms")}, {"Table", asTable, atMost(40, "ms")}} {
		var took []time.Duration
		cpu, err := processorTime(m.cmd.Process.Pid)
		if err != nil {
			return err
		}
		const times = 20
		for range times {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+podsPath, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Accept", form.accept)
			began := time.Now()
			if err := send(c, req, nil); err != nil {
				return err
			}
			took = append(took, time.Since(began))
		}
		after, err := processorTime(m.cmd.Process.Pid)
		if err != nil {
			return err
		}
		b.hold("list of 5,000 pods, "+form.name, percentile(took, 0.5).Seconds()*1000, "ms", form.budget,
			figure((after-cpu).Seconds()*1000/times)+" ms of a core")
	}
	return nil
}

// watchers measures from the beginning of a durable write until each of 100
// watchers, on connections of their own, has read its event.
func (b *bench) watchers(ctx context.Context, m *masterProcess) error {
	const watchers, writes = 100, 200
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := m.connect()
	if err != nil {
		return err
	}
	var list struct {
		Metadata struct{ ResourceVersion string }
	}
	if err := do(ctx, c, http.MethodGet, m.url+podsPath+"?limit=1", "", nil, &list); err != nil {
		return err
	}
	seen := make(chan time.Time, watchers)
	failed := make(chan error, watchers)
	for range watchers {
		w, err := m.connect()
		if err != nil {
			return err
		}
		defer w.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+podsPath+"?watch=1&resourceVersion="+list.Metadata.ResourceVersion, nil)
		if err != nil {
			return err
		}
		res, err := w.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		go func() {
			lines := bufio.NewReaderSize(res.Body, 64<<10)
			for {
				if _, err := lines.ReadSlice('\n'); err != nil {
					failed <- err
					return
				}
				seen <- time.Now()
			}
		}()
	}
	var took []time.Duration
	for i := range writes {
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{"n": fmt.Sprint(i)}}})
		if err != nil {
			return err
		}
		began := time.Now()
		if err := do(ctx, c, http.MethodPatch, m.url+podsPath+"/"+podName(i), "application/merge-patch+json", patch, nil); err != nil {
			return err
		}
		for range watchers {
			select {
			case at := <-seen:
				took = append(took, at.Sub(began))
			case err := <-failed:
				return fmt.Errorf("a watch ended: %w", err)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	b.hold("a write to 100 watchers, p50", percentile(took, 0.5).Seconds()*1000, "ms", atMost(2, "ms"))
	b.hold("the same, p99", percentile(took, 0.99).Seconds()*1000, "ms", atMost(6, "ms"))
	return nil
}
