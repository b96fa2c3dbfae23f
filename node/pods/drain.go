package pods

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// drainTime is how long a pod that a Service sends requests to goes on serving after it was deleted. Its deletion and its
// withdrawal from the Service are told to all nodes at the same moment, and each takes a while to change its rules; a server
// that stops listening before the last of them has done so refuses requests. In Kubernetes people write a preStop hook of
// "sleep" for that. It is part of the grace period, and a hook that takes longer hides it.
const drainTime = time.Second

// drain notes, once, until when a deleted pod may still be sent requests.
func (w *worker) drain() {
	if !w.drained.IsZero() {
		return
	}
	w.drained = time.Now()
	if w.pod.DeletionTimestamp != nil && w.m.served(w.ref.Namespace, w.uid) {
		w.drained = w.drained.Add(drainTime)
	}
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

// wait until then, or until ctx ends.
func wait(ctx context.Context, until time.Time) {
	t := time.NewTimer(time.Until(until))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
