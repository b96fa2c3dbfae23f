package pods

import (
	"context"
	"os"
	"slices"

	"github.com/whalepod/whalepod/node/runtime"
)

// terminate a pod that is deleted: containers, final status, and then everything else. It tells whether all is gone.
func (w *worker) terminate(ctx context.Context) (done bool) {
	w.quieten()
	w.drain()
	if w.killAll(ctx) {
		w.report(false)
		return false
	}
	w.hold(false)
	w.report(true)
	if err := w.clear(ctx); err != nil {
		w.trouble(ctx, "the pod could not be removed", err)
		return false
	}
	w.m.cfg.Report.Gone(w.name(), w.uid) // also when its object is gone: the reporter must not remember it for ever
	w.log.Info("pod removed")
	return true
}

// quieten ends what would start something or complain.
func (w *worker) quieten() {
	for name := range w.jobs {
		w.forgetJob(name)
	}
	w.stopUnpacking()
	for _, p := range w.probes {
		p.quiet()
	}
}

// finish a pod that has succeeded or failed: its containers stay for their logs, all else goes.
func (w *worker) finish(ctx context.Context) {
	if w.finished {
		return
	}
	w.quieten()
	if w.killAll(ctx) {
		w.report(false)
		return
	}
	w.hold(false)
	w.report(true)
	if err := w.release(ctx); err != nil {
		w.trouble(ctx, "an ended pod's sandbox could not be removed", err)
		return
	}
	w.finished = true
	w.report(true)
}

// release the network, the sandbox and the volumes; in this order, so that a crash in between is found by what is left.
func (w *worker) release(ctx context.Context) error {
	if err := w.m.cfg.Network.Detach(ctx, w.uid); err != nil {
		return err
	}
	w.attached = ""
	for _, s := range slices.Clone(w.observed.Sandboxes) {
		if err := w.removeErr(ctx, s.ID); err != nil {
			return err
		}
	}
	if err := w.m.volumes.Teardown(w.uid); err != nil {
		return err
	}
	w.mounted = false
	return nil
}

// clear removes everything that this node has of the pod.
func (w *worker) clear(ctx context.Context) error {
	if err := w.m.cfg.Network.Detach(ctx, w.uid); err != nil {
		return err
	}
	for _, c := range slices.Clone(w.observed.Containers) {
		if err := w.removeErr(ctx, c.ID); err != nil {
			return err
		}
	}
	if err := w.release(ctx); err != nil {
		return err
	}
	var refs []string
	for _, c := range allContainers(w.pod) {
		refs = append(refs, c.Image)
	}
	for i := range w.pod.Spec.Volumes {
		if v := w.pod.Spec.Volumes[i].Image; v != nil {
			refs = append(refs, v.Reference)
		}
	}
	w.m.pulls.ForgetPod(w.uid, refs)
	if w.gone { // else it is kept until the master has heard: another agent may have to say it again
		w.m.dropStatus(w.uid)
	}
	return nil
}

func (w *worker) removeErr(ctx context.Context, id string) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.seq.Add(1)
	err := w.m.cfg.Engine.RemoveContainer(call, id)
	w.seq.Add(1)
	if err == nil {
		w.drop(id)
	}
	return err
}

// drop what was removed from what is known; a container that crashes for weeks must not leave something of each attempt.
func (w *worker) drop(id string) {
	delete(w.messages, id)
	delete(w.actuated, id)
	for i := range w.observed.Containers {
		if c := &w.observed.Containers[i]; c.ID == id {
			_ = os.Remove(w.terminationLog(c.Name, c.Attempt)) // what stays goes with the pod's directory
		}
	}
	w.observed.Containers = slices.DeleteFunc(slices.Clone(w.observed.Containers), func(c runtime.Container) bool { return c.ID == id })
	w.observed.Sandboxes = slices.DeleteFunc(slices.Clone(w.observed.Sandboxes), func(s runtime.Sandbox) bool { return s.ID == id })
}

// retire leaves a stone that says: this pod has been, do not make it again.
func (w *worker) retire() {
	w.mu.Lock()
	w.over, w.holdsPlace = true, false
	pod := w.in.pod
	closeAll(w.in.purge)
	w.mu.Unlock()
	if pod != nil { // it was told in the meantime
		w.m.cfg.Report.Gone(w.name(), w.uid)
	}
}
