package persistentvolume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// ephemeral says whether a pod has volumes whose claims are made for it.
func ephemeral(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if pod.Spec.Volumes[i].Ephemeral != nil {
			return true
		}
	}
	return false
}

// claimFor is the claim of a pod's ephemeral volume, which the pod owns: it goes when the pod goes.
func claimFor(pod *corev1.Pod, v *corev1.Volume) *corev1.PersistentVolumeClaim {
	t := v.Ephemeral.VolumeClaimTemplate
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, Name: pod.Name + "-" + v.Name, Labels: t.Labels, Annotations: t.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(pod, corev1.SchemeGroupVersion.WithKind("Pod"))},
		},
		Spec: *t.Spec.DeepCopy(),
	}
}

// makeClaims makes the claims of the pod that are not there. A claim of that name that is not the pod's is an error,
// which people are told.
func makeClaims(tx *registry.Tx, pod *corev1.Pod) (conflict string, err error) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Ephemeral == nil || v.Ephemeral.VolumeClaimTemplate == nil {
			continue
		}
		claim := claimFor(pod, v)
		old, err := registry.Get[*corev1.PersistentVolumeClaim](tx, claim.Namespace, claim.Name)
		switch {
		case err == nil && !metav1.IsControlledBy(old, pod):
			conflict = fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", claim.Namespace, claim.Name, pod.Namespace, pod.Name)
		case apierrors.IsNotFound(err):
			if _, err := registry.Create(tx, claim); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		}
	}
	return conflict, nil
}
