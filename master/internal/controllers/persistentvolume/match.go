package persistentvolume

import (
	"cmp"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// mismatch says why a volume cannot serve a claim, in the words of the binder's VolumeMismatch events; empty when it can.
func mismatch(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) string {
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	size := volume.Spec.Capacity[corev1.ResourceStorage]
	switch {
	case size.Cmp(wanted) < 0:
		return "requested PV is too small"
	case classOfVolume(volume) != classOf(claim):
		return "storageClassName does not match"
	case blockMode(volume.Spec.VolumeMode) != blockMode(claim.Spec.VolumeMode):
		return "incompatible volumeMode"
	case attributes(volume.Spec.VolumeAttributesClassName) != attributes(claim.Spec.VolumeAttributesClassName):
		return "VolumeAttributesClassName does not match"
	case !offers(volume.Spec.AccessModes, claim.Spec.AccessModes):
		return "incompatible accessMode"
	}
	return ""
}

func attributes(class *string) string {
	if class == nil {
		return ""
	}
	return *class
}

func offers(modes, wanted []corev1.PersistentVolumeAccessMode) bool {
	for _, m := range wanted {
		if !slices.Contains(modes, m) {
			return false
		}
	}
	return true
}

// best finds the volume for a claim: one that was promised to it, or else the smallest free one that will do and that the
// node, if one was selected, can reach. Of equally small ones the first by name.
func best(claim *corev1.PersistentVolumeClaim, volumes iter.Seq[*corev1.PersistentVolume], node *corev1.Node) *corev1.PersistentVolume {
	selector, err := metav1.LabelSelectorAsSelector(claim.Spec.Selector)
	if err != nil {
		return nil // validated at the door
	}
	if claim.Spec.Selector == nil {
		selector = labels.Everything()
	}
	var found *corev1.PersistentVolume
	for v := range volumes {
		if v.DeletionTimestamp != nil || mismatch(v, claim) != "" || !reachable(v, node) {
			continue
		}
		if claimedBy(v, claim) {
			return v
		}
		if v.Spec.ClaimRef != nil || v.Status.Phase != corev1.VolumeAvailable || !selector.Matches(labels.Set(v.Labels)) {
			continue
		}
		if found == nil || smaller(v, found) {
			found = v
		}
	}
	return found
}

func smaller(a, b *corev1.PersistentVolume) bool {
	x, y := a.Spec.Capacity[corev1.ResourceStorage], b.Spec.Capacity[corev1.ResourceStorage]
	return cmp.Or(x.Cmp(y), cmp.Compare(a.Name, b.Name)) < 0
}

// reachable: a node that nobody selected rules nothing out.
func reachable(volume *corev1.PersistentVolume, node *corev1.Node) bool {
	a := volume.Spec.NodeAffinity
	if node == nil || a == nil || a.Required == nil {
		return true
	}
	selector, err := nodeaffinity.NewNodeSelector(a.Required)
	return err == nil && selector.Match(node)
}
