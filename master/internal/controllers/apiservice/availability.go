package apiservice

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// recheck is how often another server is asked whether it is there.
const recheck = 30 * time.Second

// AvailabilityConfig of the controller.
type AvailabilityConfig struct {
	Registry *registry.Registry
	// Check asks the server of a version for what it serves.
	Check  func(ctx context.Context, gv schema.GroupVersion) error
	Logger *slog.Logger
}

// Availability says in APIServices' status whether they can be reached.
type Availability struct {
	cfg  AvailabilityConfig
	loop *controller.Loop
}

// NewAvailability makes the controller; Run starts it.
func NewAvailability(cfg AvailabilityConfig) *Availability {
	c := &Availability{cfg: cfg}
	c.loop = controller.New(controller.Config{
		Name: "apiservice-availability", Registry: cfg.Registry, Logger: cfg.Logger, Watch: []string{resource, "services", "endpoints"},
		Keys: keysOf, All: func(v *registry.View, add func(controller.Key)) {
			for s := range registry.List[*apiregistrationv1.APIService](v, "") {
				add(keyOf(s.Name))
			}
		},
		Reconcile: c.reconcile, Workers: 2,
	})
	return c
}

// Run works until ctx ends.
func (c *Availability) Run(ctx context.Context) error { return c.loop.Run(ctx) }

// keysOf: an APIService, or those that name the Service; its Endpoints have its name.
func keysOf(v *registry.View, e registry.Event, add func(controller.Key)) {
	if e.Key.Resource == resource {
		add(e.Key)
		return
	}
	for s := range registry.List[*apiregistrationv1.APIService](v, "") {
		if ref := s.Spec.Service; ref != nil && ref.Namespace == e.Key.Namespace && ref.Name == e.Key.Name {
			add(keyOf(s.Name))
		}
	}
}

func (c *Availability) reconcile(ctx context.Context, key controller.Key) (after time.Duration, err error) {
	var s *apiregistrationv1.APIService
	var condition apiregistrationv1.APIServiceCondition
	if err := c.cfg.Registry.View(func(v *registry.View) (err error) {
		if s, err = find(v, key.Name); err == nil && s != nil {
			condition = reachable(v, s)
		}
		return err
	}); err != nil || s == nil {
		return 0, err
	}
	var failed error
	if s.Spec.Service != nil && condition.Status == apiregistrationv1.ConditionTrue {
		after = recheck
		if failed = c.cfg.Check(ctx, schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}); failed != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			condition = unavailable("FailedDiscoveryCheck", failed.Error())
		}
	}
	if err := c.write(ctx, s, condition); err != nil {
		return 0, err
	}
	return after, controller.Told(failed)
}

// write tells the condition, unless the APIService is another by now: then there is an event of it.
func (c *Availability) write(ctx context.Context, seen *apiregistrationv1.APIService, condition apiregistrationv1.APIServiceCondition) error {
	if _, changed := withCondition(seen, condition); !changed {
		return nil
	}
	return c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		s, err := find(tx, seen.Name)
		if err != nil || s == nil || s.ResourceVersion != seen.ResourceVersion {
			return err
		}
		next, _ := withCondition(s, condition)
		_, err = registry.PutStatus(tx, next)
		return err
	})
}

func unavailable(reason, message string) apiregistrationv1.APIServiceCondition {
	return apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionFalse, Reason: reason, Message: message,
	}
}

// reachable is the condition as far as objects tell it; True means that the server is to be asked.
func reachable(v registry.Viewer, s *apiregistrationv1.APIService) apiregistrationv1.APIServiceCondition {
	ref := s.Spec.Service
	if ref == nil {
		return localCondition()
	}
	passed := apiregistrationv1.APIServiceCondition{
		Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, Reason: "Passed", Message: "all checks passed",
	}
	svc, err := registry.Get[*corev1.Service](v, ref.Namespace, ref.Name)
	if err != nil {
		return unavailable("ServiceNotFound", fmt.Sprintf("service/%s in %q is not present", ref.Name, ref.Namespace))
	}
	if svc.Spec.Type != corev1.ServiceTypeClusterIP {
		return passed
	}
	port, listening := int32(443), false
	if ref.Port != nil {
		port = *ref.Port
	}
	name := ""
	for _, p := range svc.Spec.Ports {
		if p.Port == port {
			name, listening = p.Name, true
			break
		}
	}
	if !listening {
		return unavailable("ServicePortError", fmt.Sprintf("service/%s in %q is not listening on port %d", ref.Name, ref.Namespace, port))
	}
	endpoints, err := registry.Get[*corev1.Endpoints](v, ref.Namespace, ref.Name)
	if apierrors.IsNotFound(err) {
		return unavailable("EndpointsNotFound", fmt.Sprintf("cannot find endpointslices for service/%s in %q", ref.Name, ref.Namespace))
	}
	if err == nil && hasAddress(endpoints, name) {
		return passed
	}
	return unavailable("MissingEndpoints", fmt.Sprintf("endpointslices for service/%s in %q have no addresses with port name %q", ref.Name, ref.Namespace, name))
}

func hasAddress(e *corev1.Endpoints, port string) bool {
	for _, subset := range e.Subsets {
		for _, p := range subset.Ports {
			if p.Name == port && len(subset.Addresses) > 0 {
				return true
			}
		}
	}
	return false
}
