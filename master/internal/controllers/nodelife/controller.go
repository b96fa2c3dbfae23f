package nodelife

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	component = "node-controller"
	// evictor is the name under which Kubernetes evicts pods because of taints.
	evictor = "taint-eviction-controller"
	workers = 2
	// DefaultSilentAfter is Kubernetes' --node-monitor-grace-period.
	DefaultSilentAfter = 40 * time.Second
	// missingFor is how long a Node must be missing before pods bound to its name are deleted: an agent may register anew.
	missingFor = 40 * time.Second
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
	Sessions Sessions
	Gossip   Gossip
	// SilentAfter is how long a node without a session stays in service while gossip does not call it dead. 0 for
	// DefaultSilentAfter.
	SilentAfter time.Duration
}

// Controller watches over nodes.
type Controller struct {
	cfg  Config
	log  *slog.Logger
	loop *controller.Loop

	mu        sync.Mutex
	witnesses map[string]witness
	missing   map[string]time.Time
	// said is what the agents of lost nodes said of them last.
	said map[string][]corev1.NodeCondition
	// pending are the pods that will have to leave their node, by node.
	pending map[string]map[types.UID]*corev1.Pod
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	if cfg.SilentAfter == 0 {
		cfg.SilentAfter = DefaultSilentAfter
	}
	c := &Controller{
		cfg: cfg, log: cfg.Logger.With("component", component),
		witnesses: map[string]witness{}, missing: map[string]time.Time{}, said: map[string][]corev1.NodeCondition{},
		pending: map[string]map[types.UID]*corev1.Pod{},
	}
	c.loop = controller.New(controller.Config{
		Name: component, Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: []string{"nodes", "pods"}, Keys: keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error {
	c.hear(time.Now())
	var listening sync.WaitGroup
	listening.Go(func() { c.listen(ctx) })
	defer listening.Wait()
	return c.loop.Run(ctx)
}

func keyOf(name string) controller.Key { return controller.Key{Resource: "nodes", Name: name} }

func all(v *registry.View, add func(controller.Key)) {
	for n := range registry.List[*corev1.Node](v, "") {
		add(keyOf(n.Name))
	}
	last := ""
	for pod := range registry.List[*corev1.Pod](v, "") {
		if name := pod.Spec.NodeName; name != "" && name != last {
			if _, err := registry.Get[*corev1.Node](v, "", name); err != nil {
				add(keyOf(name))
			}
			last = name
		}
	}
}

// keys: nodes, and pods that come to a node which they may have to leave again.
func keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	pod, ok := e.Object.(*corev1.Pod)
	if !ok {
		add(e.Key)
		return
	}
	before, _ := e.Prev.(*corev1.Pod)
	if e.Deleted || pod.Spec.NodeName == "" || before != nil && before.Spec.NodeName == pod.Spec.NodeName &&
		(before.DeletionTimestamp == nil) == (pod.DeletionTimestamp == nil) &&
		len(before.Spec.Tolerations) == len(pod.Spec.Tolerations) && podstate.Ready(before) == podstate.Ready(pod) {
		return
	}
	n, err := registry.Get[*corev1.Node](v, "", pod.Spec.NodeName)
	if err != nil || len(n.Spec.Taints) > 0 {
		add(keyOf(pod.Spec.NodeName))
	}
}

// turn is what one look at a node has to write.
type turn struct {
	node       *corev1.Node // nil when the Node is missing
	conditions bool
	taints     bool
	became     corev1.ConditionStatus
	podStatus  []*corev1.Pod
	verdict
	after time.Duration
}

func (t *turn) idle() bool {
	return !t.conditions && !t.taints && len(t.podStatus)+len(t.evict) == 0
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	var t *turn
	look := func(v registry.Viewer) (err error) {
		t, err = c.look(v, key.Name)
		return err
	}
	err := c.cfg.Registry.View(func(v *registry.View) error { return look(v) })
	if err != nil {
		return 0, err
	}
	if t.idle() {
		c.tellCancelled(key.Name, t)
		return t.after, nil
	}
	err = c.cfg.Registry.Transact(ctx, func(tx *registry.Tx) error {
		if err := look(tx); err != nil {
			return err
		}
		return t.write(tx)
	})
	if err != nil {
		return 0, err
	}
	c.tell(t)
	c.tellCancelled(key.Name, t)
	return t.after, nil
}

// soonest of two durations, of which 0 means never.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

func (c *Controller) look(v registry.Viewer, name string) (*turn, error) {
	now := time.Now()
	old, err := registry.Get[*corev1.Node](v, "", name)
	if apierrors.IsNotFound(err) {
		return c.lookMissing(v, name, now), nil
	}
	if err != nil {
		return nil, err
	}
	c.found(name)
	w := c.witness(name, now)
	f := find(now, w, c.cfg.SilentAfter)
	t := &turn{node: old.DeepCopy(), after: f.again}
	if said := c.remember(old, f.lost); !f.undecided {
		setConditions(now, t.node, f.lost, w.session, said)
	}
	var again time.Duration
	t.node.Spec.Taints, again = taints(now, t.node, f.moved || f.undecided && isMoving(old), w.goneSince)
	t.after = soonest(t.after, again)
	t.conditions = !apiequality.Semantic.DeepEqual(old.Status.Conditions, t.node.Status.Conditions)
	t.taints = !apiequality.Semantic.DeepEqual(old.Spec.Taints, t.node.Spec.Taints)
	if before, is := nodeCondition(old, corev1.NodeReady), nodeCondition(t.node, corev1.NodeReady); is != nil && (before == nil || before.Status != is.Status) {
		t.became = is.Status
	}
	var pods []*corev1.Pod
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexNode, name) {
		pods = append(pods, pod)
		if f.undecided {
			continue
		}
		change := restore
		if f.lost {
			change = withdraw
		}
		if p := change(now, pod); p != nil {
			t.podStatus = append(t.podStatus, p)
		}
	}
	t.verdict = judge(now, t.node.Spec.Taints, pods, f.moved, isOut(t.node))
	t.after = soonest(t.after, t.next)
	return t, nil
}

// remember keeps what the agent of a node says as long as the node is in service, and returns what it said last.
func (c *Controller) remember(n *corev1.Node, lost bool) []corev1.NodeCondition {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case isLost(n):
	case lost:
		c.said[n.Name] = n.Status.Conditions
	default:
		delete(c.said, n.Name)
	}
	return c.said[n.Name]
}

// lookMissing finds the pods of a name that no Node has: nobody runs them, and nobody could say that they have ended.
func (c *Controller) lookMissing(v registry.Viewer, name string, now time.Time) *turn {
	c.forget(name)
	t := &turn{}
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexNode, name) {
		t.evict = append(t.evict, eviction{pod, true})
	}
	if len(t.evict) == 0 {
		c.found(name)
		return t
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	since, had := c.missing[name]
	if !had {
		since = now
		c.missing[name] = now
	}
	if left := since.Add(missingFor).Sub(now); left > 0 {
		return &turn{after: left}
	}
	return t
}

func (c *Controller) found(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.missing, name)
}

func (t *turn) write(tx *registry.Tx) error {
	if t.taints {
		status := t.node.Status
		put, err := registry.Put(tx, t.node.DeepCopy())
		if err != nil {
			return err
		}
		t.node = put.DeepCopy()
		t.node.Status = status
	}
	if t.conditions {
		if _, err := registry.PutStatus(tx, t.node.DeepCopy()); err != nil {
			return err
		}
	}
	for _, pod := range t.podStatus {
		if _, err := registry.PutStatus(tx, pod); err != nil {
			return err
		}
	}
	for _, e := range t.evict {
		var o registry.DeleteOptions
		if e.force {
			o.GracePeriodSeconds = new(int64)
		}
		if !e.force || len(e.pod.Finalizers) > 0 {
			if err := markDisrupted(tx, e.pod, e.force); err != nil {
				return err
			}
		}
		if err := tx.Delete(e.pod, o); err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// markDisrupted notes on a pod that it goes for its node's sake. Of one that is gone by force and that a finalizer holds (a
// Job's, which wants to know how it ended) nobody else will ever say that it has ended.
func markDisrupted(tx *registry.Tx, pod *corev1.Pod, ended bool) error {
	current, err := registry.Get[*corev1.Pod](tx, pod.Namespace, pod.Name)
	if err != nil {
		return err
	}
	current = current.DeepCopy()
	podstate.SetCondition(current, time.Now(), corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "DeletionByTaintManager",
		Message: "Taint manager: deleting due to NoExecute taint", ObservedGeneration: current.Generation,
	})
	if ended && !podstate.Ended(current) {
		current.Status.Phase = corev1.PodFailed
	}
	_, err = registry.PutStatus(tx, current)
	return err
}

// tellCancelled tells of pods that would have had to go and may stay.
func (c *Controller) tellCancelled(node string, t *turn) {
	now := make(map[types.UID]*corev1.Pod, len(t.pending))
	for _, pod := range t.pending {
		now[pod.UID] = pod
	}
	c.mu.Lock()
	before := c.pending[node]
	if c.pending[node] = now; len(now) == 0 {
		delete(c.pending, node)
	}
	c.mu.Unlock()
	for _, e := range t.evict {
		delete(before, e.pod.UID)
	}
	for uid, pod := range before {
		if now[uid] != nil || !c.stays(pod) {
			continue
		}
		c.cfg.Registry.Record(pod, corev1.EventTypeNormal, "TaintManagerEviction",
			fmt.Sprintf("Cancelling deletion of Pod %s/%s", pod.Namespace, pod.Name), evictor)
	}
}

// stays says that a pod is still there, and not on its way out.
func (c *Controller) stays(pod *corev1.Pod) (stays bool) {
	_ = c.cfg.Registry.View(func(v *registry.View) error {
		p, err := registry.Get[*corev1.Pod](v, pod.Namespace, pod.Name)
		stays = err == nil && p.UID == pod.UID && p.DeletionTimestamp == nil
		return nil
	})
	return stays
}

func (c *Controller) tell(t *turn) {
	if t.node != nil && t.conditions && t.became != "" {
		status := "NodeNotReady"
		if t.became == corev1.ConditionTrue {
			status = "NodeReady"
		}
		c.log.Info("node changed", "node", t.node.Name, "ready", t.became)
		c.cfg.Registry.Record(t.node, corev1.EventTypeNormal, status, fmt.Sprintf("Node %s status is now: %s", t.node.Name, status), component)
		for _, pod := range t.podStatus {
			if t.became != corev1.ConditionTrue {
				c.cfg.Registry.Record(pod, corev1.EventTypeWarning, reasonNotReady, "Node is not ready", component)
			}
		}
	}
	for _, e := range t.evict {
		c.log.Info("pod evicted", "pod", e.pod.Namespace+"/"+e.pod.Name, "node", e.pod.Spec.NodeName, "forced", e.force)
		c.cfg.Registry.Record(e.pod, corev1.EventTypeNormal, "TaintManagerEviction",
			fmt.Sprintf("Marking for deletion Pod %s/%s", e.pod.Namespace, e.pod.Name), evictor)
	}
}
