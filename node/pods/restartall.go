package pods

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// A container may say, by a rule for its exit code, that its end restarts all containers of the pod. The sandbox with its
// address, and the volumes, stay. Every container's last attempt is noted then, on disk, as one that has to be followed by
// another: what runs of them is ended, and the pod begins anew with its init containers. A note goes when the next attempt is
// made, so an agent that is restarted goes on where this one was.

const restartingAll = "RestartingAllContainers"

// restartAll tells whether nothing may be started yet because all containers are being restarted.
func (w *worker) restartAll(ctx context.Context) (busy bool) {
	w.anew = false
	if w.granted == nil || !status.MayRestartAll(w.pod) {
		return false
	}
	sources, fresh := w.restartSources()
	if fresh && !w.noteAll(ctx) {
		return true
	}
	if len(w.granted.All) == 0 {
		return false
	}
	for _, c := range containersProper(w.pod) {
		if attempts := status.Attempts(w.observed, c.Name); len(attempts) > 0 && w.granted.All[c.Name] == attempts[0].ID && attempts[0].State == runtime.StateRunning {
			busy = true
			w.kill(ctx, attempts[0], "Stopping container "+c.Name+", all containers of the pod will be restarted", 0)
		}
	}
	if busy || fresh {
		for name := range w.granted.All {
			w.waiting[name] = status.Reason{Reason: restartingAll, Message: "all containers of the pod are being restarted"}
		}
	}
	for c, cur := range sources { // those that end again and again hold up all
		busy = !w.mayLaunchAfter(c, cur) || busy
	}
	w.anew = busy
	return busy
}

// restartSources are the containers whose end restarts all, with their last attempts; fresh when that is not noted of one.
func (w *worker) restartSources() (sources map[*corev1.Container]*runtime.Container, fresh bool) {
	for _, c := range containersProper(w.pod) {
		attempts := status.Attempts(w.observed, c.Name)
		if len(attempts) == 0 || !status.Ended(attempts[0]) || !status.RestartsAll(c, int32(attempts[0].ExitCode)) {
			continue
		}
		cur := attempts[0]
		if w.granted.Again[c.Name] == cur.ID || w.granted.Restarting[c.Name] == cur.ID {
			continue // ended by the node; its code says nothing
		}
		if sources == nil {
			sources = map[*corev1.Container]*runtime.Container{}
		}
		sources[c] = cur
		fresh = fresh || w.granted.All[c.Name] != cur.ID
	}
	return sources, fresh
}

// noteAll notes the last attempt of every container. What was made and not started is removed first: it would be begun as it is.
func (w *worker) noteAll(ctx context.Context) bool {
	all := map[string]string{}
	for _, c := range containersProper(w.pod) {
		attempts := status.Attempts(w.observed, c.Name)
		switch {
		case len(attempts) == 0:
			if _, ok := w.endedBefore(c); ok { // somebody pruned it
				all[c.Name] = pruned
			}
		case attempts[0].State == runtime.StateRunning || status.Ended(attempts[0]):
			all[c.Name] = attempts[0].ID
		default:
			w.again = w.remove(ctx, attempts[0].ID)
			return false
		}
	}
	w.granted.All = all
	w.saveGrant()
	w.reapply()
	return true
}

// pruned stands for an attempt that the engine does not have any more.
const pruned = "pruned"

// restartsWithAll: the container's last attempt is to be followed by another because all are restarted.
func (w *worker) restartsWithAll(container string) bool {
	return w.granted != nil && w.granted.All[container] != ""
}

// containersProper are the pod's own containers, those that initialize it included.
func containersProper(pod *corev1.Pod) []*corev1.Container {
	out := make([]*corev1.Container, 0, len(pod.Spec.InitContainers)+len(pod.Spec.Containers))
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			out = append(out, &list[i])
		}
	}
	return out
}
