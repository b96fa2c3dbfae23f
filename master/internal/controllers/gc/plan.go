package gc

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// ownerState is what an owner reference refers to.
type ownerState int

const (
	// solid: it is there, or it is of a kind that is not served here, about which nothing is known.
	solid ownerState = iota
	// absent: no object has this UID under this name.
	absent
	// waiting: it is being deleted and waits for its dependents (foreground).
	waiting
)

// action is what has to be done about an object.
type action int

const (
	nothing action = iota
	// dropRefs: some of the owners are gone, others are there.
	dropRefs
	// remove: no owner is left.
	remove
	// orphan: it is being deleted and its dependents are to stay.
	orphan
	// await: it is being deleted and waits for dependents that block it.
	await
	// release: it is being deleted in the foreground and nothing blocks it any more.
	release
)

// verdict is an action with its particulars.
type verdict struct {
	action      action
	drop        []types.UID
	propagation metav1.DeletionPropagation
	// unblock: the object is part of a circle of owners that all wait for each other; it must not block its own.
	unblock bool
}

// judge decides about one object. dependents are asked for only when they matter.
func judge(obj registry.Object, ownerOf func(metav1.OwnerReference) ownerState, dependents func() []registry.Object) verdict {
	if obj.GetDeletionTimestamp() != nil {
		switch {
		case hasFinalizer(obj, metav1.FinalizerOrphanDependents):
			return verdict{action: orphan}
		case hasFinalizer(obj, metav1.FinalizerDeleteDependents):
			if slices.ContainsFunc(dependents(), func(d registry.Object) bool { return blocks(d, obj.GetUID()) }) {
				return verdict{action: await}
			}
			return verdict{action: release}
		}
		return verdict{}
	}
	refs := obj.GetOwnerReferences()
	if len(refs) == 0 {
		return verdict{}
	}
	var gone, ending []types.UID
	for _, ref := range refs {
		switch ownerOf(ref) {
		case absent:
			gone = append(gone, ref.UID)
		case waiting:
			ending = append(ending, ref.UID)
		}
	}
	switch {
	case len(gone)+len(ending) == 0:
		return verdict{}
	case len(gone)+len(ending) < len(refs):
		return verdict{action: dropRefs, drop: append(gone, ending...)}
	}
	v := verdict{action: remove, propagation: metav1.DeletePropagationBackground}
	switch {
	case hasFinalizer(obj, metav1.FinalizerOrphanDependents):
		v.propagation = metav1.DeletePropagationOrphan
	case hasFinalizer(obj, metav1.FinalizerDeleteDependents):
		v.propagation = metav1.DeletePropagationForeground
	case len(ending) > 0:
		if deps := dependents(); len(deps) > 0 {
			// The owner waits for this object, and so this one for its own. Where one of those waits already, it may be for
			// this object: a circle, which would never end.
			v.propagation = metav1.DeletePropagationForeground
			v.unblock = slices.ContainsFunc(deps, func(d registry.Object) bool {
				return d.GetDeletionTimestamp() != nil && hasFinalizer(d, metav1.FinalizerDeleteDependents)
			})
		}
	}
	return v
}

func hasFinalizer(obj registry.Object, name string) bool {
	return slices.Contains(obj.GetFinalizers(), name)
}

// blocks says that the dependent holds up the foreground deletion of its owner.
func blocks(dependent registry.Object, owner types.UID) bool {
	return slices.ContainsFunc(dependent.GetOwnerReferences(), func(ref metav1.OwnerReference) bool {
		return ref.UID == owner && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
	})
}

// unblocking is the object as one that holds up none of its owners.
func unblocking(obj registry.Object) registry.Object {
	c := obj.DeepCopyObject().(registry.Object)
	refs := slices.Clone(c.GetOwnerReferences())
	for i := range refs {
		if refs[i].BlockOwnerDeletion != nil {
			refs[i].BlockOwnerDeletion = new(bool)
		}
	}
	c.SetOwnerReferences(refs)
	return c
}

func without(obj registry.Object, finalizer string) registry.Object {
	c := obj.DeepCopyObject().(registry.Object)
	c.SetFinalizers(slices.DeleteFunc(slices.Clone(c.GetFinalizers()), func(f string) bool { return f == finalizer }))
	return c
}

func withoutOwners(obj registry.Object, uids ...types.UID) registry.Object {
	c := obj.DeepCopyObject().(registry.Object)
	c.SetOwnerReferences(slices.DeleteFunc(slices.Clone(c.GetOwnerReferences()), func(r metav1.OwnerReference) bool {
		return slices.Contains(uids, r.UID)
	}))
	return c
}
