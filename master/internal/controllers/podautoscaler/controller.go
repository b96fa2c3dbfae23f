package podautoscaler

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
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
		if s, t, err = c.look(v, key); err == nil {
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
func (c *Controller) look(v *registry.View, key controller.Key) (s situation, t target, err error) {
	s.hpa, err = registry.Get[*autoscalingv2.HorizontalPodAutoscaler](v, key.Namespace, key.Name)
	if err != nil {
		return s, t, err
	}
	s.now, s.usage, s.memory = time.Now(), c.cfg.Usage, c.memories[key]
	if s.memory == nil || s.memory.uid != s.hpa.UID {
		s.memory = &memory{uid: s.hpa.UID}
		c.memories[key] = s.memory
	}
	if t, s.scaleErr = c.target(v, s.hpa); s.scaleErr != nil {
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
	s.rivals = c.rivals(v, key.Namespace, s.pods)
	return s, t, nil
}

// rivals are the autoscalers whose selectors match some of the pods.
func (c *Controller) rivals(v *registry.View, namespace string, pods []*corev1.Pod) (names []string) {
	for hpa := range registry.List[*autoscalingv2.HorizontalPodAutoscaler](v, namespace) {
		t, err := c.target(v, hpa)
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

// target of an autoscaler.
type target struct {
	scale
	key registry.Key
	// read its scale, and set its replicas in a copy.
	read func(registry.Object) (scale, error)
	set  func(registry.Object, int32) error
}

// target finds what an autoscaler scales: any served kind that has a scale, under any of its groups.
func (c *Controller) target(v *registry.View, hpa *autoscalingv2.HorizontalPodAutoscaler) (t target, err error) {
	ref := hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return t, err
	}
	kind := schema.GroupKind{Group: gv.Group, Kind: ref.Kind}
	for _, r := range c.cfg.Registry.Table().All() {
		if r.Kind != kind.Kind || !slices.ContainsFunc(r.Served, func(gv schema.GroupVersion) bool { return gv.Group == kind.Group }) {
			continue
		}
		// The version that is named, else any of the group: Kubernetes asks for the kind without its version.
		offers := func(gv schema.GroupVersion) bool {
			_, ok := r.SubresourceIn(gv, "scale")
			return ok && gv.Group == kind.Group
		}
		if !slices.Contains(r.Served, gv) || !offers(gv) {
			i := slices.IndexFunc(r.Served, offers)
			if i < 0 {
				return t, apierrors.NewGenericServerResponse(http.StatusNotFound, "get", r.GroupResource(), ref.Name, "", 0, true)
			}
			gv = r.Served[i]
		}
		t.key = registry.Key{Resource: r.Key(), Namespace: hpa.Namespace, Name: ref.Name}
		t.read = func(o registry.Object) (s scale, err error) {
			s.spec, s.status, s.selector, err = r.Replicas(o, gv)
			return s, err
		}
		t.set = func(o registry.Object, n int32) error { return r.SetScale(o, gv, n) }
		obj, err := registry.Lookup(v, t.key)
		if err != nil {
			return t, err
		}
		t.scale, err = t.read(obj)
		return t, err
	}
	return t, &meta.NoKindMatchError{GroupKind: kind}
}

// act on a decision: scale and write the status down, together. What has changed since makes it a conflict.
func (c *Controller) act(ctx context.Context, d *decision, t *target) error {
	if !d.rescale {
		return c.write(ctx, d, nil)
	}
	done := *d
	done.status, done.events = *d.status.DeepCopy(), slices.Clone(d.events)
	done.scaled()
	var refused error
	err := c.write(ctx, &done, func(tx *registry.Tx) error {
		refused = nil
		obj, err := registry.Lookup(tx, t.key)
		if err != nil {
			refused = err
			return err
		}
		now, err := t.read(obj)
		if err != nil {
			refused = err
			return err
		}
		if now.spec != d.scale.spec {
			return apierrors.NewConflict(schema.GroupResource{Resource: t.key.Resource}, t.key.Name, fmt.Errorf("replicas are %d, not %d any more", now.spec, d.scale.spec))
		}
		obj = obj.DeepCopyObject().(registry.Object)
		if err := t.set(obj, d.replicas); err != nil {
			refused = err
			return err
		}
		_, refused = registry.Put(tx, obj)
		return refused
	})
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
