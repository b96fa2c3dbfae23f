package daemonset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// makeStatus counts nodes, by the oldest pod on each. next is when a ready pod will have been ready for minReadySeconds; 0
// when none is waiting for that.
func makeStatus(w *world, collisions int32) (status appsv1.DaemonSetStatus, next time.Duration) {
	minReady := podstate.Seconds(w.ds.Spec.MinReadySeconds)
	status = appsv1.DaemonSetStatus{
		ObservedGeneration: w.ds.Generation, CollisionCount: w.ds.Status.CollisionCount, Conditions: w.ds.Status.Conditions,
	}
	if collisions > 0 {
		status.CollisionCount = &collisions
	}
	for _, at := range w.nodes {
		pods := w.pods[at.name]
		if !at.run {
			if len(pods) > 0 {
				status.NumberMisscheduled++
			}
			continue
		}
		status.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		if updated(w.ds, pods[0], w.hash) {
			status.UpdatedNumberScheduled++
		}
		in := podstate.AvailableIn(pods[0], minReady, w.now)
		if in >= 0 {
			status.NumberReady++
		}
		if in == 0 {
			status.NumberAvailable++
		}
		// Any pod of the node may be the one that an update waits for.
		for _, pod := range pods {
			if in := podstate.AvailableIn(pod, minReady, w.now); in > 0 && (next == 0 || in < next) {
				next = in
			}
		}
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status, next
}
