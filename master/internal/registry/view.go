package registry

import (
	"context"
	"iter"
	"maps"
	"reflect"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/master/internal/store"
)

// View is one consistent state of the cluster. The objects it gives are shared: DeepCopy before changing.
type View struct {
	store.Reader
	r *Registry
}

// Viewer is a View or a Tx.
type Viewer interface{ view() *View }

func (v *View) view() *View { return v }

// Tx is a View with the writes made so far in a transaction.
type Tx struct {
	View
	tx store.Tx
}

// View calls fn with the last committed state.
func (r *Registry) View(fn func(*View) error) error {
	return r.store.View(func(s store.Reader) error { return fn(&View{Reader: s, r: r}) })
}

// Transact calls fn alone among writers and commits what it wrote, all or nothing. fn must not call out, and may be called
// again from the start. Errors are apierrors.
func (r *Registry) Transact(ctx context.Context, fn func(*Tx) error) error {
	return r.store.Update(ctx, func(tx store.Tx) error { return fn(r.newTx(tx)) })
}

func (r *Registry) newTx(tx store.Tx) *Tx {
	return &Tx{View: View{Reader: tx, r: r}, tx: tx}
}

// ViewAndWatch calls fn with the last committed state and returns a watcher of the resources (as in "pods",
// "deployments.apps") that begins right behind it.
func (r *Registry) ViewAndWatch(resources []string, fn func(*View) error) (store.Watcher, error) {
	return r.store.ViewAndWatch(store.WatchOptions{Resources: resources}, func(s store.Reader) error {
		return fn(&View{Reader: s, r: r})
	})
}

func resourceFor[T Object](v *View) *resource.Resource {
	return v.r.byType[reflect.TypeFor[T]()]
}

// Get returns the object of T's kind or a NotFound error.
func Get[T Object](vr Viewer, namespace, name string) (T, error) {
	v := vr.view()
	res := resourceFor[T](v)
	o, err := v.Reader.Get(keyOf(res, namespace, name))
	if err != nil {
		var none T
		return none, statusError(err, res, name)
	}
	return o.(T), nil
}

// List walks the objects of T's kind in a namespace, or in all ("").
func List[T Object](vr Viewer, namespace string) iter.Seq[T] {
	v := vr.view()
	return typed[T](v.Reader.List(resourceFor[T](v).Key(), namespace, Key{}))
}

// ByIndex walks the objects of T's kind that an index has under value.
func ByIndex[T Object](vr Viewer, index, value string) iter.Seq[T] {
	v := vr.view()
	return typed[T](v.Reader.ByIndex(resourceFor[T](v).Key(), index, value))
}

func typed[T Object](all iter.Seq[store.Object]) iter.Seq[T] {
	return func(yield func(T) bool) {
		for o := range all {
			if !yield(o.(T)) {
				return
			}
		}
	}
}

// Create adds an object on behalf of a controller: name, UID, defaults, admission and allocation as for anybody else.
// Validation is left out, since controllers make objects from templates that were validated at the door, but for what LimitRanges
// add to pods.
func Create[T Object](tx *Tx, obj T) (T, error) {
	var none T
	res, err := tx.r.resourceOf(obj)
	if err != nil {
		return none, err
	}
	generated, err := tx.r.prepareCreate(&tx.View, res, obj.GetNamespace(), obj)
	if err != nil {
		return none, err
	}
	if pod, ok := any(obj).(*corev1.Pod); ok && limited(pod) {
		if errs := res.Rules().Validate(context.Background(), pod); len(errs) > 0 {
			return none, apierrors.NewInvalid(res.GroupVersionKind().GroupKind(), pod.Name, errs)
		}
	}
	if err := tx.r.insert(tx, res, obj, generated); err != nil {
		return none, err
	}
	return obj, nil
}

// Put replaces an object's main resource (not its status). obj is a changed copy that carries the resourceVersion read.
func Put[T Object](tx *Tx, obj T) (T, error) { return put(tx, "", obj) }

// PutStatus replaces an object's status.
func PutStatus[T Object](tx *Tx, obj T) (T, error) { return put(tx, "status", obj) }

// Finalize replaces the finalizers in a namespace's spec, as the finalize subresource does.
func Finalize(tx *Tx, ns *corev1.Namespace) (*corev1.Namespace, error) {
	return put(tx, "finalize", ns)
}

func put[T Object](tx *Tx, sub string, obj T) (T, error) {
	var none T
	res, err := tx.r.resourceOf(obj)
	if err != nil {
		return none, err
	}
	old, err := tx.Reader.Get(keyOf(res, obj.GetNamespace(), obj.GetName()))
	if err != nil {
		return none, statusError(err, res, obj.GetName())
	}
	if err := checkRevision(res, obj, old); err != nil {
		return none, err
	}
	prepareUpdate(res, sub, obj, old)
	out, err := tx.r.replace(tx, res, obj, old)
	if err != nil {
		return none, err
	}
	return out.(T), nil
}

// Delete begins or completes the deletion of an object by the rules of the API.
func (tx *Tx) Delete(obj Object, o DeleteOptions) error {
	res, err := tx.r.resourceOf(obj)
	if err != nil {
		return err
	}
	uid := obj.GetUID()
	_, _, err = tx.r.deleteIn(tx, res, obj.GetNamespace(), obj.GetName(), deletion{
		grace: o.GracePeriodSeconds, propagation: o.Propagation, uid: &uid,
	})
	return err
}

// DeleteOptions of a deletion by a controller; the UID is always checked.
type DeleteOptions struct {
	GracePeriodSeconds *int64
	Propagation        *metav1.DeletionPropagation
}

// Bind gives an unbound pod to a node. A pod that is bound already, or being deleted, is a Conflict.
func (tx *Tx) Bind(pod *corev1.Pod, node string) error {
	cur, err := Get[*corev1.Pod](tx, pod.Namespace, pod.Name)
	if err != nil {
		return err
	}
	return tx.bind(cur, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{UID: pod.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: node},
	})
}

func (tx *Tx) bind(cur *corev1.Pod, b *corev1.Binding) error {
	gr := corev1.Resource("pods/binding")
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(gr, cur.Name, errorf(format, args...))
	}
	switch {
	case b.UID != "" && b.UID != cur.UID:
		return conflict("Precondition failed: UID in precondition: %v, UID in object meta: %v", b.UID, cur.UID)
	case cur.DeletionTimestamp != nil:
		return conflict("pod %s is being deleted, cannot be assigned to a host", cur.Name)
	case cur.Spec.NodeName != "":
		return conflict("pod %v is already assigned to node %q", cur.Name, cur.Spec.NodeName)
	case len(cur.Spec.SchedulingGates) > 0:
		return conflict("pod %v has non-empty .spec.schedulingGates", cur.Name)
	}
	pod := cur.DeepCopy()
	pod.Spec.NodeName = b.Target.Name
	for k, v := range b.Annotations {
		metav1.SetMetaDataAnnotation(&pod.ObjectMeta, k, v)
	}
	if len(b.Labels) > 0 && pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	maps.Copy(pod.Labels, b.Labels)
	setPodCondition(pod, corev1.PodScheduled, corev1.ConditionTrue, "", "")
	pod.Status.NominatedNodeName = "" // it has its node
	res := resourceFor[*corev1.Pod](&tx.View)
	return statusError(tx.tx.Put(keyOf(res, pod.Namespace, pod.Name), pod), res, pod.Name)
}
