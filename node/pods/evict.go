package pods

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/image"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// Evicted is the reason of a pod that the node ends to save itself.
const Evicted = "Evicted"

// Eviction of a pod by its node.
type Eviction struct {
	// Message for users, also that of the event.
	Message string
	// Grace replaces the pod's own grace period: the node cannot wait.
	Grace time.Duration
	// Disruption: the pod did nothing wrong, so it gets the condition DisruptionTarget, by which a Job does not count it as
	// failed.
	Disruption bool
}

// Evict ends a pod for good: it has failed, and whoever owns it makes another elsewhere. Its containers are removed with what
// they wrote. It tells whether there is such a pod.
func (m *Manager) Evict(uid string, e Eviction) bool {
	w := m.worker(uid)
	if w == nil || w.retired() {
		return false
	}
	w.post(func(in *inbox) { in.evict = &e })
	return true
}

// beEvicted takes the verdict, unless the pod has come to its end already.
func (w *worker) beEvicted(e *Eviction) {
	if w.orphan || w.isOver() {
		return
	}
	w.warn("", Evicted, e.Message)
	w.verdict = &status.Reason{Reason: Evicted, Message: e.Message}
	w.evicted = e
}

// Active is a pod that runs, or is about to.
type Active struct {
	Pod *corev1.Pod
	// SandboxPID and SandboxID are of its sandbox; 0 and empty while there is none.
	SandboxPID int
	SandboxID  string
	Running    []Process
	// EmptyDirs on disk: their paths, by name of the volume.
	EmptyDirs map[string]string
	// ImageIDs of its containers, as in their statuses.
	ImageIDs []string
}

// Process is a container that runs. PID is 0 for one whose start was not looked at again.
type Process struct {
	Name, ID string
	PID      int
}

// Active lists the pods that take up this node's resources.
func (m *Manager) Active() []Active {
	var out []Active
	for _, w := range m.all() {
		w.mu.Lock()
		v, over := w.view, w.over
		w.mu.Unlock()
		if !v.known || over || v.finished || status.Over(v.status.Phase) {
			continue
		}
		a := Active{Pod: v.pod, SandboxPID: v.sandboxPID, SandboxID: v.sandboxID, Running: v.running}
		for i := range v.pod.Spec.Volumes {
			if s := &v.pod.Spec.Volumes[i]; s.EmptyDir != nil && s.EmptyDir.Medium != corev1.StorageMediumMemory {
				if a.EmptyDirs == nil {
					a.EmptyDirs = map[string]string{}
				}
				a.EmptyDirs[s.Name] = m.volumes.EmptyDir(v.pod, s.Name)
			}
		}
		for _, list := range [][]corev1.ContainerStatus{v.status.InitContainerStatuses, v.status.ContainerStatuses, v.status.EphemeralContainerStatuses} {
			for i := range list {
				if id := list[i].ImageID; id != "" {
					a.ImageIDs = append(a.ImageIDs, id)
				}
			}
		}
		out = append(out, a)
	}
	return out
}

// Processes calls each with the pods that have containers that run: what Active says of them, without their files and images.
func (m *Manager) Processes(each func(Active)) {
	for _, w := range m.all() {
		w.mu.Lock()
		v, over := w.view, w.over
		w.mu.Unlock()
		if v.known && !over && !v.finished && len(v.running) > 0 {
			each(Active{Pod: v.pod, SandboxPID: v.sandboxPID, SandboxID: v.sandboxID, Running: v.running})
		}
	}
}

// processes of a pod that run.
func processes(p runtime.Pod) []Process {
	var out []Process
	for i := range p.Containers {
		if c := &p.Containers[i]; c.State == runtime.StateRunning {
			out = append(out, Process{c.Name, c.ID, c.PID})
		}
	}
	return out
}

// Cleared tells whether nothing of a pod uses memory or disk any more: its containers have ended, its volumes are gone, and if it
// was evicted so are its containers.
func (m *Manager) Cleared(uid string) bool {
	w := m.worker(uid)
	if w == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.over || w.view.cleared
}

// RemoveEnded removes the containers of all pods that have ended, with their logs, and returns when that is done or ctx ends.
func (m *Manager) RemoveEnded(ctx context.Context) {
	var waiting []chan struct{}
	for _, w := range m.all() {
		w.mu.Lock()
		if w.view.finished && !w.over { // else the channel would never be closed
			done := make(chan struct{})
			w.in.purge = append(w.in.purge, done)
			waiting = append(waiting, done)
			w.poke()
		}
		w.mu.Unlock()
	}
	for _, done := range waiting {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// ForgetImages drops what is known of images that were removed, by their names.
func (m *Manager) ForgetImages(names []string) {
	for _, name := range names {
		m.pulls.Forget(name)
	}
}

// purge removes the containers of an ended pod when that was asked for, or at once when it was evicted: it had to go because of
// what they take up. Their last statuses stay.
func (w *worker) purge(ctx context.Context) {
	defer func() {
		closeAll(w.purges)
		w.purges = nil
	}()
	if !w.finished || len(w.purges) == 0 && w.last.Reason != Evicted {
		return
	}
	for len(w.observed.Containers) > 0 && ctx.Err() == nil {
		if err := w.removeErr(ctx, w.observed.Containers[0].ID); err != nil {
			w.trouble(ctx, "an ended pod's container could not be removed", err)
			return
		}
	}
	w.show()
}

func closeAll(waiting []chan struct{}) {
	for _, done := range waiting {
		close(done)
	}
}

// ImageName is the full name of an image as engines list it, for one that is written in a pod.
func ImageName(ref string) string { return image.Name(ref) }
