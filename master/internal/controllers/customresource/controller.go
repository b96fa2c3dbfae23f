package customresource

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component   = "customresource-controller"
	definitions = "customresourcedefinitions.apiextensions.k8s.io"
	// burst is how many objects one transaction deletes at most.
	burst = 200
	// recheck is how soon a definition that waits for its objects is looked at again, should an event have been missed.
	recheck = 30 * time.Second
	// collectPatience is how long a definition stays for what belongs to its objects, and collectAgain how often that is looked for.
	collectPatience, collectAgain = time.Minute, 200 * time.Millisecond
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller looks after CustomResourceDefinitions.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller; Run starts it. One worker: names are given one after the other.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, log: cfg.Logger.With("component", component)}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger,
		Keys: c.keys, All: c.all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(name string) controller.Key { return controller.Key{Resource: definitions, Name: name} }

func (c *Controller) all(v *registry.View, add func(controller.Key)) {
	for crd := range registry.List[*apiextensionsv1.CustomResourceDefinition](v, "") {
		add(keyOf(crd.Name))
	}
}

// keys: definitions, and those that wait for an object that has gone: a definition is named as the resource of its objects.
func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	if e.Key.Resource == definitions {
		add(e.Key)
		if e.Deleted {
			c.others(v, e.Object.(*apiextensionsv1.CustomResourceDefinition), add)
		}
		return
	}
	if !e.Deleted {
		return
	}
	crd, err := registry.Get[*apiextensionsv1.CustomResourceDefinition](v, "", e.Key.Resource)
	if err == nil && crd.DeletionTimestamp != nil {
		add(keyOf(crd.Name))
	}
}

// others are the definitions of the same group that did not get all their names: one may be free now.
func (c *Controller) others(v registry.Viewer, crd *apiextensionsv1.CustomResourceDefinition, add func(controller.Key)) {
	for _, other := range group(v, crd) {
		if !isTrue(other, apiextensionsv1.NamesAccepted) {
			add(keyOf(other.Name))
		}
	}
}

// group lists the other definitions of a group.
func group(v registry.Viewer, crd *apiextensionsv1.CustomResourceDefinition) (out []*apiextensionsv1.CustomResourceDefinition) {
	for other := range registry.List[*apiextensionsv1.CustomResourceDefinition](v, "") {
		if other.Spec.Group == crd.Spec.Group && other.Name != crd.Name {
			out = append(out, other)
		}
	}
	return out
}

// reconcile gives names, has the kind served, and then says that it is.
func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	err := c.change(ctx, key.Name, func(tx *registry.Tx, crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
		before := crd.Status.AcceptedNames.DeepCopy()
		name(crd, takenBy(group(tx, crd)), now)
		if !reflect.DeepEqual(*before, crd.Status.AcceptedNames) {
			c.others(tx, crd, c.loop.Add)
		}
	})
	gone := apierrors.IsNotFound(err)
	if err != nil && !gone {
		return 0, err
	}
	if err := c.registry.ServeCustomResources(ctx); err != nil || gone {
		return 0, err
	}
	err = c.change(ctx, key.Name, func(_ *registry.Tx, crd *apiextensionsv1.CustomResourceDefinition, now metav1.Time) {
		establish(crd, now)
	})
	if err != nil {
		return 0, quiet(err)
	}
	if c.collecting(key.Name) {
		return collectAgain, nil
	}
	after, err := c.cleanUp(ctx, key.Name)
	return after, quiet(err)
}

// collecting says that objects are there yet that belong to those of a definition which is being deleted. They are garbage as long as
// their owner's kind is known, so it stays until they have been collected.
func (c *Controller) collecting(crdName string) (yes bool) {
	_ = c.registry.View(func(v *registry.View) error {
		crd, err := registry.Get[*apiextensionsv1.CustomResourceDefinition](v, "", crdName)
		if err != nil || crd.DeletionTimestamp == nil || time.Since(crd.DeletionTimestamp.Time) > collectPatience || v.Count(crdName, "") > 0 {
			return nil
		}
		for _, r := range c.registry.Table().All() {
			for obj := range v.List(r.Key(), "", registry.Key{}) {
				if obj.GetDeletionTimestamp() == nil && slices.ContainsFunc(obj.GetOwnerReferences(), func(ref metav1.OwnerReference) bool { return defines(crd, ref) }) {
					yes = true
					return nil
				}
			}
		}
		return nil
	})
	return yes
}

func defines(crd *apiextensionsv1.CustomResourceDefinition, ref metav1.OwnerReference) bool {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	return gvk.Kind == crd.Spec.Names.Kind && gvk.Group == crd.Spec.Group
}

// quiet takes a definition that has gone meanwhile for success.
func quiet(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// change writes a definition's status if fn changes it.
func (c *Controller) change(ctx context.Context, crdName string, fn func(*registry.Tx, *apiextensionsv1.CustomResourceDefinition, metav1.Time)) error {
	now := metav1.Now().Rfc3339Copy()
	return c.registry.Transact(ctx, func(tx *registry.Tx) error {
		old, err := registry.Get[*apiextensionsv1.CustomResourceDefinition](tx, "", crdName)
		if err != nil {
			return err
		}
		crd := old.DeepCopy()
		fn(tx, crd, now)
		if reflect.DeepEqual(old.Status, crd.Status) {
			return nil
		}
		_, err = registry.PutStatus(tx, crd)
		return err
	})
}

// cleanUp is one step of a deletion: it deletes objects, and takes the finalizer away once none is left.
func (c *Controller) cleanUp(ctx context.Context, crdName string) (after time.Duration, err error) {
	now := metav1.Now().Rfc3339Copy()
	err = c.registry.Transact(ctx, func(tx *registry.Tx) error {
		after = 0
		old, err := registry.Get[*apiextensionsv1.CustomResourceDefinition](tx, "", crdName)
		if err != nil || old.DeletionTimestamp == nil || !slices.Contains(old.Finalizers, registry.CleanupFinalizer) {
			return err
		}
		crd := old.DeepCopy()
		switch left, more, err := deleteObjects(tx, crdName); {
		case err != nil:
			return err
		case left && isTrue(crd, apiextensionsv1.Established):
			set(crd, terminating(apiextensionsv1.ConditionTrue, "InstanceDeletionInProgress", "CustomResource deletion is in progress"), now)
			if after = recheck; more {
				after = time.Millisecond
			} else if tx.Count(crdName, "") == 0 {
				after = collectAgain
			}
			if reflect.DeepEqual(old.Status, crd.Status) {
				return nil
			}
			_, err := registry.PutStatus(tx, crd)
			return err
		case isTrue(crd, apiextensionsv1.Established):
			set(crd, terminating(apiextensionsv1.ConditionFalse, "InstanceDeletionCompleted", "removed all instances"), now)
		default:
			set(crd, terminating(apiextensionsv1.ConditionFalse, "NeverEstablished", "resource was never established"), now)
		}
		if crd, err = registry.PutStatus(tx, crd); err != nil {
			return err
		}
		crd = crd.DeepCopy()
		crd.Finalizers = slices.DeleteFunc(crd.Finalizers, func(f string) bool { return f == registry.CleanupFinalizer })
		_, err = registry.Put(tx, crd)
		return err
	})
	return after, err
}

// deleteObjects deletes what is not being deleted yet; left says that objects are there still or were until now, more that not all
// could be treated.
func deleteObjects(tx *registry.Tx, res string) (left, more bool, err error) {
	var chosen []registry.Object
	for obj := range tx.List(res, "", registry.Key{}) {
		if obj.GetDeletionTimestamp() != nil {
			left = true
			continue
		}
		if len(chosen) == burst {
			more = true
			break
		}
		chosen = append(chosen, obj)
	}
	for _, obj := range chosen {
		if err := tx.Delete(obj, registry.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return false, false, err
		}
	}
	return more || len(chosen) > 0 || tx.Count(res, "") > 0, more, nil
}
