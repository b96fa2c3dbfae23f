package statefulset

import (
	"errors"
	"fmt"
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

// event is told to the user once the turn is committed.
type event struct{ kind, reason, message string }

// turn is one look at a set: what is to be done, and then what has been.
type turn struct {
	*world
	history        *history.History
	adopt, release []*corev1.Pod // copies with other owner references

	events  []event
	failure error
	after   time.Duration
}

// read makes the plan from a state; nil when there is nothing that could be planned.
func read(v registry.Viewer, key controller.Key) (*turn, error) {
	set, err := registry.Get[*appsv1.StatefulSet](v, key.Namespace, key.Name)
	if err != nil {
		return nil, err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil || selector.Empty() {
		return nil, nil // validation refuses such at the door
	}
	t := &turn{world: &world{now: time.Now(), set: set}}
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOwner, string(set.UID)) {
		t.take(pod, selector)
	}
	for pod := range registry.ByIndex[*corev1.Pod](v, registry.IndexOrphan, set.Namespace) {
		t.take(pod, selector)
	}
	t.claim = func(name string) *corev1.PersistentVolumeClaim {
		claim, err := registry.Get[*corev1.PersistentVolumeClaim](v, set.Namespace, name)
		if err != nil {
			return nil
		}
		return claim
	}
	t.history = history.Read(v, history.Owner{
		Object: set, Kind: kind, Selector: selector, Template: &set.Spec.Template,
		Collisions: set.Status.CollisionCount, HashLabel: hashLabel,
	})
	if err := t.revisions(); err != nil {
		return nil, err
	}
	t.run()
	return t, nil
}

// take sorts out a pod that the set owns or nobody does. A pod with a name that is none of the set's is not its pod,
// whatever its labels say.
func (t *turn) take(pod *corev1.Pod, selector labels.Selector) {
	if pod.Namespace != t.set.Namespace {
		return
	}
	if ordinalOf(t.set, pod) < 0 {
		selector = labels.Nothing()
	}
	switch podstate.ClaimOf(t.set, pod, selector) {
	case podstate.Keep:
		t.pods = append(t.pods, pod)
	case podstate.Adopt:
		own := pod.DeepCopy()
		podstate.SetController(own, t.set, kind)
		if named := identified(own); named != nil {
			own = named
		}
		t.adopt = append(t.adopt, own)
		t.pods = append(t.pods, own)
	case podstate.Release:
		free := pod.DeepCopy()
		podstate.DropOwner(free, t.set)
		t.release = append(t.release, free)
	}
}

// revisions finds what the pods are made from, and lets go of templates that are too old.
func (t *turn) revisions() error {
	if err := t.history.Resolve(); err != nil {
		return err
	}
	t.current.name, t.update.name = t.set.Status.CurrentRevision, t.set.Status.UpdateRevision
	t.current.template, t.update.template = &t.set.Spec.Template, &t.set.Spec.Template
	if t.history.Current == nil {
		return nil // on its way out
	}
	t.update.name = t.history.Current.Name
	if r := t.history.Named(t.set.Status.CurrentRevision); r != nil && r.Name != t.update.name {
		held, err := history.TemplateOf(r)
		if err != nil {
			return err
		}
		t.current = revision{r.Name, held}
	} else {
		t.current = t.update
	}
	used := map[string]bool{t.current.name: true}
	for _, pod := range t.pods {
		used[pod.Labels[appsv1.StatefulSetRevisionLabel]] = true
	}
	t.history.Truncate(t.set.Spec.RevisionHistoryLimit, func(r *appsv1.ControllerRevision) bool { return used[r.Name] })
	return nil
}

// idle says that a turn would change nothing.
func (t *turn) idle() bool {
	if len(t.steps)+len(t.adopt)+len(t.release) > 0 || !t.history.Idle() {
		return false
	}
	return apiequality.Semantic.DeepEqual(t.status(t.pods), t.set.Status)
}

// status of the set with these pods; it sets when to look again.
func (t *turn) status(pods []*corev1.Pod) appsv1.StatefulSetStatus {
	status, next := makeStatus(t.now, t.set, pods, t.current.name, t.update.name, t.history.Collisions)
	if t.after = next; next == 0 || t.wait > 0 && t.wait < next {
		t.after = t.wait
	}
	if t.more {
		t.after = time.Millisecond
	}
	return status
}

// write carries the plan out, up to the first step that fails, and stores the status that results.
func (t *turn) write(tx *registry.Tx) error {
	if err := t.history.Write(tx); err != nil {
		return err
	}
	for _, pods := range [][]*corev1.Pod{t.release, t.adopt} {
		for i, pod := range pods {
			stored, err := registry.Put(tx, pod)
			if err != nil {
				return err
			}
			*pods[i] = *stored.DeepCopy() // steps go on with what is stored now
		}
	}
	for i := range t.steps {
		if err := t.do(tx, &t.steps[i]); err != nil {
			t.failure = err
			break
		}
	}
	var pods []*corev1.Pod
	for pod := range registry.ByIndex[*corev1.Pod](tx, registry.IndexOwner, string(t.set.UID)) {
		if metav1.IsControlledBy(pod, t.set) {
			pods = append(pods, pod)
		}
	}
	status := t.status(pods)
	if apiequality.Semantic.DeepEqual(status, t.set.Status) {
		return nil
	}
	set := t.set.DeepCopy()
	set.Status = status
	_, err := registry.PutStatus(tx, set)
	return err
}

// do carries a step out and notes what to tell.
func (t *turn) do(tx *registry.Tx, s *step) error {
	err := s.failure
	if err == nil {
		err = t.doClaims(tx, s)
	}
	if err == nil {
		switch s.verb {
		case create:
			_, err = registry.Create(tx, s.pod)
		case remove:
			err = tx.Delete(s.pod, registry.DeleteOptions{})
		case update:
			_, err = registry.Put(tx, s.pod)
		}
	}
	switch {
	case err == nil && s.verb != claims:
		t.tell(corev1.EventTypeNormal, "Successful"+string(s.verb), "%s Pod %s in StatefulSet %s successful", s.verb, s.pod.Name, t.set.Name)
	case err == nil || s.verb == create && apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// A pod of the name that is not the set's holds it until it goes; upstream does not tell either.
	default:
		what := s.verb
		if what == claims {
			what = update
		}
		t.tell(corev1.EventTypeWarning, "Failed"+string(what), "%s Pod %s in StatefulSet %s failed error: %s", what, s.pod.Name, t.set.Name, err)
	}
	return err
}

func (t *turn) doClaims(tx *registry.Tx, s *step) error {
	for _, name := range s.claims.conflicts {
		if s.verb == create || len(s.claims.owners) > 0 {
			t.tell(corev1.EventTypeWarning, "ConflictingController",
				"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", name)
		}
	}
	var failures []error
	for _, claim := range s.claims.create {
		if _, err := registry.Create(tx, claim); err != nil {
			failures = append(failures, fmt.Errorf("failed to create PVC %s: %w", claim.Name, err))
			t.tell(corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", claim.Name, s.pod.Name, t.set.Name, err)
			continue
		}
		t.tell(corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, s.pod.Name, t.set.Name)
	}
	for _, claim := range s.claims.owners {
		if _, err := registry.Put(tx, claim); err != nil {
			failures = append(failures, fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", claim.Name, err))
		}
	}
	if len(failures) == 1 {
		return failures[0]
	}
	return aggregate(failures)
}

// aggregate puts several failures in one line, as Kubernetes does; errors.Join would make lines of them.
func aggregate(failures []error) error {
	if len(failures) == 0 {
		return nil
	}
	words := make([]string, len(failures))
	for i, err := range failures {
		words[i] = err.Error()
	}
	return errors.New("[" + strings.Join(words, ", ") + "]")
}

func (t *turn) tell(kind, reason, format string, args ...any) {
	t.events = append(t.events, event{kind, reason, fmt.Sprintf(format, args...)})
}
