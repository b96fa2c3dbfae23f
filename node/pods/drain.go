package pods

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// A deleted pod that a Service sends requests to goes on serving for a while: its deletion and its withdrawal from the Service
// are told to all nodes at the same moment, and a server that stops listening before the last of them has changed its rules
// refuses requests. In Kubernetes people write a preStop hook of "sleep" for that. Here the master says when all nodes have
// withdrawn it, and then the requests that it has taken are answered. All of it is part of the grace period.
const (
	// withdrawLimit is how long nodes may take to change their rules: one that hangs must not keep pods for ever. answerLimit
	// is how long answers may take after that, and drainLimit both.
	withdrawLimit = 10 * time.Second
	answerLimit   = 5 * time.Second
	drainLimit    = withdrawLimit + answerLimit
	// drainGrace is the shortest grace period with which a pod drains at all; --now is shorter.
	drainGrace = 2 * time.Second
	// Packets that are on their way to it when the last node changes its rules have this long to arrive.
	arrivalTime = 150 * time.Millisecond
	// How often its connections are looked at, and how long one lasts at the most of which nothing can be known.
	lookEvery   = 50 * time.Millisecond
	requestTime = time.Second
)

// Conversations is what a Network may be able to tell.
type Conversations interface {
	// Busy tells whether servers in the network namespace of a process are in the middle of answering somebody.
	Busy(ctx context.Context, pid int) (bool, error)
}

// drainTime is how much of a grace period may pass before the containers are told to end.
func drainTime(grace time.Duration) time.Duration {
	if grace < drainGrace {
		return 0
	}
	return min(grace/2, drainLimit)
}

// draining is the time between a pod's deletion and the end of its last request.
type draining struct {
	began     time.Time
	withdrawn chan struct{} // closed when no node sends requests any more
	done      chan struct{} // closed when none is left
}

// wait until the pod has drained, for as long as the grace period lets, or until ctx ends. A pod that never drained does not wait.
func (d *draining) wait(ctx context.Context, grace time.Duration) {
	if d == nil || drainTime(grace) == 0 {
		return
	}
	t := time.NewTimer(time.Until(d.began.Add(drainTime(grace))))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-d.done:
	case <-t.C:
	}
}

// drain begins, once, to find out when a deleted pod has answered its last request.
func (w *worker) drain() {
	if w.drainBegan || w.pod.DeletionTimestamp == nil {
		return
	}
	w.drainBegan = true
	if !w.m.served(w.ref.Namespace, w.uid) {
		return
	}
	pid := 0
	if sb := w.sandbox(); sb != nil && !w.pod.Spec.HostNetwork {
		pid = sb.PID
	}
	d := &draining{began: time.Now(), withdrawn: w.m.withdrawnFor(w.uid), done: make(chan struct{})}
	w.draining = d
	ctx := w.ctx
	w.m.wg.Go(func() {
		defer close(d.done)
		limit := time.NewTimer(withdrawLimit)
		defer limit.Stop()
		select {
		case <-ctx.Done():
			return
		case <-limit.C:
			w.log.Info("not all nodes have said that they send the pod no requests any more; it ends all the same")
			return
		case <-d.withdrawn:
		}
		withdrawn := time.Since(d.began)
		ctx, cancel := context.WithTimeout(ctx, answerLimit)
		defer cancel()
		answered := w.m.awaitAnswers(ctx, pid)
		w.log.Debug("drained", "withdrawn", withdrawn, "took", time.Since(d.began), "answered", answered)
	})
}

// awaitAnswers waits until nobody is being answered in a pod, as far as can be seen, or until ctx ends, which it tells.
func (m *Manager) awaitAnswers(ctx context.Context, pid int) (answered bool) {
	c, able := m.cfg.Network.(Conversations)
	if !able || pid == 0 { // it shares the host's network with others, or there is nobody to ask
		return pause(ctx, requestTime)
	}
	for next := arrivalTime; pause(ctx, next); next = lookEvery {
		busy, err := c.Busy(ctx, pid)
		if err != nil {
			m.log.Debug("connections of a pod cannot be seen", "pid", pid, "err", err)
			return pause(ctx, requestTime)
		}
		if !busy {
			return true
		}
	}
	return false
}

// pause tells whether the time passed before ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Withdrawn says that no node sends new connections to a pod any more. It may come before the pod's deletion.
func (m *Manager) Withdrawn(uid string) {
	c := m.withdrawnFor(uid)
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-c:
	default:
		close(c)
	}
}

// withdrawnFor is closed when that is known of a pod. It is forgotten with the pod's worker.
func (m *Manager) withdrawnFor(uid string) chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.withdrawn[uid]
	if c == nil {
		c = make(chan struct{})
		m.withdrawn[uid] = c
	}
	return c
}

// served tells whether a Service has sent requests to the pod up to now. Endpoints stay in their slice while they end, with
// serving telling whether they could answer.
func (m *Manager) served(namespace, uid string) bool {
	for _, slice := range m.cfg.Desired.EndpointSlices() {
		if slice.Namespace != namespace {
			continue
		}
		for i := range slice.Endpoints {
			e := &slice.Endpoints[i]
			if e.TargetRef == nil || e.TargetRef.UID != types.UID(uid) {
				continue
			}
			if yes := func(b *bool) bool { return b != nil && *b }; yes(e.Conditions.Ready) || yes(e.Conditions.Serving) {
				return true
			}
		}
	}
	return false
}
