package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// ruling is what a Job's podFailurePolicy says of a failed pod: the action of the first rule that matches, "" for none, and
// for FailJob why.
type ruling struct {
	action  batchv1.PodFailurePolicyAction
	message string
}

// counts says whether the failure counts against the limits.
func (r ruling) counts() bool { return r.action != batchv1.PodFailurePolicyActionIgnore }

func rule(policy *batchv1.PodFailurePolicy, pod *corev1.Pod) ruling {
	if policy == nil {
		return ruling{}
	}
	for i := range policy.Rules {
		r := &policy.Rules[i]
		message := ""
		switch {
		case r.OnExitCodes != nil:
			c := exited(pod, r.OnExitCodes)
			if c == nil {
				continue
			}
			message = fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
				c.Name, pod.Namespace, pod.Name, c.State.Terminated.ExitCode, r.Action, i)
		default:
			kind, ok := conditionOf(pod, r.OnPodConditions)
			if !ok {
				continue
			}
			message = fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", pod.Namespace, pod.Name, kind, r.Action, i)
		}
		switch r.Action {
		case batchv1.PodFailurePolicyActionFailJob:
			return ruling{r.Action, message}
		case batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionCount:
			return ruling{action: r.Action}
		}
	}
	return ruling{}
}

// exited is the first container that ended with a code that the requirement names; a code of 0 never matches.
func exited(pod *corev1.Pod, want *batchv1.PodFailurePolicyOnExitCodesRequirement) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range list {
			end := list[i].State.Terminated
			if end == nil || end.ExitCode == 0 || want.ContainerName != nil && *want.ContainerName != list[i].Name {
				continue
			}
			in := slices.Contains(want.Values, end.ExitCode)
			if in && want.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn || !in && want.Operator == batchv1.PodFailurePolicyOnExitCodesOpNotIn {
				return &list[i]
			}
		}
	}
	return nil
}

func conditionOf(pod *corev1.Pod, patterns []batchv1.PodFailurePolicyOnPodConditionsPattern) (corev1.PodConditionType, bool) {
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		for _, p := range patterns {
			if c.Type == p.Type && c.Status == p.Status {
				return c.Type, true
			}
		}
	}
	return "", false
}

// enough says whether the indexes that succeeded are enough by the successPolicy, and by which rule.
func enough(policy *batchv1.SuccessPolicy, completions int, succeeded indexes) (string, bool) {
	if policy == nil || len(succeeded) == 0 {
		return "", false
	}
	for i := range policy.Rules {
		r := &policy.Rules[i]
		have, want := succeeded.total(), -1
		if r.SucceededIndexes != nil {
			named := parseIndexes(*r.SucceededIndexes, completions)
			if len(named) == 0 {
				continue
			}
			have, want = named.common(succeeded), named.total()
		}
		if r.SucceededCount != nil && (want < 0 || int(*r.SucceededCount) < want) {
			want = int(*r.SucceededCount)
		}
		if want >= 0 && have >= want {
			return fmt.Sprintf("Matched rules at index %d", i), true
		}
	}
	return "", false
}
