package disruption

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/whalepod/whalepod/master/internal/controller"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	budgets = "poddisruptionbudgets.policy"
	podsKey = "pods"
	// eventSource is the component that Kubernetes' events of budgets name.
	eventSource = "controllermanager"
	workers     = 2
)

// Config of the controller.
type Config struct {
	Registry *registry.Registry
	Logger   *slog.Logger
}

// Controller counts for budgets.
type Controller struct {
	registry *registry.Registry
	log      *slog.Logger
	loop     *controller.Loop
}

// New makes the controller; Run starts it.
func New(cfg Config) *Controller {
	c := &Controller{registry: cfg.Registry, log: cfg.Logger.With("component", "disruption")}
	watch := []string{budgets, podsKey}
	for _, res := range cfg.Registry.Table().All() {
		if res.Rules().Scale != nil {
			watch = append(watch, res.Key())
		}
	}
	c.loop = controller.New(controller.Config{
		Name: "disruption", Registry: cfg.Registry, Logger: cfg.Logger, Workers: workers,
		Watch: watch, Keys: c.keys, All: all, Reconcile: c.reconcile,
	})
	return c
}

// Run works until ctx ends.
func (c *Controller) Run(ctx context.Context) error { return c.loop.Run(ctx) }

func all(v *registry.View, add func(controller.Key)) {
	for b := range registry.List[*policyv1.PodDisruptionBudget](v, "") {
		add(controller.Key{Resource: budgets, Namespace: b.Namespace, Name: b.Name})
	}
	now := time.Now()
	for pod := range registry.List[*corev1.Pod](v, "") {
		addStale(now, pod, add)
	}
}

func addStale(now time.Time, pod *corev1.Pod, add func(controller.Key)) {
	if _, stale := staleIn(now, pod); stale {
		add(controller.Key{Resource: podsKey, Namespace: pod.Namespace, Name: pod.Name})
	}
}

// keys: a budget's own changes; those of pods that it counts; and of the scales that it takes a share of.
func (c *Controller) keys(v *registry.View, e registry.Event, add func(controller.Key)) {
	switch obj := e.Object.(type) {
	case *policyv1.PodDisruptionBudget:
		if !e.Deleted {
			add(e.Key)
		}
	case *corev1.Pod:
		c.podKeys(v, e, obj, add)
	default:
		if e.Prev != nil && !e.Deleted && c.sameScale(e) {
			return
		}
		for b := range registry.List[*policyv1.PodDisruptionBudget](v, e.Key.Namespace) {
			add(controller.Key{Resource: budgets, Namespace: b.Namespace, Name: b.Name})
		}
	}
}

func (c *Controller) podKeys(v *registry.View, e registry.Event, pod *corev1.Pod, add func(controller.Key)) {
	before, _ := e.Prev.(*corev1.Pod)
	if !e.Deleted {
		addStale(time.Now(), pod, add)
	}
	if before != nil && !e.Deleted && !counts(before, pod) {
		return
	}
	covering := slices.Collect(registry.BudgetsOf(v, pod))
	for _, b := range covering {
		add(controller.Key{Resource: budgets, Namespace: b.Namespace, Name: b.Name})
	}
	fresh := before == nil || !apiequality.Semantic.DeepEqual(before.Labels, pod.Labels)
	if len(covering) > 1 && fresh && !e.Deleted {
		c.registry.Record(pod, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets",
			fmt.Sprintf("Pod %q/%q matches multiple PodDisruptionBudgets.  Chose %q arbitrarily.", pod.Namespace, pod.Name, covering[0].Name), eventSource)
	}
	if before != nil && fresh {
		for b := range registry.BudgetsOf(v, before) {
			add(controller.Key{Resource: budgets, Namespace: b.Namespace, Name: b.Name})
		}
	}
}

// counts says whether a pod's change can matter to a budget.
func counts(before, after *corev1.Pod) bool {
	return podstate.Ready(before) != podstate.Ready(after) ||
		(before.DeletionTimestamp == nil) != (after.DeletionTimestamp == nil) ||
		!apiequality.Semantic.DeepEqual(before.Labels, after.Labels) ||
		!apiequality.Semantic.DeepEqual(before.OwnerReferences, after.OwnerReferences)
}

func (c *Controller) sameScale(e registry.Event) bool {
	res, ok := c.registry.Table().ByKey(e.Key.Resource)
	if !ok {
		return true
	}
	before, _, _ := res.Rules().Scale.Get(e.Prev)
	after, _, _ := res.Rules().Scale.Get(e.Object)
	return before == after && apiequality.Semantic.DeepEqual(e.Prev.GetOwnerReferences(), e.Object.GetOwnerReferences())
}

func (c *Controller) reconcile(ctx context.Context, key controller.Key) (time.Duration, error) {
	if key.Resource == podsKey {
		return c.clean(ctx, key)
	}
	var t turn
	look := func(v registry.Viewer) (err error) {
		t, err = c.look(v, key)
		return err
	}
	if err := c.registry.View(func(v *registry.View) error { return look(v) }); err != nil || !t.changed {
		return t.next, ignoreGone(err)
	}
	err := c.registry.Transact(ctx, func(tx *registry.Tx) error {
		if err := look(tx); err != nil || !t.changed {
			return err
		}
		b := t.budget.DeepCopy()
		b.Status = t.status
		_, err := registry.PutStatus(tx, b)
		return err
	})
	if err != nil {
		return 0, ignoreGone(err)
	}
	if t.changed {
		c.tell(&t)
	}
	return t.next, nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// turn is what a look at a budget has found out.
type turn struct {
	budget    *policyv1.PodDisruptionBudget
	status    policyv1.PodDisruptionBudgetStatus
	changed   bool
	pods      int
	unmanaged bool
	overdue   []*corev1.Pod
	failure   error
	next      time.Duration
}

func (c *Controller) look(v registry.Viewer, key controller.Key) (turn, error) {
	b, err := registry.Get[*policyv1.PodDisruptionBudget](v, key.Namespace, key.Name)
	if err != nil {
		return turn{}, err
	}
	t := turn{budget: b}
	pods, err := podsOf(v, b)
	var d demand
	if err == nil {
		d, err = demandOf(b, len(pods), func() (int32, bool, error) { return c.scaleOf(v, pods) })
	}
	if err != nil {
		t.failure, t.status = err, failedStatus(b, err)
	} else {
		counted := countPods(time.Now(), b, pods)
		t.pods, t.unmanaged, t.overdue, t.next = len(pods), d.unmanaged, counted.overdue, counted.next
		t.status = makeStatus(b, d, counted)
	}
	t.changed = !apiequality.Semantic.DeepEqual(t.status, b.Status)
	return t, nil
}

func podsOf(v registry.Viewer, b *policyv1.PodDisruptionBudget) ([]*corev1.Pod, error) {
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil, err
	}
	if _, some := selector.Requirements(); !some {
		return nil, nil // no selector at all
	}
	var pods []*corev1.Pod
	for pod := range registry.List[*corev1.Pod](v, b.Namespace) {
		if selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// tell records what is worth knowing, once for each state of the budget.
func (c *Controller) tell(t *turn) {
	switch {
	case t.failure != nil:
		c.registry.Record(t.budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed",
			"Failed to calculate the number of expected pods: "+t.failure.Error(), eventSource)
	case t.pods == 0:
		c.registry.Record(t.budget, corev1.EventTypeNormal, "NoPods", "No matching pods found", eventSource)
	case t.unmanaged:
		c.registry.Record(t.budget, corev1.EventTypeWarning, "UnmanagedPods",
			fmt.Sprintf("Pods selected by this PodDisruptionBudget (selector: %v) were found to be unmanaged. As a result, the status of the PDB "+
				"cannot be calculated correctly, which may result in undefined behavior. To account for these pods please set "+
				"\".spec.minAvailable\" field of the PDB to an integer value.", t.budget.Spec.Selector), eventSource)
	}
	for _, pod := range t.overdue {
		c.registry.Record(pod, corev1.EventTypeWarning, "NotDeleted",
			fmt.Sprintf("Pod was expected by PDB %s/%s to be deleted but it wasn't", t.budget.Namespace, t.budget.Name), eventSource)
	}
}

// clean takes back the condition of a pod that was to be disrupted and was not.
func (c *Controller) clean(ctx context.Context, key controller.Key) (wait time.Duration, err error) {
	stale := false
	look := func(v registry.Viewer) (*corev1.Pod, error) {
		pod, err := registry.Get[*corev1.Pod](v, key.Namespace, key.Name)
		if err != nil {
			return nil, err
		}
		wait, stale = staleIn(time.Now(), pod)
		return pod, nil
	}
	err = c.registry.View(func(v *registry.View) error {
		_, err := look(v)
		return err
	})
	if err != nil || !stale || wait > 0 {
		return wait, ignoreGone(err)
	}
	err = c.registry.Transact(ctx, func(tx *registry.Tx) error {
		pod, err := look(tx)
		if err != nil || !stale || wait > 0 {
			return err
		}
		pod = pod.DeepCopy()
		podstate.SetCondition(pod, time.Now(), corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation,
		})
		_, err = registry.PutStatus(tx, pod)
		return err
	})
	return wait, ignoreGone(err)
}
