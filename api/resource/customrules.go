package resource

import (
	"context"
	"maps"
	"slices"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/whalepod/whalepod/api/resource/custom"
)

// customResource makes the kind of a definition: the Resource of the version in which objects are kept, and with it those of
// the others.
func customResource(k *custom.Kind) *Resource {
	r := customVersion(k, k.Storage)
	for _, gv := range r.Served {
		if v, _ := k.Version(gv.Version); v != k.Storage {
			r.inVersions = append(r.inVersions, customVersion(k, v))
		}
	}
	return r
}

func customVersion(k *custom.Kind, of *custom.Version) *Resource {
	group := k.Definition.Spec.Group
	r := &Resource{
		Name: k.Names.Plural, Singular: k.Names.Singular, Kind: k.Names.Kind, ListKind: k.Names.ListKind,
		ShortNames: k.Names.ShortNames, Categories: k.Names.Categories, Namespaced: k.Namespaced(),
		Storage: of.GVK.GroupVersion(), Subresources: map[string]Subresource{}, Verbs: allVerbs, custom: k,
	}
	if k.Terminating() {
		r.Verbs = []string{"delete", "deletecollection", "get", "list", "watch"}
	}
	var status, scale []schema.GroupVersion
	for _, spec := range k.Definition.Spec.Versions {
		if !spec.Served {
			continue
		}
		gv := schema.GroupVersion{Group: group, Version: spec.Name}
		r.Served = append(r.Served, gv)
		v, _ := k.Version(spec.Name)
		if v.HasStatus() {
			status = append(status, gv)
		}
		if v.HasScale() {
			scale = append(scale, gv)
		}
	}
	slices.SortStableFunc(r.Served, func(a, b schema.GroupVersion) int {
		return version.CompareKubeAwareVersionStrings(b.Version, a.Version)
	})
	if len(status) > 0 {
		r.Subresources["status"] = Subresource{Kind: r.GroupVersionKind(), Verbs: readWrite, Only: status}
	}
	if len(scale) > 0 {
		r.Subresources["scale"] = Subresource{Kind: autoscaleV1.WithKind("Scale"), Verbs: readWrite, Only: scale}
	}
	r.rules = customRules(of)
	return r
}

// customRules are those of Kubernetes' strategy for custom resources, on objects of one version.
func customRules(v *custom.Version) Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			if v.HasStatus() {
				delete(fieldsOf(obj), "status")
			}
			obj.SetGeneration(1)
		},
		PrepareUpdate: func(obj, old Object) {
			if v.HasStatus() {
				copyField(obj, old, "status")
			}
			keepGeneration(obj, old, !apiequality.Semantic.DeepEqual(withoutMeta(obj), withoutMeta(old)))
		},
		PrepareStatus: func(obj, old Object) {
			u := obj.(*unstructured.Unstructured)
			status, has := u.Object["status"]
			owned := u.GetManagedFields()
			u.Object = old.(*unstructured.Unstructured).DeepCopy().Object
			u.SetManagedFields(owned)
			if has {
				u.Object["status"] = status
			} else {
				delete(u.Object, "status")
			}
		},
		Validate: func(ctx context.Context, obj Object) field.ErrorList {
			return v.Validate(ctx, obj.(*unstructured.Unstructured))
		},
		ValidateUpdate: func(ctx context.Context, obj, old Object) field.ErrorList {
			return v.ValidateUpdate(ctx, obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
		},
		ValidateStatus: func(ctx context.Context, obj, old Object) field.ErrorList {
			return v.ValidateStatus(ctx, obj.(*unstructured.Unstructured), old.(*unstructured.Unstructured))
		},
		Warnings: func(_ context.Context, obj, old Object) []string {
			before, _ := old.(*unstructured.Unstructured)
			return custom.Warnings(obj.(*unstructured.Unstructured), before)
		},
		Fields: func(obj Object) map[string]string { return v.Fields(obj.(*unstructured.Unstructured)) },
	}
}

// customReset names, by version, what a write through a subresource never changes: in versions that have a status.
func (r *Resource) customReset(subresource string) map[fieldpath.APIVersion]*fieldpath.Set {
	paths := map[string][]fieldpath.Path{"": resetStatus, "status": append(resetSpec[:1:1], fieldpath.MakePathOrDie("metadata"))}[subresource]
	out := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, spec := range r.custom.Definition.Spec.Versions {
		if v, _ := r.custom.Version(spec.Name); v.HasStatus() && len(paths) > 0 {
			out[fieldpath.APIVersion(v.GVK.GroupVersion().String())] = fieldpath.NewSet(paths...)
		}
	}
	return out
}

func fieldsOf(obj Object) map[string]any { return obj.(*unstructured.Unstructured).Object }

// copyField makes a field what it is in old.
func copyField(obj, old Object, name string) {
	if value, ok := fieldsOf(old)[name]; ok {
		fieldsOf(obj)[name] = runtime.DeepCopyJSONValue(value)
	} else {
		delete(fieldsOf(obj), name)
	}
}

// withoutMeta is what counts for the generation.
func withoutMeta(obj Object) map[string]any {
	out := maps.Clone(fieldsOf(obj))
	delete(out, "metadata")
	delete(out, "apiVersion") // of the version that it was written in
	return out
}
