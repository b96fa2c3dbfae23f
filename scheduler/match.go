package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// ClassOf a claim; empty for none. The annotation is older than the field and goes first, as in Kubernetes.
func ClassOf(claim *corev1.PersistentVolumeClaim) string {
	if class, ok := claim.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return text(claim.Spec.StorageClassName)
}

// ClassOfVolume is the class that a volume has; empty for none.
func ClassOfVolume(volume *corev1.PersistentVolume) string {
	if class, ok := volume.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return class
	}
	return volume.Spec.StorageClassName
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// WaitsForConsumer says that a class leaves the choice of a volume to the choice of a node. nil is no class.
func WaitsForConsumer(class *storagev1.StorageClass) bool {
	return class != nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// ClaimedBy says that a volume names the claim, be it for good (with the UID) or ahead of time.
func ClaimedBy(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	ref := volume.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.Namespace && ref.Name == claim.Name && (ref.UID == "" || ref.UID == claim.UID)
}

// Mismatch says why a volume cannot serve a claim, in the words of the persistentvolume-binder's VolumeMismatch events;
// empty when it can.
func Mismatch(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	size := volume.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case size.Cmp(wanted) < 0:
		return "requested PV is too small"
	case ClassOfVolume(volume) != ClassOf(claim):
		return "storageClassName does not match"
	case Block(volume.Spec.VolumeMode) != Block(claim.Spec.VolumeMode):
		return "incompatible volumeMode"
	case text(volume.Spec.VolumeAttributesClassName) != text(claim.Spec.VolumeAttributesClassName):
		return "VolumeAttributesClassName does not match"
	}
	for _, m := range claim.Spec.AccessModes {
		if !slices.Contains(volume.Spec.AccessModes, m) {
			return "incompatible accessMode"
		}
	}
	return ""
}

// Block says whether a volume's mode is that of a block device.
func Block(mode *corev1.PersistentVolumeMode) bool {
	return mode != nil && *mode == corev1.PersistentVolumeBlock
}

// Free says whether a claim may have the volume: it is promised to the claim, or nobody's, and it will do.
func Free(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	if volume.DeletionTimestamp != nil || Mismatch(volume, claim) != "" {
		return false
	}
	if ClaimedBy(volume, claim) {
		return true
	}
	if volume.Spec.ClaimRef != nil || volume.Status.Phase != corev1.VolumeAvailable {
		return false
	}
	if claim.Spec.Selector == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	return err == nil && selector.Matches(labels.Set(volume.Labels))
}

// Reachable says whether a volume can be mounted on a node.
func Reachable(volume *corev1.PersistentVolume, node *corev1.Node) bool {
	a := volume.Spec.NodeAffinity
	if a == nil || a.Required == nil {
		return true
	}
	selector, err := nodeaffinity.NewNodeSelector(a.Required)
	return err == nil && selector.Match(node)
}

// noProvisioner is the provisioner of classes whose volumes only people make.
const noProvisioner = "kubernetes.io/no-provisioner"

// provisions says whether a volume of the class can be made for a node.
func provisions(class *storagev1.StorageClass, node *corev1.Node) bool {
	if class.Provisioner == "" || class.Provisioner == noProvisioner {
		return false
	}
	for _, term := range class.AllowedTopologies {
		if inTopology(term, node) {
			return true
		}
	}
	return len(class.AllowedTopologies) == 0
}

func inTopology(term corev1.TopologySelectorTerm, node *corev1.Node) bool {
	for _, e := range term.MatchLabelExpressions {
		if !slices.Contains(e.Values, node.Labels[e.Key]) {
			return false
		}
	}
	return true
}
