package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	runtimejson "k8s.io/apimachinery/pkg/runtime/serializer/json"
	celmutation "k8s.io/apiserver/pkg/cel/mutation"
	"k8s.io/apiserver/pkg/cel/mutation/dynamic"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// patchBy applies a list of JSONPatch to an object. A patch whose test fails changes nothing.
func (b *Backend) patchBy(val ref.Val, obj runtime.Object) (runtime.Object, error) {
	list, ok := val.(traits.Lister)
	if !ok {
		return nil, errors.New("type mismatch: JSONPatchType.expression should evaluate to array")
	}
	var patch jsonpatch.Patch
	for it := list.Iterator(); it.HasNext() == types.True; {
		op, ok := it.Next().(*celmutation.JSONPatchVal)
		if !ok {
			return nil, errors.New("type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch")
		}
		made, err := operation(op)
		if err != nil {
			return nil, err
		}
		patch = append(patch, made)
	}
	data, err := json.Marshal(obj)
	if err != nil {
		return nil, fmt.Errorf("failed to create JSON patch: %w", err)
	}
	if data, err = patch.Apply(data); errors.Is(err, jsonpatch.ErrTestFailed) {
		return obj, nil
	} else if err != nil {
		return nil, fmt.Errorf("JSON Patch: %w", err)
	}
	return b.decodeStrictly(obj, data)
}

// operation of a JSON patch. What its value may be is anything: scalars, lists and maps, and objects of type Object.
func operation(op *celmutation.JSONPatchVal) (jsonpatch.Operation, error) {
	out := jsonpatch.Operation{}
	set := func(key string, v any) error {
		data, err := json.Marshal(v)
		raw := json.RawMessage(data)
		out[key] = &raw
		return err
	}
	err := errors.Join(set("op", op.Op), set("path", op.Path))
	if op.From != "" {
		err = errors.Join(err, set("from", op.From))
	}
	if err != nil || op.Val == nil {
		return out, err
	}
	if obj, ok := op.Val.(*dynamic.ObjectVal); ok {
		if err := obj.CheckTypeNamesMatchFieldPathNames(); err != nil {
			return nil, fmt.Errorf("type mismatch: %w", err)
		}
	}
	v, err := jsonOf(op.Val)
	if err == nil {
		err = set("value", v)
	}
	if err != nil {
		return nil, fmt.Errorf("JSONPath valueExpression evaluated to a type that could not marshal to JSON: %w", err)
	}
	return out, nil
}

// decodeStrictly reads a patched object: fields that its kind does not have are an error, as are those of wrong types.
func (b *Backend) decodeStrictly(like runtime.Object, data []byte) (runtime.Object, error) {
	if _, custom := like.(*unstructured.Unstructured); custom {
		return b.decode(like, data)
	}
	gvk := like.GetObjectKind().GroupVersionKind()
	into, err := b.cfg.Table.NewServed(gvk)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	scheme := b.cfg.Table.Scheme()
	strict := runtimejson.NewSerializerWithOptions(runtimejson.DefaultMetaFactory, scheme, scheme, runtimejson.SerializerOptions{Strict: true})
	out, _, err := strict.Decode(data, &gvk, into)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.GetObjectKind().SetGroupVersionKind(gvk)
	return out, nil
}

// become makes a changed object, of the version in which it was seen, the request's, with the defaults of what was added.
func (b *Backend) become(ctx context.Context, a *attributes, next runtime.Object) error {
	if a.immutable {
		return errors.New("attempted to modify the object, which is not supported for this operation")
	}
	if a.fixed {
		b.cfg.Table.Default(next)
		a.object = next
		return nil
	}
	stored, err := b.cfg.Table.ToStorage(next)
	if err != nil {
		return err
	}
	changed := runtime.Object(stored)
	if a.res.IsCustom() {
		// In the version of the request again; objects of other kinds are in the storage version.
		if changed, err = b.cfg.Table.In(ctx, a.res, stored, a.gv); err != nil {
			return err
		}
	}
	a.object = changed
	return nil
}

// mergeWith merges an apply configuration, a value of type Object, into an object by the schema of its kind.
func (b *Backend) mergeWith(val ref.Val, obj runtime.Object) (runtime.Object, error) {
	config, ok := val.(*dynamic.ObjectVal)
	if !ok {
		return nil, fmt.Errorf("unsupported return type from ApplyConfiguration expression: %v", val.Type())
	}
	if err := config.CheckTypeNamesMatchFieldPathNames(); err != nil {
		return nil, fmt.Errorf("type mismatch: %w", err)
	}
	content, err := jsonOf(config)
	if err != nil {
		return nil, err
	}
	gvk := obj.GetObjectKind().GroupVersionKind()
	patch := &unstructured.Unstructured{Object: content.(map[string]any)}
	patch.SetGroupVersionKind(gvk)
	next, err := b.merge(patch, obj)
	if err != nil {
		return nil, fmt.Errorf("error applying patch: %w", err)
	}
	if _, custom := obj.(*unstructured.Unstructured); custom {
		return next.DeepCopyObject(), nil // the merge shares what it leaves as it was
	}
	into, err := b.cfg.Table.NewServed(gvk)
	if err != nil {
		return nil, err
	}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(next.Object, into); err != nil {
		return nil, err
	}
	into.GetObjectKind().SetGroupVersionKind(gvk)
	return into, nil
}

func (b *Backend) merge(patch *unstructured.Unstructured, obj runtime.Object) (*unstructured.Unstructured, error) {
	types := b.cfg.Table.TypeConverter()
	typedPatch, err := types.ObjectToTyped(patch)
	if err != nil {
		return nil, fmt.Errorf("failed to convert patch object to typed object: %w", err)
	}
	if paths := atomics(nil, typedPatch.Schema(), typedPatch.TypeRef(), typedPatch.AsValue()); len(paths) > 0 {
		return nil, fmt.Errorf("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: %v", strings.Join(paths, ", "))
	}
	typedObj, err := types.ObjectToTyped(obj, typed.AllowDuplicates)
	if err != nil {
		return nil, fmt.Errorf("failed to convert original object to typed object: %w", err)
	}
	merged, err := typedObj.Merge(typedPatch)
	if err != nil {
		return nil, fmt.Errorf("failed to merge patch: %w", err)
	}
	out, err := types.TypedToObject(merged)
	if err != nil {
		return nil, fmt.Errorf("failed to convert typed object to object: %w", err)
	}
	return out.(*unstructured.Unstructured), nil
}

// atomics are the paths of lists, maps and structs that can only be set as a whole: a configuration that names some of their
// fields would take the others away, which is rarely what was meant. Kubernetes refuses it, too.
func atomics(path fieldpath.Path, s *smdschema.Schema, tr smdschema.TypeRef, v value.Value) (out []string) {
	a, ok := s.Resolve(tr)
	if !ok {
		return nil
	}
	if v.IsMap() && a.Map != nil {
		if a.Map.ElementRelationship == smdschema.Atomic {
			out = append(out, path.String())
		}
		v.AsMap().Iterate(func(key string, each value.Value) bool {
			if f, ok := a.Map.FindField(key); ok {
				out = append(out, atomics(append(path[:len(path):len(path)], fieldpath.PathElement{FieldName: &key}), s, f.Type, each)...)
			}
			return true
		})
	}
	if v.IsList() && a.List != nil {
		if a.List.ElementRelationship == smdschema.Atomic {
			out = append(out, path.String())
		}
		list := v.AsList()
		for i := range list.Length() {
			out = append(out, atomics(append(path[:len(path):len(path)], fieldpath.PathElement{Index: &i}), s, a.List.ElementType, list.At(i))...)
		}
	}
	return out
}
