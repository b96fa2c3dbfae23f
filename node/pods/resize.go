package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/pods/spec"
	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// Reasons of a resize's events.
const (
	resizeStarted    = "ResizeStarted"
	resizeDeferred   = "ResizeDeferred"
	resizeInfeasible = "ResizeInfeasible"
	resizeError      = "ResizeError"
	resizeCompleted  = "ResizeCompleted"
)

// A resize that the engine or the kernel refuses is tried again: memory may have been given back.
const (
	resizeFirst = 5 * time.Second
	resizeMost  = time.Minute
)

// decideResize brings what the pod is granted in line with what it asks for, as soon as there is room.
func (w *worker) decideResize() {
	if w.granted == nil { // it has just been let in, with all that it asks for
		w.granted = grantOf(w.wish)
		return
	}
	if w.granted.over(w.wish) == w.wish {
		if w.pending != nil || w.asked != 0 {
			w.m.withdrawResize(w.uid, false)
			w.pending, w.asked = nil, 0
			w.reallot() // the wish may have been granted and taken back before this turn
		}
		return
	}
	if w.asked != w.wish.Generation {
		w.asked = w.wish.Generation
		w.m.askResize(w, w.wish, w.pod)
	}
	w.mu.Lock()
	a := w.answered
	w.mu.Unlock()
	if a == nil || a.generation != w.wish.Generation {
		return
	}
	if a.no != nil {
		w.postpone(a.no.Reason, a.no.Message)
		return
	}
	w.granted = grantOf(w.wish)
	w.saveGrant()
	w.reallot()
	w.pending, w.asked, w.resizeErr, w.refresh = nil, 0, retry{}, true
	w.progress = resizeCondition(corev1.PodResizeInProgress, nil, "", "", w.pod.Generation)
	w.normal("", resizeStarted, resizeMessage("Pod resize started", w.pod, w.pod.Generation, ""))
}

// reallot makes w.pod what the pod has been granted.
func (w *worker) reallot() {
	w.reapply()
	w.mu.Lock()
	w.placed = w.pod
	w.mu.Unlock()
}

// postpone says why the resize waits. Reasons of the admission count as Deferred.
func (w *worker) postpone(why, message string) {
	reason, event := corev1.PodReasonDeferred, resizeDeferred
	if why == corev1.PodReasonInfeasible {
		reason, event = corev1.PodReasonInfeasible, resizeInfeasible
	}
	old := w.pending
	w.pending = resizeCondition(corev1.PodResizePending, old, reason, message, w.wish.Generation)
	if old == nil || old.Reason != reason || old.ObservedGeneration != w.wish.Generation {
		w.warn("", event, resizeMessage("Pod resize "+why, w.wish, w.wish.Generation, message))
	}
}

// resizeCondition keeps the times of the old one as long as its reason stays.
func resizeCondition(kind corev1.PodConditionType, old *corev1.PodCondition, reason, message string, generation int64) *corev1.PodCondition {
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	c := &corev1.PodCondition{
		Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation,
		LastProbeTime: now, LastTransitionTime: now,
	}
	if old != nil && old.Reason == reason {
		c.LastProbeTime, c.LastTransitionTime = old.LastProbeTime, old.LastTransitionTime
	}
	return c
}

// resizing is a container that runs with other resources than it was granted.
type resizing struct {
	c       *corev1.Container
	cur     *runtime.Container
	from    corev1.ResourceRequirements
	restart bool
}

// resizeContainers gives the containers that run what they have been granted.
func (w *worker) resizeContainers(ctx context.Context, sb *runtime.Sandbox) {
	changes := w.resizings(sb)
	if len(changes) == 0 {
		w.resized()
		return
	}
	if w.progress == nil {
		w.progress = resizeCondition(corev1.PodResizeInProgress, nil, "", "", w.pod.Generation)
	}
	if time.Now().Before(w.resizeErr.at) {
		w.wakeAt(w.resizeErr.at)
		return
	}
	var inPlace []resizing
	for _, r := range changes {
		if r.restart {
			w.restartFor(ctx, r)
		} else {
			inPlace = append(inPlace, r)
		}
	}
	err := w.checkMemory(ctx, inPlace)
	for _, r := range inPlace {
		if err == nil {
			err = w.resizeInPlace(ctx, r)
		}
	}
	switch {
	case ctx.Err() != nil:
	case err != nil:
		w.resizeFailed(err)
	case len(inPlace) == len(changes):
		w.resized()
	}
}

// resizings compares what runs with what was granted.
func (w *worker) resizings(sb *runtime.Sandbox) []resizing {
	var out []resizing
	for _, list := range [][]corev1.Container{w.pod.Spec.InitContainers, w.pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			attempts := status.Attempts(w.observed, c.Name)
			if len(attempts) == 0 || attempts[0].State != runtime.StateRunning || attempts[0].Labels[spec.LabelSandbox] != sb.ID {
				continue
			}
			cur := attempts[0]
			from, known := w.actuated[cur.ID]
			if !known { // made by an agent that did not say; it did not resize either
				w.actuated[cur.ID] = c.Resources
				continue
			}
			cpu, memory := differs(from, c.Resources, corev1.ResourceCPU), differs(from, c.Resources, corev1.ResourceMemory)
			if cpu || memory {
				restart := cpu && restartsFor(c, corev1.ResourceCPU) || memory && restartsFor(c, corev1.ResourceMemory)
				out = append(out, resizing{c, cur, from, restart})
			}
		}
	}
	return out
}

func differs(a, b corev1.ResourceRequirements, name corev1.ResourceName) bool {
	limit, request := a.Limits[name], a.Requests[name]
	return limit.Cmp(b.Limits[name]) != 0 || request.Cmp(b.Requests[name]) != 0
}

func restartsFor(c *corev1.Container, name corev1.ResourceName) bool {
	for _, p := range c.ResizePolicy {
		if p.ResourceName == name {
			return p.RestartPolicy == corev1.RestartContainer
		}
	}
	return false
}

// restartFor ends a container whose policy wants a restart for its resize. It starts again whatever its restart policy is.
func (w *worker) restartFor(ctx context.Context, r resizing) {
	if w.granted.Restarting[r.c.Name] != r.cur.ID {
		if w.granted.Restarting == nil {
			w.granted.Restarting = map[string]string{}
		}
		w.granted.Restarting[r.c.Name] = r.cur.ID
		w.saveGrant()
		w.reallot()
	}
	w.kill(ctx, r.cur, fmt.Sprintf("Container %s resize requires restart", r.c.Name), w.grace(r.c.Name, killOther))
}

// launched notes what a new container runs with.
func (w *worker) launched(c *corev1.Container, id string) {
	w.actuated[id] = c.Resources
	w.launchedAgain(c.Name)
}

// checkMemory refuses limits below what is in use: the kernel would kill for them.
func (w *worker) checkMemory(ctx context.Context, changes []resizing) error {
	var errs []string
	for _, r := range changes {
		was, limit := r.from.Limits.Memory().Value(), r.c.Resources.Limits.Memory().Value()
		if limit == 0 || was != 0 && limit >= was {
			continue
		}
		call, cancel := context.WithTimeout(ctx, readTimeout)
		used, err := w.m.cfg.Engine.MemoryUsage(call, r.cur.ID)
		cancel()
		switch {
		case err != nil:
			w.log.Warn("memory usage could not be read", "container", r.c.Name, "err", err)
			errs = append(errs, fmt.Sprintf("missing container %q memory usage", r.c.Name))
		case used >= limit:
			errs = append(errs, fmt.Sprintf("attempting to set container %q memory limit (%d) below current usage (%d)", r.c.Name, limit, used))
		}
	}
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errors.New("cannot decrease memory limits: " + errs[0])
	}
	return errors.New("cannot decrease memory limits: [" + strings.Join(errs, ", ") + "]")
}

func (w *worker) resizeInPlace(ctx context.Context, r resizing) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := w.m.cfg.Engine.Resize(call, r.cur.ID, spec.Resources(w.pod, r.c, w.m.cfg.NodeMemory)); err != nil {
		if gone(err) {
			w.stale = true
		}
		return err
	}
	w.actuated[r.cur.ID] = r.c.Resources
	return nil
}

// resizeFailed says why the resize makes no progress, once for each reason.
func (w *worker) resizeFailed(err error) {
	w.wakeAt(w.resizeErr.failed(resizeFirst, resizeMost))
	old := w.progress
	w.progress = resizeCondition(corev1.PodResizeInProgress, old, corev1.PodReasonError, err.Error(), old.ObservedGeneration)
	if old.Reason != w.progress.Reason || old.Message != w.progress.Message {
		w.warn("", resizeError, resizeMessage("Pod resize error", w.pod, old.ObservedGeneration, err.Error()))
	}
}

// resized: everything that runs has what it was granted.
func (w *worker) resized() {
	w.resizeErr = retry{}
	if w.progress == nil || len(w.granted.Restarting) > 0 {
		return
	}
	w.normal("", resizeCompleted, resizeMessage("Pod resize completed", w.pod, w.progress.ObservedGeneration, ""))
	w.progress = nil
}

// actual is what a running container has; nil when that is what it was granted.
func (w *worker) actual(id string) *corev1.ResourceRequirements {
	r, ok := w.actuated[id]
	if !ok {
		return nil
	}
	return &r
}

// resizeConditions of a pod that goes on.
func (w *worker) resizeConditions() []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range []*corev1.PodCondition{w.pending, w.progress} {
		if c != nil && !w.ending() && w.verdict == nil {
			out = append(out, *c)
		}
	}
	return out
}

// resizeMessage is the text of the kubelet's events: what the pod is to have, as JSON.
func resizeMessage(prefix string, pod *corev1.Pod, generation int64, failure string) string {
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources"`
	}
	summary := struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}{Generation: generation, Error: failure}
	for _, c := range pod.Spec.InitContainers {
		summary.InitContainers = append(summary.InitContainers, container{c.Name, c.Resources})
	}
	for _, c := range pod.Spec.Containers {
		summary.Containers = append(summary.Containers, container{c.Name, c.Resources})
	}
	data, err := json.Marshal(summary)
	if err != nil {
		return prefix
	}
	return prefix + ": " + string(data)
}
