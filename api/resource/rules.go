package resource

import (
	"context"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Kubernetes' validation works on internal types. A conversion shares the object's memory and costs little; validation
// changes nothing.

// internalAs gives the internal form of a stored object.
func internalAs[I any](obj Object) (*I, error) {
	in := new(I)
	return in, legacyscheme.Scheme.Convert(unshared(obj), in, nil)
}

func conversionFailed(err error) field.ErrorList {
	return field.ErrorList{field.Invalid(field.NewPath("metadata", "annotations"), "", err.Error())}
}

// validate adapts Kubernetes' validation of a new object.
func validate[I any](fn func(*I) field.ErrorList) func(context.Context, Object) field.ErrorList {
	return func(_ context.Context, obj Object) field.ErrorList {
		in, err := internalAs[I](obj)
		if err != nil {
			return conversionFailed(err)
		}
		return fn(in)
	}
}

// validateChange adapts Kubernetes' validation of a changed object.
func validateChange[I any](fn func(in, old *I) field.ErrorList) func(context.Context, Object, Object) field.ErrorList {
	return func(_ context.Context, obj, old Object) field.ErrorList {
		in, err := internalAs[I](obj)
		if err != nil {
			return conversionFailed(err)
		}
		before, err := internalAs[I](old)
		if err != nil {
			return conversionFailed(err)
		}
		return fn(in, before)
	}
}

// warnings adapts Kubernetes' warnings; old is nil on creation.
func warnings[I any](fn func(ctx context.Context, in, old *I) []string) func(context.Context, Object, Object) []string {
	return func(ctx context.Context, obj, old Object) []string {
		in, err := internalAs[I](obj)
		if err != nil {
			return nil
		}
		var before *I
		if old != nil {
			if before, err = internalAs[I](old); err != nil {
				return nil
			}
		}
		return fn(ctx, in, before)
	}
}

// keepGeneration sets the generation of an updated object: clients cannot set it, and it counts changes.
func keepGeneration(obj, old Object, changed bool) {
	generation := old.GetGeneration()
	if changed {
		generation++
	}
	obj.SetGeneration(generation)
}

// differ compares as Kubernetes does: nil and empty are the same, quantities count by value.
func differ(a, b any) bool { return !apiequality.Semantic.DeepEqual(a, b) }

type versionKey struct{}

// WithVersion tells rules the version in which a client speaks; Kubernetes validates Events more strictly in
// events.k8s.io/v1 than in v1.
func WithVersion(ctx context.Context, gv schema.GroupVersion) context.Context {
	return context.WithValue(ctx, versionKey{}, gv)
}

// VersionOf is the version in which the client speaks, or another one when nobody said.
func VersionOf(ctx context.Context, otherwise schema.GroupVersion) schema.GroupVersion {
	return versionOf(ctx, otherwise)
}

func versionOf(ctx context.Context, otherwise schema.GroupVersion) schema.GroupVersion {
	if gv, ok := ctx.Value(versionKey{}).(schema.GroupVersion); ok {
		return gv
	}
	return otherwise
}

// Fields reset by writes of kinds that have a status, for Rules.Reset.
var (
	resetStatus = []fieldpath.Path{fieldpath.MakePathOrDie("status")}
	resetSpec   = []fieldpath.Path{fieldpath.MakePathOrDie("spec")}
)

// specAndStatus is Rules.Reset of most kinds that have both; also names more that the status subresource leaves alone.
func specAndStatus(also ...fieldpath.Path) map[string][]fieldpath.Path {
	return map[string][]fieldpath.Path{"": resetStatus, "status": append(resetSpec[:1:1], also...)}
}

// ResetFilters take what a write through a subresource ("" for the object) never changes out of what an applier owns, in
// the form that the field manager of server-side apply wants: by version.
func (r *Resource) ResetFilters(subresource string) map[fieldpath.APIVersion]fieldpath.Filter {
	owned := r.rules.Updates[subresource].Owned
	if owned == nil {
		return fieldpath.NewExcludeFilterSetMap(r.ResetFields(subresource))
	}
	out := make(map[fieldpath.APIVersion]fieldpath.Filter, len(r.Served))
	for _, gv := range r.Served {
		out[fieldpath.APIVersion(gv.String())] = owned
	}
	return out
}

// ResetFields gives what a write through a subresource ("" for the object) never changes, by version.
func (r *Resource) ResetFields(subresource string) map[fieldpath.APIVersion]*fieldpath.Set {
	if r.custom != nil {
		return r.customReset(subresource)
	}
	paths := r.rules.Reset[subresource]
	if len(paths) == 0 {
		return nil
	}
	out := make(map[fieldpath.APIVersion]*fieldpath.Set, len(r.Served))
	for _, gv := range r.Served {
		out[fieldpath.APIVersion(gv.String())] = fieldpath.NewSet(paths...)
	}
	return out
}
