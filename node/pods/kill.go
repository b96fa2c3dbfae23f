package pods

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/probe"
	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

func join(list []string) string { return strings.Join(list, ", ") }

// killReason decides the grace period.
type killReason int

const (
	killOther killReason = iota
	killSandbox
	killLiveness
	killStartup
)

const (
	// minGrace is what every container gets after its preStop hook, however long that took.
	minGrace  = 2 * time.Second
	killRetry = 2 * time.Second
)

// grace period for a container: a probe may have its own, unless the pod is being deleted.
func (w *worker) grace(container string, reason killReason) time.Duration {
	if w.evicted != nil {
		return w.evicted.Grace
	}
	seconds := spec.Grace(w.pod)
	if c := w.container(container); c != nil && w.pod.DeletionGracePeriodSeconds == nil {
		var p *corev1.Probe
		switch reason {
		case killLiveness:
			p = c.LivenessProbe
		case killStartup:
			p = c.StartupProbe
		}
		if p != nil && p.TerminationGracePeriodSeconds != nil {
			seconds = *p.TerminationGracePeriodSeconds
		}
	}
	return time.Duration(seconds) * time.Second
}

// kill under way, or the last one.
type kill struct {
	cancel context.CancelFunc
	grace  time.Duration
	// turn is closed when all that is to end before the container has ended.
	turn chan struct{}

	mu    sync.Mutex
	done  bool
	ended time.Time
}

func (k *kill) finish() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.done, k.ended = true, time.Now()
}

func (k *kill) finished() (done bool, at time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.done, k.ended
}

// open lets the container be told to end.
func (k *kill) open() {
	select {
	case <-k.turn:
	default:
		close(k.turn)
	}
}

// wait for the container's turn, until then or until ctx ends.
func (k *kill) wait(ctx context.Context, until time.Time) {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-k.turn:
	case <-t.C:
	}
}

// kill a container: preStop hook, signal, and after the grace period the end. It returns at once and the worker is woken
// when it is over. A second call with a shorter grace period hurries it; one with a longer does nothing.
func (w *worker) kill(ctx context.Context, cur *runtime.Container, message string, grace time.Duration) {
	w.killInTurn(ctx, cur, message, grace, true)
}

// killInTurn is kill for a container whose signal has to wait for others; a later call tells that it is its turn. Its hook does
// not wait, and the wait is part of its grace period.
func (w *worker) killInTurn(ctx context.Context, cur *runtime.Container, message string, grace time.Duration, turn bool) {
	k := w.kills[cur.ID]
	hook := k == nil
	if k != nil {
		if turn {
			k.open()
		}
		done, at := k.finished()
		switch {
		case !done && grace >= k.grace:
			return
		case !done:
			k.cancel()
		case time.Since(at) < killRetry: // it failed, or the engine does not show the end yet
			w.stale = true
			w.wakeAt(at.Add(killRetry))
			return
		}
	} else {
		w.normal(cur.Name, "Killing", message)
	}
	ctx, cancel := context.WithCancel(ctx)
	k = &kill{cancel: cancel, grace: grace, turn: make(chan struct{})}
	if turn {
		k.open()
	}
	w.kills[cur.ID] = k
	c, pod, id := w.container(cur.Name), w.pod, cur.ID
	target, drained := w.target(c, id), w.draining
	w.m.wg.Go(func() {
		defer cancel()
		began := time.Now()
		if hook && c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil && grace > 0 {
			w.preStop(ctx, pod, c.Lifecycle.PreStop, target, grace)
		}
		drained.wait(ctx, grace)
		k.wait(ctx, began.Add(grace))
		left := max(grace-time.Since(began), minGrace)
		call, done := context.WithTimeout(ctx, left+callTimeout)
		defer done()
		w.seq.Add(1)
		err := w.m.cfg.Engine.StopContainer(call, id, left)
		w.seq.Add(1)
		if err != nil && ctx.Err() == nil {
			w.log.Warn("container could not be stopped", "container", cur.Name, "err", err)
		}
		k.finish()
		w.post(func(in *inbox) { in.stale = true })
	})
}

// preStop runs the hook for at most the grace period.
func (w *worker) preStop(ctx context.Context, pod *corev1.Pod, h *corev1.LifecycleHandler, t probe.Target, grace time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	err := w.m.prober.Hook(ctx, h, t, spec.Describe(pod))
	if err != nil && ctx.Err() == nil {
		w.log.Info("preStop hook failed", "container", t.Container.Name, "err", err)
		if w.m.cfg.Record != nil {
			w.m.cfg.Record.Event(pod, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed", fieldPath(pod, t.Container.Name))
		}
	}
}

// killAll ends everything of the pod, sidecars after the others and last to first, all within one grace period; it tells
// whether anything runs.
func (w *worker) killAll(ctx context.Context) (any bool) {
	sidecars := map[string]bool{}
	var order []string
	for i := range w.pod.Spec.InitContainers {
		if c := &w.pod.Spec.InitContainers[i]; status.Sidecar(c) {
			sidecars[c.Name] = true
			order = append(order, c.Name)
		}
	}
	end := func(c *runtime.Container, turn bool) {
		w.killInTurn(ctx, c, "Stopping container "+c.Name, w.grace(c.Name, killOther), turn)
	}
	for i := range w.observed.Containers {
		if c := &w.observed.Containers[i]; c.State == runtime.StateRunning && !sidecars[c.Name] {
			any = true
			end(c, true)
		}
	}
	for _, name := range slices.Backward(order) {
		turn := !any
		for _, c := range status.Attempts(w.observed, name) {
			if c.State == runtime.StateRunning {
				any = true
				end(c, turn)
			}
		}
	}
	return any
}

// hook is a postStart hook under way.
type hook struct {
	told bool
	mu   sync.Mutex
	done bool
	err  error
}

func (h *hook) result() (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.done, h.err
}

func (w *worker) runPostStart(ctx context.Context, c *corev1.Container, id string) {
	h := &hook{}
	w.hooks[id] = h
	handler, target, pod := c.Lifecycle.PostStart, w.target(c, id), spec.Describe(w.pod)
	w.m.wg.Go(func() {
		err := w.m.prober.Hook(ctx, handler, target, pod)
		h.mu.Lock()
		h.done, h.err = true, err
		h.mu.Unlock()
		w.poke()
	})
}

// target of a hook or probe.
func (w *worker) target(c *corev1.Container, id string) probe.Target {
	t := probe.Target{Container: c, ContainerID: id}
	switch {
	case len(w.podIPs) > 0:
		t.PodIP = w.podIPs[0]
	case w.pod.Spec.HostNetwork:
		if ips := w.m.cfg.HostIPs(); len(ips) > 0 {
			t.PodIP = ips[0]
		}
	default:
		t.PodIP = w.last.PodIP
	}
	return t
}
