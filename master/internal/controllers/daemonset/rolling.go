package daemonset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// roll goes on with an update: on a node at a time, or as many as maxUnavailable or maxSurge allow. It replaces what does not
// serve before what does, so that going back from a template that never worked restarts no pod that does.
func (w *world) roll(p *plan) {
	running := map[string]bool{}
	desired := 0
	for _, at := range w.nodes {
		if at.run {
			running[at.name] = true
			desired++
		}
	}
	nodes := make([]string, 0, len(w.pods))
	for node := range w.pods {
		nodes = append(nodes, node)
	}
	for node := range running {
		if _, ok := w.pods[node]; !ok {
			nodes = append(nodes, node)
		}
	}
	slices.Sort(nodes)
	unavailable := w.share(func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxUnavailable }, desired)
	surge := w.share(func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxSurge }, desired)
	if surge > 0 {
		w.rollSurging(p, nodes, running, desired, surge)
		return
	}
	w.rollDeleting(p, nodes, max(unavailable, 1)) // both 0 is refused at the door
}

// newAndOld are the pods of a node that are not going; ok is false when there are several of one sort, which manage puts
// right first.
func (w *world) newAndOld(node string) (fresh, old *corev1.Pod, ok bool) {
	for _, pod := range w.pods[node] {
		if pod.DeletionTimestamp != nil {
			continue
		}
		which := &old
		if updated(w.ds, pod, w.hash) {
			which = &fresh
		}
		if *which != nil {
			return nil, nil, false
		}
		*which = pod
	}
	return fresh, old, true
}

// rollDeleting deletes old pods; manage makes the new ones when they are gone.
func (w *world) rollDeleting(p *plan, nodes []string, maxUnavailable int) {
	missing := 0
	var candidates []*corev1.Pod
	for _, node := range nodes {
		fresh, old, ok := w.newAndOld(node)
		switch {
		case !ok, (fresh == nil) == (old == nil):
			missing++
		case fresh != nil:
			if !w.available(fresh) {
				missing++
			}
		case !w.available(old):
			p.remove = append(p.remove, old)
			missing++
		default:
			candidates = append(candidates, old)
		}
	}
	n := min(max(0, maxUnavailable-missing), len(candidates))
	p.remove = append(p.remove, candidates[:n]...)
}

// rollSurging makes new pods beside old ones, and deletes an old one when the new one serves.
func (w *world) rollSurging(p *plan, nodes []string, running map[string]bool, desired, maxSurge int) {
	surging, serving := 0, 0
	var candidates []string
	var misplaced []*corev1.Pod
	for _, node := range nodes {
		fresh, old, ok := w.newAndOld(node)
		if !ok {
			surging++
			continue
		}
		if first := old; first != nil || fresh != nil {
			if first == nil {
				first = fresh
			}
			if w.available(first) {
				serving++
			}
		}
		switch {
		case old == nil:
		case fresh != nil && !w.available(fresh):
			surging++
		case fresh != nil:
			p.remove = append(p.remove, old)
		case !w.available(old) && running[node]:
			p.create = append(p.create, node)
		case !w.available(old):
			p.remove = append(p.remove, old)
		case !running[node]:
			misplaced = append(misplaced, old)
		default:
			candidates = append(candidates, node)
		}
	}
	// With maxSurge all are to serve all the time: a pod leaves a node that it does not belong to any more only when there
	// are enough without it.
	n := min(max(0, serving-desired), len(misplaced))
	p.remove = append(p.remove, misplaced[:n]...)
	n = min(max(0, maxSurge-surging), len(candidates))
	p.create = append(p.create, candidates[:n]...)
}
