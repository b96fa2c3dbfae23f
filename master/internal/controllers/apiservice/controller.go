package apiservice

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component   = "autoregister"
	resource    = "apiservices.apiregistration.k8s.io"
	definitions = "customresourcedefinitions.apiextensions.k8s.io"
)

// Config of the controllers.
type Config struct {
	Registry *registry.Registry
	// Builtin are the group versions that are always served.
	Builtin []schema.GroupVersion
	Logger  *slog.Logger
}

// Controller keeps the local APIServices.
type Controller struct {
	cfg    Config
	loop   *controller.Loop
	wanted map[string]*apiregistrationv1.APIService // of the built-in versions, by name

	mu sync.Mutex
	// atStart are the names that have not been looked at since the start; nil before that.
	atStart map[string]bool
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, wanted: map[string]*apiregistrationv1.APIService{}}
	for _, gv := range cfg.Builtin {
		switch gv.Group {
		case apiregistrationv1.GroupName: // says who serves the others, and is served without being asked for
		case metricsGroup:
			c.wanted[nameOf(gv)] = local(gv, managedEver)
		default:
			c.wanted[nameOf(gv)] = local(gv, managedStart)
		}
	}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Watch: []string{resource, definitions},
		Keys: c.keys, All: c.all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(name string) controller.Key { return controller.Key{Resource: resource, Name: name} }

// keys: an APIService; or all that a definition, as it is or was, could concern.
func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	crd, ok := e.Object.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		add(e.Key)
		return
	}
	for _, version := range crd.Spec.Versions {
		add(keyOf(nameOf(schema.GroupVersion{Group: crd.Spec.Group, Version: version.Name})))
	}
	for s := range registry.List[*apiregistrationv1.APIService](v, "") {
		if s.Spec.Group == crd.Spec.Group {
			add(keyOf(s.Name))
		}
	}
}

func (c *Controller) all(v *registry.View, add func(controller.Key)) {
	names := map[string]bool{}
	for name := range c.wanted {
		names[name] = true
	}
	for crd := range registry.List[*apiextensionsv1.CustomResourceDefinition](v, "") {
		for _, version := range crd.Spec.Versions {
			names[nameOf(schema.GroupVersion{Group: crd.Spec.Group, Version: version.Name})] = true
		}
	}
	for s := range registry.List[*apiregistrationv1.APIService](v, "") {
		names[s.Name] = true
	}
	c.begin(names)
	for name := range names {
		add(keyOf(name))
	}
}

// begin remembers what is there at the start, before the first of it has its turn.
func (c *Controller) begin(names map[string]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.atStart == nil {
		c.atStart = maps.Clone(names)
	}
}

func (c *Controller) isFirst(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.atStart[name]
}

func (c *Controller) seen(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.atStart, name)
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	first := c.isFirst(key.Name)
	due := false
	err := c.cfg.Registry.View(func(v *registry.View) error {
		current, err := find(v, key.Name)
		due = err == nil && decide(current, c.want(v, key.Name), first) != leave
		return err
	})
	if err == nil && due {
		err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
			current, err := find(tx, key.Name)
			if err != nil {
				return err
			}
			return c.act(tx, current, c.want(tx, key.Name), first)
		})
	}
	if err == nil {
		c.seen(key.Name)
	}
	return 0, err
}

func find(v registry.Viewer, name string) (*apiregistrationv1.APIService, error) {
	s, err := registry.Get[*apiregistrationv1.APIService](v, "", name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return s, err
}

// want is the local APIService that there should be, nil for none.
func (c *Controller) want(v registry.Viewer, name string) *apiregistrationv1.APIService {
	if s := c.wanted[name]; s != nil {
		return s
	}
	for crd := range registry.List[*apiextensionsv1.CustomResourceDefinition](v, "") {
		for _, version := range crd.Spec.Versions {
			gv := schema.GroupVersion{Group: crd.Spec.Group, Version: version.Name}
			if version.Served && nameOf(gv) == name {
				return local(gv, managedEver)
			}
		}
	}
	return nil
}

func (c *Controller) act(tx *registry.Tx, current, wanted *apiregistrationv1.APIService, first bool) error {
	var err error
	switch decide(current, wanted, first) {
	case create:
		_, err = registry.Create(tx, wanted.DeepCopy())
	case update:
		next := current.DeepCopy()
		wanted.Spec.DeepCopyInto(&next.Spec)
		// What answers is the master again: its condition is known without asking.
		if next, err = registry.Put(tx, next); err != nil {
			return err
		}
		if available, changed := withCondition(next, localCondition()); changed {
			_, err = registry.PutStatus(tx, available)
		}
	case remove:
		err = tx.Delete(current, registry.DeleteOptions{})
	}
	return err
}
