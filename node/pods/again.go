package pods

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// A container that failed a probe, or whose definition has changed, is ended to run again. How it takes the signal says
// nothing of its work: one that hung may well end with code 0. So which attempt was ended for that is noted, on disk too,
// before it is told; the note goes when the next attempt is made.

// end a container that runs for a reason of its own; again tells whether it is to run again whatever its exit code.
func (w *worker) end(ctx context.Context, c *corev1.Container, cur *runtime.Container, why string, reason killReason, again bool) {
	message := fmt.Sprintf("Container %s %s", c.Name, why)
	if again {
		w.noteAgain(c.Name, cur.ID)
		message += ", will be restarted"
	}
	w.kill(ctx, cur, message, w.grace(c.Name, reason))
}

// endAsBegun goes on with what the agent before this one began: the container may have had its signal already.
func (w *worker) endAsBegun(ctx context.Context, c *corev1.Container, cur *runtime.Container) {
	if w.granted == nil || w.granted.Again[c.Name] != cur.ID && w.granted.Restarting[c.Name] != cur.ID {
		return
	}
	if k := w.kills[cur.ID]; k != nil {
		if done, _ := k.finished(); !done {
			return
		}
	}
	w.kill(ctx, cur, fmt.Sprintf("Stopping container %s, will be restarted", c.Name), w.grace(c.Name, killOther))
}

func (w *worker) noteAgain(container, id string) {
	if w.granted == nil || w.granted.Again[container] == id {
		return
	}
	if w.granted.Again == nil {
		w.granted.Again = map[string]string{}
	}
	w.granted.Again[container] = id
	w.saveGrant()
	w.reapply()
}

// launchedAgain drops the notes on the attempt before.
func (w *worker) launchedAgain(container string) {
	if w.granted == nil || w.granted.Again[container]+w.granted.Restarting[container]+w.granted.All[container] == "" {
		return
	}
	delete(w.granted.Again, container)
	delete(w.granted.Restarting, container)
	delete(w.granted.All, container)
	w.saveGrant()
	w.reapply()
}

// reapply makes w.pod what the notes say. The place that it takes up on the node is the same.
func (w *worker) reapply() { w.pod = w.granted.restarting(w.granted.over(w.wish)) }

// forgetPast drops notes on attempts that have been followed by another: the agent before this one died in between.
func (g *grant) forgetPast(observed runtime.Pod) {
	for _, notes := range []map[string]string{g.Again, g.Restarting, g.All} {
		for name, id := range notes {
			if attempts := status.Attempts(observed, name); len(attempts) > 0 && attempts[0].ID != id {
				delete(notes, name)
			}
		}
	}
}
