package controller

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// Key names what is reconciled, usually an object.
type Key = registry.Key

const (
	// Delays after an error double from the first to the last, with jitter.
	firstBackoff = 20 * time.Millisecond
	lastBackoff  = time.Minute
	// Errors are logged as such from this many in a row on: one may be a race that the next turn settles.
	quietFailures = 3
	// DefaultResync is how often everything is looked at again.
	DefaultResync = 5 * time.Minute
	// maxEvents is how many events are taken from the watch at once.
	maxEvents = 512
)

// Told marks an error that its user has been told of, by an Event or a condition, as one who has used up a quota is. It is tried
// again like any other, but is no trouble of the operator's, and not logged as such.
func Told(err error) error {
	if err == nil {
		return nil
	}
	return told{err}
}

type told struct{ error }

func (t told) Unwrap() error { return t.error }

// Config of a loop.
type Config struct {
	Name     string
	Registry *registry.Registry
	Logger   *slog.Logger
	// Watch lists the resources whose events matter ("pods", "replicasets.apps"); empty means all.
	Watch []string
	// Keys names what an event may have given work. The view is at least as new as the event.
	Keys func(v *registry.View, e registry.Event, add func(Key))
	// All names everything that may need work: at the start, when events were missed, and every Resync.
	All func(v *registry.View, add func(Key))
	// Reconcile does the work for a key. A positive duration asks to be called again after it; an error does so, too,
	// with growing delays.
	Reconcile func(ctx context.Context, key Key) (time.Duration, error)
	// Workers is how many keys are worked on at once; 0 means 1.
	Workers int
	// Resync, 0 for DefaultResync, negative for never.
	Resync time.Duration
}

// Loop runs one controller.
type Loop struct {
	cfg   Config
	log   *slog.Logger
	queue *queue[Key]

	mu       sync.Mutex
	failures map[Key]int
}

// New makes a loop; Run starts it.
func New(cfg Config) *Loop {
	if cfg.Workers == 0 {
		cfg.Workers = 1
	}
	if cfg.Resync == 0 {
		cfg.Resync = DefaultResync
	}
	return &Loop{
		cfg: cfg, log: cfg.Logger.With("component", cfg.Name),
		queue: newQueue[Key](), failures: map[Key]int{},
	}
}

// Add asks for a key's turn.
func (l *Loop) Add(key Key) { l.queue.add(key) }

// AddAfter asks for a key's turn after a while.
func (l *Loop) AddAfter(key Key, d time.Duration) { l.queue.addAfter(key, d) }

// Run works until ctx ends.
func (l *Loop) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { l.queue.runDelays(ctx) })
	for range l.cfg.Workers {
		all.Go(func() { l.work(ctx) })
	}
	if l.cfg.Resync > 0 {
		all.Go(func() { l.resync(ctx) })
	}
	for ctx.Err() == nil {
		if err := l.watch(ctx); err != nil && ctx.Err() == nil {
			// Too slow for the history, or the store is ending. Everything is listed again.
			l.log.Info("watching anew", "err", err)
			sleep(ctx, jitter(firstBackoff))
		}
	}
	return nil
}

// watch lists everything and follows the events behind it; it returns when the history has overtaken it.
func (l *Loop) watch(ctx context.Context) error {
	w, err := l.cfg.Registry.ViewAndWatch(l.cfg.Watch, func(v *registry.View) error {
		l.cfg.All(v, l.queue.add)
		return nil
	})
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		events, err := w.Next(ctx, maxEvents)
		if err != nil {
			return err
		}
		if err := l.cfg.Registry.View(func(v *registry.View) error {
			for _, e := range events {
				l.cfg.Keys(v, e, l.queue.add)
			}
			return nil
		}); err != nil {
			return err
		}
	}
}

func (l *Loop) resync(ctx context.Context) {
	for sleep(ctx, jitter(l.cfg.Resync)) {
		err := l.cfg.Registry.View(func(v *registry.View) error {
			l.cfg.All(v, l.queue.add)
			return nil
		})
		if err != nil {
			l.log.Warn("cannot look at everything again", "err", err)
		}
	}
}

func (l *Loop) work(ctx context.Context) {
	for {
		key, ok := l.queue.get(ctx)
		if !ok {
			return
		}
		l.turn(ctx, key)
	}
}

func (l *Loop) turn(ctx context.Context, key Key) {
	defer l.queue.done(key)
	after, err := l.cfg.Reconcile(ctx, key)
	switch {
	case err == nil:
		l.succeeded(key)
		if after > 0 {
			l.queue.addAfter(key, after)
		}
	case ctx.Err() != nil:
	default:
		n := l.failed(key)
		delay := backoff(n)
		if _, user := errors.AsType[told](err); !user && !apierrors.IsConflict(err) && n >= quietFailures {
			l.log.Warn("reconcile failed", "object", key.Resource, "namespace", key.Namespace, "name", key.Name, "failures", n, "retry", delay, "err", err)
		} else {
			l.log.Debug("reconcile again", "object", key.Resource, "namespace", key.Namespace, "name", key.Name, "err", err)
		}
		l.queue.addAfter(key, delay)
	}
}

func (l *Loop) failed(key Key) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failures[key]++
	return l.failures[key]
}

func (l *Loop) succeeded(key Key) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.failures, key)
}

// backoff is the delay after n failures in a row.
func backoff(n int) time.Duration {
	d := firstBackoff
	for i := 1; i < n && d < lastBackoff; i++ {
		d *= 2
	}
	return jitter(min(d, lastBackoff))
}

// jitter spreads a delay over 75 to 125 percent of itself.
func jitter(d time.Duration) time.Duration {
	return d*3/4 + rand.N(d/2+1)
}

// sleep waits and reports whether the time passed before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
