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
	for _, t := range []struct {
		key     string
		seconds int64
	}{{corev1.TaintNodeNotReady, r.cfg.NotReadySeconds}, {corev1.TaintNodeUnreachable, r.cfg.UnreachableSeconds}} {
		if tolerates(pod, t.key) {
			continue
		}
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: t.key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &t.seconds,
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
