package pods

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// ensureContainers starts what is to run next in the sandbox and watches over what runs.
func (w *worker) ensureContainers(ctx context.Context, sb *runtime.Sandbox) {
	for i := range w.pod.Spec.EphemeralContainers { // first: they may be there to see why an init container does not end
		c := corev1.Container(w.pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		w.ensure(ctx, sb, &c, false, func(int32) bool { return false })
	}
	if w.restartAll(ctx) || !w.ensureInit(ctx, sb) {
		return
	}
	w.held = false
	for i := range w.pod.Spec.Containers {
		c := &w.pod.Spec.Containers[i]
		w.fetching = false
		state := w.ensure(ctx, sb, c, false, func(code int32) bool { return status.Restarts(w.pod, c, code) })
		w.held = w.held || w.onItsWay(state)
	}
	w.held = false
}

// initialized: a container of the pod proper was made in this sandbox, so all init containers are through.
func (w *worker) initialized(sb *runtime.Sandbox) bool {
	for i := range w.pod.Spec.Containers {
		if w.restartsWithAll(w.pod.Spec.Containers[i].Name) {
			continue
		}
		for _, c := range status.Attempts(w.observed, w.pod.Spec.Containers[i].Name) {
			if c.Labels[spec.LabelSandbox] == sb.ID {
				return true
			}
		}
	}
	return false
}

// ensureInit runs init containers one after the other; it tells whether the others may start. Sidecars stay.
func (w *worker) ensureInit(ctx context.Context, sb *runtime.Sandbox) bool {
	through := w.initialized(sb)
	for i := range w.pod.Spec.InitContainers {
		c := &w.pod.Spec.InitContainers[i]
		if through && !status.Sidecar(c) {
			continue
		}
		state := w.ensure(ctx, sb, c, true, func(code int32) bool { return w.restartsWithAll(c.Name) || status.RestartsInit(w.pod, c, code) })
		if through {
			continue
		}
		if status.Sidecar(c) {
			if state.phase != running || !w.isStarted(state.id) {
				return false
			}
		} else if state.phase != ended || state.code != 0 {
			return false
		}
	}
	return true
}

type phase int

const (
	pending phase = iota
	running
	ended
)

// outcome of ensure: where a container is.
type outcome struct {
	phase phase
	id    string
	code  int32
}

// ensure brings one container forward by a step. restarts tells whether it is to run again after ending with a code; an
// init container runs again in any new sandbox.
func (w *worker) ensure(ctx context.Context, sb *runtime.Sandbox, c *corev1.Container, isInit bool, restarts func(code int32) bool) outcome {
	if ctx.Err() != nil {
		return outcome{}
	}
	attempts := status.Attempts(w.observed, c.Name)
	if len(attempts) == 0 {
		if code, ok := w.endedBefore(c); ok && !isInit && !restarts(code) {
			return outcome{phase: ended, code: code}
		}
		return w.launch(ctx, sb, c, w.firstAttempt(c))
	}
	cur := attempts[0]
	mine := cur.Labels[spec.LabelSandbox] == sb.ID
	switch {
	case cur.State == runtime.StateRunning && !mine:
		w.kill(ctx, cur, "Stopping container "+c.Name, w.grace(c.Name, killSandbox))
		return outcome{}
	case cur.State == runtime.StateRunning:
		w.watch(ctx, c, cur, isInit)
		return outcome{phase: running, id: cur.ID}
	case !status.Ended(cur) && mine: // made, and then somebody died before it was started
		return w.begin(ctx, sb, c, cur)
	case !status.Ended(cur):
		if w.remove(ctx, cur.ID) {
			w.again = true
		}
		return outcome{}
	}
	code := int32(cur.ExitCode)
	if again := restarts(code); !again && (mine || !isInit) {
		delete(w.waiting, c.Name)
		return outcome{phase: ended, id: cur.ID, code: code}
	}
	if !w.restartsWithAll(c.Name) && !w.mayLaunchAfter(c, cur) {
		return outcome{}
	}
	return w.launch(ctx, sb, c, cur.Attempt+1)
}

// firstAttempt goes on counting when the engine has forgotten the attempts before (a reboot, a wiped data directory).
func (w *worker) firstAttempt(c *corev1.Container) int {
	for _, list := range [][]corev1.ContainerStatus{w.last.ContainerStatuses, w.last.InitContainerStatuses} {
		for i := range list {
			if s := &list[i]; s.Name == c.Name && (s.ContainerID != "" || s.LastTerminationState.Terminated != nil) {
				return int(s.RestartCount) + 1
			}
		}
	}
	return 0
}

// endedBefore tells how a container ended that the engine does not have any more (somebody pruned): what must run once is
// not run again for that.
func (w *worker) endedBefore(c *corev1.Container) (code int32, ok bool) {
	for i := range w.last.ContainerStatuses {
		if s := &w.last.ContainerStatuses[i]; s.Name == c.Name && s.State.Terminated != nil && s.ContainerID != "" {
			return s.State.Terminated.ExitCode, true
		}
	}
	return 0, false
}

// Back-off of containers that end again and again: documented as 10 s, doubling, at most 5 min, forgotten after 10 min of
// running.
const (
	crashFirst = 10 * time.Second
	crashMost  = 5 * time.Minute
)

type crash struct {
	delay   time.Duration
	last    time.Time
	attempt int // that the back-off was last advanced for
	told    int // attempt that the event was written for
	seen    time.Time
	seenID  string // container whose end was seen then
}

// mayLaunchAfter tells whether the container may be started again already.
func (w *worker) mayLaunchAfter(c *corev1.Container, cur *runtime.Container) bool {
	finished := cur.FinishedAt
	if finished.IsZero() {
		finished = cur.CreatedAt
	}
	b := w.crashes[c.Name]
	if b != nil && b.attempt == cur.Attempt+1 {
		return true // it may; something else (its image, say) holds it up
	}
	fresh := b == nil || finished.Sub(b.last) > 2*crashMost
	if !fresh {
		if b.seenID != cur.ID {
			b.seenID, b.seen = cur.ID, time.Now()
		}
		if finished.After(b.seen) { // the clock was set back
			finished = b.seen
		}
		if until := finished.Add(b.delay); time.Now().Before(until) {
			w.waiting[c.Name] = status.Reason{
				Reason:  "CrashLoopBackOff",
				Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", b.delay, c.Name, spec.Describe(w.pod)),
			}
			if b.told != cur.Attempt {
				b.told = cur.Attempt
				w.warn(c.Name, "BackOff", fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, spec.Describe(w.pod)))
			}
			w.wakeAt(until)
			return false
		}
	}
	next := &crash{delay: crashFirst, last: time.Now(), attempt: cur.Attempt + 1, told: -1}
	if !fresh {
		next.delay = min(2*b.delay, crashMost)
	}
	w.crashes[c.Name] = next
	return true
}

// watch over a container that runs.
func (w *worker) watch(ctx context.Context, c *corev1.Container, cur *runtime.Container, isInit bool) {
	delete(w.waiting, c.Name)
	once := isInit && !status.Sidecar(c) // ends by itself; what it does is not begun anew
	if hash := cur.Labels[spec.LabelHash]; hash != "" && hash != spec.Hash(c) && !once {
		w.end(ctx, c, cur, "definition changed", killOther, true)
		return
	}
	if h := w.hooks[cur.ID]; h != nil {
		done, err := h.result()
		if !done {
			return
		}
		if err != nil {
			if !h.told {
				h.told = true
				w.warn(c.Name, "FailedPostStartHook", "PostStartHook failed")
				w.log.Info("postStart hook failed", "container", c.Name, "err", err)
			}
			w.waiting[c.Name] = status.Reason{Reason: "PostStartHookError", Message: err.Error()}
			w.kill(ctx, cur, "FailedPostStartHook", w.grace(c.Name, killOther))
			return
		}
	}
	p := w.probing(ctx, c, cur)
	switch p.failed() {
	case failedStartup:
		w.end(ctx, c, cur, "failed startup probe", killStartup, status.MayRestart(w.pod, c))
	case failedLiveness:
		w.end(ctx, c, cur, "failed liveness probe", killLiveness, status.MayRestart(w.pod, c))
	default:
		w.endAsBegun(ctx, c, cur)
	}
}

// tidy removes what is not needed any more: dead sandboxes, and attempts before the last one and the one before it.
func (w *worker) tidy(ctx context.Context, sb *runtime.Sandbox) {
	var drop []string
	for _, s := range w.observed.Sandboxes {
		if s.ID != sb.ID && !s.Running {
			drop = append(drop, s.ID)
		}
	}
	for _, c := range allContainers(w.pod) {
		attempts := status.Attempts(w.observed, c.Name)
		for i := 2; i < len(attempts); i++ {
			drop = append(drop, attempts[i].ID)
		}
	}
	for _, id := range drop {
		w.remove(ctx, id)
	}
}

// remove a container or sandbox.
func (w *worker) remove(ctx context.Context, id string) bool {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	w.seq.Add(1)
	err := w.m.cfg.Engine.RemoveContainer(call, id)
	w.seq.Add(1)
	if err != nil {
		w.trouble(ctx, "container could not be removed", err)
		return false
	}
	w.drop(id)
	return true
}
