package resource

import (
	"fmt"
	"reflect"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Default fills in what the object's own version leaves out. obj may be of any version.
func (t *Table) Default(obj runtime.Object) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		t.defaultCustom(u)
		return
	}
	t.scheme.Default(obj)
}

// NewServed makes an empty object of any type that the scheme knows or that is served, with apiVersion and kind set.
func (t *Table) NewServed(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if r, ok := t.ByKind(gvk); ok && r.custom != nil {
		return newUnstructured(gvk), nil
	}
	obj, err := t.scheme.New(gvk)
	if err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

// New makes an empty object of the storage version, with apiVersion and kind set.
func (r *Resource) New() Object {
	if r.custom != nil {
		return newUnstructured(r.GroupVersionKind())
	}
	return mustNew(r.GroupVersionKind()).(Object)
}

// NewList makes an empty list of the storage version, with apiVersion and kind set.
func (r *Resource) NewList() runtime.Object {
	if r.custom != nil {
		list := &unstructured.UnstructuredList{}
		list.SetGroupVersionKind(r.Storage.WithKind(r.ListKind))
		return list
	}
	return mustNew(r.Storage.WithKind(r.ListKind))
}

// ToStorage converts an object of any served version to the storage version. The defaults of its own version are applied
// first (extensions/v1beta1 takes a missing selector from the template's labels), then those of the storage version.
// obj belongs to the result afterwards. Objects of custom kinds stay in their version, which is that of the Resource that
// serves it.
func (t *Table) ToStorage(obj runtime.Object) (Object, error) {
	gvk, err := t.kindOf(obj)
	if err != nil {
		return nil, err
	}
	r, ok := t.ByKind(gvk)
	if !ok {
		return nil, notServed(gvk)
	}
	if r.custom != nil {
		return r.complete(obj)
	}
	t.scheme.Default(obj)
	// Also an object of the storage version goes through the internal one: that is where Kubernetes folds fields
	// that say the same thing twice (stringData of a Secret, serviceAccount of a pod).
	internal, err := t.scheme.UnsafeConvertToVersion(obj, runtime.InternalGroupVersioner)
	if err != nil {
		return nil, badConversion(gvk, err)
	}
	out, err := t.scheme.UnsafeConvertToVersion(internal, r.Storage)
	if err != nil {
		return nil, badConversion(gvk, err)
	}
	if gvk.GroupVersion() != r.Storage {
		// The old groups' defaults let selector, labels and template share one map.
		out = out.DeepCopyObject()
		t.scheme.Default(out)
	}
	out.GetObjectKind().SetGroupVersionKind(r.GroupVersionKind())
	settle(out)
	result, ok := out.(Object)
	if !ok {
		return nil, fmt.Errorf("%T has no metadata", out)
	}
	return result, nil
}

// FromStorage gives a stored object in a served version, with apiVersion and kind set. The result is obj itself when gv
// is the storage version, and shares memory with it otherwise: neither may be changed.
func (t *Table) FromStorage(obj Object, gv schema.GroupVersion) (runtime.Object, error) {
	gvk, err := t.kindOf(obj)
	if err != nil {
		return nil, err
	}
	want := gv.WithKind(gvk.Kind)
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return t.customFromStorage(u, gv)
	}
	if gvk == want {
		if obj.GetObjectKind().GroupVersionKind() == gvk {
			return obj, nil
		}
		return withKind(obj, gvk), nil
	}
	if _, ok := t.ByKind(want); !ok {
		return nil, notServed(want)
	}
	internal, err := t.scheme.UnsafeConvertToVersion(unshared(withKind(obj, gvk)), runtime.InternalGroupVersioner)
	if err != nil {
		return nil, badConversion(want, err)
	}
	out, err := t.scheme.UnsafeConvertToVersion(internal, gv)
	if err != nil {
		return nil, badConversion(want, err)
	}
	out.GetObjectKind().SetGroupVersionKind(want)
	return out, nil
}

// unshared copies objects whose conversion writes to them: Kubernetes strips a label of its own from the selector of a
// PodDisruptionBudget, in the list of expressions that it was given.
func unshared(obj runtime.Object) runtime.Object {
	if budget, ok := obj.(*policyv1.PodDisruptionBudget); ok && budget.Spec.Selector != nil {
		return budget.DeepCopy()
	}
	return obj
}

// kindOf takes the kind from what the object says, else from its type: one type may stand for several kinds only in the
// internal version, which is never seen outside this package.
func (t *Table) kindOf(obj runtime.Object) (schema.GroupVersionKind, error) {
	if gvk := obj.GetObjectKind().GroupVersionKind(); !gvk.Empty() {
		return gvk, nil
	}
	kinds, _, err := t.scheme.ObjectKinds(obj)
	if err != nil {
		return schema.GroupVersionKind{}, err
	}
	return kinds[0], nil
}

// withKind returns a shallow copy that carries apiVersion and kind, so that a shared object stays untouched.
func withKind(obj runtime.Object, gvk schema.GroupVersionKind) runtime.Object {
	value := reflect.New(reflect.TypeOf(obj).Elem())
	value.Elem().Set(reflect.ValueOf(obj).Elem())
	out := value.Interface().(runtime.Object)
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out
}

func notServed(gvk schema.GroupVersionKind) error {
	return runtime.NewNotRegisteredErrForKind("whalepod", gvk)
}

// badConversion is the client's fault: annotations that stand for fields of an old version may hold anything.
func badConversion(gvk schema.GroupVersionKind, err error) error {
	return apierrors.NewBadRequest(fmt.Sprintf("%s cannot be converted: %v", gvk.Kind, err))
}
