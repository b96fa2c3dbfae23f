package daemonset

import (
	"context"
	"log/slog"
	"maps"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "daemonset-controller"
	resource  = "daemonsets.apps"
	workers   = 2
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller keeps DaemonSets' pods on their nodes.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
	failures failures
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, log: cfg.Logger.With("component", component)}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{resource, "pods", "nodes", "controllerrevisions.apps"}, Keys: keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func all(v *registry.View, add func(controller.Key)) {
	for ds := range registry.List[*appsv1.DaemonSet](v, "") {
		add(keyOf(ds.Namespace, ds.Name))
	}
}

func keyOf(namespace, name string) controller.Key {
	return controller.Key{Resource: resource, Namespace: namespace, Name: name}
}

// keys: a DaemonSet's own changes; those of its pods and revisions, or of orphans that it might adopt; and of nodes where
// pods belong, or do not.
func keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch obj := e.Object.(type) {
	case *appsv1.DaemonSet:
		if !e.Deleted {
			add(e.Key)
		}
	case *corev1.Node:
		before, _ := e.Prev.(*corev1.Node)
		if before == nil || e.Deleted || !maps.Equal(before.Labels, obj.Labels) || !apiequality.Semantic.DeepEqual(before.Spec.Taints, obj.Spec.Taints) {
			all(v, add)
		}
	case *corev1.Pod:
		before, _ := e.Prev.(*corev1.Pod)
		if before != nil && !e.Deleted && !counts(before, obj) {
			return
		}
		addOwners(v, e, obj, add)
	case *appsv1.ControllerRevision:
		// One that somebody made in the set's name is looked at when the set has its next turn, as in Kubernetes.
		if e.Deleted || metav1.GetControllerOfNoCopy(obj) == nil {
			addOwners(v, e, obj, add)
		}
	}
}

// addOwners names the DaemonSets that a pod or revision belongs to, or belonged to, or might.
func addOwners(v *registry.View, e registry.Event, obj registry.Object, add func(controller.Key)) {
	owner := func(o registry.Object) {
		if ref := metav1.GetControllerOfNoCopy(o); ref != nil && ref.Kind == kind.Kind {
			add(keyOf(o.GetNamespace(), ref.Name))
		}
	}
	owner(obj)
	if e.Prev != nil {
		owner(e.Prev)
	}
	if e.Deleted || metav1.GetControllerOfNoCopy(obj) != nil {
		return
	}
	for ds := range registry.List[*appsv1.DaemonSet](v, obj.GetNamespace()) {
		if s, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector); err == nil && s.Matches(labels.Set(obj.GetLabels())) {
			add(keyOf(ds.Namespace, ds.Name))
		}
	}
}

// counts says whether a pod's change can matter to a DaemonSet.
func counts(before, after *corev1.Pod) bool {
	return before.Status.Phase != after.Status.Phase || podstate.Ready(before) != podstate.Ready(after) ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!maps.Equal(before.Labels, after.Labels) ||
		!apiequality.Semantic.DeepEqual(before.OwnerReferences, after.OwnerReferences)
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var after time.Duration
	idle := false
	err := c.registry.View(func(v *registry.View) (err error) {
		after, idle, err = c.look(v, key)
		return err
	})
	if err != nil || idle {
		return after, ignoreGone(err)
	}
	var t turn
	err = c.registry.Transact(ctx, func(tx *registry.Tx) error {
		t = turn{}
		return c.act(tx, key, &t)
	})
	if err != nil {
		return 0, ignoreGone(err)
	}
	c.tell(&t)
	if t.failure != nil && !apierrors.HasStatusCause(t.failure, corev1.NamespaceTerminatingCause) {
		return 0, t.failure
	}
	return t.after, nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// sooner is the shorter of two waits, 0 being none.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}
