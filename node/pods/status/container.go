package status

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

// Waiting reasons that this package gives itself.
const (
	ContainerCreating = "ContainerCreating"
	PodInitializing   = "PodInitializing"
)

// Reasons of a terminated state.
const (
	reasonCompleted = "Completed"
	reasonError     = "Error"
	reasonOOM       = "OOMKilled"
	reasonStart     = "StartError"
	// ReasonUnknown: the engine has no trace of the container any more.
	ReasonUnknown = "ContainerStatusUnknown"
)

const scheme = "docker://"

// ContainerID in the API's form.
func ContainerID(id string) string {
	if id == "" {
		return ""
	}
	return scheme + id
}

// EngineID is the engine's name of a container that a status names; false when it is none of this engine's. A status may
// have been written by anybody.
func EngineID(containerID string) (id string, ok bool) {
	id, ok = strings.CutPrefix(containerID, scheme)
	return id, ok && id != ""
}

// Ended tells whether a container has ended, or could not be started.
func Ended(c *runtime.Container) bool {
	return c.State == runtime.StateExited || c.State == runtime.StateCreated && c.Error != ""
}

// Attempts of one container, newest first.
func Attempts(p runtime.Pod, name string) []*runtime.Container {
	var out []*runtime.Container
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			out = append(out, &p.Containers[i])
		}
	}
	slices.SortStableFunc(out, func(a, b *runtime.Container) int { return cmp.Compare(b.Attempt, a.Attempt) })
	return out
}

// find a container's status by name.
func find(list []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// containers computes the statuses of one kind of containers, in the order of the pod.
func (in *Input) containers(specs []corev1.Container, old []corev1.ContainerStatus, init bool) []corev1.ContainerStatus {
	out := make([]corev1.ContainerStatus, 0, len(specs))
	for i := range specs {
		out = append(out, in.container(&specs[i], find(old, specs[i].Name), init))
	}
	return out
}

func (in *Input) waitingDefault() corev1.ContainerState {
	reason := ContainerCreating
	if len(in.Pod.Spec.InitContainers) > 0 {
		reason = PodInitializing
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
}

func (in *Input) container(c *corev1.Container, old *corev1.ContainerStatus, init bool) corev1.ContainerStatus {
	attempts := Attempts(in.Observed, c.Name)
	var s corev1.ContainerStatus
	if len(attempts) == 0 {
		s = in.absent(c, old, init)
	} else {
		s = in.present(c, attempts, old)
	}
	s.VolumeMounts = in.volumeMounts(c, old)
	if w, ok := in.Waiting[c.Name]; ok && !in.runs(attempts) && !(init && !Sidecar(c) && succeeded(&s)) {
		if s.State.Terminated != nil {
			s.LastTerminationState = s.State
		}
		s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}}
	}
	started := s.State.Running != nil && in.Started(attempts[0].ID)
	s.Started = &started
	s.Ready = started && in.Ready(attempts[0].ID)
	if init && !Sidecar(c) {
		s.Ready = succeeded(&s)
	}
	return s
}

func (in *Input) runs(attempts []*runtime.Container) bool {
	return len(attempts) > 0 && attempts[0].State == runtime.StateRunning
}

func succeeded(s *corev1.ContainerStatus) bool {
	return s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
}

// absent is the status of a container that the engine does not have: not yet, or not any more.
func (in *Input) absent(c *corev1.Container, old *corev1.ContainerStatus, init bool) corev1.ContainerStatus {
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: in.waitingDefault()}
	if init && !Sidecar(c) && in.anyRegularCreated() {
		// Its container may have been removed, but the pod got past it.
		s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reasonCompleted}}
		if old != nil && old.State.Terminated != nil && old.State.Terminated.ExitCode == 0 {
			return *old.DeepCopy()
		}
		return s
	}
	if old == nil {
		return s
	}
	if old.State.Terminated != nil {
		return *old.DeepCopy()
	}
	s.RestartCount = old.RestartCount
	s.LastTerminationState = *old.LastTerminationState.DeepCopy()
	if old.State.Running != nil && s.LastTerminationState.Terminated == nil {
		s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{
			Reason:   ReasonUnknown,
			Message:  "The container could not be located when the pod was deleted.  The container used to be Running",
			ExitCode: 137,
		}
	}
	return s
}

func (in *Input) anyRegularCreated() bool {
	for i := range in.Pod.Spec.Containers {
		if len(Attempts(in.Observed, in.Pod.Spec.Containers[i].Name)) > 0 {
			return true
		}
	}
	return false
}

func (in *Input) present(c *corev1.Container, attempts []*runtime.Container, old *corev1.ContainerStatus) corev1.ContainerStatus {
	now := attempts[0]
	s := corev1.ContainerStatus{
		Name: c.Name, Image: now.Image, ImageID: now.ImageID, ContainerID: ContainerID(now.ID),
		RestartCount: int32(now.Attempt), State: in.state(now),
	}
	if s.Image == "" {
		s.Image = c.Image
	}
	switch {
	case len(attempts) > 1:
		s.LastTerminationState = in.state(attempts[1])
		if s.LastTerminationState.Terminated == nil {
			s.LastTerminationState = corev1.ContainerState{}
		}
	case old != nil && old.ContainerID != s.ContainerID && old.State.Terminated != nil:
		s.LastTerminationState = *old.State.DeepCopy()
	case old != nil:
		s.LastTerminationState = *old.LastTerminationState.DeepCopy()
	}
	if old != nil && old.ContainerID == s.ContainerID && old.State.Running != nil && s.State.Running != nil {
		s.State.Running = old.State.Running // our clock and the engine's differ by some milliseconds
	}
	s.AllocatedResources = c.Resources.Requests
	if actual := in.actual(now); actual != nil {
		s.Resources = actual
	} else if len(c.Resources.Requests) > 0 || len(c.Resources.Limits) > 0 {
		s.Resources = &corev1.ResourceRequirements{Limits: c.Resources.Limits, Requests: c.Resources.Requests}
	} else {
		s.Resources = &corev1.ResourceRequirements{}
	}
	return s
}

func (in *Input) actual(c *runtime.Container) *corev1.ResourceRequirements {
	if in.Actual == nil || c.State != runtime.StateRunning {
		return nil
	}
	return in.Actual(c.ID)
}

// state of one attempt.
func (in *Input) state(c *runtime.Container) corev1.ContainerState {
	switch {
	case c.State == runtime.StateRunning && !in.Starting[c.ID]:
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}}
	case !Ended(c):
		return in.waitingDefault()
	}
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(c.ExitCode), StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt), ContainerID: ContainerID(c.ID),
	}
	switch {
	case c.OOMKilled:
		t.Reason = reasonOOM
	case c.Error != "" && c.StartedAt.IsZero():
		t.Reason, t.Message = reasonStart, c.Error
		if t.ExitCode == 0 {
			t.ExitCode = 128
		}
	case c.ExitCode == 0:
		t.Reason = reasonCompleted
	default:
		t.Reason = reasonError
	}
	if t.FinishedAt.IsZero() {
		t.FinishedAt = metav1.NewTime(c.CreatedAt)
	}
	if in.Message != nil && t.Message == "" {
		t.Message = in.Message(c)
	}
	return corev1.ContainerState{Terminated: t}
}

// volumeMounts of a container. What an image volume shows is known while the volume is there; afterwards it is what was said.
func (in *Input) volumeMounts(c *corev1.Container, old *corev1.ContainerStatus) []corev1.VolumeMountStatus {
	if len(c.VolumeMounts) == 0 {
		return nil
	}
	disabled, enabled := corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyEnabled
	out := make([]corev1.VolumeMountStatus, len(c.VolumeMounts))
	for i, m := range c.VolumeMounts {
		out[i] = corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if ref := in.ImageRefs[m.Name]; ref != "" {
			out[i].VolumeStatus = &corev1.VolumeStatus{Image: &corev1.ImageVolumeStatus{ImageRef: ref}}
		} else if old != nil && i < len(old.VolumeMounts) && old.VolumeMounts[i].Name == m.Name {
			out[i].VolumeStatus = old.VolumeMounts[i].VolumeStatus.DeepCopy()
		}
		switch {
		case !m.ReadOnly:
		case m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == disabled:
			out[i].RecursiveReadOnly = &disabled
		case *m.RecursiveReadOnly == enabled:
			out[i].RecursiveReadOnly = &enabled // otherwise the container would not have been made
		}
	}
	return out
}
