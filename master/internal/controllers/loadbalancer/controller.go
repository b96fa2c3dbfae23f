package loadbalancer

import (
	"context"
	"iter"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "loadbalancer-controller"
	// Reasons of events, as bare-metal load balancers for Kubernetes call them.
	reasonFailed    = "AllocationFailed"
	reasonAllocated = "IPAllocated"
	// nodeDelay gathers nodes that come or go together, since each change of the list is told to every node.
	nodeDelay = 500 * time.Millisecond
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
	// Pool are the addresses for Services, sorted and apart from each other; empty: they have the nodes'.
	Pool []netip.Prefix
	// HostPorts are what no Service may have of the nodes' own addresses: taking them would cut the cluster off.
	HostPorts []HostPort
}

// Controller gives Services of type LoadBalancer their addresses.
type Controller struct {
	cfg      Config
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{cfg: cfg, registry: cfg.Registry, log: cfg.Logger.With("component", component)}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger,
		Watch: []string{"services", "nodes"}, Keys: c.keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func all(v *registry.View, add func(controller.Key)) { some(v, ours, add) }

func some(v *registry.View, which func(*corev1.Service) bool, add func(controller.Key)) {
	for svc := range registry.List[*corev1.Service](v, "") {
		if which(svc) {
			add(controller.Key{Resource: "services", Namespace: svc.Namespace, Name: svc.Name})
		}
	}
}

// waiting says that a Service of ours has not got what it asks for.
func waiting(svc *corev1.Service) bool {
	ips := given(svc)
	return ours(svc) && (len(ips) == 0 || svc.Spec.LoadBalancerIP != "" && !slices.Contains(ips, svc.Spec.LoadBalancerIP))
}

func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch obj := e.Object.(type) {
	case *corev1.Service:
		if !e.Deleted && ours(obj) {
			add(e.Key)
		}
		before, _ := e.Prev.(*corev1.Service)
		if e.Deleted {
			before = obj
		}
		switch {
		case before == nil || len(given(before)) == 0:
		case e.Deleted || frees(before, obj):
			some(v, waiting, add)
		case len(c.cfg.Pool) == 0 && !apiequality.Semantic.DeepEqual(before.Spec.Ports, obj.Spec.Ports):
			some(v, ours, add) // a port is free, or one that a younger Service has is taken
		}
	case *corev1.Node:
		before, _ := e.Prev.(*corev1.Node)
		if len(c.cfg.Pool) > 0 {
			// Addresses of machines are not given, so a machine that goes may free one.
			if before != nil && (e.Deleted || address(before) != address(obj)) || before == nil && e.Deleted {
				some(v, waiting, add)
			}
		} else if e.Deleted || before == nil || usable(before) != usable(obj) {
			some(v, ours, func(key controller.Key) { c.loop.AddAfter(key, nodeDelay) })
		}
	}
}

// frees says that a Service's change may leave an address, or a port of the nodes', to others.
func frees(before, after *corev1.Service) bool {
	return before.Spec.Type != after.Spec.Type || !apiequality.Semantic.DeepEqual(before.Status.LoadBalancer, after.Status.LoadBalancer)
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var t turn
	look := func(v registry.Viewer) (err error) {
		t, err = c.look(v, key)
		return err
	}
	err := c.registry.View(func(v *registry.View) error { return look(v) })
	if err == nil && t.changed {
		// Looked at again among writers, so that what is free is still free.
		err = c.registry.Transact(ctx, func(tx *registry.Tx) error {
			if err := look(tx); err != nil || !t.changed {
				return err
			}
			svc := t.svc.DeepCopy()
			svc.Status.LoadBalancer.Ingress = ingress(t.addresses)
			_, err := registry.PutStatus(tx, svc)
			return err
		})
	}
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if err == nil {
		c.tell(&t)
	}
	return 0, err
}

// turn is what a look at a Service has found out.
type turn struct {
	verdict
	svc     *corev1.Service
	changed bool
}

func (c *Controller) look(v registry.Viewer, key controller.Key) (t turn, err error) {
	t.svc, err = registry.Get[*corev1.Service](v, key.Namespace, key.Name)
	if err != nil || !ours(t.svc) || t.svc.DeletionTimestamp != nil {
		return t, err
	}
	t.verdict = plan(t.svc, c.facts(v))
	t.changed = !apiequality.Semantic.DeepEqual(t.svc.Status.LoadBalancer.Ingress, ingress(t.addresses))
	return t, nil
}

func (c *Controller) facts(v registry.Viewer) facts {
	f := facts{
		pool: c.cfg.Pool, own: c.cfg.HostPorts,
		holders: func(ip string) iter.Seq[*corev1.Service] {
			return registry.ByIndex[*corev1.Service](v, registry.IndexBalancerIP, ip)
		},
	}
	if len(f.pool) == 0 {
		for n := range registry.List[*corev1.Node](v, "") {
			if ip := usable(n); ip != "" {
				f.nodes = append(f.nodes, ip)
			}
		}
		byNumber(f.nodes)
		f.nodes = slices.Compact(f.nodes)
		return f
	}
	var machines map[string]string // made when somebody asks, which those with an address don't
	f.machine = func(ip string) string {
		if machines == nil {
			machines = map[string]string{}
			for n := range registry.List[*corev1.Node](v, "") {
				for _, a := range n.Status.Addresses {
					machines[a.Address] = n.Name
				}
			}
		}
		return machines[ip]
	}
	return f
}

// tell records what the user wants to know.
func (c *Controller) tell(t *turn) {
	if t.failure != "" {
		c.registry.Record(t.svc, corev1.EventTypeWarning, reasonFailed, "Failed to allocate IP: "+t.failure, component)
		return
	}
	if t.changed && len(c.cfg.Pool) > 0 {
		c.registry.Record(t.svc, corev1.EventTypeNormal, reasonAllocated, "Assigned IP "+t.addresses[0], component)
		c.log.Info("address given to a Service", "service", t.svc.Namespace+"/"+t.svc.Name, "address", t.addresses[0])
	}
}
