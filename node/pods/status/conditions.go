package status

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of conditions.
const (
	podCompleted             = "PodCompleted"
	podFailed                = "PodFailed"
	containersNotReady       = "ContainersNotReady"
	containersNotInitialized = "ContainersNotInitialized"
	readinessGatesNotReady   = "ReadinessGatesNotReady"
	restartAllStarted        = "RestartAllContainersStarted"
)

// own are the conditions that the node writes; all others belong to whoever wrote them.
var own = []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
	corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting}

// conditions in the order in which the kubelet writes them, foreign ones first.
func (in *Input) conditions(s *corev1.PodStatus) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range in.Pod.Status.Conditions {
		if !slices.Contains(own, c.Type) {
			out = append(out, c)
		}
	}
	out = append(in.disruption(out), in.Resizes...)
	add := func(t corev1.PodConditionType, ok bool, reason, message string) {
		c := corev1.PodCondition{Type: t, Status: corev1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: in.Pod.Generation}
		if ok {
			c.Status = corev1.ConditionTrue
		}
		c.LastTransitionTime = in.transition(c)
		out = append(out, c)
	}
	add(corev1.PodReadyToStartContainers, in.SandboxReady, "", "")
	ok, reason, message := in.initialized(s)
	add(corev1.PodInitialized, ok, reason, message)
	ready, reason, message := in.containersReady(s)
	gates, gateMessage := in.gates(out)
	if ready && !gates {
		add(corev1.PodReady, false, readinessGatesNotReady, gateMessage)
	} else {
		add(corev1.PodReady, ready, reason, message)
	}
	add(corev1.ContainersReady, ready, reason, message)
	add(corev1.PodScheduled, true, "", "")
	if MayRestartAll(in.Pod) {
		reason, message := "", ""
		switch {
		case s.Phase == corev1.PodSucceeded:
			reason = podCompleted
		case s.Phase == corev1.PodFailed:
			reason = podFailed
		case in.Anew:
			reason, message = restartAllStarted, "container exited with restart policy rule"
		}
		add(corev1.AllContainersRestarting, reason == restartAllStarted, reason, message)
	}
	return out
}

// disruption adds that the node has ended the pod, also when the master has not heard it from an agent that is not there any
// more.
func (in *Input) disruption(conditions []corev1.PodCondition) []corev1.PodCondition {
	i := slices.IndexFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	if i >= 0 && conditions[i].Status == corev1.ConditionTrue && conditions[i].Reason == corev1.PodReasonTerminationByKubelet {
		return conditions
	}
	var c corev1.PodCondition
	switch old := slices.IndexFunc(in.Old.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Reason == corev1.PodReasonTerminationByKubelet
	}); {
	case old >= 0:
		c = in.Old.Conditions[old]
	case in.Verdict != nil && in.Disruption:
		c = corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonTerminationByKubelet, Message: in.Verdict.Message,
			LastTransitionTime: second(in.Now), ObservedGeneration: in.Pod.Generation,
		}
	default:
		return conditions
	}
	if i >= 0 {
		conditions[i] = c
		return conditions
	}
	return append(conditions, c)
}

// transition keeps the time of the last change of the condition's status.
func (in *Input) transition(c corev1.PodCondition) metav1.Time {
	for _, list := range [][]corev1.PodCondition{in.Old.Conditions, in.Pod.Status.Conditions} {
		for _, old := range list {
			if old.Type == c.Type {
				if old.Status == c.Status && !old.LastTransitionTime.IsZero() {
					return old.LastTransitionTime
				}
				return second(in.Now)
			}
		}
	}
	return second(in.Now)
}

// second is how exact times are on the wire.
func second(t time.Time) metav1.Time { return metav1.NewTime(t.Truncate(time.Second)) }

func (in *Input) initialized(s *corev1.PodStatus) (ok bool, reason, message string) {
	if s.Phase == corev1.PodSucceeded {
		return true, podCompleted, ""
	}
	if anyStarted(s.ContainerStatuses) {
		return true, "", ""
	}
	var names []string
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		cs := find(s.InitContainerStatuses, c.Name)
		if Sidecar(c) && (cs.Started == nil || !*cs.Started) || !Sidecar(c) && !cs.Ready {
			names = append(names, c.Name)
		}
	}
	if len(names) > 0 {
		return false, containersNotInitialized, "containers with incomplete status: [" + strings.Join(names, " ") + "]"
	}
	return true, "", ""
}

func (in *Input) containersReady(s *corev1.PodStatus) (ok bool, reason, message string) {
	switch s.Phase {
	case corev1.PodSucceeded:
		return false, podCompleted, ""
	case corev1.PodFailed:
		return false, podFailed, ""
	}
	var names []string
	for i := range in.Pod.Spec.InitContainers {
		if c := &in.Pod.Spec.InitContainers[i]; Sidecar(c) && !find(s.InitContainerStatuses, c.Name).Ready {
			names = append(names, c.Name)
		}
	}
	for i := range in.Pod.Spec.Containers {
		if name := in.Pod.Spec.Containers[i].Name; !find(s.ContainerStatuses, name).Ready {
			names = append(names, name)
		}
	}
	if len(names) > 0 {
		return false, containersNotReady, "containers with unready status: [" + strings.Join(names, " ") + "]"
	}
	return true, "", ""
}

func (in *Input) gates(conditions []corev1.PodCondition) (ok bool, message string) {
	var out []string
	for _, g := range in.Pod.Spec.ReadinessGates {
		i := slices.IndexFunc(conditions, func(c corev1.PodCondition) bool { return c.Type == g.ConditionType })
		switch {
		case i < 0:
			out = append(out, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
		case conditions[i].Status != corev1.ConditionTrue:
			out = append(out, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, conditions[i].Status))
		}
	}
	return len(out) == 0, strings.Join(out, ", ")
}
