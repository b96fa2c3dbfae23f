package pods

import (
	"context"

	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/pods/volume"
	"github.com/whalepod/whalepod/node/runtime"
)

// runsIn tells whether an attempt runs in the sandbox.
func runsIn(c *runtime.Container, sb *runtime.Sandbox) bool {
	return c.State == runtime.StateRunning && c.Labels[spec.LabelSandbox] == sb.ID
}

// probeRunning goes on probing what runs while something else is in the way. An agent that was started anew and cannot
// make the volumes or the network be there must not make a pod unready that serves. A container whose liveness probe fails
// now is ended when it can be started again.
func (w *worker) probeRunning(ctx context.Context) {
	sb := w.sandbox()
	if sb == nil || ctx.Err() != nil {
		return
	}
	for _, c := range allContainers(w.pod) {
		for _, cur := range status.Attempts(w.observed, c.Name) {
			if runsIn(cur, sb) && w.hooks[cur.ID] == nil {
				w.probing(ctx, c, cur)
			}
		}
	}
}

// adoptVolumes takes over what the agent before this one left, when not all volumes could be made be there: a running
// container shows that they once were, and it could go on with them if its agent had not been started anew.
func (w *worker) adoptVolumes(r volume.Result) bool {
	sb := w.sandbox()
	if w.mounted || sb == nil {
		return false
	}
	runs := false
	for i := range w.observed.Containers {
		runs = runs || runsIn(&w.observed.Containers[i], sb)
	}
	if !runs {
		return false
	}
	for _, f := range r.Failures {
		left, ok := w.m.volumes.Left(w.pod, f.Volume)
		if !ok {
			return false
		}
		r.Volumes[f.Volume] = left
	}
	w.volumes, w.mounted = r, true
	return true
}
