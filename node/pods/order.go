package pods

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// Containers of a pod are started one after the other, each when the one before it runs and its postStart hook is through:
// meshes hold the app back in this way until their proxy works. Only that waits. Images are fetched meanwhile, and what
// has run in this sandbox is watched and restarted by itself. As in Kubernetes a container that cannot be started, or waits
// to be started again, holds up nobody.

// onItsWay tells of the container that was just seen to whether it is being brought up: something is fetched for it, its
// next step comes at once, or its postStart hook runs.
func (w *worker) onItsWay(state outcome) bool {
	switch state.phase {
	case pending:
		return w.fetching || w.again
	case running:
		if h := w.hooks[state.id]; h != nil {
			done, _ := h.result()
			return !done
		}
	}
	return false
}

// mustWait tells whether a container must not be started yet for one before it. One that has been started in this sandbox,
// or could not be, has had its turn and does not wait again, unless all containers are restarted.
func (w *worker) mustWait(c *corev1.Container, sb *runtime.Sandbox) bool {
	if !w.held {
		return false
	}
	if w.restartsWithAll(c.Name) {
		return true
	}
	for _, cur := range status.Attempts(w.observed, c.Name) {
		if cur.Labels[spec.LabelSandbox] == sb.ID && (cur.State == runtime.StateRunning || status.Ended(cur)) {
			return false
		}
	}
	delete(w.waiting, c.Name) // whatever was in its own way is not any more
	return true
}
