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
	last     atomic.Pointer[hooks]
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

// check makes the registry ask validating webhooks before it writes.
func (b *Backend) check(hs *hooks, a *attributes) func(context.Context, resource.Object, resource.Object) error {
	return func(ctx context.Context, obj, old resource.Object) error {
		v := a.of(obj, old)
		if old == nil {
			v.operation = admissionv1.Create
		}
		return b.validate(ctx, hs.validating, v)
	}
}

// Create implements server.Backend.
func (b *Backend) Create(ctx context.Context, r *resource.Resource, namespace string, obj resource.Object, o server.WriteOptions) (resource.Object, error) {
	hs := b.current()
	if exempt(r) || len(hs.mutating)+len(hs.validating) == 0 {
		return b.Backend.Create(ctx, r, namespace, obj, o)
	}
	a := newAttributes(ctx, admissionv1.Create, r, "", namespace, obj.GetName(), &o)
	if anyConcerns(hs.mutating, a) {
		var err error
		if obj, err = b.mutate(ctx, hs.mutating, a.of(obj, nil)); err != nil {
			return nil, err
		}
	}
	if anyConcerns(hs.validating, a) {
		o.Check = b.check(hs, a)
	}
	return b.Backend.Create(ctx, r, namespace, obj, o)
}

// Update implements server.Backend. The mutating webhooks are part of the change: the backend asks for it again when the
// object is another meanwhile, and not while it holds anybody up.
func (b *Backend) Update(ctx context.Context, r *resource.Resource, sub, namespace, name string, o server.UpdateOptions,
	change func(resource.Object) (resource.Object, error),
) (resource.Object, bool, error) {
	hs := b.current()
	if exempt(r) || len(hs.mutating)+len(hs.validating) == 0 {
		return b.Backend.Update(ctx, r, sub, namespace, name, o, change)
	}
	update := newAttributes(ctx, admissionv1.Update, r, sub, namespace, name, &o.WriteOptions)
	create := newAttributes(ctx, admissionv1.Create, r, sub, namespace, name, &o.WriteOptions)
	mutates := anyConcerns(hs.mutating, update) || o.CreateOnUpdate && anyConcerns(hs.mutating, create)
	validates := anyConcerns(hs.validating, update) || o.CreateOnUpdate && anyConcerns(hs.validating, create)
	if !mutates && !validates {
		return b.Backend.Update(ctx, r, sub, namespace, name, o, change)
	}
	o.CallsOut = true
	if validates {
		o.Check = b.check(hs, update)
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
		return b.mutate(ctx, hs.mutating, a.of(next, old))
	})
}

// Delete implements server.Backend. The object that webhooks were asked about is the one that goes.
func (b *Backend) Delete(ctx context.Context, r *resource.Resource, namespace, name string, o server.DeleteOptions) (resource.Object, bool, error) {
	hs := b.current()
	if exempt(r) || len(hs.mutating)+len(hs.validating) == 0 {
		return b.Backend.Delete(ctx, r, namespace, name, o)
	}
	a := newAttributes(ctx, admissionv1.Delete, r, "", namespace, name, &o.WriteOptions)
	if !anyConcerns(hs.mutating, a) && !anyConcerns(hs.validating, a) {
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

// askBoth asks about something that cannot be changed.
func (b *Backend) askBoth(ctx context.Context, hs *hooks, a *attributes) error {
	if _, err := b.mutate(ctx, hs.mutating, a); err != nil {
		return err
	}
	return b.validate(ctx, hs.validating, a)
}

// DeleteCollection implements server.Backend.
func (b *Backend) DeleteCollection(ctx context.Context, r *resource.Resource, q server.ListQuery, o server.DeleteOptions) ([]resource.Object, error) {
	hs := b.current()
	a := newAttributes(ctx, admissionv1.Delete, r, "", q.Namespace, "", &o.WriteOptions)
	if exempt(r) || !anyConcerns(hs.mutating, a) && !anyConcerns(hs.validating, a) {
		return b.Backend.DeleteCollection(ctx, r, q, o)
	}
	return server.DeleteEach(ctx, b, r, q, o)
}

// Act implements server.Backend.
func (b *Backend) Act(ctx context.Context, r *resource.Resource, sub, namespace, name string, body runtime.Object, o server.WriteOptions) (runtime.Object, error) {
	hs := b.current()
	a := newAttributes(ctx, admissionv1.Create, r, sub, namespace, name, &o)
	a.object, a.fixed = body, true
	if !exempt(r) && (anyConcerns(hs.mutating, a) || anyConcerns(hs.validating, a)) {
		if kind, ok := r.SubresourceIn(a.gv, sub); ok && body.GetObjectKind().GroupVersionKind().Empty() {
			a.object = body.DeepCopyObject()
			a.object.GetObjectKind().SetGroupVersionKind(kind.Kind)
		}
		if err := b.askBoth(ctx, hs, a); err != nil {
			return nil, err
		}
	}
	return b.Backend.Act(ctx, r, sub, namespace, name, body, o)
}
