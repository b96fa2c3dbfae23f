package resource

import (
	"fmt"
	"maps"
	"slices"
	"sync"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/version"

	"github.com/whalepod/whalepod/api/resource/custom"
)

// Custom kinds are kinds like others, over unstructured objects: CustomResourceDefinitions become Resources with rules of
// their own, and the table has them beside those that it was made with. When a definition changes, its kind gets a new
// Resource; whoever still works with the old one is told by Gone.

// Each served version has a Resource of its own, whose rules and objects are of that version: so a request is carried out in
// the version that the client speaks, from the first look at the body to the selectors of a watch, as in Kubernetes. What the
// registry keeps is converted on the way in and out (Read, Write).

// customKinds are those that SetCustom was last given; the lock is for those who set.
type customKinds struct {
	mu      sync.Mutex
	byKey   map[string]*Resource
	connect custom.Connect
}

// ConvertBy tells how the conversion webhooks of definitions are reached. It is for the start, before SetCustom.
func (t *Table) ConvertBy(connect custom.Connect) { t.custom.connect = connect }

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
		kind, err := custom.New(crd, t.custom.connect)
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
		for _, r := range kinds[key].inVersions {
			s.byKind[r.GroupVersionKind()] = r
			s.byName[r.Storage.WithResource(r.Name)] = r
		}
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
