package namespace

import (
	"context"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "namespace-controller"
	// burst is how many objects one transaction deletes at most.
	burst = 200
	// recheck is how soon a namespace that waits for others (finalizers, ending pods) is looked at again, should an event
	// have been missed.
	recheck = 30 * time.Second
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller empties namespaces.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, log: cfg.Logger.With("component", component)}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger,
		Keys: c.keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// kinds are the resources that live in namespaces, pods first.
func (c *Controller) kinds() []string {
	out := []string{"pods"}
	for _, r := range c.registry.Table().All() {
		if r.Namespaced && r.Key() != "pods" {
			out = append(out, r.Key())
		}
	}
	return out
}

func keyOf(name string) controller.Key { return controller.Key{Resource: "namespaces", Name: name} }

func all(v *registry.View, add func(controller.Key)) {
	for ns := range registry.List[*corev1.Namespace](v, "") {
		if ns.DeletionTimestamp != nil {
			add(keyOf(ns.Name))
		}
	}
}

// keys: namespaces that are being deleted, and whatever has gone from one.
func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	if ns, ok := e.Object.(*corev1.Namespace); ok {
		if ns.DeletionTimestamp != nil && !e.Deleted {
			add(e.Key)
		}
		return
	}
	if !e.Deleted || e.Key.Namespace == "" {
		return
	}
	if ns, err := registry.Get[*corev1.Namespace](v, "", e.Key.Namespace); err == nil && ns.DeletionTimestamp != nil {
		add(keyOf(ns.Name))
	}
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var after time.Duration
	done := false
	err := c.registry.Transact(ctx, func(tx *registry.Tx) (err error) {
		after, done, err = c.empty(tx, key.Name)
		return err
	})
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if done && err == nil {
		c.log.Info("namespace deleted", "namespace", key.Name)
	}
	return after, err
}

// empty is one step of a deletion: it deletes what is there, says in the status what is left, and in the end takes the
// finalizer away.
func (c *Controller) empty(tx *registry.Tx, name string) (time.Duration, bool, error) {
	ns, err := registry.Get[*corev1.Namespace](tx, "", name)
	if err != nil || ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return 0, false, err
	}
	more, err := c.deleteSome(tx, name)
	if err != nil {
		return 0, false, err
	}
	left := c.countLeft(tx, name)
	status := ns.DeepCopy()
	status.Status.Phase = corev1.NamespaceTerminating
	status.Status.Conditions = conditions(time.Now(), ns.Status.Conditions, left)
	if !apiequality.Semantic.DeepEqual(ns.Status, status.Status) {
		if ns, err = registry.PutStatus(tx, status); err != nil {
			return 0, false, err
		}
	}
	switch {
	case more:
		return time.Millisecond, false, nil
	case len(left.objects) > 0:
		return recheck, false, nil
	}
	last := ns.DeepCopy()
	last.Spec.Finalizers = slices.DeleteFunc(last.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	_, err = registry.Finalize(tx, last)
	return 0, true, err
}

// deleteSome deletes what is not being deleted yet; the other kinds wait until the pods are gone.
func (c *Controller) deleteSome(tx *registry.Tx, name string) (more bool, err error) {
	var chosen []registry.Object
	for _, kind := range c.kinds() {
		if kind != "pods" && (len(chosen) > 0 || tx.Reader.Count("pods", name) > 0) {
			break
		}
		for obj := range tx.Reader.List(kind, name, registry.Key{}) {
			if obj.GetDeletionTimestamp() != nil {
				continue
			}
			if len(chosen) == burst {
				more = true
				break
			}
			chosen = append(chosen, obj)
		}
		if kind != "pods" && more {
			break
		}
	}
	for _, obj := range chosen {
		if err := tx.Delete(obj, registry.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
			return false, err
		}
	}
	// Unbound pods went at once: the other kinds' turn may have come.
	return more || len(chosen) > 0, nil
}

// left is what a namespace still holds: objects by resource, and finalizers that hold them.
type left struct{ objects, finalizers map[string]int }

func (c *Controller) countLeft(tx *registry.Tx, name string) left {
	l := left{map[string]int{}, map[string]int{}}
	for _, kind := range c.kinds() {
		for obj := range tx.Reader.List(kind, name, registry.Key{}) {
			l.objects[kind]++
			for _, f := range obj.GetFinalizers() {
				l.finalizers[f]++
			}
		}
	}
	return l
}
