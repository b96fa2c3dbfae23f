package deployment

import (
	"fmt"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// run makes the plan: it brings the world one step nearer to what the Deployment asks for, and its status up to date.
func (w *world) run() error {
	switch {
	case w.d.DeletionTimestamp != nil:
		w.report(false)
		return nil
	case w.d.Annotations[annRollback] != "" && !w.d.Spec.Paused:
		w.rollback()
		return nil // the changed template is another turn's work
	}
	w.notePause()
	if w.d.Spec.Paused || w.scaled() {
		w.adoptCurrent()
		w.scale()
		if w.d.Spec.Paused {
			w.cleanUp()
		}
		w.report(false)
		return nil
	}
	var err error
	if w.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		err = w.recreate()
	} else {
		err = w.roll()
	}
	if err != nil {
		return err
	}
	w.report(true)
	if w.complete(&w.d.Status) {
		w.cleanUp()
	}
	return nil
}

// adoptCurrent brings an existing ReplicaSet of the present template up to date.
func (w *world) adoptCurrent() bool {
	if w.current == nil {
		return false
	}
	w.noteRevision(w.current)
	w.current.Spec.MinReadySeconds = w.d.Spec.MinReadySeconds
	if hasDeadline(w.d) && condition(&w.d.Status, appsv1.DeploymentProgressing) == nil {
		w.progress(corev1.ConditionTrue, reasonFound, fmt.Sprintf("Found new replica set %q", w.current.Name))
	}
	return true
}

// roll is one step of a rolling update: first up, as far as maxSurge lets, then down, as far as availability lets.
func (w *world) roll() error {
	if !w.adoptCurrent() {
		if err := w.makeCurrent(w.currentSize); err != nil {
			return err
		}
	} else {
		w.setSize(w.current, w.currentSize())
	}
	w.shrinkOld()
	return nil
}

// currentSize is how large the current ReplicaSet may become now.
func (w *world) currentSize() int32 {
	have, want := size(w.current), replicas(w.d)
	if have >= want {
		return want
	}
	room := want + w.surge - total(w.sets, size)
	return have + max(0, min(room, want-have))
}

// shrinkOld takes replicas from the old ReplicaSets: those that are not available first, since nobody misses them; then
// available ones, as long as enough stay.
func (w *world) shrinkOld() {
	old := w.old()
	if total(old, size) == 0 {
		return
	}
	least := replicas(w.d) - w.unavailable
	spare := total(w.sets, size) - least - (size(w.current) - available(w.current))
	if spare <= 0 {
		return
	}
	for _, rs := range old {
		if n := min(spare, size(rs)-available(rs)); n > 0 {
			w.setSize(rs, size(rs)-n)
			spare -= n
		}
	}
	spare = total(w.sets, available) - least
	for _, rs := range old {
		if n := min(spare, size(rs)); n > 0 {
			w.setSize(rs, size(rs)-n)
			spare -= n
		}
	}
}

// recreate ends all old pods before it makes new ones.
func (w *world) recreate() error {
	w.adoptCurrent()
	shrunk := false
	for _, rs := range w.old() {
		if w.setSizeIfActive(rs) {
			shrunk = true
		}
	}
	if shrunk {
		return nil
	}
	for _, rs := range w.old() {
		if w.running(rs) {
			return nil
		}
	}
	if w.current == nil {
		return w.makeCurrent(func() int32 { return replicas(w.d) })
	}
	w.setSize(w.current, replicas(w.d))
	return nil
}

func (w *world) setSizeIfActive(rs *appsv1.ReplicaSet) bool {
	return size(rs) > 0 && w.setSize(rs, 0)
}

// cleanUp deletes the oldest ReplicaSets beyond revisionHistoryLimit that have nothing left.
func (w *world) cleanUp() {
	limit := int32(10)
	if l := w.d.Spec.RevisionHistoryLimit; l != nil {
		limit = *l
	}
	if limit == math.MaxInt32 {
		return
	}
	var old []*appsv1.ReplicaSet
	for _, rs := range w.old() {
		if rs.DeletionTimestamp == nil {
			old = append(old, rs)
		}
	}
	slices.SortStableFunc(old, func(a, b *appsv1.ReplicaSet) int { return int(revisionOf(a) - revisionOf(b)) })
	for _, rs := range old[:max(0, len(old)-int(limit))] {
		if rs.Status.Replicas == 0 && size(rs) == 0 && rs.Generation <= rs.Status.ObservedGeneration {
			w.remove = append(w.remove, rs)
		}
	}
}
