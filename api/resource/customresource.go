package resource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apimachinery/pkg/version"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/whalepod/whalepod/api/resource/custom"
)

// Custom kinds are kinds like others, over unstructured objects: CustomResourceDefinitions become Resources with rules of
// their own, and the table has them beside those that it was made with. When a definition changes, its kind gets a new
// Resource; whoever still works with the old one is told by Gone.

// customKinds are those that SetCustom was last given; the lock is for those who set.
type customKinds struct {
	mu    sync.Mutex
	byKey map[string]*Resource
}

// SetCustom serves the kinds of these definitions, and no other custom ones. Definitions whose names are not accepted are
// passed over, and so are those of kinds that are served anyway. It returns what is new, to be settled (Settle), and the
// errors of definitions that cannot be served.
func (t *Table) SetCustom(definitions []*apiextensionsv1.CustomResourceDefinition) (changed []*Resource, errs []error) {
	t.custom.mu.Lock()
	defer t.custom.mu.Unlock()
	next, noted := map[string]*Resource{}, false
	for _, crd := range definitions {
		if !custom.Served(crd) {
			continue
		}
		key := crd.Status.AcceptedNames.Plural + "." + crd.Spec.Group
		if _, builtin := t.builtin.byKey[key]; builtin || t.overlaps(crd) {
			errs = append(errs, fmt.Errorf("%s: a kind of this name is built in", crd.Name))
			continue
		}
		if old := t.custom.byKey[key]; old != nil && old.custom.Same(crd) {
			if next[key] = old; old.custom.Note(crd) {
				next[key] = customResource(old.custom) // the same kind with other verbs: who watches it goes on
				noted = true
			}
			continue
		}
		kind, err := custom.New(crd)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		next[key] = customResource(kind)
		changed = append(changed, next[key])
	}
	if len(changed) == 0 && !noted && len(next) == len(t.custom.byKey) {
		return nil, errs
	}
	old := t.custom.byKey
	t.custom.byKey = next
	t.current.Store(t.withCustom(next))
	for key, r := range old {
		if !r.SameDefinition(next[key]) {
			r.custom.Retire()
		}
	}
	return changed, errs
}

// overlaps says whether a kind of this package already has the kind or the plural in a version of the definition.
func (t *Table) overlaps(crd *apiextensionsv1.CustomResourceDefinition) bool {
	for _, v := range crd.Spec.Versions {
		gv := schema.GroupVersion{Group: crd.Spec.Group, Version: v.Name}
		if t.builtin.byKind[gv.WithKind(crd.Status.AcceptedNames.Kind)] != nil || t.builtin.byName[gv.WithResource(crd.Status.AcceptedNames.Plural)] != nil {
			return true
		}
	}
	return false
}

// withCustom is what is served with these custom kinds.
func (t *Table) withCustom(kinds map[string]*Resource) *kindSet {
	if len(kinds) == 0 {
		return t.builtin
	}
	s := &kindSet{
		all: slices.Clone(t.builtin.all), served: slices.Clone(t.builtin.served), versions: slices.Clone(t.builtin.versions),
		byKey: maps.Clone(t.builtin.byKey), byKind: maps.Clone(t.builtin.byKind), byName: maps.Clone(t.builtin.byName),
	}
	for _, key := range slices.Sorted(maps.Keys(kinds)) {
		s.add(kinds[key])
		s.all = append(s.all, kinds[key])
	}
	slices.SortStableFunc(s.versions, t.compareVersions)
	return s
}

// SameDefinition says whether two Resources (the other may be nil) were made of the same state of a definition.
func (r *Resource) SameDefinition(other *Resource) bool {
	return other != nil && r.custom == other.custom
}

// IsCustom says that a CustomResourceDefinition describes the kind: its objects are unstructured.
func (r *Resource) IsCustom() bool { return r.custom != nil }

// Terminating says that the kind's definition is being deleted: no more objects can be made.
func (r *Resource) Terminating() bool { return r.custom != nil && r.custom.Terminating() }

// Gone is closed when the kind's definition has changed or gone; nil for kinds that stay.
func (r *Resource) Gone() <-chan struct{} {
	if r.custom == nil {
		return nil
	}
	return r.custom.Gone()
}

// Settle tells a custom kind from which revision on every object was written by the rules of this Resource.
func (r *Resource) Settle(revision int64) {
	if r.custom != nil {
		r.custom.Settle(revision)
	}
}

// Deprecated is the warning for those who use a version that its definition calls deprecated; "" for others.
func (r *Resource) Deprecated(gv schema.GroupVersion) string {
	if r.custom == nil {
		return ""
	}
	v, ok := r.custom.Version(gv.Version)
	if !ok || !v.Spec.Deprecated {
		return ""
	}
	if v.Spec.DeprecationWarning != nil {
		return *v.Spec.DeprecationWarning
	}
	msg := fmt.Sprintf("%s %s is deprecated", gv, r.Kind)
	var better []string
	for _, other := range r.custom.Definition.Spec.Versions {
		if other.Served && !other.Deprecated && version.CompareKubeAwareVersionStrings(other.Name, gv.Version) > 0 {
			better = append(better, other.Name)
		}
	}
	if len(better) > 0 {
		best := slices.MaxFunc(better, version.CompareKubeAwareVersionStrings)
		msg += fmt.Sprintf("; use %s/%s %s", gv.Group, best, r.Kind)
	}
	return msg
}

// customResource makes the kind of a definition.
func customResource(k *custom.Kind) *Resource {
	group := k.Definition.Spec.Group
	r := &Resource{
		Name: k.Names.Plural, Singular: k.Names.Singular, Kind: k.Names.Kind, ListKind: k.Names.ListKind,
		ShortNames: k.Names.ShortNames, Categories: k.Names.Categories, Namespaced: k.Namespaced(),
		Storage: k.Storage.GVK.GroupVersion(), Subresources: map[string]Subresource{}, Verbs: allVerbs, custom: k,
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
	r.rules = customRules(k)
	return r
}

// customRules are those of Kubernetes' strategy for custom resources.
func customRules(k *custom.Kind) Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			if k.Storage.HasStatus() {
				delete(content(obj), "status")
			}
			obj.SetGeneration(1)
		},
		PrepareUpdate: func(obj, old Object) {
			if k.Storage.HasStatus() {
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
			v, u, err := spoken(ctx, k, obj)
			if err != nil {
				return field.ErrorList{field.InternalError(nil, err)}
			}
			return v.Validate(ctx, u)
		},
		ValidateUpdate: validateCustomChange(k, (*custom.Version).ValidateUpdate),
		ValidateStatus: validateCustomChange(k, (*custom.Version).ValidateStatus),
		Warnings: func(_ context.Context, obj, old Object) []string {
			before, _ := old.(*unstructured.Unstructured)
			return custom.Warnings(obj.(*unstructured.Unstructured), before)
		},
		Fields: func(obj Object) map[string]string { return k.Fields(obj.(*unstructured.Unstructured)) },
		Reset:  customReset(k),
	}
}

func customReset(k *custom.Kind) map[string][]fieldpath.Path {
	if !k.Storage.HasStatus() {
		return nil
	}
	return map[string][]fieldpath.Path{"": resetStatus, "status": append(resetSpec[:1:1], fieldpath.MakePathOrDie("metadata"))}
}

func validateCustomChange(k *custom.Kind, validate func(*custom.Version, context.Context, *unstructured.Unstructured, *unstructured.Unstructured) field.ErrorList,
) func(context.Context, Object, Object) field.ErrorList {
	return func(ctx context.Context, obj, old Object) field.ErrorList {
		v, u, err := spoken(ctx, k, obj)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		_, before, err := spoken(ctx, k, old)
		if err != nil {
			return field.ErrorList{field.InternalError(nil, err)}
		}
		return validate(v, ctx, u, before)
	}
}

// spoken gives an object in the version that the client speaks, whose schema is the one to hold it to.
func spoken(ctx context.Context, k *custom.Kind, obj Object) (*custom.Version, *unstructured.Unstructured, error) {
	gv := versionOf(ctx, k.Storage.GVK.GroupVersion())
	v, ok := k.Version(gv.Version)
	if !ok {
		v = k.Storage
	}
	u, err := k.FromStorage(obj.(*unstructured.Unstructured), v.GVK.Version)
	return v, u, err
}

func content(obj Object) map[string]any { return obj.(*unstructured.Unstructured).Object }

// copyField makes a field what it is in old.
func copyField(obj, old Object, name string) {
	if value, ok := content(old)[name]; ok {
		content(obj)[name] = runtime.DeepCopyJSONValue(value)
	} else {
		delete(content(obj), name)
	}
}

// withoutMeta is what counts for the generation.
func withoutMeta(obj Object) map[string]any {
	out := maps.Clone(content(obj))
	delete(out, "metadata")
	delete(out, "apiVersion") // of the version that it was written in
	return out
}

func newUnstructured(gvk schema.GroupVersionKind) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{}}
	u.SetGroupVersionKind(gvk)
	return u
}

func (t *Table) defaultCustom(u *unstructured.Unstructured) {
	if r, ok := t.customOf(u); ok {
		_ = r.custom.Default(u) // a schema that cannot be used is found by validation
	}
}

// customOf finds the kind of an object, whose version need not be served any more.
func (t *Table) customOf(u *unstructured.Unstructured) (*Resource, bool) {
	gvk := u.GroupVersionKind()
	set := t.current.Load()
	if r, ok := set.byKind[gvk]; ok {
		return r, r.custom != nil
	}
	for _, r := range set.all {
		if r.custom != nil && r.Kind == gvk.Kind && r.Storage.Group == gvk.Group {
			return r, true
		}
	}
	return nil, false
}

// Of finds the resource of an unstructured object.
func (t *Table) Of(u *unstructured.Unstructured) (*Resource, bool) { return t.customOf(u) }

func (r *Resource) customToStorage(obj runtime.Object) (Object, error) {
	u, ok := obj.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("%T is not an unstructured object", obj)
	}
	return r.custom.ToStorage(u)
}

func (t *Table) customFromStorage(u *unstructured.Unstructured, gv schema.GroupVersion) (runtime.Object, error) {
	r, ok := t.customOf(u)
	if !ok {
		return nil, notServed(u.GroupVersionKind())
	}
	return r.custom.FromStorage(u, gv.Version)
}

// Stored gives a stored object as the rules of its kind want it: in the storage version. Only those of custom kinds may have
// been written in another; the result is obj itself wherever possible.
func (r *Resource) Stored(obj Object) (Object, error) {
	if r.custom == nil {
		return obj, nil
	}
	return r.custom.FromStorage(obj.(*unstructured.Unstructured), r.Storage.Version)
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

// setCustomReplicas writes where the client's version has them, and then to the storage version again.
func (r *Resource) setCustomReplicas(obj Object, gv schema.GroupVersion, n int32) error {
	v, ok := r.custom.Version(gv.Version)
	if !ok {
		return notServed(gv.WithKind(r.Kind))
	}
	u := obj.(*unstructured.Unstructured)
	in, err := r.custom.FromStorage(u, gv.Version)
	if err != nil {
		return err
	}
	if err := v.SetReplicas(in, n); err != nil {
		return err
	}
	out, err := r.custom.ToStorage(in)
	if err == nil {
		u.Object = out.Object
	}
	return err
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
