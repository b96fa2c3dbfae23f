package daemonset

import (
	"fmt"
	"slices"
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
	"github.com/whalepod/whalepod/master/internal/controllers/history"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// turn is what one reconcile has done, told to the user after it is committed.
type turn struct {
	owner            *appsv1.DaemonSet
	now              time.Time
	created, deleted []string
	ended            []*corev1.Pod
	failure          error
	reason           string
	after            time.Duration
}

// state is what a turn finds.
type state struct {
	ds             *appsv1.DaemonSet
	adopt, release []*corev1.Pod
	pods           []*corev1.Pod // after adoption and release
	history        *history.History
	// doubles are revisions with the current one's template, whose pods become the current one's.
	doubles map[string]bool
	world   *world
	plan    *plan
}

// read gathers and decides; nil when there is nothing to decide about: a DaemonSet that goes leaves its pods to the
// garbage collector, and may have lost its revisions already.
func (c *Controller) read(v registry.Viewer, key controller.Key) (*state, error) {
	ds, err := registry.Get[*appsv1.DaemonSet](v, key.Namespace, key.Name)
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() || ds.DeletionTimestamp != nil {
		return nil, nil // validation refuses such selectors at the door
	}
	s := &state{ds: ds}
	s.claim(v, selector)
	if err := s.revise(v, selector); err != nil {
		return nil, err
	}
	now := time.Now()
	s.world = &world{
		ds: ds, now: now, hash: s.history.Current.Labels[hashLabel],
		nodes: placesOf(ds, registry.List[*corev1.Node](v, "")), pods: byNode(s.pods),
		blocked: func(node string) time.Duration { return c.failures.left(now, failureOf(ds, node)) },
	}
	s.plan = makePlan(s.world)
	return s, nil
}

func failureOf(ds *appsv1.DaemonSet, node string) failureKey {
	return failureKey{daemonSet: ds.UID, generation: ds.Generation, node: node}
}

// claim finds the DaemonSet's pods.
func (s *state) claim(v registry.Viewer, selector labels.Selector) {
	sort := func(pod *corev1.Pod) {
		switch podstate.ClaimOf(s.ds, pod, selector) {
		case podstate.Keep:
			s.pods = append(s.pods, pod)
		case podstate.Adopt:
			s.adopt = append(s.adopt, pod)
			s.pods = append(s.pods, pod)
		case podstate.Release:
			s.release = append(s.release, pod)
		}
	}
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOwner, string(s.ds.UID)) {
		if pod.Namespace == s.ds.Namespace {
			sort(pod)
		}
	}
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOrphan, s.ds.Namespace) {
		sort(pod)
	}
}

// revise finds the revision of the present template, and what is too old to be kept. Revisions that pods are of are not.
func (s *state) revise(v registry.Viewer, selector labels.Selector) error {
	h := history.Read(v, history.Owner{
		Object: s.ds, Kind: kind, Selector: selector, Template: &s.ds.Spec.Template,
		Collisions: s.ds.Status.CollisionCount, HashLabel: hashLabel,
	})
	if err := h.Resolve(); err != nil {
		return err
	}
	s.history = h
	for _, r := range slices.Clone(h.Revisions) {
		if r.Labels[hashLabel] == "" {
			h.Relabel(r, hashLabel, r.Name)
		}
	}
	s.doubles = map[string]bool{}
	for _, r := range slices.Clone(h.Equal) {
		if r != h.Current {
			s.doubles[r.Labels[hashLabel]] = true
			h.Remove(r)
		}
	}
	delete(s.doubles, h.Current.Labels[hashLabel])
	live := map[string]bool{}
	for _, pod := range s.pods {
		live[pod.Labels[hashLabel]] = true
	}
	limit := 10 // the default
	if n := s.ds.Spec.RevisionHistoryLimit; n != nil {
		limit = int(*n)
	}
	surplus := len(h.Revisions) - 1 - limit
	for _, r := range slices.Clone(h.Revisions) {
		if surplus > 0 && r != h.Current && !live[r.Labels[hashLabel]] {
			h.Remove(r)
			surplus--
		}
	}
	return nil
}

// relabel are the pods of doubles.
func (s *state) relabel() (out []*corev1.Pod) {
	for _, pod := range s.pods {
		if s.doubles[pod.Labels[hashLabel]] {
			out = append(out, pod)
		}
	}
	return out
}

// look finds out, without a transaction, whether there is anything to do.
func (c *Controller) look(v registry.Viewer, key controller.Key) (after time.Duration, idle bool, err error) {
	s, err := c.read(v, key)
	if err != nil || s == nil {
		return 0, true, err
	}
	if !s.plan.empty() || !s.history.Idle() || len(s.adopt)+len(s.release)+len(s.relabel()) > 0 {
		return 0, false, nil
	}
	status, next := makeStatus(s.world, s.history.Collisions)
	return sooner(next, s.plan.again), apiequality.Semantic.DeepEqual(status, s.ds.Status), nil
}

// act brings everything about, and writes the status that results.
func (c *Controller) act(tx *registry.Tx, key controller.Key, t *turn) error {
	s, err := c.read(tx, key)
	if err != nil || s == nil {
		return err
	}
	t.owner, t.now = s.ds, s.world.now
	if owned, err := s.own(tx); err != nil {
		return err
	} else if owned {
		// What the plan was made of has changed: read it again.
		if s, err = c.read(tx, key); err != nil || s == nil {
			return err
		}
	}
	if err := s.history.Write(tx); err != nil {
		return err
	}
	for _, pod := range s.plan.remove {
		if err := tx.Delete(pod, registry.DeleteOptions{}); err != nil {
			return err
		}
		t.deleted = append(t.deleted, pod.Name)
	}
	t.ended = s.plan.ended
	s.create(tx, t)
	collisions := s.history.Collisions
	if t.after = s.plan.again; s.plan.more {
		t.after = time.Millisecond
	}
	// Counted afresh: what was made and deleted counts, too.
	after := &state{ds: s.ds}
	selector, err := metav1.LabelSelectorAsSelector(s.ds.Spec.Selector)
	if err != nil {
		return err
	}
	after.claim(tx, selector)
	s.world.pods = byNode(after.pods)
	status, next := makeStatus(s.world, collisions)
	t.after = sooner(t.after, next)
	if apiequality.Semantic.DeepEqual(status, s.ds.Status) {
		return nil
	}
	ds := s.ds.DeepCopy()
	ds.Status = status
	_, err = registry.PutStatus(tx, ds)
	return err
}

// own writes who owns which pods, and of which revision they are; it says whether it has written anything.
func (s *state) own(tx *registry.Tx) (bool, error) {
	put := func(pods []*corev1.Pod, change func(*corev1.Pod)) error {
		for _, pod := range pods {
			pod, err := registry.Get[*corev1.Pod](tx, pod.Namespace, pod.Name)
			if err != nil {
				return err
			}
			pod = pod.DeepCopy()
			change(pod)
			if _, err := registry.Put(tx, pod); err != nil {
				return err
			}
		}
		return nil
	}
	relabel := s.relabel()
	if err := put(s.adopt, func(pod *corev1.Pod) { podstate.SetController(pod, s.ds, kind) }); err != nil {
		return false, err
	}
	if err := put(s.release, func(pod *corev1.Pod) { podstate.DropOwner(pod, s.ds) }); err != nil {
		return false, err
	}
	err := put(relabel, func(pod *corev1.Pod) { pod.Labels[hashLabel] = s.history.Current.Labels[hashLabel] })
	return len(s.adopt)+len(s.release)+len(relabel) > 0, err
}

func (s *state) create(tx *registry.Tx, t *turn) {
	for _, node := range s.plan.create {
		wanted := newPod(s.ds, node, s.world.hash)
		pod, err := registry.Create(tx, wanted)
		if err != nil {
			t.failure = err
			// Without the generated name, the next failure has the same words and is folded into a count.
			t.reason = strings.ReplaceAll(err.Error(), strconv.Quote(wanted.Name), strconv.Quote(wanted.GenerateName))
			return
		}
		t.created = append(t.created, pod.Name)
	}
}

// tell records what was committed as Events, in Kubernetes' words.
func (c *Controller) tell(t *turn) {
	if t.owner == nil {
		return
	}
	for _, pod := range t.ended {
		node := targetOf(pod)
		if pod.Status.Phase == corev1.PodFailed {
			c.failures.replaced(t.now, failureOf(t.owner, node))
			c.registry.Record(t.owner, corev1.EventTypeWarning, "FailedDaemonPod",
				fmt.Sprintf("Found failed daemon pod %s/%s on node %s, will try to kill it", pod.Namespace, pod.Name, node), component)
			continue
		}
		c.registry.Record(t.owner, corev1.EventTypeNormal, "SucceededDaemonPod",
			fmt.Sprintf("Found succeeded daemon pod %s/%s on node %s, will try to delete it", pod.Namespace, pod.Name, node), component)
	}
	for _, name := range t.created {
		c.registry.Record(t.owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: "+name, component)
	}
	for _, name := range t.deleted {
		c.registry.Record(t.owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: "+name, component)
	}
	if t.failure != nil && !apierrors.HasStatusCause(t.failure, corev1.NamespaceTerminatingCause) {
		c.registry.Record(t.owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: "+t.reason, component)
	}
	if len(t.created)+len(t.deleted) > 0 {
		c.log.Debug("pods changed", "daemonset", t.owner.Name, "namespace", t.owner.Namespace, "created", len(t.created), "deleted", len(t.deleted))
	}
}
