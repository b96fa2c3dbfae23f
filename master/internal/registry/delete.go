package registry

import (
	"context"
	"errors"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// deletion is what one deletion asks for.
type deletion struct {
	grace           *int64
	propagation     *metav1.DeletionPropagation
	uid             *types.UID
	resourceVersion *string
	orphanByDefault bool
}

// propagationFor is what becomes of an object's dependents; nil when its finalizers say so already or nobody does.
func (d deletion) propagationFor(obj Object) *metav1.DeletionPropagation {
	if d.propagation != nil || !d.orphanByDefault {
		return d.propagation
	}
	for _, f := range obj.GetFinalizers() {
		if f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents {
			return nil
		}
	}
	orphan := metav1.DeletePropagationOrphan
	return &orphan
}

// Delete implements server.Backend. As in Kubernetes, who cannot be shown an object cannot delete it.
func (r *Registry) Delete(ctx context.Context, res *resource.Resource, namespace, name string, o server.DeleteOptions) (resource.Object, bool, error) {
	if res.AsksWebhook() {
		if _, err := r.Get(ctx, res, namespace, name, ""); err != nil {
			return nil, false, err
		}
	}
	obj, done, err := r.deleteStored(ctx, res, namespace, name, o)
	if err != nil || done {
		return obj, done, err // what has gone is only named
	}
	obj, err = handOut(ctx, res, obj)
	return obj, false, err
}

func (r *Registry) deleteStored(ctx context.Context, res *resource.Resource, namespace, name string, o server.DeleteOptions) (resource.Object, bool, error) {
	var obj Object
	var done bool
	err := r.Transact(ctx, func(tx *Tx) (err error) {
		obj, done, err = r.deleteIn(tx, res, namespace, name, deletion{
			grace: o.GracePeriodSeconds, propagation: o.Propagation, uid: o.UID, resourceVersion: o.ResourceVersion,
			orphanByDefault: o.OrphanByDefault,
		})
		if err == nil && o.DryRun {
			return errDryRun
		}
		return err
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, false, err
	}
	return obj, done, nil
}

// DeleteCollection implements server.Backend.
func (r *Registry) DeleteCollection(ctx context.Context, res *resource.Resource, q server.ListQuery, o server.DeleteOptions) ([]resource.Object, error) {
	return server.DeleteEach(ctx, listed{r}, res, q, o)
}

// listed deletes what was just listed, and so needs not be converted again.
type listed struct{ *Registry }

// Delete implements server.Backend.
func (l listed) Delete(ctx context.Context, res *resource.Resource, namespace, name string, o server.DeleteOptions) (resource.Object, bool, error) {
	return l.deleteStored(ctx, res, namespace, name, o)
}

// deleteIn begins or completes a deletion. An object goes at once unless finalizers or a grace period hold it; then it
// gets a deletionTimestamp, and goes when the last of them is fulfilled (see deletionComplete).
func (r *Registry) deleteIn(tx *Tx, res *resource.Resource, namespace, name string, d deletion) (Object, bool, error) {
	key := keyOf(res, namespace, name)
	cur, err := tx.Reader.Get(key)
	if err != nil {
		return nil, false, statusError(err, res, name)
	}
	if err := checkPreconditions(res, cur, d); err != nil {
		return nil, false, err
	}
	if err := checkDeletable(res, cur); err != nil {
		return nil, false, err
	}
	obj := cur.DeepCopyObject().(Object)
	finalizersChanged := setDeletionFinalizers(obj, d.propagationFor(obj))
	changed := finalizersChanged
	// A deletion under way is hastened only by somebody who names a shorter time.
	if obj.GetDeletionTimestamp() == nil || d.grace != nil {
		changed = begin(obj, gracePeriod(res, obj, d.grace)) || changed
	}
	changed = beginCleanup(obj) || changed
	if deletionComplete(obj) {
		gone, err := r.remove(tx, res, cur, "")
		return gone, true, err
	}
	if !changed {
		return cur, false, nil
	}
	if err := tx.tx.Put(key, obj); err != nil {
		return nil, false, statusError(err, res, name)
	}
	return obj, false, nil
}

// remove takes an object out of the store, and what it used out of quotas.
func (r *Registry) remove(tx *Tx, res *resource.Resource, cur Object, resourceVersion string) (Object, error) {
	quotas, err := r.charge(tx, res, nil, cur)
	if err != nil {
		return nil, err
	}
	gone, err := tx.tx.Delete(keyOf(res, cur.GetNamespace(), cur.GetName()), string(cur.GetUID()), resourceVersion)
	if err != nil {
		return nil, statusError(err, res, cur.GetName())
	}
	return gone, tx.settle(quotas)
}

func checkPreconditions(res *resource.Resource, cur Object, d deletion) error {
	if d.uid != nil && *d.uid != cur.GetUID() {
		return apierrors.NewConflict(res.GroupResource(), cur.GetName(),
			errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *d.uid, cur.GetUID()))
	}
	if d.resourceVersion != nil && *d.resourceVersion != cur.GetResourceVersion() {
		return apierrors.NewConflict(res.GroupResource(), cur.GetName(),
			errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *d.resourceVersion, cur.GetResourceVersion()))
	}
	return nil
}

// Namespaces without which the cluster does not work; Kubernetes' NamespaceLifecycle admission names the same.
var immortal = map[string]bool{metav1.NamespaceDefault: true, metav1.NamespaceSystem: true, metav1.NamespacePublic: true}

func checkDeletable(res *resource.Resource, cur Object) error {
	if _, ok := cur.(*corev1.Namespace); ok && immortal[cur.GetName()] {
		return apierrors.NewForbidden(res.GroupResource(), cur.GetName(), errors.New("this namespace may not be deleted"))
	}
	return nil
}

// setDeletionFinalizers notes on the object what is to become of its dependents: the garbage collector acts on it.
func setDeletionFinalizers(obj Object, p *metav1.DeletionPropagation) bool {
	if p == nil {
		return false
	}
	old := obj.GetFinalizers()
	keep := slices.DeleteFunc(slices.Clone(old), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	switch *p {
	case metav1.DeletePropagationForeground:
		keep = append(keep, metav1.FinalizerDeleteDependents)
	case metav1.DeletePropagationOrphan:
		keep = append(keep, metav1.FinalizerOrphanDependents)
	}
	if slices.Equal(old, keep) {
		return false
	}
	obj.SetFinalizers(keep)
	return true
}

// gracePeriod is how long the object may take to end, in seconds. Pods that no node knows, or that have ended, need none.
func gracePeriod(res *resource.Resource, obj Object, asked *int64) int64 {
	if res.Rules().GraceSeconds == nil {
		return 0
	}
	if pod, ok := obj.(*corev1.Pod); ok {
		if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			return 0
		}
	}
	seconds := res.Rules().GraceSeconds(obj)
	if asked != nil {
		seconds = *asked
	}
	if seconds < 0 {
		return 1 // as Kubernetes reads a negative grace period
	}
	return seconds
}

// begin marks the object as being deleted; a second deletion may only shorten the time.
func begin(obj Object, grace int64) bool {
	now := time.Now()
	if ts := obj.GetDeletionTimestamp(); ts != nil {
		old := obj.GetDeletionGracePeriodSeconds()
		if old == nil || grace >= *old {
			return false
		}
		started := ts.Add(-time.Duration(*old) * time.Second)
		obj.SetDeletionTimestamp(&metav1.Time{Time: started.Add(time.Duration(grace) * time.Second)})
		obj.SetDeletionGracePeriodSeconds(&grace)
		return true
	}
	obj.SetDeletionTimestamp(&metav1.Time{Time: now.Add(time.Duration(grace) * time.Second).Truncate(time.Second)})
	obj.SetDeletionGracePeriodSeconds(&grace)
	if g := obj.GetGeneration(); g > 0 {
		obj.SetGeneration(g + 1)
	}
	if ns, ok := obj.(*corev1.Namespace); ok {
		ns.Status.Phase = corev1.NamespaceTerminating
	}
	return true
}

// deletionComplete says that nothing holds an object which is being deleted.
func deletionComplete(obj Object) bool {
	if obj.GetDeletionTimestamp() == nil || len(obj.GetFinalizers()) > 0 {
		return false
	}
	if ns, ok := obj.(*corev1.Namespace); ok && len(ns.Spec.Finalizers) > 0 {
		return false
	}
	grace := obj.GetDeletionGracePeriodSeconds()
	return grace == nil || *grace == 0
}
