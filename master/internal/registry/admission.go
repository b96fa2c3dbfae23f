package registry

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// admitPod fills in what Kubernetes' ServiceAccount, Priority, DefaultTolerationSeconds and RuntimeClass admission fill
// in.
func (r *Registry) admitPod(v *View, pod *corev1.Pod) error {
	if err := admitServiceAccount(v, pod); err != nil {
		return err
	}
	if err := admitPriority(v, pod); err != nil {
		return err
	}
	r.admitTolerations(pod)
	return admitRuntimeClass(v, pod)
}

func (r *Registry) admitTolerations(pod *corev1.Pod) {
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if tolerates(pod, key) {
			continue
		}
		seconds := r.cfg.TolerationSeconds
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
}

// tolerates says whether the manifest speaks of this NoExecute taint itself.
func tolerates(pod *corev1.Pod, key string) bool {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return true
		}
	}
	return false
}

func setPodCondition(pod *corev1.Pod, kind corev1.PodConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.Now().Rfc3339Copy()
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		if c.Type != kind {
			continue
		}
		if c.Status != status {
			c.LastTransitionTime = now
		}
		c.Status, c.Reason, c.Message = status, reason, message
		c.ObservedGeneration = pod.Generation
		return
	}
	pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
		Type: kind, Status: status, Reason: reason, Message: message, LastTransitionTime: now, ObservedGeneration: pod.Generation,
	})
}
