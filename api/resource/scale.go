package resource

import (
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	autoscalingvalidation "k8s.io/kubernetes/pkg/apis/autoscaling/validation"
	"k8s.io/kubernetes/pkg/printers"
)

// Scale gives the scale subresource of an object in the kind that a served version of its resource speaks: autoscaling/v1
// for apps/v1, the group's own Scale for the old ones.
func (t *Table) Scale(r *Resource, obj Object, gv schema.GroupVersion) (runtime.Object, error) {
	sub, ok := r.SubresourceIn(gv, "scale")
	if !ok || !r.CanScale() {
		return nil, fmt.Errorf("%s has no scale in %s", r.Name, gv)
	}
	spec, status, selector, err := r.Replicas(obj, gv)
	if err != nil {
		return nil, err
	}
	internal := &autoscaling.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: obj.GetName(), Namespace: obj.GetNamespace(), UID: obj.GetUID(),
			ResourceVersion: obj.GetResourceVersion(), CreationTimestamp: obj.GetCreationTimestamp(),
		},
		Spec:   autoscaling.ScaleSpec{Replicas: spec},
		Status: autoscaling.ScaleStatus{Replicas: status, Selector: selector},
	}
	out, err := t.NewServed(sub.Kind)
	if err != nil {
		return nil, err
	}
	if err := t.scheme.Convert(internal, out, nil); err != nil {
		return nil, err
	}
	out.GetObjectKind().SetGroupVersionKind(sub.Kind)
	return out, nil
}

// ScaleTable makes the columns of `kubectl get --subresource=scale`.
func (t *Table) ScaleTable(scale runtime.Object, o TableOptions) (*metav1.Table, error) {
	internal := &autoscaling.Scale{}
	if err := t.scheme.Convert(scale, internal, nil); err != nil {
		return nil, err
	}
	table, err := t.printer.GenerateTable(internal, printers.GenerateOptions{NoHeaders: o.NoHeaders, Wide: true})
	if err != nil {
		return nil, err
	}
	table.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("Table"))
	table.ResourceVersion = internal.ResourceVersion
	for i := range table.Rows {
		switch o.IncludeObject {
		case metav1.IncludeNone:
			table.Rows[i].Object.Object = nil
		case metav1.IncludeObject:
			table.Rows[i].Object.Object = scale
		default:
			partial := meta.AsPartialObjectMetadata(internal)
			partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
			table.Rows[i].Object.Object = partial
		}
	}
	return table, nil
}

// ScaleRequest is what a client asks for through a scale subresource.
type ScaleRequest struct {
	metav1.ObjectMeta
	Replicas int32
}

// ReadScale reads and validates a Scale of any served version. The caller compares name, UID and resourceVersion with
// those of the object.
func (t *Table) ReadScale(scale runtime.Object) (*ScaleRequest, error) {
	internal := &autoscaling.Scale{}
	if err := t.scheme.Convert(scale, internal, nil); err != nil {
		return nil, badConversion(scale.GetObjectKind().GroupVersionKind(), err)
	}
	if errs := autoscalingvalidation.ValidateScale(internal); len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscaling.Kind("Scale"), internal.Name, errs)
	}
	return &ScaleRequest{ObjectMeta: internal.ObjectMeta, Replicas: internal.Spec.Replicas}, nil
}

// CanScale says whether the kind has the scale subresource in some version.
func (r *Resource) CanScale() bool { return r.rules.Scale != nil || r.custom != nil }

// Replicas reads what a Scale shows, in the version that the client speaks.
func (r *Resource) Replicas(obj Object, gv schema.GroupVersion) (spec, status int32, selector string, err error) {
	if r.custom != nil {
		return r.customReplicas(obj, gv)
	}
	spec, status, selector = r.rules.Scale.Get(obj)
	return spec, status, selector, nil
}

// SetScale puts the wanted number of replicas into obj, which must be the caller's own copy. gv is the version that the
// client speaks.
func (r *Resource) SetScale(obj Object, gv schema.GroupVersion, replicas int32) error {
	if r.custom != nil {
		return r.setCustomReplicas(obj, gv, replicas)
	}
	if r.rules.Scale == nil {
		return fmt.Errorf("%s cannot be scaled", r.Name)
	}
	r.rules.Scale.Set(obj, replicas)
	return nil
}
