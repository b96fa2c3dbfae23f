package gc

import (
	"context"
	"log/slog"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "garbage-collector"
	workers   = 4
	// burst is how many dependents one transaction treats at most.
	burst = 200
	// byOwner is the resource of keys that name a UID that is gone, rather than an object.
	byOwner = "#owner"
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller collects garbage.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, log: cfg.Logger.With("component", component)}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Keys: c.keys, All: c.all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) all(v *registry.View, add func(controller.Key)) {
	for _, r := range c.registry.Table().All() { // custom kinds come and go
		kind := r.Key()
		for obj := range v.Reader.List(kind, "", registry.Key{}) {
			if c.judge(v, obj, "").action > nothing {
				add(registry.Key{Resource: kind, Namespace: obj.GetNamespace(), Name: obj.GetName()})
			}
		}
	}
}

// keys: objects whose references or deletion are new and call for something, dependents of what has gone, and owners that
// waited for it.
func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	if e.Deleted {
		if c.hasDependents(v, e.Object) {
			add(registry.Key{Resource: byOwner, Name: string(e.Object.GetUID())})
		}
		c.wakeOwners(v, e.Object, add)
		return
	}
	refs := e.Object.GetOwnerReferences()
	news := e.Prev == nil || e.Object.GetDeletionTimestamp() != nil || !slices.EqualFunc(refs, e.Prev.GetOwnerReferences(), sameRef)
	if !news || len(refs) == 0 && e.Object.GetDeletionTimestamp() == nil {
		return
	}
	if e.Prev != nil && len(e.Prev.GetOwnerReferences()) > 0 {
		c.wakeOwners(v, e.Prev, add) // one of them may have waited for this reference to go
	}
	if c.judge(v, e.Object, "").action > nothing {
		add(e.Key)
	}
}

func sameRef(a, b metav1.OwnerReference) bool {
	return a.UID == b.UID && (a.BlockOwnerDeletion != nil && *a.BlockOwnerDeletion) == (b.BlockOwnerDeletion != nil && *b.BlockOwnerDeletion)
}

func (c *Controller) wakeOwners(v *registry.View, obj registry.Object, add func(controller.Key)) {
	for _, ref := range obj.GetOwnerReferences() {
		if key, ok := c.keyOf(ref, obj.GetNamespace()); ok && c.ownerState(v, ref, obj.GetNamespace(), "") == waiting {
			add(key)
		}
	}
}

// keyOf resolves a reference; false for kinds that are not served.
func (c *Controller) keyOf(ref metav1.OwnerReference, namespace string) (registry.Key, bool) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return registry.Key{}, false
	}
	r, ok := c.registry.Table().ByKind(gv.WithKind(ref.Kind))
	if !ok {
		return registry.Key{}, false
	}
	if !r.Namespaced {
		namespace = ""
	} else if namespace == "" {
		return registry.Key{}, false // a cluster's object cannot be owned by a namespaced one
	}
	return registry.Key{Resource: r.Key(), Namespace: namespace, Name: ref.Name}, true
}

// ownerState: gone is the UID of an owner that is known to have gone, whether its kind is served any more or not; UIDs never come back.
func (c *Controller) ownerState(v registry.Viewer, ref metav1.OwnerReference, namespace string, gone types.UID) ownerState {
	key, ok := c.keyOf(ref, namespace)
	if !ok {
		if ref.UID == gone && !c.served(ref) {
			return absent
		}
		return solid
	}
	owner, err := registry.Lookup(v, key)
	switch {
	case apierrors.IsNotFound(err), err == nil && owner.GetUID() != ref.UID:
		return absent
	case err != nil:
		return solid
	case owner.GetDeletionTimestamp() != nil && hasFinalizer(owner, metav1.FinalizerDeleteDependents):
		return waiting
	}
	return solid
}

func (c *Controller) served(ref metav1.OwnerReference) bool {
	_, ok := c.registry.Table().ByKind(schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind))
	return ok
}

func (c *Controller) judge(v registry.Viewer, obj registry.Object, gone types.UID) verdict {
	return judge(obj,
		func(ref metav1.OwnerReference) ownerState { return c.ownerState(v, ref, obj.GetNamespace(), gone) },
		func() []registry.Object { return c.dependents(v, obj, 0) })
}

func (c *Controller) hasDependents(v registry.Viewer, owner registry.Object) bool {
	return len(c.dependents(v, owner, 1)) > 0
}

// dependents are the objects that refer to an owner, at most limit (0: all).
func (c *Controller) dependents(v registry.Viewer, owner registry.Object, limit int) []registry.Object {
	return c.byUID(v, string(owner.GetUID()), limit)
}

func (c *Controller) byUID(v registry.Viewer, uid string, limit int) (out []registry.Object) {
	for _, r := range c.registry.Table().All() {
		for obj := range registry.IndexedObjects(v, r.Key(), registry.IndexOwner, uid) {
			if out = append(out, obj); len(out) == limit {
				return out
			}
		}
	}
	return out
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	more := false
	err := c.registry.Transact(ctx, func(tx *registry.Tx) (err error) {
		if key.Resource == byOwner {
			more, err = c.collect(tx, key.Name)
			return err
		}
		obj, err := registry.Lookup(tx, key)
		if err != nil {
			return err
		}
		more, err = c.treat(tx, obj, "")
		return err
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if more {
		return time.Millisecond, err
	}
	return 0, err
}

// collect treats the dependents of an owner that is gone, some in each turn.
func (c *Controller) collect(tx *registry.Tx, uid string) (more bool, err error) {
	treated := 0
	for _, obj := range c.byUID(tx, uid, 0) {
		if c.judge(tx, obj, types.UID(uid)).action == nothing {
			continue
		}
		if treated++; treated > burst {
			return true, nil
		}
		if _, err := c.treat(tx, obj, types.UID(uid)); err != nil && !apierrors.IsNotFound(err) {
			return false, err
		}
	}
	return false, nil
}

// treat carries out the verdict about one object; more says that it needs another turn.
func (c *Controller) treat(tx *registry.Tx, obj registry.Object, gone types.UID) (more bool, err error) {
	v := c.judge(tx, obj, gone)
	switch v.action {
	case dropRefs:
		_, err = registry.Put(tx, withoutOwners(obj, v.drop...))
	case remove:
		if v.unblock {
			if obj, err = registry.Put(tx, unblocking(obj)); err != nil {
				return false, err
			}
		}
		err = tx.Delete(obj, registry.DeleteOptions{Propagation: &v.propagation})
	case release:
		_, err = registry.Put(tx, without(obj, metav1.FinalizerDeleteDependents))
	case orphan:
		for i, dep := range c.dependents(tx, obj, burst+1) {
			if i == burst {
				return true, nil
			}
			if _, err := registry.Put(tx, withoutOwners(dep, obj.GetUID())); err != nil {
				return false, err
			}
		}
		_, err = registry.Put(tx, without(obj, metav1.FinalizerOrphanDependents))
	case await:
		treated := 0
		for _, dep := range c.dependents(tx, obj, 0) {
			if dep.GetDeletionTimestamp() != nil {
				continue
			}
			if treated++; treated > burst {
				return true, nil
			}
			if _, err := c.treat(tx, dep, gone); err != nil && !apierrors.IsNotFound(err) {
				return false, err
			}
		}
	}
	return false, err
}
