package resource

import (
	"context"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource/custom"
)

// AsksWebhook says that a webhook converts the objects of the kind: Read, Write and Convert may call it, which takes time and
// can fail. Never in a transaction.
func (r *Resource) AsksWebhook() bool { return r.custom != nil && r.custom.AsksWebhook() }

// Read gives stored objects as the rules of this Resource want them: in its version, and as the kind's definition is now. Only
// those of custom kinds may have to change; what has not is the object itself.
func (r *Resource) Read(ctx context.Context, objs []Object) ([]Object, error) {
	return r.read(ctx, objs, (*custom.Kind).Read)
}

// ReadShared is Read for objects that others are likely to read at the same time: single ones, and those of events.
func (r *Resource) ReadShared(ctx context.Context, objs ...Object) ([]Object, error) {
	return r.read(ctx, objs, (*custom.Kind).ReadShared)
}

func (r *Resource) read(ctx context.Context, objs []Object,
	read func(*custom.Kind, context.Context, []*unstructured.Unstructured, string) ([]*unstructured.Unstructured, error),
) ([]Object, error) {
	if r.custom == nil || len(objs) == 0 {
		return objs, nil
	}
	in := make([]*unstructured.Unstructured, len(objs))
	for i, obj := range objs {
		in[i] = obj.(*unstructured.Unstructured)
	}
	got, err := read(r.custom, ctx, in, r.Storage.Version)
	if err != nil {
		return nil, err
	}
	out := make([]Object, len(got))
	for i, u := range got {
		out[i] = u
	}
	return out, nil
}

// Write gives an object of this Resource as it is to be stored. obj belongs to the result.
func (r *Resource) Write(ctx context.Context, obj Object) (Object, error) {
	if r.custom == nil {
		return obj, nil
	}
	return r.custom.ToStorage(ctx, obj.(*unstructured.Unstructured))
}

// Convert gives an object of any version of a custom kind in another one. It is not changed.
func (r *Resource) Convert(ctx context.Context, u *unstructured.Unstructured, gv schema.GroupVersion) (*unstructured.Unstructured, error) {
	if _, ok := r.custom.Version(gv.Version); !ok || gv.Group != r.Storage.Group {
		return nil, notServed(gv.WithKind(r.Kind)) // what the field manager expects of versions that are gone
	}
	return r.custom.Convert(ctx, u, gv.Version)
}

// In gives an object of this Resource, or of another version of its kind, in a served version. Neither may be changed.
func (t *Table) In(ctx context.Context, r *Resource, obj Object, gv schema.GroupVersion) (runtime.Object, error) {
	if r.AsksWebhook() {
		return r.Convert(ctx, obj.(*unstructured.Unstructured), gv)
	}
	return t.FromStorage(obj, gv)
}

// complete makes an object that a client gave one that the rules can work with.
func (r *Resource) complete(obj runtime.Object) (Object, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is not an unstructured object", obj)
	}
	return u, r.custom.Complete(u)
}

func (t *Table) customFromStorage(u *unstructured.Unstructured, gv schema.GroupVersion) (runtime.Object, error) {
	r, ok := t.customOf(u)
	if !ok {
		return nil, notServed(u.GroupVersionKind())
	}
	return r.custom.FromStorage(u, gv.Version)
}

// Accept is the first look at what a client sent, in its own version: what is malformed is an error, and fields that the
// schema does not know are named if report asks for it, and taken out.
func (r *Resource) Accept(u *unstructured.Unstructured, report bool) (unknown []string, err error) {
	v, ok := r.custom.Version(u.GroupVersionKind().Version)
	if !ok {
		return nil, notServed(u.GroupVersionKind())
	}
	return v.Accept(u, report)
}

func (t *Table) customTable(r *Resource, objs []Object, o TableOptions) (*metav1.Table, error) {
	table := &metav1.Table{Rows: make([]metav1.TableRow, 0, len(objs))}
	table.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("Table"))
	gv := o.GroupVersion
	if gv.Empty() {
		gv = r.Storage
	}
	v, ok := r.custom.Version(gv.Version)
	if !ok {
		return nil, notServed(gv.WithKind(r.Kind))
	}
	if !o.NoHeaders {
		table.ColumnDefinitions = v.Columns()
	}
	for _, obj := range objs {
		u, err := r.custom.FromStorage(obj.(*unstructured.Unstructured), gv.Version)
		if err != nil {
			return nil, err
		}
		row := metav1.TableRow{Cells: v.Cells(u)}
		if o.IncludeObject == metav1.IncludeObject {
			row.Object.Object = u
		} else if row.Object.Object, err = t.rowObject(u, o); err != nil {
			return nil, err
		}
		table.Rows = append(table.Rows, row)
	}
	return table, nil
}

func (r *Resource) customReplicas(obj Object, gv schema.GroupVersion) (int32, int32, string, error) {
	v, ok := r.custom.Version(gv.Version)
	if !ok {
		return 0, 0, "", notServed(gv.WithKind(r.Kind))
	}
	u, err := r.custom.FromStorage(obj.(*unstructured.Unstructured), gv.Version)
	if err != nil {
		return 0, 0, "", err
	}
	return v.Replicas(u)
}

func (r *Resource) setCustomReplicas(obj Object, gv schema.GroupVersion, n int32) error {
	v, ok := r.custom.Version(gv.Version)
	if !ok {
		return notServed(gv.WithKind(r.Kind))
	}
	u := obj.(*unstructured.Unstructured)
	if u.GroupVersionKind() != v.GVK {
		return fmt.Errorf("%s is to be scaled as %s", u.GroupVersionKind(), v.GVK)
	}
	if err := v.SetReplicas(u, n); err != nil {
		return err
	}
	return r.custom.Complete(u)
}

// customFieldLabel allows the fields that the version's definition names.
func (r *Resource) customFieldLabel(gv schema.GroupVersion, label, value string) (string, string, error) {
	if label == "metadata.name" || label == "metadata.namespace" {
		return label, value, nil
	}
	if v, ok := r.custom.Version(gv.Version); ok && slices.Contains(v.SelectableFields(), strings.TrimPrefix(label, ".")) {
		return strings.TrimPrefix(label, "."), value, nil
	}
	return "", "", fmt.Errorf("field label not supported: %s", label)
}
