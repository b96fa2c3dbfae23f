package persistentvolume

import (
	"fmt"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/scheduler"
)

// world is what a claim's plan depends on. Objects are shared: copies are changed.
type world struct {
	claim *corev1.PersistentVolumeClaim
	// volume by name, nil when there is none.
	volume  func(name string) *corev1.PersistentVolume
	volumes iter.Seq[*corev1.PersistentVolume]
	// class that the claim names, and the default one; nil when there is none.
	class, fallback *storagev1.StorageClass
	node            func(name string) *corev1.Node
	// used says that a pod on a node has the claim.
	used bool
}

// outcome of a plan: what is to be written, nil for what stays as it is, and what people are told of it.
type outcome struct {
	claim  *corev1.PersistentVolumeClaim
	volume *corev1.PersistentVolume
	// made says that the volume is a new one.
	made  bool
	notes []note
}

type note struct{ kind, reason, message string }

func (o *outcome) tell(kind, reason, format string, args ...any) {
	o.notes = append(o.notes, note{kind, reason, fmt.Sprintf(format, args...)})
}

// planClaim says what is to be done about a claim.
func planClaim(w world) outcome {
	o := outcome{}
	claim := w.claim.DeepCopy()
	switch {
	case claim.DeletionTimestamp != nil:
		if !w.used {
			claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == claimProtection })
		}
	case has(&claim.ObjectMeta, annBindCompleted):
		o.keep(w, claim)
	case claim.Spec.VolumeName != "":
		o.asked(w, claim)
	default:
		o.search(w, claim)
	}
	o.claim = claim
	return o
}

// keep looks after a claim that has been bound.
func (o *outcome) keep(w world, claim *corev1.PersistentVolumeClaim) {
	lost := func(reason, message string) {
		if claim.Status.Phase != corev1.ClaimLost {
			o.tell(corev1.EventTypeWarning, reason, "%s", message)
		}
		claim.Status.Phase, claim.Status.AccessModes, claim.Status.Capacity = corev1.ClaimLost, nil, nil
	}
	if claim.Spec.VolumeName == "" {
		lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
		return
	}
	volume := w.volume(claim.Spec.VolumeName)
	switch {
	case volume == nil:
		lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case volume.Spec.ClaimRef != nil && !scheduler.ClaimedBy(volume, claim):
		lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
	default:
		o.bind(w, claim, volume)
	}
}

// asked is for a claim that names the volume it wants.
func (o *outcome) asked(w world, claim *corev1.PersistentVolumeClaim) {
	volume := w.volume(claim.Spec.VolumeName)
	switch {
	case volume == nil: // it waits for the volume to be made
	case volume.Spec.ClaimRef == nil:
		if why := scheduler.Mismatch(volume, claim); why != "" {
			o.tell(corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", volume.Name, why)
			break
		}
		o.bind(w, claim, volume)
		return
	case scheduler.ClaimedBy(volume, claim):
		o.bind(w, claim, volume)
		return
	default:
		// Somebody else's. It may be given back some day.
		o.tell(corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", volume.Name)
	}
	claim.Status.Phase = corev1.ClaimPending
}

// search finds a volume for a claim that leaves the choice to us, or has one made.
func (o *outcome) search(w world, claim *corev1.PersistentVolumeClaim) {
	claim.Status.Phase = corev1.ClaimPending
	if w.fallback != nil && claim.Spec.StorageClassName == nil && !has(&claim.ObjectMeta, corev1.BetaStorageClassAnnotation) {
		// The default class came after the claim (Kubernetes' RetroactiveDefaultStorageClass).
		claim.Spec.StorageClassName = &w.fallback.Name
		w.class = w.fallback
	}
	selected := claim.Annotations[annSelectedNode]
	var node *corev1.Node
	if selected != "" {
		if node = w.node(selected); node == nil {
			o.reselect(w, claim, "node %q, which was selected for the volume, is gone", selected)
			return
		}
	}
	delayed := scheduler.WaitsForConsumer(w.class) && node == nil
	if volume := best(claim, w.volumes, node); volume != nil && (!delayed || volume.Spec.ClaimRef != nil) {
		o.bind(w, claim, volume)
		return
	}
	switch {
	case delayed:
		o.tell(corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case scheduler.ClassOf(claim) == "":
		o.tell(corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	case w.class == nil:
		o.tell(corev1.EventTypeWarning, "ProvisioningFailed", "storageclass.storage.k8s.io %q not found", scheduler.ClassOf(claim))
	default:
		o.provision(w, claim, node)
	}
}

// reselect has the scheduler choose a node anew, and a volume: one that it promised to the claim is free again.
func (o *outcome) reselect(w world, claim *corev1.PersistentVolumeClaim, format string, args ...any) {
	delete(claim.Annotations, annSelectedNode)
	for v := range w.volumes {
		if ref := v.Spec.ClaimRef; ref != nil && ref.UID == claim.UID && promised(v) {
			o.volume = v.DeepCopy()
			free(o.volume)
			break
		}
	}
	o.tell(corev1.EventTypeWarning, "ProvisioningFailed", format, args...)
}

// bind makes claim and volume name each other, and both say that they are bound. What is right already stays untouched.
func (o *outcome) bind(w world, claim *corev1.PersistentVolumeClaim, volume *corev1.PersistentVolume) {
	v := volume.DeepCopy()
	if ref := v.Spec.ClaimRef; ref == nil || ref.UID != claim.UID {
		if ref == nil {
			metav1.SetMetaDataAnnotation(&v.ObjectMeta, annBoundByUs, "yes")
		}
		v.Spec.ClaimRef = refTo(claim)
	}
	v.Status.Phase, v.Status.Reason, v.Status.Message = corev1.VolumeBound, "", ""
	if claim.Spec.VolumeName == "" {
		claim.Spec.VolumeName = v.Name
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, annBoundByUs, "yes")
	}
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, annBindCompleted, "yes")
	grow(w, claim, v)
	claim.Status.Phase = corev1.ClaimBound
	claim.Status.AccessModes = v.Spec.AccessModes
	claim.Status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
	claim.Status.Capacity = corev1.ResourceList{corev1.ResourceStorage: v.Spec.Capacity[corev1.ResourceStorage]}
	o.volume = v
}

// grow gives a claim that was enlarged what it asks for, where that costs nothing: in a directory.
func grow(w world, claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume) {
	wanted := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if size := v.Spec.Capacity[corev1.ResourceStorage]; v.Annotations[annProvisionedBy] != Provisioner || wanted.Cmp(size) <= 0 {
		return
	}
	if w.class != nil && w.class.AllowVolumeExpansion != nil && *w.class.AllowVolumeExpansion {
		v.Spec.Capacity[corev1.ResourceStorage] = wanted
	}
}

func refTo(claim *corev1.PersistentVolumeClaim) *corev1.ObjectReference {
	return &corev1.ObjectReference{
		Kind: "PersistentVolumeClaim", APIVersion: "v1", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID,
		ResourceVersion: claim.ResourceVersion,
	}
}
