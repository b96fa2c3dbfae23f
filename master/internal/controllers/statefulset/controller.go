package statefulset

import (
	"context"
	"log/slog"
	"strings"
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
	component = "statefulset-controller"
	resource  = "statefulsets.apps"
	// hashLabel of a set's ControllerRevisions; their pods carry the revision's whole name.
	hashLabel = "controller.kubernetes.io/hash"
	workers   = 4
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller keeps the pods of StatefulSets.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, log: cfg.Logger.With("component", component)}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{resource, "pods", "persistentvolumeclaims", "controllerrevisions.apps"},
		Keys:  keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(namespace, name string) controller.Key {
	return controller.Key{Resource: resource, Namespace: namespace, Name: name}
}

func all(v *registry.View, add func(controller.Key)) {
	for set := range registry.List[*appsv1.StatefulSet](v, "") {
		add(keyOf(set.Namespace, set.Name))
	}
}

// keys: a set's own changes, those of its pods, pods that it might adopt or whose name it waits for, claims that went or
// that it waits for, and revisions that somebody deleted.
func keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch obj := e.Object.(type) {
	case *appsv1.StatefulSet:
		if !e.Deleted {
			add(e.Key)
		}
	case *corev1.Pod:
		before, _ := e.Prev.(*corev1.Pod)
		podKeys(v, obj, before, e.Deleted, add)
	case *corev1.PersistentVolumeClaim:
		if e.Deleted {
			claimKeys(v, obj, add)
		}
	case *appsv1.ControllerRevision:
		if e.Deleted {
			addOwner(obj, add)
		}
	}
}

func podKeys(v *registry.View, pod, before *corev1.Pod, deleted bool, add func(controller.Key)) {
	if before != nil && !deleted && !changed(before, pod) {
		return
	}
	addOwner(pod, add)
	if before != nil {
		addOwner(before, add)
	}
	name, _, ok := split(pod.Name)
	if !ok {
		return
	}
	if set, err := registry.Get[*appsv1.StatefulSet](v, pod.Namespace, name); err == nil {
		if deleted {
			add(keyOf(set.Namespace, set.Name)) // whoever's it was: the name is free
		} else if metav1.GetControllerOfNoCopy(pod) == nil {
			if s, err := metav1.LabelSelectorAsSelector(set.Spec.Selector); err == nil && s.Matches(labels.Set(pod.Labels)) {
				add(keyOf(set.Namespace, set.Name))
			}
		}
	}
}

func claimKeys(v *registry.View, claim *corev1.PersistentVolumeClaim, add func(controller.Key)) {
	for set := range registry.List[*appsv1.StatefulSet](v, claim.Namespace) {
		for i := range set.Spec.VolumeClaimTemplates {
			rest, ok := strings.CutPrefix(claim.Name, set.Spec.VolumeClaimTemplates[i].Name+"-")
			if name, _, is := split(rest); ok && is && name == set.Name {
				add(keyOf(set.Namespace, set.Name))
			}
		}
	}
}

func addOwner(o metav1.Object, add func(controller.Key)) {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil && ref.Kind == kind.Kind {
		add(keyOf(o.GetNamespace(), ref.Name))
	}
}

// changed says whether a pod's change can matter to its set.
func changed(before, after *corev1.Pod) bool {
	return before.Status.Phase != after.Status.Phase || podstate.Ready(before) != podstate.Ready(after) ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!apiequality.Semantic.DeepEqual(before.Labels, after.Labels) ||
		!apiequality.Semantic.DeepEqual(before.OwnerReferences, after.OwnerReferences)
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var t *turn
	look := func(v registry.Viewer) (err error) {
		t, err = read(v, key)
		return err
	}
	err := c.registry.View(func(v *registry.View) error { return look(v) })
	if apierrors.IsNotFound(err) || err == nil && t == nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if t.idle() {
		return t.after, nil
	}
	err = c.registry.Transact(ctx, func(tx *registry.Tx) error {
		if err := look(tx); err != nil || t == nil {
			return err
		}
		return t.write(tx)
	})
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || err == nil && t == nil {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for _, e := range t.events {
		c.registry.Record(t.set, e.kind, e.reason, e.message, component)
	}
	if len(t.steps) > 0 {
		c.log.Debug("pods changed", "set", t.set.Name, "namespace", t.set.Namespace, "steps", len(t.steps), "err", t.failure)
	}
	if apierrors.HasStatusCause(t.failure, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	return t.after, t.failure
}
