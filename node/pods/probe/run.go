package probe

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// maxAttempts is how often a probe that could not be asked is asked again at once.
const maxAttempts = 3

// Schedule says when to ask.
type Schedule struct {
	// Started is when the container started; initialDelaySeconds counts from it.
	Started time.Time
	// Jitter delays the first probe, so that a restarted agent does not ask all containers at one moment.
	Jitter time.Duration
}

// Tell receives what comes of probing. Result: the thresholds were met. Event: what users see in `describe`.
type Tell struct {
	Result func(ok bool)
	Event  func(reason, message string)
}

// Reasons of the events.
const (
	ReasonUnhealthy = "Unhealthy"
	ReasonWarning   = "ProbeWarning"
)

// Run probes until ctx ends or a final result is there: a startup probe ends with either, a liveness probe with failure,
// for then the container is killed and the next one gets a Run of its own. Result is called only for decided answers,
// and for readiness only when they differ from the one before (which is not ready unless ready is true).
func (p *Prober) Run(ctx context.Context, kind Kind, t Target, s Schedule, ready bool, tell Tell) {
	spec := kind.Spec(t.Container)
	if spec == nil {
		return
	}
	delay := time.Duration(spec.InitialDelaySeconds) * time.Second
	wait := min(max(time.Until(s.Started.Add(delay)), 0), delay) + s.Jitter // never more, whatever was done to the clock
	timer := time.NewTimer(wait)
	defer timer.Stop()
	counter := NewCounter(spec)
	period := time.Duration(max(spec.PeriodSeconds, 1)) * time.Second
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		asked := time.Now()
		ok, counts := p.once(ctx, kind, spec, t, tell)
		if ctx.Err() != nil {
			return
		}
		if counts && counter.Add(ok) {
			switch {
			case kind == Startup, kind == Liveness && !ok:
				tell.Result(ok)
				return
			case kind == Readiness && ok != ready:
				ready = ok
				tell.Result(ok)
			}
		}
		// Like a ticker: a slow answer does not shift the rhythm.
		next := asked.Add(period)
		for !next.After(time.Now()) {
			next = next.Add(period)
		}
		timer.Reset(time.Until(next))
	}
}

// once asks, again if it could not be asked, and tells the event.
func (p *Prober) once(ctx context.Context, kind Kind, spec *corev1.Probe, t Target, tell Tell) (ok, counts bool) {
	var a Answer
	var err error
	for range maxAttempts {
		if a, err = p.Probe(ctx, spec, t); err == nil || ctx.Err() != nil {
			break
		}
	}
	switch {
	case ctx.Err() != nil:
		return false, false
	case err != nil:
		tell.Event(ReasonUnhealthy, fmt.Sprintf("%s probe errored and resulted in unknown state: %s", kind, err))
		return false, false
	case a.Warning:
		tell.Event(ReasonWarning, fmt.Sprintf("%s probe warning: %s", kind, a.Output))
	case !a.OK:
		tell.Event(ReasonUnhealthy, fmt.Sprintf("%s probe failed: %s", kind, a.Output))
	}
	return a.OK, true
}
