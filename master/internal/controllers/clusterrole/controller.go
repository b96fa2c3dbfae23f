package clusterrole

import (
	"context"
	"log/slog"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "clusterrole-aggregation-controller"
	resource  = "clusterroles.rbac.authorization.k8s.io"
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller keeps the rules of aggregated roles.
type Controller struct {
	cfg  Config
	loop *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Watch: []string{resource},
		// Roles gather from roles that gather: any change may concern any of them, and they are few.
		Keys:      func(v *registry.View, _ registry.Event, add func(controller.Key)) { aggregated(v, add) },
		All:       aggregated,
		Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func aggregated(v *registry.View, add func(controller.Key)) {
	for role := range registry.List[*rbacv1.ClusterRole](v, "") {
		if role.AggregationRule != nil {
			add(controller.Key{Resource: resource, Name: role.Name})
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	due := false
	err := c.cfg.Registry.View(func(v *registry.View) error {
		next, err := complete(v, key.Name)
		due = next != nil
		return err
	})
	if err == nil && due {
		err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
			next, err := complete(tx, key.Name)
			if err != nil || next == nil {
				return err
			}
			_, err = registry.Put(tx, next)
			return err
		})
	}
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	return 0, err
}

// complete gives the role as it should be, nil when it is.
func complete(v registry.Viewer, name string) (*rbacv1.ClusterRole, error) {
	role, err := registry.Get[*rbacv1.ClusterRole](v, "", name)
	if err != nil || role.AggregationRule == nil {
		return nil, err
	}
	rules, err := gather(role, registry.List[*rbacv1.ClusterRole](v, ""))
	if err != nil || apiequality.Semantic.DeepEqual(rules, role.Rules) {
		return nil, err
	}
	next := role.DeepCopy()
	next.Rules = rules
	return next, nil
}
