package pods

import (
	"context"
	"errors"
	"maps"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/admit"
	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

const (
	readTimeout = 30 * time.Second
	callTimeout = 2 * time.Minute
	errFirst    = time.Second
	errMost     = 10 * time.Second
	// awayLook is how often a pod is looked at while the engine is away; see deserted.
	awayLook = time.Second
)

func cut(ref string) (kind, name string, ok bool) { return strings.Cut(ref, "/") }

// turn is one step; it tells whether nothing of the pod is left to care for.
func (w *worker) turn(ctx context.Context) (done bool) {
	w.empty()
	defer w.save()
	defer w.purge(ctx)
	if w.orphan && !w.gone {
		return false // the master has not said yet that it is not wanted
	}
	if w.stale {
		if err := w.read(ctx); err != nil {
			w.trouble(ctx, "the engine could not be asked about the pod", err)
			w.report(false)
			return false
		}
	}
	w.forgetEnded()
	if w.away {
		w.wakeAt(time.Now().Add(awayLook))
	}
	switch {
	case w.ending():
		return w.terminate(ctx)
	case w.isOver():
		w.finish(ctx)
		if w.finished && !w.reported {
			w.report(true)
		}
	default:
		w.sync(ctx)
		if w.isOver() { // it has just come to its end
			w.again = true
		}
	}
	return false
}

// empty the inbox.
func (w *worker) empty() {
	w.mu.Lock()
	in := w.in
	w.in = inbox{gone: in.gone}
	w.mu.Unlock()
	if in.pod != nil {
		w.refresh = w.refresh || contentChanged(w.pod, in.pod)
		if w.orphan {
			w.orphan = false
			if w.last.Phase == "" {
				w.last = in.pod.Status
				w.recall()
			}
			w.recallGrant(in.pod)
		}
		w.take(in.pod)
	}
	if in.republish {
		w.reported = false
	}
	if in.evict != nil {
		w.beEvicted(in.evict)
	}
	w.purges = append(w.purges, in.purge...)
	w.gone = in.gone
	w.refresh = w.refresh || in.refresh
	w.stale = w.stale || in.stale
	w.away = (w.away || in.away) && in.observed == nil
	if in.observed != nil {
		if in.seq == w.seq.Load() {
			w.observed = *in.observed
		} else {
			w.stale = true
		}
	}
	for _, e := range in.events {
		w.stale = w.stale || w.isNews(e)
	}
}

// contentChanged tells whether volumes may look different for the new version; most versions only differ in their status.
func contentChanged(old, pod *corev1.Pod) bool {
	return old.Generation != pod.Generation || !maps.Equal(old.Labels, pod.Labels) || !maps.Equal(old.Annotations, pod.Annotations)
}

// isNews tells whether an event says something else than what the worker knows already from its own doing.
func (w *worker) isNews(e runtime.Event) bool {
	for _, s := range w.observed.Sandboxes {
		if s.ID == e.Container {
			return e.Action != "start" || !s.Running
		}
	}
	for _, c := range w.observed.Containers {
		if c.ID == e.Container {
			return e.Action != "start" || c.State != runtime.StateRunning
		}
	}
	return e.Action != "destroy" // of what we removed
}

// read asks the engine.
func (w *worker) read(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	p, err := w.m.cfg.Engine.Pod(ctx, w.uid)
	if err != nil {
		return err
	}
	w.observed, w.stale, w.errs = p, false, retry{}
	return nil
}

// trouble notes that the engine or the disk failed; the next turn comes after a back-off and looks again.
func (w *worker) trouble(ctx context.Context, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	w.stale = true
	w.wakeAt(w.errs.failed(errFirst, errMost))
	w.log.Warn(what, "err", err, "retry", w.errs.delay)
}

func (w *worker) ending() bool { return w.gone || w.pod.DeletionTimestamp != nil }

// isOver: the pod has succeeded or failed; nothing will be started any more.
func (w *worker) isOver() bool {
	return w.verdict != nil || status.Over(w.last.Phase) || status.Over(w.pod.Status.Phase)
}

func (w *worker) facts() env.Facts {
	f := env.Facts{PodIPs: w.podIPs, HostIPs: w.m.cfg.HostIPs()}
	if w.pod.Spec.HostNetwork && len(f.PodIPs) == 0 {
		f.PodIPs = f.HostIPs
	}
	f.Allocatable = w.m.cfg.Allocatable()
	return f
}

// sync brings the pod forward: admission, deadline, volumes, sandbox, init containers, containers.
func (w *worker) sync(ctx context.Context) {
	defer func() { w.report(false) }()
	if !w.admission() || w.deadline() {
		return
	}
	w.decideResize()
	if !w.prepareVolumes(ctx) {
		w.probeRunning(ctx)
		return
	}
	if !w.mayRestart() { // only sidecars run, if anything
		w.killAll(ctx)
		return
	}
	sb := w.ensureSandbox(ctx)
	if sb == nil {
		w.probeRunning(ctx)
		return
	}
	w.resizeContainers(ctx, sb)
	w.ensureContainers(ctx, sb)
	w.tidy(ctx, sb)
}

// admission looks once whether the pod fits here. What runs already has been let in before.
func (w *worker) admission() bool {
	if w.admitted {
		return true
	}
	w.m.admit.Lock()
	defer w.m.admit.Unlock()
	if !w.known() {
		no := w.m.cfg.Refuse(w.pod)
		if no == nil {
			no = admit.Check(w.pod, w.m.admitted(w.uid), w.m.node())
		}
		if no != nil {
			w.warn("", no.Reason, no.Message)
			w.verdict = &status.Reason{Reason: no.Reason, Message: "Pod was rejected: " + no.Message}
			w.rejected = true
			return false
		}
	}
	w.admitted = true
	w.hold(true)
	return true
}

// known: the pod was let in before, perhaps by another agent.
func (w *worker) known() bool {
	return len(w.observed.Containers)+len(w.observed.Sandboxes) > 0 || w.last.Phase == corev1.PodRunning || w.last.StartTime != nil && w.pod.Status.Phase != ""
}

// hold or give up the pod's place on the node.
func (w *worker) hold(yes bool) {
	w.mu.Lock()
	left := w.holdsPlace && !yes
	w.holdsPlace = yes
	w.mu.Unlock()
	if left {
		w.m.withdrawResize(w.uid, true)
	}
}

const (
	deadlineReason  = "DeadlineExceeded"
	deadlineMessage = "Pod was active on the node longer than the specified deadline"
)

// deadline ends a pod that has been active for too long.
func (w *worker) deadline() bool {
	limit := w.pod.Spec.ActiveDeadlineSeconds
	if limit == nil || w.last.StartTime.IsZero() {
		if limit != nil {
			w.wakeAt(time.Now().Add(time.Duration(*limit) * time.Second))
		}
		return false
	}
	at := w.last.StartTime.Add(time.Duration(*limit) * time.Second)
	if time.Now().Before(at) {
		w.wakeAt(at)
		return false
	}
	w.normal("", deadlineReason, deadlineMessage)
	w.verdict = &status.Reason{Reason: deadlineReason, Message: deadlineMessage}
	return true
}

const (
	mountFirst = 500 * time.Millisecond
	mountMost  = 2 * time.Minute
)

// prepareVolumes makes them be there, once, and again when something they are made of changed.
func (w *worker) prepareVolumes(ctx context.Context) bool {
	due := !w.volumes.Renew.IsZero() && !time.Now().Before(w.volumes.Renew)
	if w.mounted && !w.refresh && !due {
		w.wakeAt(w.volumes.Renew)
		return true
	}
	if !w.mounted && !w.refresh && time.Now().Before(w.mountError.at) {
		w.wakeAt(w.mountError.at)
		return false
	}
	r := w.m.volumes.Prepare(ctx, w.pod, w.facts())
	if ctx.Err() != nil {
		return false
	}
	w.refresh = false
	if len(r.Failures) > 0 {
		for _, f := range r.Failures {
			w.warn("", "FailedMount", f.Message())
		}
		retryAt := w.mountError.failed(mountFirst, mountMost)
		w.wakeAt(retryAt)
		if due || w.adoptVolumes(r) {
			w.volumes.Renew = retryAt
		}
		return w.mounted // what runs goes on with the old content
	}
	w.volumes, w.mounted, w.mountError = r, true, retry{}
	w.wakeAt(r.Renew)
	return true
}

// gone: the engine does not have it (any more).
func gone(err error) bool { return errors.Is(err, runtime.ErrNotFound) }
