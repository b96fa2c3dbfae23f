package status

import (
	"cmp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

// Reason why a container waits, in words.
type Reason struct {
	Reason, Message string
}

// Input is all that a status is made of.
type Input struct {
	Pod *corev1.Pod
	// Old is the last status of this pod that this node made, or what the master has.
	Old      corev1.PodStatus
	Observed runtime.Pod
	// SandboxReady: the pod's sandbox runs and is on the network.
	SandboxReady bool
	PodIPs       []string
	HostIPs      []string
	// Waiting by container name: why it does not run.
	Waiting map[string]Reason
	// Starting by container ID: its postStart hook is not through.
	Starting map[string]bool
	// Ready and Started by container ID, as probes have it.
	Ready, Started func(id string) bool
	// Message that a container left when it ended; may be nil.
	Message func(c *runtime.Container) string
	// Actual is what a running container has, when a resize may have made it differ from the pod; nil when not. May be nil.
	Actual func(id string) *corev1.ResourceRequirements
	// ImageRefs are the images of image volumes that are there, by volume, in the words of imageID.
	ImageRefs map[string]string
	// Resizes are the conditions of resizes of the pod.
	Resizes []corev1.PodCondition
	// Terminal: no container will be started again. Final: and nothing runs any more, so this is the last status.
	Terminal, Final bool
	// Verdict of the node over the whole pod (rejected, deadline passed): it has failed for this reason.
	Verdict *Reason
	// Disruption: the node ends the pod for want of something, not for what the pod did.
	Disruption bool
	// Anew: all containers are being ended to be restarted, by a rule of one of them.
	Anew bool
	Now  time.Time
}

// Compute the status.
func Compute(in Input) corev1.PodStatus {
	s := corev1.PodStatus{ObservedGeneration: in.Pod.Generation, QOSClass: QOS(in.Pod)}
	s.InitContainerStatuses = in.containers(in.Pod.Spec.InitContainers, in.Old.InitContainerStatuses, true)
	s.ContainerStatuses = in.containers(in.Pod.Spec.Containers, in.Old.ContainerStatuses, false)
	s.EphemeralContainerStatuses = in.containers(ephemeral(in.Pod), in.Old.EphemeralContainerStatuses, false)
	s.Phase = phase(in.Pod, s.InitContainerStatuses, s.ContainerStatuses, in.Terminal || in.Final)
	if in.Final {
		finish(&s)
	}
	for _, old := range []*corev1.PodStatus{&in.Old, &in.Pod.Status} { // what has ended does not begin again
		if over(old.Phase) && s.Phase != old.Phase {
			s.Phase = old.Phase
		}
	}
	if s.Phase == in.Old.Phase {
		s.Reason, s.Message = cmp.Or(in.Old.Reason, in.Pod.Status.Reason), cmp.Or(in.Old.Message, in.Pod.Status.Message)
	}
	if in.Verdict != nil {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, in.Verdict.Reason, in.Verdict.Message
	}
	in.addresses(&s)
	switch {
	case !in.Old.StartTime.IsZero():
		s.StartTime = in.Old.StartTime
	default:
		now := second(in.Now)
		s.StartTime = &now
	}
	s.Conditions = in.conditions(&s)
	sortByName(s.ContainerStatuses)
	if len(s.InitContainerStatuses) == 0 {
		s.InitContainerStatuses = nil
	}
	if len(s.EphemeralContainerStatuses) == 0 {
		s.EphemeralContainerStatuses = nil
	}
	s.NominatedNodeName, s.Resize = "", ""
	return s
}

func over(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// Over tells whether a phase is final.
func Over(p corev1.PodPhase) bool { return over(p) }

func sortByName(list []corev1.ContainerStatus) {
	slices.SortFunc(list, func(a, b corev1.ContainerStatus) int { return cmp.Compare(a.Name, b.Name) })
}

func (in *Input) addresses(s *corev1.PodStatus) {
	ips := in.PodIPs
	if in.Pod.Spec.HostNetwork && len(ips) == 0 {
		ips = in.HostIPs
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	} else { // a pod that has ended keeps its address on record
		s.PodIP, s.PodIPs = in.Old.PodIP, in.Old.PodIPs
	}
	for _, ip := range in.HostIPs {
		s.HostIPs = append(s.HostIPs, corev1.HostIP{IP: ip})
	}
	if len(in.HostIPs) > 0 {
		s.HostIP = in.HostIPs[0]
	}
}

func ephemeral(pod *corev1.Pod) []corev1.Container {
	out := make([]corev1.Container, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		out[i] = corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
	}
	return out
}

// finish makes a status final: a container of which nobody knows how it ended has failed, and so has then the pod.
func finish(s *corev1.PodStatus) {
	finishContainers(s.InitContainerStatuses, false)
	finishContainers(s.ContainerStatuses, initialized(s))
	finishContainers(s.EphemeralContainerStatuses, true)
	for i := range s.ContainerStatuses {
		s.ContainerStatuses[i].Ready = false
	}
	if over(s.Phase) {
		return
	}
	s.Phase = corev1.PodSucceeded
	for i := range s.ContainerStatuses {
		if t := s.ContainerStatuses[i].State.Terminated; t == nil || t.ExitCode != 0 {
			s.Phase = corev1.PodFailed
		}
	}
}

// initialized tells whether the pod got past its init containers.
func initialized(s *corev1.PodStatus) bool {
	n := len(s.InitContainerStatuses)
	return n == 0 || anyStarted(s.ContainerStatuses) || s.InitContainerStatuses[n-1].Ready
}

// finishContainers leaves alone those that never began, unless all is set.
func finishContainers(list []corev1.ContainerStatus, all bool) {
	for i := range list {
		c := &list[i]
		no := false
		c.Started = &no
		if c.State.Waiting != nil && c.LastTerminationState.Terminated != nil {
			// It waited for a restart that will not come: how it ended is known.
			c.State, c.LastTerminationState = c.LastTerminationState, corev1.ContainerState{}
		}
		if c.State.Terminated != nil || c.State.Waiting != nil && !all {
			continue
		}
		c.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			Reason:   ReasonUnknown,
			Message:  "The container could not be located when the pod was terminated",
			ExitCode: 137,
		}}
	}
}
