package pods

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/probe"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

type failure int

const (
	notFailed failure = iota
	failedStartup
	failedLiveness
)

// probing is what is known of one attempt of a container by its probes.
type probing struct {
	cancel context.CancelFunc
	// quiet ends the probes that lead to killing, when the pod is being ended anyway; readiness goes on.
	quiet context.CancelFunc

	mu      sync.Mutex
	started bool
	ready   bool
	failure failure
}

func (p *probing) failed() failure {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failure
}

func (p *probing) get() (started, ready bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.started, p.started && p.ready
}

// probing returns the container's probing, and starts it the first time.
func (w *worker) probing(ctx context.Context, c *corev1.Container, cur *runtime.Container) *probing {
	if p := w.probes[cur.ID]; p != nil {
		return p
	}
	ctx, cancel := context.WithCancel(ctx)
	vital, quiet := context.WithCancel(ctx)
	p := &probing{cancel: cancel, quiet: quiet, started: c.StartupProbe == nil, ready: c.ReadinessProbe == nil}
	adopted := w.resume(p, c, cur)
	w.probes[cur.ID] = p
	if c.StartupProbe == nil && c.LivenessProbe == nil && c.ReadinessProbe == nil || w.orphan {
		return p
	}
	pod, target := w.pod, w.target(c, cur.ID)
	event := func(reason, message string) {
		w.m.cfg.Record.Event(pod, corev1.EventTypeWarning, reason, message, fieldPath(pod, c.Name))
	}
	go w.probe(ctx, vital, p, target, cur.StartedAt, adopted, event)
	return p
}

// resume takes over what the agent before this one found out: a container that was ready does not become unready because
// the agent was updated.
func (w *worker) resume(p *probing, c *corev1.Container, cur *runtime.Container) (adopted bool) {
	for _, list := range [][]corev1.ContainerStatus{w.last.ContainerStatuses, w.last.InitContainerStatuses} {
		for i := range list {
			s := &list[i]
			if s.ContainerID == status.ContainerID(cur.ID) && s.State.Running != nil && s.Started != nil && *s.Started {
				p.started = true
				p.ready = p.ready || s.Ready
				return true
			}
		}
	}
	return false
}

// probe runs the startup probe, and after it the others.
func (w *worker) probe(ctx, vital context.Context, p *probing, t probe.Target, started time.Time, adopted bool, event func(reason, message string)) {
	set := func(fn func()) {
		p.mu.Lock()
		fn()
		p.mu.Unlock()
		w.poke()
	}
	schedule := func(k probe.Kind) probe.Schedule {
		s := probe.Schedule{Started: started}
		if spec := k.Spec(t.Container); adopted && spec != nil {
			s.Jitter = time.Duration(rand.Float64() * float64(time.Duration(spec.PeriodSeconds)*time.Second)) //nolint:gosec // no secret
		}
		return s
	}
	if t.Container.StartupProbe != nil && !p.isStarted() {
		w.m.prober.Run(vital, probe.Startup, t, schedule(probe.Startup), false, probe.Tell{Event: event, Result: func(ok bool) {
			set(func() {
				if p.started = ok; !ok {
					p.failure = failedStartup
				}
			})
		}})
		if !p.isStarted() {
			return
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		w.m.prober.Run(vital, probe.Liveness, t, schedule(probe.Liveness), true, probe.Tell{Event: event, Result: func(bool) {
			set(func() { p.failure = failedLiveness })
		}})
	})
	_, ready := p.get()
	w.m.prober.Run(ctx, probe.Readiness, t, schedule(probe.Readiness), ready, probe.Tell{Event: event, Result: func(ok bool) {
		set(func() { p.ready = ok })
	}})
	wg.Wait()
}

func (p *probing) isStarted() bool {
	started, _ := p.get()
	return started
}

func (w *worker) isStarted(id string) bool {
	if h := w.hooks[id]; h != nil {
		if done, err := h.result(); !done || err != nil {
			return false
		}
	}
	p := w.probes[id]
	return p != nil && p.isStarted()
}

func (w *worker) isReady(id string) bool {
	p := w.probes[id]
	if p == nil || w.deserted() {
		return false
	}
	_, ready := p.get()
	return ready
}

// deserted tells whether the pod's processes have ended while the engine is away. An engine that stops ends them after its
// last word, unless it runs with live-restore; what has no readiness probe must not be sent requests for as long as it is off.
func (w *worker) deserted() bool {
	sb := w.sandbox()
	return w.away && sb != nil && sb.PID > 0 && !w.m.cfg.Alive(sb.PID)
}

// forgetEnded ends the probing of containers that do not run any more.
func (w *worker) forgetEnded() {
	live := map[string]bool{}
	for _, c := range w.observed.Containers {
		if c.State == runtime.StateRunning {
			live[c.ID] = true
		}
	}
	for id, p := range w.probes {
		if !live[id] {
			p.cancel()
			delete(w.probes, id)
		}
	}
	for id, k := range w.kills {
		if live[id] {
			continue
		}
		k.open() // nothing waits for a container that has ended by itself
		if done, _ := k.finished(); done {
			delete(w.kills, id)
		}
	}
	for id := range w.hooks {
		if !live[id] {
			delete(w.hooks, id)
		}
	}
}
