package spec

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/env"
	"github.com/whalepod/whalepod/node/runtime"
)

// Labels on our containers. What a later agent must know of a container is here, not in a file beside it.
const (
	// LabelHash of what cannot change without a restart.
	LabelHash = "io.kubernetes.container.hash"
	// LabelSandbox is the ID of the sandbox that the container joined.
	LabelSandbox = "io.kubernetes.sandbox.id"
	// LabelHandler of a sandbox is the runtime handler that it was made with; absent for the engine's default.
	LabelHandler = "io.kubernetes.sandbox.handler"
	// LabelGrace is the pod's grace period in seconds, for ending a pod of which nothing else is known.
	LabelGrace = "io.kubernetes.pod.terminationGracePeriod"
)

// Ref of a pod for the engine.
func Ref(pod *corev1.Pod) runtime.PodRef {
	return runtime.PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
}

// Describe a pod as the kubelet does in messages.
func Describe(pod *corev1.Pod) string {
	return fmt.Sprintf("%s_%s(%s)", pod.Name, pod.Namespace, pod.UID)
}

// Hash of a container's fields that can be changed in place and need a restart then.
func Hash(c *corev1.Container) string {
	data, err := json.Marshal(map[string]string{"name": c.Name, "image": c.Image})
	if err != nil {
		return ""
	}
	h := fnv.New32a()
	_, _ = h.Write(data)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// Sandbox that a pod asks for; handler is that of its RuntimeClass.
func Sandbox(pod *corev1.Pod, attempt int, hostname, handler string) runtime.SandboxSpec {
	s := runtime.SandboxSpec{
		Pod: Ref(pod), Attempt: attempt, Hostname: hostname,
		HostNetwork: pod.Spec.HostNetwork, HostPID: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC, RuntimeHandler: handler,
		Labels: map[string]string{LabelGrace: strconv.FormatInt(Grace(pod), 10)},
	}
	if handler != "" {
		s.Labels[LabelHandler] = handler
	}
	if sc := pod.Spec.SecurityContext; sc != nil && len(sc.Sysctls) > 0 {
		s.Sysctls = make(map[string]string, len(sc.Sysctls))
		for _, ctl := range sc.Sysctls {
			s.Sysctls[ctl.Name] = ctl.Value
		}
	}
	return s
}

// Grace period of a pod in seconds.
func Grace(pod *corev1.Pod) int64 {
	switch {
	case pod.DeletionGracePeriodSeconds != nil:
		return *pod.DeletionGracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		return *pod.Spec.TerminationGracePeriodSeconds
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

// Input for one attempt of a container.
type Input struct {
	Pod       *corev1.Pod
	Container *corev1.Container
	SandboxID string
	// RuntimeHandler is the sandbox's.
	RuntimeHandler string
	Attempt        int
	Image          runtime.Image
	Env            []string
	Mounts         []runtime.Mount
	// PIDTarget is the container whose processes an ephemeral container wants to see.
	PIDTarget string
	// NodeMemory in bytes, for the order in which processes are killed when it runs out.
	NodeMemory int64
}

// Container asks for one attempt. Its error stands in a CreateContainerConfigError.
func Container(in Input) (runtime.ContainerSpec, error) {
	pod, c := in.Pod, in.Container
	if err := verifyNonRoot(in); err != nil {
		return runtime.ContainerSpec{}, err
	}
	s := runtime.ContainerSpec{
		SandboxID: in.SandboxID, Pod: Ref(pod), Name: c.Name, Attempt: in.Attempt, Image: c.Image,
		Command: env.ExpandAll(c.Command, in.Env), Args: env.ExpandAll(c.Args, in.Env), Env: in.Env, WorkingDir: c.WorkingDir,
		Mounts: in.Mounts, Stdin: c.Stdin, StdinOnce: c.StdinOnce, TTY: c.TTY,
		Resources:   Resources(pod, c, in.NodeMemory),
		HostNetwork: pod.Spec.HostNetwork, HostPID: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC,
		RuntimeHandler: in.RuntimeHandler,
		PIDTarget:      in.PIDTarget, SharePID: pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace,
		Labels: map[string]string{
			LabelHash: Hash(c), LabelSandbox: in.SandboxID, LabelGrace: strconv.FormatInt(Grace(pod), 10),
		},
	}
	if c.Lifecycle != nil && c.Lifecycle.StopSignal != nil {
		s.StopSignal = string(*c.Lifecycle.StopSignal)
	}
	secure(&s, in)
	return s, nil
}
