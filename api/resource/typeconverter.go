package resource

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"github.com/whalepod/whalepod/api/resource/internal/smdjson"
)

// TypeConverter is what server-side apply merges by: the types of all served versions. The schema is read from the binary
// at the first use, because many clusters never see an apply on the server's side.
//
// managedfields.NewTypeConverter would read it from the OpenAPI documents, 20 times as much to parse for the same result.
func (t *Table) TypeConverter() managedfields.TypeConverter { return mergeConverter{t} }

// mergeSchemas is the generated schema: all its types, and those of objects by their kinds.
type mergeSchemas struct {
	types  []smdschema.TypeDef
	byKind map[schema.GroupVersionKind]*typed.ParseableType
}

// mergeTypes reads the generated schema once.
var mergeTypes = sync.OnceValues(func() (*mergeSchemas, error) {
	z, err := gzip.NewReader(bytes.NewReader(mergeSchema))
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, err
	}
	types, kinds, err := smdjson.Decode(data)
	if err != nil {
		return nil, err
	}
	parser := &typed.Parser{Schema: smdschema.Schema{Types: types}}
	out := make(map[schema.GroupVersionKind]*typed.ParseableType, len(kinds))
	for kind, name := range kinds {
		apiVersion, kind, _ := strings.Cut(kind, " ")
		parseable := parser.Type(name)
		out[schema.FromAPIVersionAndKind(apiVersion, kind)] = &parseable
	}
	return &mergeSchemas{types, out}, nil
})

func builtinTypes() ([]smdschema.TypeDef, error) {
	schemas, err := mergeTypes()
	if err != nil {
		return nil, fmt.Errorf("schema of server-side apply: %w", err)
	}
	return schemas.types, nil
}

type mergeConverter struct{ t *Table }

// typeOf finds the type of a served kind.
func (c mergeConverter) typeOf(gvk schema.GroupVersionKind) (*typed.ParseableType, error) {
	if r, ok := c.t.ByKind(gvk); ok && r.custom != nil {
		if v, ok := r.custom.Version(gvk.Version); ok {
			return v.MergeType(builtinTypes)
		}
	}
	schemas, err := mergeTypes()
	if err != nil {
		return nil, fmt.Errorf("schema of server-side apply: %w", err)
	}
	parseable, ok := schemas.byKind[gvk]
	if !ok {
		return nil, notServed(gvk) // what the field manager expects of versions that are gone
	}
	return parseable, nil
}

// ObjectToTyped reads an object that carries apiVersion and kind.
func (c mergeConverter) ObjectToTyped(obj runtime.Object, opts ...typed.ValidationOptions) (*typed.TypedValue, error) {
	parseable, err := c.typeOf(obj.GetObjectKind().GroupVersionKind())
	if err != nil {
		return nil, err
	}
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return parseable.FromUnstructured(u.UnstructuredContent(), opts...)
	}
	return parseable.FromStructured(obj, opts...)
}

// TypedToObject gives a merged value back as an unstructured object.
func (mergeConverter) TypedToObject(value *typed.TypedValue) (runtime.Object, error) {
	switch o := value.AsValue().Unstructured().(type) {
	case map[string]any:
		return &unstructured.Unstructured{Object: o}, nil
	default:
		return nil, fmt.Errorf("failed to convert value to unstructured for type %T", o)
	}
}
