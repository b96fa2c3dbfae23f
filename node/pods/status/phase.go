package status

import corev1 "k8s.io/api/core/v1"

// phase of the pod by its containers' statuses. terminal says that no container will be started again.
func phase(pod *corev1.Pod, inits, regular []corev1.ContainerStatus, terminal bool) corev1.PodPhase {
	initialized := anyStarted(regular)
	if p, decided := initPhase(pod, inits, initialized); decided {
		return p
	}
	running, waiting, stopped, succeeded, restarting := 0, 0, 0, 0, 0
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if s := find(inits, c.Name); Sidecar(c) && s != nil {
			switch {
			case s.State.Running != nil:
				running++
			case s.State.Waiting != nil && s.LastTerminationState.Terminated == nil:
				waiting++
			}
		}
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		s := find(regular, c.Name)
		switch {
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil:
			stopped++
			if s.State.Terminated.ExitCode == 0 {
				succeeded++
			}
			if Restarts(pod, c, s.State.Terminated.ExitCode) {
				restarting++
			}
		case s.LastTerminationState.Terminated != nil: // waiting to be restarted
			stopped++
			if Restarts(pod, c, s.LastTerminationState.Terminated.ExitCode) {
				restarting++
			}
		default:
			waiting++
		}
	}
	switch {
	case waiting > 0:
		return corev1.PodPending
	case running > 0:
		return corev1.PodRunning
	case stopped == 0:
		return corev1.PodPending
	case !terminal && restarting > 0:
		return corev1.PodRunning
	case stopped == succeeded:
		return corev1.PodSucceeded
	}
	return corev1.PodFailed
}

// initPhase decides while init containers are not through.
func initPhase(pod *corev1.Pod, inits []corev1.ContainerStatus, initialized bool) (corev1.PodPhase, bool) {
	pending := false
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		s := find(inits, c.Name)
		if Sidecar(c) {
			if s.State.Running != nil && (s.Started == nil || !*s.Started) || s.State.Waiting != nil && s.LastTerminationState.Terminated == nil {
				pending = pending || !initialized
			}
			continue
		}
		ended := s.State.Terminated
		if s.State.Waiting != nil {
			ended = s.LastTerminationState.Terminated
		}
		switch {
		case ended == nil:
			pending = true
		case ended.ExitCode != 0:
			if !RestartsInit(pod, c, ended.ExitCode) {
				return corev1.PodFailed, true
			}
			pending = true
		}
	}
	return corev1.PodPending, pending
}

// anyStarted tells whether the pod got past its init containers once.
func anyStarted(regular []corev1.ContainerStatus) bool {
	for i := range regular {
		s := &regular[i]
		if s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return true
		}
	}
	return false
}
