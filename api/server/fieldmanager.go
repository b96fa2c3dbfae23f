package server

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"unicode"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"sigs.k8s.io/yaml"

	"github.com/whalepod/whalepod/api/resource"
)

// Who owns which field is tracked from an object's first server-side apply on, not before: most objects of a small
// cluster never see one, and the record would double their size and the cost of each write. What an object had before
// then belongs to "before-first-apply", as in Kubernetes for objects older than its tracking.

// fieldManagers makes the field manager of each kind, version and subresource when it is first needed.
type fieldManagers struct {
	mu    sync.Mutex
	byKey map[managerKey]*managedfields.FieldManager
}

// fieldManager is one that is ready to be used. conversion is that of a custom kind.
type fieldManager struct {
	*managedfields.FieldManager
	conversion *customConverter
}

// failure is why a conversion failed, or nil: the field manager hides what kind of error it was.
func (m *fieldManager) failure() error {
	if m.conversion == nil {
		return nil
	}
	return m.conversion.err
}

type managerKey struct {
	res         *resource.Resource
	gv          schema.GroupVersion
	subresource string
}

func (m *fieldManagers) get(ctx context.Context, t *resource.Table, k managerKey) (*fieldManager, error) {
	if k.res.IsCustom() {
		conv := &customConverter{ctx: ctx, converter: converter{t}}
		fm, err := newCustomManager(t, conv, k)
		return &fieldManager{fm, conv}, err
	}
	fm, err := m.shared(t, k)
	return &fieldManager{FieldManager: fm}, err
}

// shared gives a field manager that no request has for itself: those of custom kinds would have to forget former definitions,
// and conversions by a webhook end with the request.
func (m *fieldManagers) shared(t *resource.Table, k managerKey) (*managedfields.FieldManager, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if fm := m.byKey[k]; fm != nil {
		return fm, nil
	}
	conv := converter{t}
	// The hub is not a version that anybody speaks: "whatever the storage version is".
	hub := schema.GroupVersion{Group: k.res.Storage.Group, Version: runtime.APIVersionInternal}
	fm, err := managedfields.NewDefaultFieldManager(t.TypeConverter(), conv, conv, conv, k.gv.WithKind(k.res.Kind), hub, k.subresource,
		k.res.ResetFilters(k.subresource))
	if err != nil {
		return nil, err
	}
	if m.byKey == nil {
		m.byKey = map[managerKey]*managedfields.FieldManager{}
	}
	m.byKey[k] = fm
	return fm, nil
}

// track records who changed what, if the object's fields are tracked at all. current is the caller's own copy.
func (m *fieldManagers) track(rq *request, current, next resource.Object, manager string) (resource.Object, error) {
	if len(current.GetManagedFields()) == 0 {
		next.SetManagedFields(nil)
		return next, nil
	}
	fm, err := m.get(rq.req.Context(), rq.s.Table, managerKey{rq.res, rq.gv, rq.subresource})
	if err != nil {
		return nil, err
	}
	current.GetObjectKind().SetGroupVersionKind(rq.res.GroupVersionKind())
	next.GetObjectKind().SetGroupVersionKind(rq.res.GroupVersionKind())
	out, ok := fm.UpdateNoErrors(current, next, manager).(resource.Object)
	if !ok {
		return nil, fmt.Errorf("field manager of %s lost the object", rq.res.Key())
	}
	return out, nil
}

// apply merges an applied configuration into the current object, or makes the object of it.
func (p *patcher) apply(current resource.Object, force bool) (resource.Object, error) {
	rq := p.rq
	var live runtime.Object = current
	if current == nil {
		if err := p.s.mayCreate(rq); err != nil {
			return nil, err
		}
		// In the client's version: a converted one would have fields that nobody set.
		var err error
		if live, err = p.s.Table.NewServed(rq.kind()); err != nil {
			return nil, err
		}
	} else {
		live.GetObjectKind().SetGroupVersionKind(rq.res.GroupVersionKind())
	}
	config := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal(p.data, &config.Object); err != nil {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
	}
	if rq.res.IsCustom() { // where whole numbers must stay whole, since no Go type says so
		var err error
		if config, _, err = readUnstructured(formatYAML, p.data, false); err != nil {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("error decoding YAML: %v", err))
		}
	}
	fm, err := p.s.managers.get(rq.req.Context(), p.s.Table, managerKey{rq.res, rq.gv, rq.subresource})
	if err != nil {
		return nil, err
	}
	if current != nil && len(current.GetManagedFields()) == 0 {
		live = p.ownLastApplied(fm, current)
	}
	merged, err := fm.Apply(live, config, p.o.manager, force)
	if err != nil {
		if failed := fm.failure(); failed != nil {
			return nil, failed
		}
		if apierrors.ReasonForError(err) != metav1.StatusReasonUnknown {
			return nil, err
		}
		// What does not fit the schema is the client's fault.
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if p.o.validation != metav1.FieldValidationIgnore {
		if err := yaml.UnmarshalStrict(p.data, &map[string]any{}); err != nil {
			if p.o.validation == metav1.FieldValidationStrict {
				return nil, apierrors.NewBadRequest(fmt.Sprintf("error strict decoding YAML: %v", err))
			}
			rq.warnStrict([]error{err})
		}
	}
	next, ok := merged.(resource.Object)
	if !ok {
		return nil, fmt.Errorf("apply of %s gave %T", rq.res.Key(), merged)
	}
	if rq.res.IsCustom() { // others have been through their storage version
		if next, err = p.s.Table.ToStorage(next); err != nil {
			return nil, err
		}
	}
	if current == nil && next.GetUID() != "" {
		return nil, rq.errUID(next)
	}
	if err := fitName(rq, next); err != nil {
		return nil, err
	}
	rq.dedupOwners(next)
	return next, nil
}

// ownLastApplied gives the fields of kubectl's last client-side apply, when there was one, to the manager under which
// Kubernetes would have tracked it. So `kubectl apply --server-side` can take them over, and removes what is no longer in
// the manifest. Everything else belongs to before-first-apply. The object is returned as it is if that cannot be told.
func (p *patcher) ownLastApplied(fm *fieldManager, current resource.Object) runtime.Object {
	data := current.GetAnnotations()[corev1.LastAppliedConfigAnnotation]
	kind := p.rq.kind()
	empty, err := p.s.Table.NewServed(kind)
	if data == "" || err != nil {
		return current
	}
	applied, err := p.decodeApplied([]byte(data), kind)
	if err != nil {
		return current
	}
	// kubectl looks for the owner of the annotation itself and takes over all that this manager owns: it must not be
	// before-first-apply, to whom also a Service's clusterIP belongs.
	if m, ok := applied.(metav1.Object); ok {
		notes := map[string]string{corev1.LastAppliedConfigAnnotation: data}
		maps.Copy(notes, m.GetAnnotations())
		m.SetAnnotations(notes)
	}
	tracked, err := fm.Update(empty, applied, "kubectl-client-side-apply")
	if err != nil {
		return current
	}
	if tracked, err = fm.Update(tracked, current.DeepCopyObject(), "before-first-apply"); err != nil {
		return current
	}
	return tracked
}

// decodeApplied reads kubectl's record of its last apply.
func (p *patcher) decodeApplied(data []byte, kind schema.GroupVersionKind) (runtime.Object, error) {
	if p.rq.res.IsCustom() {
		return p.rq.decodeCustom(formatJSON, data, metav1.FieldValidationIgnore)
	}
	applied, gvk, err := p.s.codecs.loose[formatJSON].Decode(data, nil, nil)
	if err != nil {
		return nil, err
	}
	if *gvk != kind {
		return nil, fmt.Errorf("%s was applied, not %s", gvk, kind)
	}
	applied.GetObjectKind().SetGroupVersionKind(kind)
	return applied, nil
}

// converter lets the field managers convert between the versions that the table serves; runtime.APIVersionInternal stands
// for the storage version.
type converter struct{ t *resource.Table }

// ConvertToVersion implements runtime.ObjectConvertor.
func (c converter) ConvertToVersion(in runtime.Object, to runtime.GroupVersioner) (runtime.Object, error) {
	gvk := in.GetObjectKind().GroupVersionKind()
	want, ok := to.KindForGroupVersionKinds([]schema.GroupVersionKind{gvk})
	if !ok {
		if gv, isGV := to.(schema.GroupVersion); isGV {
			want = gv.WithKind(gvk.Kind)
		} else {
			return nil, runtime.NewNotRegisteredErrForTarget("whalepod", nil, to)
		}
	}
	if u, ok := in.(*unstructured.Unstructured); ok {
		typed, err := c.t.Scheme().New(gvk)
		if err != nil {
			return nil, err
		}
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, typed); err != nil {
			return nil, err
		}
		typed.GetObjectKind().SetGroupVersionKind(gvk)
		in = typed
	}
	if want == gvk {
		return in, nil
	}
	res, ok := c.t.ByKind(gvk)
	if !ok {
		return nil, runtime.NewNotRegisteredErrForKind("whalepod", gvk)
	}
	var stored resource.Object
	var err error
	if gvk.GroupVersion() == res.Storage {
		stored, ok = in.(resource.Object)
		if !ok {
			return nil, fmt.Errorf("%T has no metadata", in)
		}
		if want.Version == runtime.APIVersionInternal {
			// Fields that say the same thing twice are folded (stringData of a Secret).
			return c.t.ToStorage(in)
		}
	} else if stored, err = c.t.ToStorage(in.DeepCopyObject()); err != nil {
		return nil, err
	}
	if want.Version == runtime.APIVersionInternal {
		return stored, nil
	}
	return c.t.FromStorage(stored, want.GroupVersion())
}

// Convert implements runtime.ObjectConvertor.
func (c converter) Convert(in, out, _ any) error { return c.t.Scheme().Convert(in, out, nil) }

// ConvertFieldLabel implements runtime.ObjectConvertor.
func (c converter) ConvertFieldLabel(gvk schema.GroupVersionKind, label, value string) (string, string, error) {
	return c.t.Scheme().ConvertFieldLabel(gvk, label, value)
}

// New implements runtime.ObjectCreater.
func (c converter) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	return c.t.NewServed(gvk)
}

// Default implements runtime.ObjectDefaulter.
func (c converter) Default(obj runtime.Object) { c.t.Default(obj) }

// managerOf makes a field manager's name of a User-Agent: what is before the first slash, as far as it is printable.
func managerOf(agent string) string {
	name, _, _ := strings.Cut(agent, "/")
	name = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(name))
	for len(name) > metavalidation.FieldManagerMaxLength {
		r := []rune(name)
		name = string(r[:len(r)-1])
	}
	if name == "" {
		return "unknown"
	}
	return name
}
