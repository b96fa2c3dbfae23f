package status

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Sidecar tells whether an init container goes on running beside the others.
func Sidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Restarts tells whether a container that ended with that code is to run again: by the container's own rules, its own
// policy, the pod's policy, in this order.
func Restarts(pod *corev1.Pod, c *corev1.Container, exitCode int32) bool {
	if c.RestartPolicy != nil {
		for _, rule := range c.RestartPolicyRules {
			if matches(rule, exitCode) {
				return true
			}
		}
		switch *c.RestartPolicy {
		case corev1.ContainerRestartPolicyAlways:
			return true
		case corev1.ContainerRestartPolicyOnFailure:
			return exitCode != 0
		case corev1.ContainerRestartPolicyNever:
			return false
		}
	}
	switch pod.Spec.RestartPolicy {
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	case corev1.RestartPolicyNever:
		return false
	}
	return true
}

// MayRestart tells whether a container that its node ends is to run again: by its own policy, or else the pod's, unless that
// is Never. There is no exit code to ask yet.
func MayRestart(pod *corev1.Pod, c *corev1.Container) bool {
	if c.RestartPolicy != nil {
		return *c.RestartPolicy != corev1.ContainerRestartPolicyNever
	}
	return pod.Spec.RestartPolicy != corev1.RestartPolicyNever
}

// RestartsInit is Restarts for an init container: success is final, and Always means OnFailure.
func RestartsInit(pod *corev1.Pod, c *corev1.Container, exitCode int32) bool {
	if Sidecar(c) {
		return true
	}
	return exitCode != 0 && Restarts(pod, c, exitCode)
}

// RestartsAll tells whether a container that ended with that code restarts all containers of its pod: its first rule for the code
// counts.
func RestartsAll(c *corev1.Container, exitCode int32) bool {
	for _, rule := range c.RestartPolicyRules {
		if matches(rule, exitCode) {
			return rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers
		}
	}
	return false
}

// MayRestartAll tells whether a container of the pod has a rule that restarts all.
func MayRestartAll(pod *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, rule := range list[i].RestartPolicyRules {
				if rule.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
					return true
				}
			}
		}
	}
	return false
}

func matches(rule corev1.ContainerRestartRule, exitCode int32) bool {
	codes := rule.ExitCodes
	if codes == nil {
		return false
	}
	switch codes.Operator {
	case corev1.ContainerRestartRuleOnExitCodesOpIn:
		return slices.Contains(codes.Values, exitCode)
	case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
		return !slices.Contains(codes.Values, exitCode)
	}
	return false
}
