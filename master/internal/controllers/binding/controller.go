package binding

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/scheduler"
)

const (
	// component is the name under which users know the scheduler.
	component = corev1.DefaultSchedulerName
	// batchSize is how many decisions one transaction commits at most.
	batchSize = 256
	maxEvents = 1024
	// relist is how long to wait before listing anew when the watch has failed.
	relist = 100 * time.Millisecond
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
	// Seed turns the place where searches in large clusters begin.
	Seed uint64
}

// Controller binds pods to nodes.
type Controller struct {
	cfg      Config
	log      *slog.Logger
	snapshot *scheduler.Snapshot
	queue    *queue
	// hopeless are the owners of whom a pod was found to fit nowhere, while nothing has changed that concerns it: their other
	// pods that ask for the same need no look at the nodes.
	hopeless map[types.UID]*hopeless
	// unheard are news of a batch whose pods have not all been parked yet: they have to hear them too.
	inBatch bool
	unheard []scheduler.News
	// asked counts the questions to the scheduler.
	asked atomic.Int64
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	return &Controller{cfg: cfg, log: cfg.Logger.With("component", component)}
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := c.follow(ctx); err != nil && ctx.Err() == nil {
			c.log.Info("watching anew", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(relist):
			}
		}
	}
	return nil
}

const budgets = "poddisruptionbudgets.policy"

// watched is what decisions are made from.
var watched = []string{
	"namespaces", "nodes", "pods", "persistentvolumeclaims", "persistentvolumes", "storageclasses.storage.k8s.io", budgets,
}

// follow lists everything, then schedules as events come; it returns when the watch ends.
func (c *Controller) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	w, err := c.cfg.Registry.ViewAndWatch(watched, func(v *registry.View) error {
		c.reset(v)
		return nil
	})
	if err != nil {
		cancel()
		return err
	}
	batches := make(chan []registry.Event)
	ended := make(chan error, 1)
	go func() {
		defer w.Close()
		for {
			events, err := w.Next(ctx, maxEvents)
			if err != nil {
				ended <- err
				return
			}
			select {
			case batches <- events:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	err = c.serve(ctx, batches, ended)
	cancel()
	if err == nil {
		err = <-ended
	}
	return err
}

// serve returns the error of ended, or nil when ctx has.
func (c *Controller) serve(ctx context.Context, batches <-chan []registry.Event, ended <-chan error) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next := c.queue.wake(time.Now()); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		if len(c.queue.ready) > 0 {
			c.scheduleBatch(ctx)
			select { // news first, so that the next batch decides on it
			case events := <-batches:
				c.take(events)
			default:
			}
			if ctx.Err() != nil {
				return nil
			}
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return err
		case events := <-batches:
			c.take(events)
		case <-timer.C:
		}
	}
}

func (c *Controller) reset(v *registry.View) {
	c.snapshot, c.queue, c.hopeless = scheduler.NewSnapshot(), newQueue(), map[types.UID]*hopeless{}
	c.snapshot.Seed = c.cfg.Seed
	for ns := range registry.List[*corev1.Namespace](v, "") {
		c.snapshot.SetNamespace(ns.Name, ns.Labels)
	}
	for node := range registry.List[*corev1.Node](v, "") {
		c.snapshot.SetNode(node)
	}
	for claim := range registry.List[*corev1.PersistentVolumeClaim](v, "") {
		c.snapshot.SetClaim(claim)
	}
	for volume := range registry.List[*corev1.PersistentVolume](v, "") {
		c.snapshot.SetVolume(volume)
	}
	for class := range registry.List[*storagev1.StorageClass](v, "") {
		c.snapshot.SetClass(class)
	}
	for obj := range v.List(budgets, "", registry.Key{}) {
		if b, ok := obj.(*policyv1.PodDisruptionBudget); ok {
			c.snapshot.SetBudget(b)
		}
	}
	for pod := range registry.List[*corev1.Pod](v, "") {
		c.takePod(pod)
	}
}

// take brings the snapshot and the queue up to date.
func (c *Controller) take(events []registry.Event) {
	for _, e := range events {
		switch obj := e.Object.(type) {
		case *corev1.Namespace:
			if e.Deleted {
				c.snapshot.RemoveNamespace(obj.Name)
			} else {
				c.hear(c.snapshot.SetNamespace(obj.Name, obj.Labels))
			}
		case *corev1.Node:
			if e.Deleted {
				c.hear(c.snapshot.RemoveNode(obj.Name))
			} else {
				c.hear(c.snapshot.SetNode(obj))
			}
		case *corev1.Pod:
			if e.Deleted {
				c.queue.remove(obj.UID)
				c.hear(c.snapshot.RemovePod(obj.UID))
			} else {
				c.takePod(obj)
			}
		case *policyv1.PodDisruptionBudget:
			if e.Deleted {
				c.snapshot.RemoveBudget(obj.Namespace, obj.Name)
			} else {
				c.snapshot.SetBudget(obj)
			}
		default:
			c.takeVolume(e)
		}
	}
}

// takeVolume is take for what pods' claims are about.
func (c *Controller) takeVolume(e registry.Event) {
	switch obj := e.Object.(type) {
	case *corev1.PersistentVolumeClaim:
		if e.Deleted {
			c.snapshot.RemoveClaim(obj.Namespace, obj.Name)
		} else {
			c.hear(c.snapshot.SetClaim(obj))
		}
	case *corev1.PersistentVolume:
		if e.Deleted {
			c.snapshot.RemoveVolume(obj.Name)
		} else {
			c.hear(c.snapshot.SetVolume(obj))
		}
	case *storagev1.StorageClass:
		if e.Deleted {
			c.snapshot.RemoveClass(obj.Name)
		} else {
			c.hear(c.snapshot.SetClass(obj))
		}
	}
}

func (c *Controller) takePod(pod *corev1.Pod) {
	if !waits(pod) {
		c.queue.remove(pod.UID)
		c.hear(c.snapshot.SetPod(pod))
		return
	}
	if c.snapshot.Counts(pod.UID) {
		return // it is bound since, by us, and this is an older state
	}
	c.nominate(c.queue.set(pod))
}

// hear has those tried again whom news concern.
func (c *Controller) hear(news scheduler.News) {
	if !news.Any() {
		return
	}
	for owner, h := range c.hopeless {
		if news.Shows() || c.snapshot.Concerns(&news, h.waiting) {
			delete(c.hopeless, owner)
		}
	}
	if c.inBatch {
		c.unheard = append(c.unheard, news)
		return
	}
	c.queue.hear(c.snapshot, &news)
}

// catchUp ends a batch.
func (c *Controller) catchUp() {
	c.inBatch = false
	for i := range c.unheard {
		c.queue.hear(c.snapshot, &c.unheard[i])
	}
	c.unheard = c.unheard[:0]
}

// waits says that it is on us to find the pod a node.
func waits(pod *corev1.Pod) bool {
	return pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil && !scheduler.Ended(pod) &&
		len(pod.Spec.SchedulingGates) == 0 &&
		(pod.Spec.SchedulerName == component || pod.Spec.SchedulerName == "")
}
