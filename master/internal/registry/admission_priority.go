package registry

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// systemCritical is the lowest priority that users cannot give.
const systemCritical = 2000000000

// SystemPriorityClasses are the two that every cluster has. Pods may name them also before they are made.
func SystemPriorityClasses() []*schedulingv1.PriorityClass {
	return []*schedulingv1.PriorityClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-node-critical"},
			Value:       systemCritical + 1000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:       systemCritical,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
	}
}

// admitPriority does what Kubernetes' Priority admission does: the class's number into the pod, and the default class
// where none is named.
func admitPriority(v *View, pod *corev1.Pod) error {
	forbidden := func(format string, args ...any) error {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errorf(format, args...))
	}
	class, err := priorityClassOf(v, pod.Spec.PriorityClassName)
	if err != nil {
		return err
	}
	if class == nil {
		return forbidden("no PriorityClass with name %v was found", pod.Spec.PriorityClassName)
	}
	if p := pod.Spec.Priority; p != nil && *p != class.Value {
		return forbidden("the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *p, class.Value)
	}
	policy := corev1.PreemptLowerPriority
	if class.PreemptionPolicy != nil {
		policy = *class.PreemptionPolicy
	}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p != policy {
		return forbidden("the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *p, policy)
	}
	value := class.Value
	pod.Spec.PriorityClassName, pod.Spec.Priority, pod.Spec.PreemptionPolicy = class.Name, &value, &policy
	return nil
}

// priorityClassOf finds the class of a name, or the default; nil when there is none of the name.
func priorityClassOf(v Viewer, name string) (*schedulingv1.PriorityClass, error) {
	if name == "" {
		if class := defaultPriorityClass(v); class != nil {
			return class, nil
		}
		return &schedulingv1.PriorityClass{}, nil
	}
	class, err := Get[*schedulingv1.PriorityClass](v, "", name)
	if err == nil {
		return class, nil
	}
	if !apierrors.IsNotFound(err) {
		return nil, err
	}
	for _, class := range SystemPriorityClasses() {
		if class.Name == name {
			return class, nil
		}
	}
	return nil, nil
}

// defaultPriorityClass is nil when no class is the default; of several the lowest counts.
func defaultPriorityClass(v Viewer) *schedulingv1.PriorityClass {
	var found *schedulingv1.PriorityClass
	for class := range List[*schedulingv1.PriorityClass](v, "") {
		if class.GlobalDefault && (found == nil || class.Value < found.Value) {
			found = class
		}
	}
	return found
}

// admitPriorityClass refuses a second default. It is asked in the transaction that writes the class.
func admitPriorityClass(v Viewer, class *schedulingv1.PriorityClass) error {
	if !class.GlobalDefault {
		return nil
	}
	if other := defaultPriorityClass(v); other != nil && other.Name != class.Name {
		return apierrors.NewForbidden(schedulingv1.Resource("priorityclasses"), class.Name,
			errorf("PriorityClass %v is already marked as default. Only one default can exist", other.Name))
	}
	return nil
}

// keepPriority lets a pod be replaced by a manifest that does not say what admission once filled in.
func keepPriority(pod, old *corev1.Pod) {
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
}
