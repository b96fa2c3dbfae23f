package registry

import (
	"bytes"
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// A write that keeps losing against others is given back to its caller, as Kubernetes does with a patch.
const maxUpdateTries = 10

// Update implements server.Backend. Rules and validation run on a copy outside the transaction, so that one large object
// does not hold up other writers; the transaction then finds out whether the object changed meanwhile.
func (r *Registry) Update(ctx context.Context, res *resource.Resource, sub, namespace, name string, o server.UpdateOptions,
	change func(resource.Object) (resource.Object, error),
) (resource.Object, bool, error) {
	for try := 1; ; try++ {
		old, err := r.Get(ctx, res, namespace, name, "")
		if apierrors.IsNotFound(err) && o.CreateOnUpdate && sub == "" {
			obj, err := r.createOnUpdate(ctx, res, namespace, name, o, change)
			if apierrors.IsAlreadyExists(err) && try < maxUpdateTries {
				continue // somebody was quicker: update what they made
			}
			return obj, err == nil, err
		}
		if err != nil {
			return nil, false, err
		}
		obj, err := change(old.DeepCopyObject().(Object))
		if err != nil {
			return nil, false, err
		}
		unconditional := obj.GetResourceVersion() == "" || obj.GetResourceVersion() == old.GetResourceVersion()
		if err := r.checkUpdate(ctx, res, sub, namespace, obj, old, o); err != nil {
			return nil, false, err
		}
		var out Object
		err = r.Transact(ctx, func(tx *Tx) error {
			out, err = r.replace(tx, res, obj.DeepCopyObject().(Object), old)
			if err == nil && o.DryRun {
				return errDryRun
			}
			return err
		})
		switch {
		case err == nil, errors.Is(err, errDryRun):
			return out, false, nil
		case apierrors.IsConflict(err) && unconditional && try < maxUpdateTries && ctx.Err() == nil:
			continue // the change is a function of the current state: apply it to the newer one
		default:
			return nil, false, err
		}
	}
}

func (r *Registry) createOnUpdate(ctx context.Context, res *resource.Resource, namespace, name string, o server.UpdateOptions,
	change func(resource.Object) (resource.Object, error),
) (resource.Object, error) {
	obj, err := change(nil)
	if err != nil {
		return nil, err
	}
	if obj.GetUID() != "" {
		return nil, apierrors.NewConflict(res.GroupResource(), name,
			errorf("Precondition failed: UID in precondition: %v, UID in object meta: ", obj.GetUID()))
	}
	obj.SetResourceVersion("")
	return r.Create(ctx, res, namespace, obj, o.WriteOptions)
}

// checkUpdate makes obj what may be written over old, or says why it may not.
func (r *Registry) checkUpdate(ctx context.Context, res *resource.Resource, sub, namespace string, obj, old Object, o server.UpdateOptions) error {
	if err := checkNamespace(res, namespace, obj); err != nil {
		return err
	}
	rules := res.Rules()
	if obj.GetResourceVersion() == "" {
		if !rules.AllowUnconditionalUpdate {
			return apierrors.NewInvalid(res.GroupVersionKind().GroupKind(), obj.GetName(), field.ErrorList{
				field.Invalid(field.NewPath("metadata", "resourceVersion"), 0, "must be specified for an update"),
			})
		}
		obj.SetResourceVersion(old.GetResourceVersion())
	}
	if err := checkRevision(res, obj, old); err != nil {
		return err
	}
	r.cfg.Table.Default(obj)
	prepareUpdate(res, sub, obj, old)
	validate := rules.ValidateUpdate
	if sub == "status" {
		validate = rules.ValidateStatus
	}
	if validate != nil && sub != "finalize" {
		if errs := validate(ctx, obj, old); len(errs) > 0 {
			return apierrors.NewInvalid(res.GroupVersionKind().GroupKind(), obj.GetName(), errs)
		}
	}
	if rules.Warnings != nil && o.Warn != nil && sub == "" {
		for _, w := range rules.Warnings(ctx, obj, old) {
			o.Warn(w)
		}
	}
	return nil
}

// checkRevision refuses a write that was made from another state or another object of the same name.
func checkRevision(res *resource.Resource, obj, old Object) error {
	if uid := obj.GetUID(); uid != "" && uid != old.GetUID() {
		return apierrors.NewConflict(res.GroupResource(), obj.GetName(),
			errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", uid, old.GetUID()))
	}
	if obj.GetResourceVersion() != old.GetResourceVersion() {
		return apierrors.NewConflict(res.GroupResource(), obj.GetName(), errModified)
	}
	return nil
}

// prepareUpdate keeps what the system owns and applies the kind's own rules.
func prepareUpdate(res *resource.Resource, sub string, obj, old Object) {
	obj.SetUID(old.GetUID())
	obj.SetGeneration(old.GetGeneration())
	if created := obj.GetCreationTimestamp(); created.IsZero() {
		obj.SetCreationTimestamp(old.GetCreationTimestamp())
	}
	obj.SetDeletionTimestamp(old.GetDeletionTimestamp())
	obj.SetDeletionGracePeriodSeconds(old.GetDeletionGracePeriodSeconds())
	obj.SetSelfLink("")
	rules := res.Rules()
	switch {
	case sub == "finalize":
		keepAllButFinalizers(obj, old)
	case sub == "status" && rules.PrepareStatus != nil:
		rules.PrepareStatus(obj, old)
	case sub != "status" && rules.PrepareUpdate != nil:
		rules.PrepareUpdate(obj, old)
	}
}

// keepAllButFinalizers is the rule of namespaces/finalize: only spec.finalizers may change.
func keepAllButFinalizers(obj, old Object) {
	ns, ok := obj.(*corev1.Namespace)
	if !ok {
		return
	}
	finalizers := ns.Spec.Finalizers
	old.(*corev1.Namespace).DeepCopyInto(ns)
	ns.Spec.Finalizers = finalizers
}

// replace writes obj over old, or deletes it when this write took away the last thing its deletion waited for. A write
// that changes nothing costs nothing: the stored object is the result.
func (r *Registry) replace(tx *Tx, res *resource.Resource, obj, old Object) (Object, error) {
	if svc, ok := obj.(*corev1.Service); ok {
		if err := r.allocate(tx, svc, old.(*corev1.Service)); err != nil {
			return nil, err
		}
	}
	key := keyOf(res, obj.GetNamespace(), obj.GetName())
	if deletionComplete(obj) {
		gone, err := tx.tx.Delete(key, string(obj.GetUID()), obj.GetResourceVersion())
		return gone, statusError(err, res, obj.GetName())
	}
	if same, err := r.same(res, obj, old); err != nil || same {
		return old, err
	}
	if err := tx.tx.Put(key, obj); err != nil {
		return nil, statusError(err, res, obj.GetName())
	}
	return obj, nil
}

func (r *Registry) same(res *resource.Resource, obj, old Object) (bool, error) {
	codec := r.cfg.Table.StorageCodec()
	a, err := codec.Encode(res.Key(), obj)
	if err != nil {
		return false, err
	}
	b, err := codec.Encode(res.Key(), old)
	if err != nil {
		return false, err
	}
	return bytes.Equal(a, b), nil
}
