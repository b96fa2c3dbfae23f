package replicaset

import (
	"context"
	"log/slog"
	"strconv"
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

const workers = 4

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller keeps the pods of one kind of owner.
type Controller struct {
	*owner
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller of ReplicaSets; Run starts it.
func New(cfg Config) *Controller { return newController(cfg, replicaSets) }

// NewReplication makes the controller of ReplicationControllers; Run starts it.
func NewReplication(cfg Config) *Controller { return newController(cfg, replicationControllers) }

func newController(cfg Config, o *owner) *Controller {
	c := &Controller{owner: o, registry: cfg.Registry, log: cfg.Logger.With("component", o.component)}
	c.loop = controller.New(controller.Config{
		Name: o.component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{o.resource, "pods"}, Keys: o.keys, All: o.all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func (o *owner) all(v *registry.View, add func(controller.Key)) {
	for rs := range o.list(v, "") {
		add(o.keyOf(rs.Namespace, rs.Name))
	}
}

func (o *owner) keyOf(namespace, name string) controller.Key {
	return controller.Key{Resource: o.resource, Namespace: namespace, Name: name}
}

// keys: an owner's own changes, those of its pods, and pods without a controller that it might adopt.
func (o *owner) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	pod, ok := e.Object.(*corev1.Pod)
	if !ok {
		if !e.Deleted {
			add(e.Key)
		}
		return
	}
	before, _ := e.Prev.(*corev1.Pod)
	if before != nil && !e.Deleted && !counts(before, pod) {
		return
	}
	o.addOwner(pod, add)
	if before != nil {
		o.addOwner(before, add)
	}
	if !e.Deleted && metav1.GetControllerOfNoCopy(pod) == nil {
		for rs := range o.list(v, pod.Namespace) {
			if s, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector); err == nil && s.Matches(labels.Set(pod.Labels)) {
				add(o.keyOf(rs.Namespace, rs.Name))
			}
		}
	}
}

// counts says whether a pod's change can matter to a ReplicaSet.
func counts(before, after *corev1.Pod) bool {
	return before.Status.Phase != after.Status.Phase || podstate.Ready(before) != podstate.Ready(after) ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!apiequality.Semantic.DeepEqual(before.Labels, after.Labels) ||
		!apiequality.Semantic.DeepEqual(before.OwnerReferences, after.OwnerReferences)
}

func (o *owner) addOwner(pod *corev1.Pod, add func(controller.Key)) {
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil && ref.Kind == o.kind.Kind {
		add(o.keyOf(pod.Namespace, ref.Name))
	}
}

// turn is what one reconcile has done, told to the user after it is committed.
type turn struct {
	created, deleted []string
	failure          error
	reason           string
	owner            registry.Object
	after            time.Duration
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var t turn
	idle := false
	look := func(v *registry.View) (err error) {
		t, idle, err = c.look(v, key)
		return err
	}
	if err := c.registry.View(look); err != nil || idle {
		return t.after, ignoreGone(err)
	}
	err := c.registry.Transact(ctx, func(tx *registry.Tx) (err error) {
		t, err = c.act(tx, key)
		return err
	})
	if err != nil {
		return 0, ignoreGone(err)
	}
	c.tell(&t)
	if t.failure != nil && !apierrors.HasStatusCause(t.failure, corev1.NamespaceTerminatingCause) {
		return 0, controller.Told(t.failure)
	}
	return t.after, nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// look finds out, without a transaction, whether there is anything to do.
func (c *Controller) look(v registry.Viewer, key controller.Key) (turn, bool, error) {
	now := time.Now()
	_, rs, p, err := c.read(v, now, key)
	if err != nil || p == nil {
		return turn{}, true, err
	}
	if !p.empty() {
		return turn{}, false, nil
	}
	status, next := c.status(now, rs, p.active, p.terminating, nil)
	return turn{after: next}, apiequality.Semantic.DeepEqual(status, rs.Status), nil
}

// status is that of the kind: a ReplicationController's does not count terminating pods.
func (o *owner) status(now time.Time, rs *appsv1.ReplicaSet, active []*corev1.Pod, terminating int, failure *appsv1.ReplicaSetCondition) (appsv1.ReplicaSetStatus, time.Duration) {
	status, next := makeStatus(now, rs, active, terminating, failure)
	if !o.terminating {
		status.TerminatingReplicas = nil
	}
	return status, next
}

// read gathers what the plan is made from; the plan is nil when the owner's selector cannot be read.
func (o *owner) read(v registry.Viewer, now time.Time, key controller.Key) (registry.Object, *appsv1.ReplicaSet, *plan, error) {
	obj, rs, err := o.get(v, key.Namespace, key.Name)
	if err != nil {
		return nil, nil, nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil || selector.Empty() {
		return obj, rs, nil, nil // validation refuses such at the door
	}
	var pods []*corev1.Pod
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOwner, string(rs.UID)) {
		if pod.Namespace == rs.Namespace {
			pods = append(pods, pod)
		}
	}
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOrphan, rs.Namespace) {
		pods = append(pods, pod)
	}
	return obj, rs, makePlan(now, rs, selector, pods, func() []*corev1.Pod { return o.related(v, rs) }), nil
}

// related are the pods of all of the kind that share their owner, as during a rolling update.
func (o *owner) related(v registry.Viewer, rs *appsv1.ReplicaSet) []*corev1.Pod {
	uids := []string{string(rs.UID)}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		uids = uids[:0]
		for sibling := range o.siblings(v, string(ref.UID)) {
			uids = append(uids, string(sibling.UID))
		}
	}
	var pods []*corev1.Pod
	for _, uid := range uids {
		for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOwner, uid) {
			pods = append(pods, pod)
		}
	}
	return pods
}

// act counts, creates and deletes in one transaction, and writes the status that results.
func (c *Controller) act(tx *registry.Tx, key controller.Key) (turn, error) {
	now := time.Now()
	obj, rs, p, err := c.read(tx, now, key)
	if err != nil || p == nil {
		return turn{}, err
	}
	t := turn{owner: obj}
	for _, pod := range p.adopt {
		pod = pod.DeepCopy()
		podstate.SetController(pod, rs, c.kind)
		if _, err := registry.Put(tx, pod); err != nil {
			return t, err
		}
	}
	for _, pod := range p.release {
		pod = pod.DeepCopy()
		podstate.DropOwner(pod, rs)
		if _, err := registry.Put(tx, pod); err != nil {
			return t, err
		}
	}
	active, terminating, err := c.remove(tx, p, &t)
	if err != nil {
		return t, err
	}
	for range p.create {
		wanted := podstate.FromTemplate(&rs.Spec.Template, rs, c.kind)
		pod, err := registry.Create(tx, wanted)
		if err != nil {
			t.failure = err
			// Without the generated name, the next failure has the same words and is folded into a count.
			t.reason = strings.ReplaceAll(err.Error(), strconv.Quote(wanted.Name), strconv.Quote(wanted.GenerateName))
			break
		}
		t.created = append(t.created, pod.Name)
		active = append(active, pod)
	}
	var failure *appsv1.ReplicaSetCondition
	if t.failure != nil {
		failure = &appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
			Message: t.reason, LastTransitionTime: metav1.NewTime(now.Truncate(time.Second)),
		}
	}
	status, next := c.status(now, rs, active, terminating, failure)
	t.after = next
	if p.more {
		t.after = time.Millisecond
	}
	if apiequality.Semantic.DeepEqual(status, rs.Status) {
		return t, nil
	}
	return t, c.put(tx, obj, status)
}

// remove deletes what the plan chose and returns what still counts.
func (c *Controller) remove(tx *registry.Tx, p *plan, t *turn) ([]*corev1.Pod, int, error) {
	if len(p.remove) == 0 {
		return p.active, p.terminating, nil
	}
	terminating := p.terminating
	chosen := make(map[*corev1.Pod]bool, len(p.remove))
	for _, pod := range p.remove {
		if err := tx.Delete(pod, registry.DeleteOptions{}); err != nil {
			return nil, 0, err
		}
		chosen[pod] = true
		t.deleted = append(t.deleted, pod.Name)
		if _, err := registry.Get[*corev1.Pod](tx, pod.Namespace, pod.Name); err == nil {
			terminating++
		}
	}
	var active []*corev1.Pod
	for _, pod := range p.active {
		if !chosen[pod] {
			active = append(active, pod)
		}
	}
	return active, terminating, nil
}

// tell records what was committed as Events, in Kubernetes' words.
func (c *Controller) tell(t *turn) {
	for _, name := range t.created {
		c.registry.Record(t.owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+name, c.component)
	}
	for _, name := range t.deleted {
		c.registry.Record(t.owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+name, c.component)
	}
	if t.failure != nil && !apierrors.HasStatusCause(t.failure, corev1.NamespaceTerminatingCause) {
		c.registry.Record(t.owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: "+t.reason, c.component)
	}
	if len(t.created)+len(t.deleted) > 0 {
		c.log.Debug("pods changed", "owner", t.owner.GetName(), "namespace", t.owner.GetNamespace(), "created", len(t.created), "deleted", len(t.deleted))
	}
}
