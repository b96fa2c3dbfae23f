package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
)

// scaled says that the Deployment's replicas have changed since its ReplicaSets were last sized.
func (w *world) scaled() bool {
	for _, rs := range active(w.sets) {
		if desired, ok := number(rs, annDesired); ok && desired != replicas(w.d) {
			return true
		}
	}
	return false
}

// scale brings the ReplicaSets to the Deployment's size without moving the rollout on.
func (w *world) scale() {
	live := active(w.sets)
	switch {
	case len(live) == 1:
		w.setSize(live[0], replicas(w.d))
	case len(live) == 0:
		if rs := w.latest(); rs != nil {
			w.setSize(rs, replicas(w.d))
		}
	case w.saturated():
		for _, rs := range w.old() {
			w.setSizeIfActive(rs)
		}
	case w.d.Spec.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType:
		w.scaleProportionally(live)
	}
}

func (w *world) latest() *appsv1.ReplicaSet {
	if w.current != nil || len(w.sets) == 0 {
		return w.current
	}
	return w.sets[len(w.sets)-1]
}

// saturated: the current ReplicaSet has all replicas, and they are available.
func (w *world) saturated() bool {
	if w.current == nil {
		return false
	}
	desired, ok := number(w.current, annDesired)
	return ok && size(w.current) == replicas(w.d) && desired == replicas(w.d) && w.current.Status.AvailableReplicas == replicas(w.d)
}

// scaleProportionally shares what is to be added or removed in the middle of a rollout among the ReplicaSets by their
// sizes; what rounding leaves goes to the largest.
func (w *world) scaleProportionally(live []*appsv1.ReplicaSet) {
	allowed := int32(0)
	if replicas(w.d) > 0 {
		allowed = replicas(w.d) + w.surge
	}
	toAdd := allowed - total(live, size)
	newerFirst := toAdd > 0
	slices.SortStableFunc(live, func(a, b *appsv1.ReplicaSet) int {
		age := a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		if newerFirst {
			age = -age
		}
		return cmp.Or(cmp.Compare(size(b), size(a)), age)
	})
	sizes := make([]int32, len(live))
	added := int32(0)
	for i, rs := range live {
		n := w.share(rs, toAdd, added)
		sizes[i] = size(rs) + n
		added += n
	}
	sizes[0] = max(0, sizes[0]+toAdd-added)
	for i, rs := range live {
		w.setSize(rs, sizes[i])
	}
}

// share is how many of toAdd replicas (negative: to remove) this ReplicaSet gets, of which added are given already.
func (w *world) share(rs *appsv1.ReplicaSet, toAdd, added int32) int32 {
	left := toAdd - added
	if size(rs) == 0 || left == 0 {
		return 0
	}
	n := w.fraction(rs)
	if toAdd > 0 {
		return min(n, left)
	}
	return max(n, left)
}

func (w *world) fraction(rs *appsv1.ReplicaSet) int32 {
	if replicas(w.d) == 0 {
		return -size(rs)
	}
	before, ok := number(rs, annMax)
	if !ok || before == 0 {
		// Somebody took the annotation away: the present size is the best guess.
		if before = w.d.Status.Replicas; before == 0 {
			return 0
		}
	}
	now := float64(replicas(w.d) + w.surge)
	return int32(math.Round(float64(size(rs))*now/float64(before))) - size(rs)
}
