package persistentvolume

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Annotations of Kubernetes' volume controllers (k8s.io/component-helpers/storage/volume).
const (
	annBindCompleted  = "pv.kubernetes.io/bind-completed"
	annBoundByUs      = "pv.kubernetes.io/bound-by-controller"
	annProvisionedBy  = "pv.kubernetes.io/provisioned-by"
	annSelectedNode   = "volume.kubernetes.io/selected-node"
	annProvisioner    = "volume.kubernetes.io/storage-provisioner"
	annProvisionerOld = "volume.beta.kubernetes.io/storage-provisioner"
)

// Finalizers of what may be in use.
const (
	claimProtection  = "kubernetes.io/pvc-protection"
	volumeProtection = "kubernetes.io/pv-protection"
)

// Provisioner is the one that is built in: a volume is a directory of the node that its first pod runs on.
const Provisioner = "whalepod.io/local"

// NodeDir is the annotation by which an agent says where its node keeps such volumes.
const NodeDir = "whalepod.io/local-volumes"

// classOf a claim; empty for none. The annotation is older than the field and goes first, as in Kubernetes.
func classOf(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	if claim.Spec.StorageClassName != nil {
		return *claim.Spec.StorageClassName
	}
	return ""
}

func classOfVolume(volume *corev1.PersistentVolume) string {
	if class, ok := volume.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return volume.Spec.StorageClassName
}

// claimedBy says that a volume names the claim, be it for good (with the UID) or ahead of time.
func claimedBy(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := volume.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

func blockMode(mode *corev1.PersistentVolumeMode) bool {
	return mode != nil && *mode == corev1.PersistentVolumeBlock
}

func has(meta *metav1.ObjectMeta, annotation string) bool {
	return metav1.HasAnnotation(*meta, annotation)
}
