package pods

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/status"
)

// view is what others may know of a pod at any time.
type view struct {
	known      bool
	pod        *corev1.Pod
	status     corev1.PodStatus
	sandboxPID int
	sandboxID  string
	running    []Process
	// finished: it has ended, and its volumes are gone. cleared: and what its containers wrote, if they had to go.
	finished, cleared bool
}

// Found is what a stream (logs, exec, attach, port-forward) needs.
type Found struct {
	ContainerID string
	TTY, Stdin  bool
	// SandboxPID is a process in the pod's network namespace; 0 when the sandbox does not run.
	SandboxPID  int
	HostNetwork bool
	PodIP       string
}

// find the pod by name, and by uid if one is given.
func (m *Manager) find(namespace, name, uid string) (view, error) {
	var best view
	for _, w := range m.all() {
		if w.ref.Namespace != namespace || w.ref.Name != name || uid != "" && w.uid != uid {
			continue
		}
		w.mu.Lock()
		v, over := w.view, w.over
		w.mu.Unlock()
		// Two have one name while the old one is being ended: the newer is meant.
		if v.known && !over && (!best.known || best.pod.CreationTimestamp.Before(&v.pod.CreationTimestamp)) {
			best = v
		}
	}
	if best.known {
		return best, nil
	}
	return view{}, errNoPod
}

// Unknown is the error about a pod, or a container of it, that is not on this node. Other errors are about the state that
// one is in.
type Unknown struct{ what string }

func (u *Unknown) Error() string { return u.what }

var errNoPod = &Unknown{"pod does not exist"}

func (v view) found(c *corev1.Container, id string) Found {
	return Found{ContainerID: id, TTY: c.TTY, Stdin: c.Stdin, SandboxPID: v.sandboxPID, HostNetwork: v.pod.Spec.HostNetwork, PodIP: v.status.PodIP}
}

// containerStatus of a container; an empty name means the first. The words are the kubelet's.
func (v view) containerStatus(name string) (*corev1.Container, *corev1.ContainerStatus, error) {
	if name == "" && len(v.pod.Spec.Containers) > 0 {
		name = v.pod.Spec.Containers[0].Name
	}
	known := false
	for _, c := range allContainers(v.pod) {
		if c.Name != name {
			continue
		}
		known = true
		for _, list := range [][]corev1.ContainerStatus{v.status.ContainerStatuses, v.status.InitContainerStatuses, v.status.EphemeralContainerStatuses} {
			for i := range list {
				if list[i].Name == name {
					return c, &list[i], nil
				}
			}
		}
	}
	if !known {
		return nil, nil, &Unknown{fmt.Sprintf("container %q not found in pod %q", name, v.pod.Name)}
	}
	return nil, nil, fmt.Errorf("container %q in pod %q is not available", name, v.pod.Name)
}

// Logs finds the container whose log is meant: the running one, the one that ended last, or with previous the one before.
func (m *Manager) Logs(namespace, pod, uid, container string, previous bool) (Found, error) {
	v, err := m.find(namespace, pod, uid)
	if err != nil {
		return Found{}, &Unknown{fmt.Sprintf("pod %q does not exist", pod)}
	}
	c, s, err := v.containerStatus(container)
	if err != nil {
		return Found{}, err
	}
	last := s.LastTerminationState.Terminated
	var id string
	switch {
	case previous:
		if last == nil || last.ContainerID == "" {
			return Found{}, fmt.Errorf("previous terminated container %q in pod %q not found", c.Name, pod)
		}
		id = last.ContainerID
	case s.State.Running != nil:
		id = s.ContainerID
	case s.State.Terminated != nil && s.State.Terminated.ContainerID != "":
		id = s.State.Terminated.ContainerID
	case last != nil && last.ContainerID != "":
		id = last.ContainerID
	case s.State.Terminated != nil || last != nil:
		return Found{}, fmt.Errorf("container %q in pod %q is terminated", c.Name, pod)
	case s.State.Waiting == nil:
		return Found{}, fmt.Errorf("container %q in pod %q is waiting to start - no logs yet", c.Name, pod)
	default:
		reason := s.State.Waiting.Reason
		switch reason {
		case "ErrImagePull":
			reason = "image can't be pulled"
		case "ImagePullBackOff":
			reason = "trying and failing to pull image"
		}
		return Found{}, fmt.Errorf("container %q in pod %q is waiting to start: %s", c.Name, pod, reason)
	}
	if id, ok := status.EngineID(id); ok {
		return v.found(c, id), nil
	}
	return Found{}, fmt.Errorf("container %q in pod %q is not available", c.Name, pod)
}

// Running finds a container that runs, for exec and attach.
func (m *Manager) Running(namespace, pod, uid, container string) (Found, error) {
	v, err := m.find(namespace, pod, uid)
	if err != nil {
		return Found{}, err
	}
	c, s, err := v.containerStatus(container)
	if err != nil || s.State.Running == nil {
		return Found{}, fmt.Errorf("container not found (%q)", container)
	}
	id, ok := status.EngineID(s.ContainerID)
	if !ok {
		return Found{}, fmt.Errorf("container not found (%q)", container)
	}
	return v.found(c, id), nil
}

// Sandbox finds the pod's network namespace, for port-forward.
func (m *Manager) Sandbox(namespace, pod, uid string) (Found, error) {
	v, err := m.find(namespace, pod, uid)
	if err != nil {
		return Found{}, err
	}
	if v.sandboxPID == 0 {
		return Found{}, fmt.Errorf("pod not found (%q)", pod+"_"+namespace)
	}
	return v.found(&corev1.Container{}, ""), nil
}

// Looked tells how the pods of this node compare with what was told of them before this agent started: whether all of them have
// been looked at, and whether those that were ready are so again. When nothing is known of any, both are true.
func (m *Manager) Looked() (all, asBefore bool) {
	if !m.ready() {
		return false, false
	}
	if !m.cfg.Desired.Usable() {
		return true, true
	}
	all, asBefore = true, true
	for _, pod := range m.cfg.Desired.Pods() {
		if pod.DeletionTimestamp != nil || pod.Spec.NodeName != "" && pod.Spec.NodeName != m.cfg.NodeName {
			continue
		}
		w := m.worker(string(pod.UID))
		if w == nil {
			return false, false
		}
		w.mu.Lock()
		v := w.view
		w.mu.Unlock()
		all = all && v.known
		asBefore = asBefore && v.known && (!w.wasReady || isReady(v.status))
	}
	return all, asBefore
}

func isReady(s corev1.PodStatus) bool {
	return slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}
