package podautoscaler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "horizontal-pod-autoscaler"
	resources = "horizontalpodautoscalers.autoscaling"
	// syncEvery is how often an autoscaler looks at its pods (--horizontal-pod-autoscaler-sync-period).
	syncEvery = 15 * time.Second
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	// Usage tells what a pod used last; false when that is not known.
	Usage  func(*corev1.Pod) (Usage, bool)
	Logger *slog.Logger
}

// Controller scales what autoscalers name.
type Controller struct {
	cfg Config
	// memories by key; the loop has one worker.
	memories map[controller.Key]*memory
	loop     *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, memories: map[controller.Key]*memory{}}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Watch: []string{resources}, Keys: keys, All: all, Reconcile: c.reconcile, Workers: 1,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func all(v *registry.View, add func(controller.Key)) {
	for hpa := range registry.List[*autoscalingv2.HorizontalPodAutoscaler](v, "") {
		add(controller.Key{Resource: resources, Namespace: hpa.Namespace, Name: hpa.Name})
	}
}

// keys: an autoscaler that is new, changed or gone. Everything else is seen within syncEvery.
func keys(_ *registry.View, e registry.Event, add func(controller.Key)) {
	hpa, ok := e.Object.(*autoscalingv2.HorizontalPodAutoscaler)
	old, had := e.Prev.(*autoscalingv2.HorizontalPodAutoscaler)
	if !ok || hpa == nil || !had || old == nil || e.Deleted || !apiequality.Semantic.DeepEqual(hpa.Spec, old.Spec) {
		add(e.Key)
	}
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var d *decision
	var t target
	err := c.cfg.Registry.View(func(v *registry.View) (err error) {
		var s situation
		if s, t, err = c.look(ctx, v, key); err == nil {
			d = decide(s)
		}
		return err
	})
	if err == nil {
		err = c.act(ctx, d, &t)
	}
	if apierrors.IsNotFound(err) {
		delete(c.memories, key)
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range d.events {
		c.cfg.Registry.Record(d.hpa, e.kind, e.reason, e.message, component)
	}
	return syncEvery, nil
}

// look at everything that decides about an autoscaler.
func (c *Controller) look(ctx context.Context, v *registry.View, key controller.Key) (s situation, t target, err error) {
	s.hpa, err = registry.Get[*autoscalingv2.HorizontalPodAutoscaler](v, key.Namespace, key.Name)
	if err != nil {
		return s, t, err
	}
	s.now, s.usage, s.memory = time.Now(), c.cfg.Usage, c.memories[key]
	if s.memory == nil || s.memory.uid != s.hpa.UID {
		s.memory = &memory{uid: s.hpa.UID}
		c.memories[key] = s.memory
	}
	if t, s.scaleErr = c.target(ctx, v, s.hpa, true); s.scaleErr != nil {
		return s, t, nil
	}
	s.scale = t.scale
	selector, err := labels.Parse(t.selector)
	if err != nil || t.selector == "" {
		s.selectorErr = err
		return s, t, nil
	}
	for p := range registry.List[*corev1.Pod](v, key.Namespace) {
		if selector.Matches(labels.Set(p.Labels)) {
			s.pods = append(s.pods, p)
		}
	}
	s.rivals = c.rivals(ctx, v, key.Namespace, s.pods)
	return s, t, nil
}

// rivals are the autoscalers whose selectors match some of the pods.
func (c *Controller) rivals(ctx context.Context, v *registry.View, namespace string, pods []*corev1.Pod) (names []string) {
	for hpa := range registry.List[*autoscalingv2.HorizontalPodAutoscaler](v, namespace) {
		t, err := c.target(ctx, v, hpa, false)
		if err != nil || t.selector == "" {
			continue
		}
		selector, err := labels.Parse(t.selector)
		if err == nil && slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return selector.Matches(labels.Set(p.Labels)) }) {
			names = append(names, hpa.Namespace+"/"+hpa.Name)
		}
	}
	return names
}

// act on a decision: scale and write the status down, together. What has changed since makes it a conflict.
func (c *Controller) act(ctx context.Context, d *decision, t *target) error {
	if !d.rescale {
		return c.write(ctx, d, nil)
	}
	done := *d
	done.status, done.events = *d.status.DeepCopy(), slices.Clone(d.events)
	done.scaled()
	refused, err := c.rescale(ctx, d, &done, t)
	switch {
	case err == nil:
		d.memory.changed(d.now, d.scale.spec, d.replicas)
		d.events = done.events
		c.cfg.Logger.Info("scaled", "component", component, "autoscaler", d.hpa.Namespace+"/"+d.hpa.Name, "target", t.key.Name, "from", d.scale.spec, "to", d.replicas, "reason", d.reason)
		return nil
	case refused != nil && !apierrors.IsConflict(refused):
		d.refused(refused)
		return c.write(ctx, d, nil)
	}
	return err
}

// rescale sets the replicas and writes the status of what is done; refused is why the target did not take them.
func (c *Controller) rescale(ctx context.Context, d, done *decision, t *target) (refused, err error) {
	next := func(obj registry.Object) (registry.Object, error) {
		now, err := t.read(ctx, obj)
		if err != nil {
			return nil, err
		}
		if now.spec != d.scale.spec {
			return nil, apierrors.NewConflict(schema.GroupResource{Resource: t.key.Resource}, t.key.Name, fmt.Errorf("replicas are %d, not %d any more", now.spec, d.scale.spec))
		}
		return t.set(ctx, obj, d.replicas)
	}
	if t.outside != nil {
		if err := t.outside(ctx, next); err != nil {
			return err, err
		}
		return nil, c.write(ctx, done, nil)
	}
	err = c.write(ctx, done, func(tx *registry.Tx) error {
		obj, err := registry.Lookup(tx, t.key)
		if err == nil {
			if obj, err = next(obj); err == nil {
				_, err = registry.Put(tx, obj)
			}
		}
		refused = err
		return err
	})
	return refused, err
}

// write the status, if it has changed, after what scale does in the same transaction.
func (c *Controller) write(ctx context.Context, d *decision, scale func(*registry.Tx) error) error {
	same := apiequality.Semantic.DeepEqual(d.status, d.hpa.Status)
	if same && scale == nil {
		return nil
	}
	return c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		hpa, err := registry.Get[*autoscalingv2.HorizontalPodAutoscaler](tx, d.hpa.Namespace, d.hpa.Name)
		if err != nil {
			return err
		}
		if hpa.UID != d.hpa.UID || hpa.ResourceVersion != d.hpa.ResourceVersion {
			return apierrors.NewConflict(schema.GroupResource{Group: "autoscaling", Resource: "horizontalpodautoscalers"}, hpa.Name, fmt.Errorf("it has changed"))
		}
		if scale != nil {
			if err := scale(tx); err != nil {
				return err
			}
		}
		if same {
			return nil
		}
		next := hpa.DeepCopy()
		next.Status = *d.status.DeepCopy()
		_, err = registry.PutStatus(tx, next)
		return err
	})
}
