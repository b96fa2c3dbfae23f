package registry

import (
	"bytes"
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// A change that lost against others so often is made with the writers' lock held, so that it cannot lose again.
const optimisticTries = 3

// outsideTries is how often a change is made that must not be made under the lock, because it asks others. Then the conflict is
// the client's.
const outsideTries = 10

// Update implements server.Backend. Rules and validation run on a copy outside the transaction, so that one large object
// does not hold up other writers; the transaction then finds out whether the object changed meanwhile.
func (r *Registry) Update(ctx context.Context, res *resource.Resource, sub, namespace, name string, o server.UpdateOptions,
	change func(resource.Object) (resource.Object, error),
) (resource.Object, bool, error) {
	o.CallsOut = o.CallsOut || res.AsksWebhook()
	u := update{r: r, res: res, sub: sub, namespace: namespace, name: name, opts: o, change: change}
	for try := 1; ; try++ {
		var out Object
		var err error
		last := optimisticTries
		if o.CallsOut {
			last = outsideTries
		}
		if try <= optimisticTries || o.CallsOut {
			out, err = u.optimistic(ctx)
		} else {
			out, err = u.locked(ctx)
		}
		switch {
		case apierrors.IsNotFound(err) && u.old == nil && o.CreateOnUpdate && sub == "":
			out, err = r.createOnUpdate(ctx, res, namespace, name, o, change)
			if !apierrors.IsAlreadyExists(err) {
				return out, err == nil, err
			}
			// Somebody was quicker: update what they made.
		case (apierrors.IsConflict(err) || apierrors.IsNotFound(err)) && u.unconditional && try <= last && ctx.Err() == nil:
			// The change is a function of the current state: apply it to the newer one.
		default:
			return out, false, err
		}
	}
}

// update is one call of Update.
type update struct {
	r                    *Registry
	res                  *resource.Resource
	sub, namespace, name string
	opts                 server.UpdateOptions
	change               func(resource.Object) (resource.Object, error)

	// Of the last try: the object found, the same as res wants it, and whether the wish names no other resourceVersion than
	// that one's.
	old, before   Object
	unconditional bool
}

func (u *update) optimistic(ctx context.Context) (Object, error) {
	var obj Object
	if err := u.r.View(func(v *View) (err error) {
		obj, err = u.wanted(ctx, v)
		return err
	}); err != nil {
		return nil, err
	}
	if u.opts.Check != nil {
		if err := u.opts.Check(ctx, obj, u.before); err != nil {
			return nil, err
		}
	}
	obj, err := u.res.Write(ctx, obj)
	if err != nil {
		return nil, err
	}
	return u.write(ctx, func(*Tx) (Object, error) { return obj.DeepCopyObject().(Object), nil })
}

func (u *update) locked(ctx context.Context) (Object, error) {
	return u.write(ctx, func(tx *Tx) (Object, error) {
		obj, err := u.wanted(ctx, &tx.View)
		if err != nil {
			return nil, err
		}
		return u.res.Write(ctx, obj)
	})
}

// wanted computes the object to write, valid and complete.
func (u *update) wanted(ctx context.Context, v *View) (Object, error) {
	u.old, u.before, u.unconditional = nil, nil, false
	old, err := v.Reader.Get(keyOf(u.res, u.namespace, u.name))
	if err != nil {
		return nil, statusError(err, u.res, u.name)
	}
	u.old = old
	if old, err = readOne(ctx, u.res, old); err != nil {
		return nil, err
	}
	u.before = old
	obj, err := u.change(old.DeepCopyObject().(Object))
	if err != nil {
		return nil, err
	}
	u.unconditional = obj.GetResourceVersion() == "" || obj.GetResourceVersion() == old.GetResourceVersion()
	pod, resized := obj.(*corev1.Pod)
	if resized = resized && u.sub == "resize"; resized && old.GetDeletionTimestamp() == nil {
		defaultLimits(v, pod)
	}
	if err := u.r.checkUpdate(ctx, u.res, u.sub, u.namespace, obj, old, u.opts); err != nil {
		return nil, err
	}
	if resized {
		return obj, admitResize(v, pod, old.(*corev1.Pod))
	}
	return obj, nil
}

func (u *update) write(ctx context.Context, wanted func(*Tx) (Object, error)) (out Object, err error) {
	err = u.r.Transact(ctx, func(tx *Tx) error {
		obj, err := wanted(tx)
		if err != nil {
			return err
		}
		if out, err = u.r.replace(tx, u.res, obj, u.old); err != nil {
			return err
		}
		if !u.opts.DryRun {
			return nil
		}
		if out != u.old {
			out.SetResourceVersion(u.old.GetResourceVersion()) // the revision that it took is rolled back
		}
		return errDryRun
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	return handOut(ctx, u.res, out)
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
				field.Invalid(field.NewPath("metadata", "resourceVersion"), uint64(0), "must be specified for an update"),
			})
		}
		obj.SetResourceVersion(old.GetResourceVersion())
	}
	if err := checkRevision(res, obj, old); err != nil {
		return err
	}
	r.cfg.Table.Default(obj)
	if pod, ok := obj.(*corev1.Pod); ok && sub == "" {
		keepPriority(pod, old.(*corev1.Pod))
		r.admitTolerations(pod) // a client that replaces the list may not know of them, and none may be taken away
	}
	prepareUpdate(res, sub, obj, old)
	validate := rules.ValidateUpdate
	if sub == "status" {
		validate = rules.ValidateStatus
	} else if further, ok := rules.Updates[sub]; ok {
		validate = further.Validate
	}
	if validate != nil {
		if errs := validate(ctx, obj, old); len(errs) > 0 {
			return apierrors.NewInvalid(res.GroupVersionKind().GroupKind(), obj.GetName(), errs)
		}
	}
	if sub == "" {
		r.observe(obj, old)
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
	case rules.Updates[sub].Prepare != nil:
		rules.Updates[sub].Prepare(obj, old)
	case sub == "status" && rules.PrepareStatus != nil:
		rules.PrepareStatus(obj, old)
	case sub == "" && rules.PrepareUpdate != nil:
		rules.PrepareUpdate(obj, old)
	}
}

// replace writes obj over old, or deletes it when this write took away the last thing its deletion waited for. A write
// that changes nothing costs nothing: the stored object is the result.
func (r *Registry) replace(tx *Tx, res *resource.Resource, obj, old Object) (Object, error) {
	if err := r.checkCurrent(res); err != nil {
		return nil, err
	}
	if err := r.admitWrite(tx, obj, old); err != nil {
		return nil, err
	}
	key := keyOf(res, obj.GetNamespace(), obj.GetName())
	if deletionComplete(obj) {
		return r.remove(tx, res, old, obj.GetResourceVersion())
	}
	if same, err := r.same(res, obj, old); err != nil || same {
		return old, err
	}
	quotas, err := r.charge(tx, res, obj, old)
	if err != nil {
		return nil, err
	}
	if err := tx.tx.Put(key, obj); err != nil {
		return nil, statusError(err, res, obj.GetName())
	}
	return obj, tx.settle(quotas)
}

// admitWrite is what can only be said in the transaction that writes the object: what it is allocated, and whether it gets
// along with others of its kind. old is nil on creation.
func (r *Registry) admitWrite(tx *Tx, obj, old Object) error {
	switch o := obj.(type) {
	case *corev1.Service:
		before, _ := old.(*corev1.Service)
		return r.allocate(tx, o, before)
	case *schedulingv1.PriorityClass:
		return admitPriorityClass(tx, o)
	case *corev1.Pod:
		return admitLimits(tx, o, old)
	case *corev1.PersistentVolumeClaim:
		if err := admitResizeOfClaim(tx, o, old); err != nil {
			return err
		}
		return admitLimits(tx, o, old)
	case *corev1.ResourceQuota:
		admitQuota(tx, o, old)
	}
	return nil
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
