package controller

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestQueueHandsOutEachKeyOnce(t *testing.T) {
	q := newQueue[string]()
	ctx := t.Context()
	q.add("a")
	q.add("a")
	q.add("b")
	first, _ := q.get(ctx)
	if first != "a" {
		t.Fatalf("got %q", first)
	}
	q.add("a") // while it is worked on
	if second, _ := q.get(ctx); second != "b" {
		t.Fatalf("got %q while a is active", second)
	}
	q.done("a")
	if again, _ := q.get(ctx); again != "a" {
		t.Fatalf("a was not handed out again but %q", again)
	}
	q.done("a")
	q.done("b")
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if key, ok := q.get(ended); ok {
		t.Fatalf("got %q from an empty queue", key)
	}
	if len(q.dirty)+len(q.active) != 0 {
		t.Fatal("keys left behind")
	}
}

func TestQueueDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		q := newQueue[string]()
		var wg sync.WaitGroup
		wg.Go(func() { q.runDelays(ctx) })
		start := time.Now()
		q.addAfter("late", time.Hour)
		q.addAfter("soon", time.Minute)
		q.addAfter("late", 2*time.Hour) // the earlier time stays
		q.addAfter("soon", time.Second) // the earlier time wins
		for _, want := range []struct {
			key string
			at  time.Duration
		}{{"soon", time.Second}, {"late", time.Hour}} {
			key, ok := q.get(ctx)
			if !ok || key != want.key || time.Since(start) != want.at {
				t.Errorf("%q after %v, want %q after %v", key, time.Since(start), want.key, want.at)
			}
			q.done(key)
		}
		cancel()
		wg.Wait()
	})
}

// TestQueueNeverTwoAtOnce: many workers, many adders, and never two workers on one key; nothing is lost.
func TestQueueNeverTwoAtOnce(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := newQueue[int]()
	const keys = 10
	var busy, wanted, seen [keys]atomic.Int64
	var workers, adders sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for {
				k, ok := q.get(ctx)
				if !ok {
					return
				}
				if busy[k].Add(1) > 1 {
					t.Error("two workers on one key")
				}
				seen[k].Store(wanted[k].Load())
				busy[k].Add(-1)
				q.done(k)
			}
		})
	}
	for range 4 {
		adders.Go(func() {
			for i := range 5000 {
				wanted[i%keys].Add(1)
				q.add(i % keys)
			}
		})
	}
	adders.Wait()
	for k := range keys {
		for seen[k].Load() != wanted[k].Load() {
			q.add(k)
		}
	}
	cancel()
	workers.Wait()
}

func TestBackoffGrowsWithinBounds(t *testing.T) {
	last := time.Duration(0)
	for n := 1; n < 40; n++ {
		d := backoff(n)
		if d < firstBackoff*3/4 || d > lastBackoff*5/4 {
			t.Fatalf("backoff(%d) = %v", n, d)
		}
		if n%4 == 0 {
			if d <= last && d < lastBackoff*3/4 {
				t.Fatalf("backoff(%d) = %v, not more than %v", n, d, last)
			}
			last = d
		}
	}
}
