package podgc

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "pod-garbage-collector"
	pods      = "pods"
	// burst is how many pods one transaction deletes at most.
	burst = 200
	// gather is how long pods that end are waited for, so that they are counted once for many.
	gather = 5 * time.Second
)

// all ended pods are one matter.
var all = controller.Key{Resource: "#ended"}

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
	// Threshold is how many ended pods may be there; less than 1 for any number.
	Threshold int
}

// Controller deletes ended pods.
type Controller struct {
	cfg  Config
	log  *slog.Logger
	loop *controller.Loop
	// ended counts by events, to know when it is worth to look; what is deleted is counted anew.
	ended atomic.Int64
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, log: cfg.Logger.With("component", component)}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Watch: []string{pods},
		Keys: c.keys, All: c.all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	if c.cfg.Threshold < 1 {
		<-ctx.Done()
		return nil
	}
	return c.loop.Run(ctx)
}

func (c *Controller) all(v *registry.View, add func(controller.Key)) {
	n := len(list(v))
	c.ended.Store(int64(n))
	if n > c.cfg.Threshold {
		add(all)
	}
}

func (c *Controller) keys(_ *registry.View, e registry.Event, _ func(controller.Key)) {
	pod := e.Object.(*corev1.Pod)
	before, _ := e.Prev.(*corev1.Pod)
	had, has := before != nil && counts(before), !e.Deleted && counts(pod)
	switch {
	case had && !has:
		c.ended.Add(-1)
	case has && !had:
		if c.ended.Add(1) > int64(c.cfg.Threshold) {
			c.loop.AddAfter(all, gather)
		}
	}
}

func list(v registry.Viewer) (out []*corev1.Pod) {
	for pod := range registry.List[*corev1.Pod](v, "") {
		if counts(pod) {
			out = append(out, pod)
		}
	}
	return out
}

func (c *Controller) reconcile(ctx context.Context, _ controller.Key) (time.Duration, error) {
	var chosen []*corev1.Pod
	err := c.cfg.Registry.View(func(v *registry.View) error {
		found := list(v)
		c.ended.Store(int64(len(found)))
		chosen = superfluous(found, c.cfg.Threshold)
		return nil
	})
	if err != nil || len(chosen) == 0 {
		return 0, err
	}
	more := len(chosen) > burst
	chosen = chosen[:min(len(chosen), burst)]
	err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		for _, pod := range chosen {
			now, err := registry.Get[*corev1.Pod](tx, pod.Namespace, pod.Name)
			if err == nil && (now.UID != pod.UID || !counts(now)) {
				continue
			}
			if err == nil {
				err = tx.Delete(now, registry.DeleteOptions{GracePeriodSeconds: new(int64)})
			}
			if err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	c.log.Info("ended pods deleted", "count", len(chosen), "threshold", c.cfg.Threshold)
	if more {
		return time.Millisecond, nil
	}
	return 0, nil
}
