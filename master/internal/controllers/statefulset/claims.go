package statefulset

import (
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// claimWork is what is to be done about the claims of one pod.
type claimWork struct {
	create []*corev1.PersistentVolumeClaim
	// owners are copies of claims with other owner references.
	owners []*corev1.PersistentVolumeClaim
	// conflicts names claims that somebody else controls, against the retention policy.
	conflicts []string
	// leaving is a claim that is being deleted, for whose end the pod has to wait.
	leaving error
}

func (c *claimWork) empty() bool { return len(c.create)+len(c.owners) == 0 }

// claimsOf looks at the claims of a pod, stored or about to be made.
func claimsOf(set *appsv1.StatefulSet, pod *corev1.Pod, stored func(name string) *corev1.PersistentVolumeClaim, missing bool) claimWork {
	var work claimWork
	ordinal := ordinalOf(set, pod)
	for i := range set.Spec.VolumeClaimTemplates {
		t := &set.Spec.VolumeClaimTemplates[i]
		claim := stored(claimName(set, t, ordinal))
		if claim == nil {
			if missing {
				claim = newClaim(set, t, ordinal)
				claim.OwnerReferences, _, _ = retained(set, pod, claim)
				work.create = append(work.create, claim)
			}
			continue
		}
		if claim.DeletionTimestamp != nil && missing {
			work.leaving = fmt.Errorf("pvc %s is being deleted", claim.Name)
		}
		refs, changed, conflict := retained(set, pod, claim)
		if conflict {
			work.conflicts = append(work.conflicts, claim.Name)
		}
		if changed {
			claim = claim.DeepCopy()
			claim.OwnerReferences = refs
			work.owners = append(work.owners, claim)
		}
	}
	return work
}

func newClaim(set *appsv1.StatefulSet, t *corev1.PersistentVolumeClaim, ordinal int) *corev1.PersistentVolumeClaim {
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: set.Namespace, Name: claimName(set, t, ordinal), Annotations: maps.Clone(t.Annotations), Labels: maps.Clone(t.Labels),
			Finalizers: slices.Clone(t.Finalizers),
		},
		Spec: *t.Spec.DeepCopy(),
	}
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	return claim
}

// stale says that a claim belongs to an earlier pod of the name and will be deleted with it: its successor has to wait, or
// its storage would go from under it. (KEP-1847)
func stale(set *appsv1.StatefulSet, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if whenScaled, _ := retention(set); whenScaled != appsv1.DeletePersistentVolumeClaimRetentionPolicyType {
		return false
	}
	return strange(claim, pod, podKind)
}

func retention(set *appsv1.StatefulSet) (scaled, deleted appsv1.PersistentVolumeClaimRetentionPolicyType) {
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		return p.WhenScaled, p.WhenDeleted
	}
	return appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.RetainPersistentVolumeClaimRetentionPolicyType
}

// names says that a reference is to an object of this name and kind, whatever its UID.
func names(ref *metav1.OwnerReference, o metav1.Object, kind schema.GroupVersionKind) bool {
	return ref.APIVersion == kind.GroupVersion().String() && ref.Kind == kind.Kind && ref.Name == o.GetName()
}

// strange says that a claim refers to another object of the same name, one from before.
func strange(claim *corev1.PersistentVolumeClaim, o metav1.Object, kind schema.GroupVersionKind) bool {
	for i := range claim.OwnerReferences {
		if ref := &claim.OwnerReferences[i]; names(ref, o, kind) {
			return ref.UID != o.GetUID()
		}
	}
	return false
}

// retained gives a claim the owners that persistentVolumeClaimRetentionPolicy asks for: whoever's end shall be the claim's.
//
//	whenScaled  whenDeleted  in range  scaled down
//	Retain      Retain       -         -
//	Retain      Delete       set       set
//	Delete      Retain       -         pod
//	Delete      Delete       set       pod
//
// References to earlier objects of the names are left to the garbage collector. conflict: somebody else is the
// controller, and stays the only one.
func retained(set *appsv1.StatefulSet, pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) (refs []metav1.OwnerReference, changed, conflict bool) {
	if strange(claim, set, kind) || strange(claim, pod, podKind) {
		return claim.OwnerReferences, false, false
	}
	const remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	scaled, deleted := retention(set)
	within := inRange(set, ordinalOf(set, pod))
	wantSet := deleted == remove && (within || scaled != remove)
	wantPod := scaled == remove && !within

	var hasSet, hasPod, weak, other bool
	for i := range claim.OwnerReferences {
		ref := &claim.OwnerReferences[i]
		controls := ref.Controller != nil && *ref.Controller
		switch {
		case names(ref, set, kind):
			hasSet, weak = true, weak || !controls
		case names(ref, pod, podKind):
			hasPod, weak = true, weak || !controls
		default:
			refs = append(refs, *ref)
			other = other || controls
		}
	}
	if conflict = other && (scaled == remove || deleted == remove); conflict {
		return refs, hasSet || hasPod, true
	}
	if hasSet == wantSet && hasPod == wantPod && !weak {
		return claim.OwnerReferences, false, false
	}
	if wantSet {
		refs = append(refs, *metav1.NewControllerRef(set, kind))
	}
	if wantPod {
		refs = append(refs, *metav1.NewControllerRef(pod, podKind))
	}
	return refs, true, false
}
