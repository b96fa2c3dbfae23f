package registry

import (
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// admitRuntimeClass does what Kubernetes' RuntimeClass admission does: the class must be there, what its sandbox costs
// and where it can run go into the pod.
func admitRuntimeClass(v *View, pod *corev1.Pod) error {
	forbidden := func(format string, args ...any) error {
		return apierrors.NewForbidden(corev1.Resource("pods"), pod.Name, errorf(format, args...))
	}
	class := &nodev1.RuntimeClass{}
	if name := pod.Spec.RuntimeClassName; name != nil {
		found, err := Get[*nodev1.RuntimeClass](v, "", *name)
		switch {
		case apierrors.IsNotFound(err):
			return forbidden("pod rejected: RuntimeClass %q not found", *name)
		case err != nil:
			return err
		}
		class = found
	}
	if class.Overhead == nil {
		if pod.Spec.Overhead != nil {
			return forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
		}
	} else {
		if len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
			return forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
		}
		pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
	}
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if own, ok := pod.Spec.NodeSelector[key]; ok && own != value {
			return forbidden("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, own)
		}
		if pod.Spec.NodeSelector == nil {
			pod.Spec.NodeSelector = map[string]string{}
		}
		pod.Spec.NodeSelector[key] = value
	}
	pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

// mergeTolerations leaves out those that another one covers; of equal ones the first stays.
func mergeTolerations(own, more []corev1.Toleration) []corev1.Toleration {
	all := make([]corev1.Toleration, 0, len(own)+len(more))
	all = append(append(all, own...), more...)
	var merged []corev1.Toleration
next:
	for i := range all {
		for j := range merged {
			if coversToleration(&merged[j], &all[i]) {
				continue next
			}
		}
		for j := i + 1; j < len(all); j++ {
			if coversToleration(&all[j], &all[i]) && !apiequality.Semantic.DeepEqual(all[i], all[j]) {
				continue next
			}
		}
		merged = append(merged, *all[i].DeepCopy())
	}
	return merged
}

// coversToleration says that wide tolerates all that t does.
func coversToleration(wide, t *corev1.Toleration) bool {
	if apiequality.Semantic.DeepEqual(wide, t) {
		return true
	}
	if wide.Key != t.Key && (wide.Key != "" || wide.Operator != corev1.TolerationOpExists) {
		return false
	}
	if wide.Effect != t.Effect && wide.Effect != "" {
		return false
	}
	if limit := wide.TolerationSeconds; wide.Effect == corev1.TaintEffectNoExecute && limit != nil &&
		(t.TolerationSeconds == nil || *t.TolerationSeconds > *limit) {
		return false
	}
	switch wide.Operator {
	case corev1.TolerationOpEqual, "":
		return t.Operator == corev1.TolerationOpEqual && t.Value == wide.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}
