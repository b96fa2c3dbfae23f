package admission

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/webhook"
)

// deleteTries is how often a deletion is asked about when the object is replaced meanwhile.
const deleteTries = 3

// Config of a Backend.
type Config struct {
	Registry *registry.Registry
	Table    *resource.Table
	// DialService connects to one of a Service's endpoints.
	DialService webhook.Dial
	// Authorize answers the questions that expressions ask about rights; nil for never.
	Authorize func(u server.User, a server.Attributes) (allowed bool, reason string)
	Logger    *slog.Logger
}

// Backend asks webhooks about what comes through it. Without a configuration it does nothing: that there is none costs a
// request a few pointers' comparison.
type Backend struct {
	server.Backend
	cfg      Config
	log      *slog.Logger
	last     atomic.Pointer[state]
	building sync.Mutex
	// callers by what they are made from; guarded by building.
	callers map[webhook.ID]*caller
}

// New puts webhooks before a backend.
func New(b server.Backend, cfg Config) *Backend {
	return &Backend{Backend: b, cfg: cfg, log: cfg.Logger.With("component", "admission")}
}

// exempt: who could refuse changes to webhook configurations could not be got rid of.
func exempt(r *resource.Resource) bool { return r.Storage.Group == admissionv1.GroupName }

func newAttributes(ctx context.Context, op admissionv1.OperationType, r *resource.Resource, sub, namespace, name string, o *server.WriteOptions) *attributes {
	if !r.Namespaced {
		namespace = ""
	}
	a := &attributes{
		operation: op, res: r, sub: sub, gv: resource.VersionOf(ctx, r.Storage), namespace: namespace, name: name,
		user: o.User, dryRun: o.DryRun, warn: o.Warn,
	}
	if r.AsksWebhook() {
		a.conversions = &conversions{}
	}
	return a
}

// of gives the attributes objects; the name of a new object is its own.
func (a *attributes) of(obj, old resource.Object) *attributes {
	next := *a
	next.object, next.old = copied(obj), copied(old)
	if obj != nil && obj.GetName() != "" {
		next.name = obj.GetName()
	}
	return &next
}

// shown gives the attributes objects as the subresource shows them that is written through; as is nil for the objects
// themselves.
func (a *attributes) shown(as *server.Facet, obj, old resource.Object) (*attributes, error) {
	next := a.of(obj, old)
	if as == nil {
		return next, nil
	}
	next.fixed = true
	var err error
	if next.object, err = as.Show(obj); err == nil && old != nil {
		next.old, err = as.Show(old)
	}
	return next, err
}

// check makes the registry ask who validates before it writes.
func (b *Backend) check(hs *state, a *attributes, as *server.Facet) func(context.Context, resource.Object, resource.Object) error {
	return func(ctx context.Context, obj, old resource.Object) error {
		v, err := a.shown(as, obj, old)
		if err != nil {
			return err
		}
		if old == nil {
			v.operation = admissionv1.Create
		}
		return b.validate(ctx, hs, v)
	}
}

// Create implements server.Backend.
func (b *Backend) Create(ctx context.Context, r *resource.Resource, namespace string, obj resource.Object, o server.WriteOptions) (resource.Object, error) {
	hs := b.current()
	if exempt(r) {
		o.Check = b.mayRead(r, &o)
		return b.Backend.Create(ctx, r, namespace, obj, o)
	}
	if hs.none(r) {
		return b.Backend.Create(ctx, r, namespace, obj, o)
	}
	a := newAttributes(ctx, admissionv1.Create, r, "", namespace, obj.GetName(), &o)
	if hs.mutates(a) {
		v := a.of(obj, nil)
		if err := b.mutate(ctx, hs, v); err != nil {
			return nil, err
		}
		obj = v.object.(resource.Object)
	}
	if hs.validates(a) {
		o.Check = b.check(hs, a, nil)
	}
	return b.Backend.Create(ctx, r, namespace, obj, o)
}

// Update implements server.Backend. What mutates is part of the change: the backend asks for it again when the object is
// another meanwhile, and not while it holds anybody up.
func (b *Backend) Update(ctx context.Context, r *resource.Resource, sub, namespace, name string, o server.UpdateOptions,
	change func(resource.Object) (resource.Object, error),
) (resource.Object, bool, error) {
	hs := b.current()
	if exempt(r) && sub == "" {
		o.Check = b.mayRead(r, &o.WriteOptions)
		o.CallsOut = o.Check != nil // so that it is called
	}
	if hs.none(r) {
		return b.Backend.Update(ctx, r, sub, namespace, name, o, change)
	}
	as := sub
	if o.As != nil {
		as = o.As.Subresource
	}
	update := newAttributes(ctx, admissionv1.Update, r, as, namespace, name, &o.WriteOptions)
	create := newAttributes(ctx, admissionv1.Create, r, as, namespace, name, &o.WriteOptions)
	mutates := hs.mutates(update) || o.CreateOnUpdate && hs.mutates(create)
	validates := hs.validates(update) || o.CreateOnUpdate && hs.validates(create)
	if !mutates && !validates {
		return b.Backend.Update(ctx, r, sub, namespace, name, o, change)
	}
	o.CallsOut = true
	if validates {
		o.Check = b.check(hs, update, o.As)
	}
	if !mutates {
		return b.Backend.Update(ctx, r, sub, namespace, name, o, change)
	}
	return b.Backend.Update(ctx, r, sub, namespace, name, o, func(current resource.Object) (resource.Object, error) {
		a, old := create, resource.Object(nil)
		if current != nil {
			a, old = update, current.DeepCopyObject().(resource.Object) // current is the change's own to write to
		}
		next, err := change(current)
		if err != nil {
			return nil, err
		}
		v, err := a.shown(o.As, next, old)
		if err != nil {
			return nil, err
		}
		before := v.object
		if err := b.mutate(ctx, hs, v); err != nil || v.object == before {
			return next, err
		}
		if o.As != nil {
			return o.As.Take(next, v.object)
		}
		return v.object.(resource.Object), nil
	})
}

// Delete implements server.Backend. The object that was asked about is the one that goes.
func (b *Backend) Delete(ctx context.Context, r *resource.Resource, namespace, name string, o server.DeleteOptions) (resource.Object, bool, error) {
	hs := b.current()
	if hs.none(r) {
		return b.Backend.Delete(ctx, r, namespace, name, o)
	}
	a := newAttributes(ctx, admissionv1.Delete, r, "", namespace, name, &o.WriteOptions)
	if !hs.concerns(a) {
		return b.Backend.Delete(ctx, r, namespace, name, o)
	}
	for try := 1; ; try++ {
		old, err := b.Get(ctx, r, namespace, name, "")
		if err != nil {
			return nil, false, err
		}
		if err := b.askBoth(ctx, hs, a.of(nil, old)); err != nil {
			return nil, false, err
		}
		each := o
		if each.UID == nil {
			uid := old.GetUID()
			each.UID = &uid
		}
		obj, done, err := b.Backend.Delete(ctx, r, namespace, name, each)
		if apierrors.IsConflict(err) && o.UID == nil && o.ResourceVersion == nil && try < deleteTries {
			continue
		}
		return obj, done, err
	}
}

// askBoth asks who mutates and who validates about something that nobody writes.
func (b *Backend) askBoth(ctx context.Context, hs *state, a *attributes) error {
	if err := b.mutate(ctx, hs, a); err != nil {
		return err
	}
	return b.validate(ctx, hs, a)
}

// DeleteCollection implements server.Backend.
func (b *Backend) DeleteCollection(ctx context.Context, r *resource.Resource, q server.ListQuery, o server.DeleteOptions) ([]resource.Object, error) {
	hs := b.current()
	a := newAttributes(ctx, admissionv1.Delete, r, "", q.Namespace, "", &o.WriteOptions)
	a.anyName = true
	if exempt(r) || !hs.concerns(a) {
		return b.Backend.DeleteCollection(ctx, r, q, o)
	}
	return server.DeleteEach(ctx, b, r, q, o)
}

// Act implements server.Backend.
func (b *Backend) Act(ctx context.Context, r *resource.Resource, sub, namespace, name string, body runtime.Object, o server.WriteOptions) (runtime.Object, error) {
	hs := b.current()
	a := newAttributes(ctx, admissionv1.Create, r, sub, namespace, name, &o)
	a.object, a.fixed = body, true
	if !exempt(r) && hs.concerns(a) {
		if kind, ok := r.SubresourceIn(a.gv, sub); ok && body.GetObjectKind().GroupVersionKind().Empty() {
			a.object = body.DeepCopyObject()
			a.object.GetObjectKind().SetGroupVersionKind(kind.Kind)
		}
		if err := b.askBoth(ctx, hs, a); err != nil {
			return nil, err
		}
		body = a.object
	}
	return b.Backend.Act(ctx, r, sub, namespace, name, body, o)
}
