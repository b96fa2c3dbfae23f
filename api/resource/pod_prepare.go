package resource

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1conversion "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
)

func preparePod(obj Object) {
	pod := obj.(*corev1.Pod)
	pod.Generation = 1
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qos.GetPodQOS(pod)}
	dropDisabledPodFields(pod, nil)
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		}}
	}
	mergeLabelKeys(pod)
}

// preparePodStatus keeps everything but the status, also owner references, and in the status what an agent that does not
// know a field would lose.
func preparePodStatus(obj, old Object) {
	pod, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	pod.Spec = before.Spec
	pod.DeletionTimestamp = before.DeletionTimestamp
	pod.DeletionGracePeriodSeconds = before.DeletionGracePeriodSeconds
	pod.OwnerReferences = before.OwnerReferences
	pod.Generation = before.Generation
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = before.Status.QOSClass
	}
	if pod.Status.ObservedGeneration == 0 {
		pod.Status.ObservedGeneration = before.Status.ObservedGeneration
	}
	keepObservedGenerations(pod, before)
}

// keepObservedGenerations fills in the generation of conditions that come without one from the old conditions of the
// same type, in their order: a type may occur twice.
func keepObservedGenerations(pod, before *corev1.Pod) {
	next := map[corev1.PodConditionType]int{}
	for i := range pod.Status.Conditions {
		condition := &pod.Status.Conditions[i]
		seen := 0
		for j := range before.Status.Conditions {
			was := &before.Status.Conditions[j]
			if was.Type != condition.Type {
				continue
			}
			if seen == next[condition.Type] {
				if condition.ObservedGeneration == 0 {
					condition.ObservedGeneration = was.ObservedGeneration
				}
				break
			}
			seen++
		}
		next[condition.Type]++
	}
}

// dropDisabledPodFields drops the fields of Kubernetes features that are off, as Kubernetes does, unless the old pod used
// them. Kubernetes' own list works on the internal type. pod must not share memory with before.
func dropDisabledPodFields(pod, before *corev1.Pod) {
	in, err := internalAs[core.Pod](pod)
	if err != nil {
		return // validation meets the same error and reports it
	}
	var old *core.Pod
	if before != nil {
		if old, err = internalAs[core.Pod](before); err != nil {
			return
		}
	}
	podutil.DropDisabledPodFields(in, old)
	types := pod.TypeMeta
	if err := corev1conversion.Convert_core_Pod_To_v1_Pod(in, pod, nil); err == nil {
		pod.TypeMeta = types
	}
}

// dropDisabledTemplateFields does the same for a template. One that has not changed is left alone: it may share memory
// with the old object.
func dropDisabledTemplateFields(template, before *corev1.PodTemplateSpec) {
	if before != nil && !differ(template, before) {
		return
	}
	var in, old core.PodTemplateSpec
	if corev1conversion.Convert_v1_PodTemplateSpec_To_core_PodTemplateSpec(template, &in, nil) != nil {
		return
	}
	if before == nil {
		podutil.DropDisabledTemplateFields(&in, nil)
	} else {
		if corev1conversion.Convert_v1_PodTemplateSpec_To_core_PodTemplateSpec(before, &old, nil) != nil {
			return
		}
		podutil.DropDisabledTemplateFields(&in, &old)
	}
	_ = corev1conversion.Convert_core_PodTemplateSpec_To_v1_PodTemplateSpec(&in, template, nil)
}

// mergeLabelKeys turns matchLabelKeys and mismatchLabelKeys of pod affinity and topology spread, which name labels, into
// requirements with this pod's values, once, when the pod is made: the scheduler then needs no more than selectors.
func mergeLabelKeys(pod *corev1.Pod) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		addKeys(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, pod.Labels)
	}
	affinity := pod.Spec.Affinity
	if affinity == nil {
		return
	}
	if a := affinity.PodAffinity; a != nil {
		mergeTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		mergeTerms(a.RequiredDuringSchedulingIgnoredDuringExecution, a.PreferredDuringSchedulingIgnoredDuringExecution, pod.Labels)
	}
}

func mergeTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, labels map[string]string) {
	merge := func(term *corev1.PodAffinityTerm) {
		addKeys(term.LabelSelector, term.MatchLabelKeys, metav1.LabelSelectorOpIn, labels)
		addKeys(term.LabelSelector, term.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, labels)
	}
	for i := range required {
		merge(&required[i])
	}
	for i := range preferred {
		merge(&preferred[i].PodAffinityTerm)
	}
}

// addKeys adds nothing to a nil selector, which matches no pod.
func addKeys(selector *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator, labels map[string]string) {
	if selector == nil {
		return
	}
	for _, key := range keys {
		if value, ok := labels[key]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions,
				metav1.LabelSelectorRequirement{Key: key, Operator: op, Values: []string{value}})
		}
	}
}
