package persistentvolume

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// planVolume says what is to be done about a volume: its next state, and whether its data and it are to be deleted. claim
// is that of its claimRef, nil when that is gone.
func planVolume(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) (next *corev1.PersistentVolume, remove bool, notes []note) {
	o := outcome{}
	v := volume.DeepCopy()
	ref := v.Spec.ClaimRef
	switch {
	case ref == nil || ref.UID == "" && (claim == nil || claim.Spec.VolumeName != v.Name):
		v.Status.Phase, v.Status.Message = corev1.VolumeAvailable, ""
	case claim != nil && (ref.UID == "" || ref.UID == claim.UID):
		switch claim.Spec.VolumeName {
		case v.Name:
			v.Status.Phase = corev1.VolumeBound
		case "": // the claim's own turn binds the two
		default:
			o.misbound(v)
		}
	case promised(v):
		free(v) // its claim has gone before the two were bound
	default:
		o.release(v)
	}
	remove = o.removes(v)
	if v.DeletionTimestamp != nil && v.Status.Phase != corev1.VolumeBound && !remove {
		unprotect(v)
	}
	return v, remove, o.notes
}

func unprotect(v *corev1.PersistentVolume) {
	v.Finalizers = slices.DeleteFunc(v.Finalizers, func(f string) bool { return f == volumeProtection })
}

// misbound: the claim has got another volume. One that was made for it goes, one that was chosen for it is free again.
func (o *outcome) misbound(v *corev1.PersistentVolume) {
	switch {
	case v.Annotations[annProvisionedBy] != "" && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		o.release(v)
	case has(&v.ObjectMeta, annBoundByUs):
		free(v)
	default:
		v.Spec.ClaimRef.UID, v.Spec.ClaimRef.ResourceVersion = "", ""
		v.Status.Phase = corev1.VolumeAvailable
	}
}

// promised says that the scheduler has chosen the volume for a claim and that the two have not been bound: there are no data.
func promised(v *corev1.PersistentVolume) bool {
	return v.Status.Phase == corev1.VolumeAvailable && has(&v.ObjectMeta, annBoundByUs)
}

func free(v *corev1.PersistentVolume) {
	v.Spec.ClaimRef = nil
	delete(v.Annotations, annBoundByUs)
	v.Status.Phase = corev1.VolumeAvailable
}

// release: nobody claims the volume any more.
func (o *outcome) release(v *corev1.PersistentVolume) {
	if v.Status.Phase == corev1.VolumeFailed {
		return
	}
	v.Status.Phase = corev1.VolumeReleased
	switch {
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle:
		o.fail(v, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
	case v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete && v.Annotations[annProvisionedBy] == "":
		o.fail(v, "VolumeFailedDelete", "error getting deleter volume plugin for volume \""+v.Name+"\": no deletable volume plugin matched")
	}
}

func (o *outcome) fail(v *corev1.PersistentVolume, reason, message string) {
	v.Status.Phase, v.Status.Message = corev1.VolumeFailed, message
	o.tell(corev1.EventTypeWarning, reason, "%s", message)
}

// removes says that the volume is ours to delete: released, or deleted by somebody without ever having been bound.
func (o *outcome) removes(v *corev1.PersistentVolume) bool {
	return v.Annotations[annProvisionedBy] == Provisioner && v.Status.Phase == corev1.VolumeReleased &&
		v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
}
