package quota

import (
	"context"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "resourcequota-controller"
	resource  = "resourcequotas"
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller keeps the statuses of quotas true.
type Controller struct {
	cfg  Config
	loop *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Watch: []string{resource, "pods"},
		Keys: c.keys, All: c.all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (c *Controller) all(v *registry.View, add func(controller.Key)) {
	namespaces := map[string]bool{}
	for q := range registry.List[*corev1.ResourceQuota](v, "") {
		add(keyOf(q))
		namespaces[q.Namespace] = true
	}
	for ns := range namespaces {
		for pod := range registry.List[*corev1.Pod](v, ns) {
			c.ending(v, pod, add)
		}
	}
}

// keys: quotas whose status cannot be the registry's, and those of namespaces where time ended a pod.
func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch o := e.Object.(type) {
	case *corev1.ResourceQuota:
		if !e.Deleted && !apiequality.Semantic.DeepEqual(o.Spec.Hard, o.Status.Hard) {
			add(e.Key)
		}
	case *corev1.Pod:
		c.ending(v, o, add)
	}
}

// ending has the quotas of a deleted pod's namespace counted once it is charged for no longer.
func (c *Controller) ending(v *registry.View, pod *corev1.Pod, add func(controller.Key)) {
	ends, ok := registry.QuotaPodEnds(pod)
	if !ok {
		return
	}
	// Ends are not over yet at the very moment.
	wait := time.Until(ends) + time.Millisecond
	for q := range registry.List[*corev1.ResourceQuota](v, pod.Namespace) {
		if wait > 0 {
			c.loop.AddAfter(keyOf(q), wait)
		} else {
			add(keyOf(q))
		}
	}
}

func keyOf(q *corev1.ResourceQuota) controller.Key {
	return controller.Key{Resource: resource, Namespace: q.Namespace, Name: q.Name}
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	// Counting takes long where there is much, and mostly finds nothing wrong: others may write meanwhile.
	due := false
	err := c.cfg.Registry.View(func(v *registry.View) error {
		next, err := counted(v, key)
		due = next != nil
		return err
	})
	if err == nil && due {
		err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
			next, err := counted(tx, key)
			if err != nil || next == nil {
				return err
			}
			_, err = registry.PutStatus(tx, next)
			return err
		})
	}
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return 0, err
}

// counted gives the quota with the status that it should have, nil when it has it.
func counted(v registry.Viewer, key controller.Key) (*corev1.ResourceQuota, error) {
	q, err := registry.Get[*corev1.ResourceQuota](v, key.Namespace, key.Name)
	if err != nil {
		return nil, err
	}
	status := registry.QuotaStatus(v, q)
	if apiequality.Semantic.DeepEqual(status, q.Status) {
		return nil, nil
	}
	next := q.DeepCopy()
	next.Status = status
	return next, nil
}
