// Package why says in the API's own words why a pod does not become ready. It is pure.
package why

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Trouble is why a pod does not become ready.
type Trouble struct {
	Container, Reason, Message string
	// Ended is how the container's last run ended.
	Ended string
	// Previous: the log that tells more is that of the run before; Logs: there is one.
	Logs, Previous bool
}

// passing reasons are no trouble: they end by themselves.
var passing = map[string]bool{"": true, "ContainerCreating": true, "PodInitializing": true}

// once are reasons that another attempt may make good.
var once = map[string]bool{"ErrImagePull": true, "RegistryUnavailable": true}

// Of are the troubles of a pod that will not become ready by itself; with last, those of one that is not ready though it is time.
func Of(pod *corev1.Pod, last bool) (out []Trouble) {
	if pod.DeletionTimestamp != nil || Ready(pod) {
		return nil
	}
	if pod.Status.Phase == corev1.PodFailed {
		out = append(out, Trouble{Reason: cmp.Or(pod.Status.Reason, "Failed"), Message: pod.Status.Message})
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && (c.Reason == corev1.PodReasonUnschedulable || last) {
			out = append(out, Trouble{Reason: c.Reason, Message: c.Message})
		}
	}
	for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if t, is := containerTrouble(&s, last); is {
			out = append(out, t)
		}
	}
	return out
}

func containerTrouble(s *corev1.ContainerStatus, last bool) (Trouble, bool) {
	t := Trouble{Container: s.Name}
	if e := s.LastTerminationState.Terminated; e != nil {
		t.Ended, t.Logs, t.Previous = ending(e), true, true
	}
	switch {
	case s.State.Waiting != nil:
		w := s.State.Waiting
		t.Reason, t.Message = w.Reason, w.Message
		return t, !passing[w.Reason] && (last || !once[w.Reason]) || last && t.Ended != ""
	case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
		e := s.State.Terminated
		t.Reason, t.Message, t.Ended, t.Logs, t.Previous = e.Reason, e.Message, ending(e), true, false
		return t, last || s.RestartCount > 0
	case s.State.Running != nil && !s.Ready && last:
		t.Reason, t.Logs = "running, but not ready", true
		t.Previous = false
		return t, true
	}
	return t, false
}

func ending(e *corev1.ContainerStateTerminated) string {
	text := fmt.Sprintf("exit code %d", e.ExitCode)
	if e.Signal != 0 {
		text = fmt.Sprintf("signal %d", e.Signal)
	}
	if e.Reason != "" && e.Reason != "Error" {
		text += ", " + e.Reason
	}
	return text
}

// Ready tells whether the pod's condition says so.
func Ready(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// Describe a trouble for a person. events and log are what else is known, and may be empty.
func (t Trouble) Describe(pod *corev1.Pod, event, log string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nPod %s", pod.Name)
	if pod.Spec.NodeName != "" {
		fmt.Fprintf(&b, " on node %s", pod.Spec.NodeName)
	}
	if t.Container != "" {
		fmt.Fprintf(&b, ", container %s", t.Container)
	}
	fmt.Fprintf(&b, ": %s\n", t.Reason)
	if t.Message != "" {
		fmt.Fprintf(&b, "  %s\n", strings.ReplaceAll(strings.TrimSpace(t.Message), "\n", "\n  "))
	}
	if t.Ended != "" {
		fmt.Fprintf(&b, "  Its last run ended with %s.\n", t.Ended)
	}
	if event != "" {
		fmt.Fprintf(&b, "  Last event: %s\n", event)
	}
	if log = strings.TrimRight(log, "\n"); log != "" {
		fmt.Fprintf(&b, "  The end of its log:\n    %s\n", strings.ReplaceAll(log, "\n", "\n    "))
	}
	return b.String()
}
