package resource

import (
	"fmt"
	"reflect"
	"time"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/rbac"
	"k8s.io/kubernetes/pkg/printers"
)

// TableOptions say what a Table holds besides the cells.
type TableOptions struct {
	// NoHeaders leaves the column definitions out: later events of a watch.
	NoHeaders bool
	// IncludeObject of each row: metadata (also when empty), the object in GroupVersion, or none.
	IncludeObject metav1.IncludeObjectPolicy
	// GroupVersion of included objects, and of the columns of a custom kind; empty means the storage version.
	GroupVersion schema.GroupVersion
}

// Table makes the columns of `kubectl get` from stored objects. The rows share memory with the objects.
func (t *Table) Table(r *Resource, objs []Object, o TableOptions) (*metav1.Table, error) {
	if r.custom != nil {
		return t.customTable(r, objs, o)
	}
	table := &metav1.Table{Rows: make([]metav1.TableRow, 0, len(objs))}
	table.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("Table"))
	if !o.NoHeaders {
		columns, err := t.columns(r)
		if err != nil {
			return nil, err
		}
		table.ColumnDefinitions = columns
	}
	internal, err := t.newInternal(r)
	if err != nil {
		return nil, err
	}
	for _, obj := range objs {
		// One internal object serves all rows: cells are strings and numbers, and the row's object is replaced.
		reflect.ValueOf(internal).Elem().SetZero()
		if err := t.scheme.Convert(unshared(obj), internal, nil); err != nil {
			return nil, fmt.Errorf("convert %s: %w", r.Name, err)
		}
		part, err := t.printer.GenerateTable(internal, printers.GenerateOptions{NoHeaders: true, Wide: true})
		if err != nil {
			return nil, err
		}
		for i := range part.Rows {
			if part.Rows[i].Object.Object, err = t.rowObject(obj, o); err != nil {
				return nil, err
			}
		}
		table.Rows = append(table.Rows, part.Rows...)
	}
	return table, nil
}

// columns asks the printer for the headers alone.
func (t *Table) columns(r *Resource) ([]metav1.TableColumnDefinition, error) {
	internal, err := t.newInternal(r)
	if err != nil {
		return nil, err
	}
	table, err := t.printer.GenerateTable(internal, printers.GenerateOptions{Wide: true})
	if err != nil {
		return nil, err
	}
	return table.ColumnDefinitions, nil
}

// newInternal makes an empty object of the internal version, which the printer knows.
func (t *Table) newInternal(r *Resource) (runtime.Object, error) {
	return t.scheme.New(schema.GroupVersionKind{
		Group: r.Storage.Group, Version: runtime.APIVersionInternal, Kind: r.Kind,
	})
}

func (t *Table) rowObject(obj Object, o TableOptions) (runtime.Object, error) {
	switch o.IncludeObject {
	case metav1.IncludeNone:
		return nil, nil
	case metav1.IncludeObject:
		if o.GroupVersion.Empty() {
			return obj, nil
		}
		return t.FromStorage(obj, o.GroupVersion)
	default:
		var from metav1.Object = obj
		if accessor, ok := obj.(metav1.ObjectMetaAccessor); ok {
			from = accessor.GetObjectMeta()
		}
		partial := meta.AsPartialObjectMetadata(from)
		partial.SetGroupVersionKind(metav1.SchemeGroupVersion.WithKind("PartialObjectMetadata"))
		return partial, nil
	}
}

// addPlainHandlers adds the kinds that Kubernetes' printers leave to the API server's default columns.
func addPlainHandlers(h printers.PrintHandler) {
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: docs["name"]},
		{Name: "Created At", Type: "date", Description: docs["creationTimestamp"]},
	}
	utilruntime.Must(h.TableHandler(columns, plainRow[*rbac.Role]))
	utilruntime.Must(h.TableHandler(columns, plainRow[*rbac.ClusterRole]))
	utilruntime.Must(h.TableHandler(columns, plainRow[*core.LimitRange]))
	utilruntime.Must(h.TableHandler(columns, plainRow[*apiextensions.CustomResourceDefinition]))
}

func plainRow[I Object](in I, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
	created := in.GetCreationTimestamp().UTC().Format(time.RFC3339)
	return []metav1.TableRow{{Cells: []any{in.GetName(), created}, Object: runtime.RawExtension{Object: in}}}, nil
}
