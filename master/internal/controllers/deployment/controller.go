package deployment

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
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
	component = "deployment-controller"
	resource  = "deployments.apps"
	workers   = 4
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller rolls Deployments out.
type Controller struct {
	registry *registry.Registry
	loop     *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{resource, "replicasets.apps", "pods"}, Keys: keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func keyOf(namespace, name string) controller.Key {
	return controller.Key{Resource: resource, Namespace: namespace, Name: name}
}

func all(v *registry.View, add func(controller.Key)) {
	for d := range registry.List[*appsv1.Deployment](v, "") {
		add(keyOf(d.Namespace, d.Name))
	}
}

// keys: the Deployment's own changes, those of its ReplicaSets and of ReplicaSets without an owner; and pods that went,
// for which Recreate waits.
func keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch obj := e.Object.(type) {
	case *appsv1.Deployment:
		if !e.Deleted {
			add(e.Key)
		}
	case *appsv1.ReplicaSet:
		addOwner(obj, add)
		if e.Prev != nil {
			addOwner(e.Prev, add)
		}
		if e.Deleted || metav1.GetControllerOfNoCopy(obj) != nil {
			return
		}
		for d := range registry.List[*appsv1.Deployment](v, obj.Namespace) {
			if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && s.Matches(labels.Set(obj.Labels)) {
				add(keyOf(d.Namespace, d.Name))
			}
		}
	case *corev1.Pod:
		if !e.Deleted && !podstate.Ended(obj) {
			return
		}
		ref := metav1.GetControllerOfNoCopy(obj)
		if ref == nil || ref.Kind != "ReplicaSet" {
			return
		}
		rs, err := registry.Get[*appsv1.ReplicaSet](v, obj.Namespace, ref.Name)
		if err != nil {
			return
		}
		if ref := metav1.GetControllerOfNoCopy(rs); ref != nil && ref.Kind == kind.Kind {
			d, err := registry.Get[*appsv1.Deployment](v, rs.Namespace, ref.Name)
			if err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
				add(keyOf(d.Namespace, d.Name))
			}
		}
	}
}

func addOwner(o metav1.Object, add func(controller.Key)) {
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil && ref.Kind == kind.Kind {
		add(keyOf(o.GetNamespace(), ref.Name))
	}
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
	if err != nil || t.idle() {
		return t.after(), err
	}
	err = c.registry.Transact(ctx, func(tx *registry.Tx) error {
		if err := look(tx); err != nil || t == nil {
			return err
		}
		return t.write(tx)
	})
	if apierrors.IsNotFound(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return 0, nil
	}
	if err != nil || t == nil {
		return 0, err
	}
	for _, e := range t.events {
		c.registry.Record(t.stored, e.kind, e.reason, e.message, component)
	}
	if t.refusal != nil {
		return 0, controller.Told(t.refusal)
	}
	return t.after(), nil
}

// turn is a plan with what it was made from.
type turn struct {
	*world
	// refusal is why the new ReplicaSet could not be made.
	refusal   error
	stored    *appsv1.Deployment
	storedRSs map[string]*appsv1.ReplicaSet
}

// read makes the plan from a state; nil when there is nothing that could be planned.
func read(v registry.Viewer, key controller.Key) (*turn, error) {
	d, err := registry.Get[*appsv1.Deployment](v, key.Namespace, key.Name)
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		return nil, nil // validation refuses such at the door
	}
	t := &turn{stored: d, storedRSs: map[string]*appsv1.ReplicaSet{}}
	var sets, released []*appsv1.ReplicaSet
	claim := func(rs *appsv1.ReplicaSet) {
		own := rs.DeepCopy()
		switch podstate.ClaimOf(d, rs, selector) {
		case podstate.Ignore:
			return
		case podstate.Adopt:
			podstate.SetController(own, d, kind)
		case podstate.Release:
			podstate.DropOwner(own, d)
			t.storedRSs[rs.Name] = rs
			released = append(released, own)
			return
		}
		t.storedRSs[rs.Name] = rs
		sets = append(sets, own)
	}
	for rs := range registry.ByIndex[*appsv1.ReplicaSet](v, registry.IndexOwner, string(d.UID)) {
		claim(rs)
	}
	for rs := range registry.ByIndex[*appsv1.ReplicaSet](v, registry.IndexOrphan, d.Namespace) {
		claim(rs)
	}
	t.world = newWorld(time.Now(), d.DeepCopy(), sets)
	t.released = released
	t.taken = func(name string) bool {
		_, err := registry.Get[*appsv1.ReplicaSet](v, d.Namespace, name)
		return err == nil
	}
	t.running = func(rs *appsv1.ReplicaSet) bool {
		for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOwner, string(rs.UID)) {
			if !podstate.Ended(pod) {
				return true
			}
		}
		return false
	}
	return t, t.run()
}

func (t *turn) after() time.Duration {
	if t == nil || t.world == nil {
		return 0
	}
	return t.requeue
}

// idle says that the plan changes nothing.
func (t *turn) idle() bool {
	if t.created != nil || len(t.remove)+len(t.released) > 0 || !apiequality.Semantic.DeepEqual(t.stored, t.d) {
		return false
	}
	for _, rs := range t.sets {
		if !apiequality.Semantic.DeepEqual(t.storedRSs[rs.Name], rs) {
			return false
		}
	}
	return true
}

// write stores what the plan has changed.
func (t *turn) write(tx *registry.Tx) error {
	if t.created != nil {
		_, err := registry.Create(tx, t.created)
		if apierrors.IsForbidden(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsInvalid(err) {
			return t.writeRefusal(tx, err)
		}
		if err != nil {
			return err
		}
	}
	for _, rs := range append(t.sets, t.released...) {
		if rs == t.created || apiequality.Semantic.DeepEqual(t.storedRSs[rs.Name], rs) {
			continue
		}
		if _, err := registry.Put(tx, rs); err != nil {
			return err
		}
	}
	for _, rs := range t.remove {
		if err := tx.Delete(rs, registry.DeleteOptions{}); err != nil {
			return err
		}
	}
	status := t.d.Status
	d := t.d
	if !apiequality.Semantic.DeepEqual(t.stored.Annotations, d.Annotations) || !apiequality.Semantic.DeepEqual(t.stored.Spec, d.Spec) {
		put, err := registry.Put(tx, d)
		if err != nil {
			return err
		}
		d = put.DeepCopy()
		d.Status = status
	}
	if apiequality.Semantic.DeepEqual(t.stored.Status, status) {
		return nil
	}
	_, err := registry.PutStatus(tx, d)
	return err
}

// writeRefusal gives the plan up and says why: a quota of ReplicaSets is used up, or their template is not valid.
func (t *turn) writeRefusal(tx *registry.Tx, err error) error {
	t.refusal, t.events = err, nil
	said := &world{now: t.now, d: t.stored.DeepCopy()}
	text := fmt.Sprintf("Failed to create new replica set %q: %v", t.created.Name, err)
	t.tell(corev1.EventTypeWarning, reasonNotCreated, "%s", text)
	if !hasDeadline(said.d) {
		return nil
	}
	said.d.Status.Conditions = slices.Clone(said.d.Status.Conditions)
	said.progress(corev1.ConditionFalse, reasonNotCreated, text)
	if apiequality.Semantic.DeepEqual(t.stored.Status, said.d.Status) {
		return nil
	}
	_, err = registry.PutStatus(tx, said.d)
	return err
}
