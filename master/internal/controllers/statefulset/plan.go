package statefulset

import (
	"cmp"
	"errors"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// burst is how many pods one transaction makes or deletes at most, so that a large Parallel set does not hold up other
// writers; the rest follows in the next turn.
const burst = 250

// endedFor is how long a pod is there at least that ended as soon as it was made, as one that its node refuses: it would be
// replaced as fast as the machine can otherwise, and nobody could read why it ended.
const endedFor = time.Second

// errVolumes is why an adopted pod without its claims cannot become what it should be.
var errVolumes = errors.New("its volumes are not those of the set's volumeClaimTemplates, and a pod's volumes cannot be changed; delete the pod to have it made anew")

// verb of a step, as its Event says it.
type verb string

const (
	create verb = "Create"
	remove verb = "Delete"
	update verb = "Update"
	// claims only: no Event speaks of the pod.
	claims verb = ""
)

// step is one thing to do; a plan's steps are done in order, up to the first that fails.
type step struct {
	verb   verb
	pod    *corev1.Pod
	claims claimWork
	// failure is why it cannot be done, known without trying.
	failure error
}

// revision is a past or present template under the name of its ControllerRevision.
type revision struct {
	name     string
	template *corev1.PodTemplateSpec
}

// world is what a plan is made from; nothing in it is changed.
type world struct {
	now  time.Time
	set  *appsv1.StatefulSet
	pods []*corev1.Pod // the set's, whatever their ordinals
	// current is what pods below the partition are made from, update the present template.
	current, update revision
	claim           func(name string) *corev1.PersistentVolumeClaim

	replicas  []*corev1.Pod // by ordinal from the set's start; nil where there is none
	condemned []*corev1.Pod // beyond the range, highest ordinal first
	minReady  time.Duration
	steps     []step
	work      int // creations and deletions
	// more: burst has cut the work short.
	more bool
	// wait is when an ended pod may go; 0 when none waits.
	wait time.Duration
}

// run makes the plan's steps.
func (w *world) run() []step {
	if w.set.DeletionTimestamp != nil {
		return nil
	}
	w.minReady = podstate.Seconds(w.set.Spec.MinReadySeconds)
	w.sort()
	for _, phase := range []func() bool{w.keepReplicas, w.keepClaims, w.scaleDown} {
		if !phase() {
			return w.steps
		}
	}
	if w.set.Spec.UpdateStrategy.Type != appsv1.OnDeleteStatefulSetStrategyType {
		w.roll()
	}
	return w.steps
}

func (w *world) sort() {
	w.replicas = make([]*corev1.Pod, replicasOf(w.set))
	for _, pod := range w.pods {
		switch n := ordinalOf(w.set, pod); {
		case n < 0:
		case inRange(w.set, n):
			w.replicas[n-startOf(w.set)] = pod
		default:
			w.condemned = append(w.condemned, pod)
		}
	}
	slices.SortFunc(w.condemned, func(a, b *corev1.Pod) int { return cmp.Compare(ordinalOf(w.set, b), ordinalOf(w.set, a)) })
}

func (w *world) ordered() bool { return w.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement }

// add notes a step and says whether the turn has room for more.
func (w *world) add(s step) bool {
	w.steps = append(w.steps, s)
	if s.verb == create || s.verb == remove {
		w.work++
	}
	w.more = w.work >= burst
	return !w.more
}

func (w *world) available(pod *corev1.Pod) bool {
	return pod != nil && podstate.Active(pod) && podstate.AvailableIn(pod, w.minReady, w.now) == 0
}

// settled: running, ready for as long as it must be, and not leaving. In an ordered set nothing happens beyond a pod
// that is not.
func (w *world) settled(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && w.available(pod)
}

// keepReplicas has every ordinal's pod made, in an ordered set one at a time; false ends the turn.
func (w *world) keepReplicas() bool {
	for i, pod := range w.replicas {
		if !w.keep(startOf(w.set)+i, pod) {
			return false
		}
	}
	return true
}

// keep looks after one ordinal; false ends the turn.
func (w *world) keep(ordinal int, pod *corev1.Pod) bool {
	next := !w.ordered()
	switch {
	case pod == nil:
		return w.make(ordinal) && next
	case podstate.Ended(pod):
		// Whatever it ended with: a machine that goes down may end a container with 0.
		if left := pod.CreationTimestamp.Add(endedFor).Sub(w.now); left > 0 {
			w.wait = left
		} else if pod.DeletionTimestamp == nil {
			return w.add(step{verb: remove, pod: pod}) && next
		}
		return next
	case pod.DeletionTimestamp == nil && pod.Status.Phase == corev1.PodPending:
		if work := claimsOf(w.set, pod, w.claim, true); !work.empty() && work.leaving == nil {
			w.add(step{verb: claims, pod: pod, claims: work})
		}
	}
	if w.ordered() && !w.settled(pod) {
		return false
	}
	if pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodPending {
		return w.conform(pod)
	}
	return true
}

// make plans the pod of an ordinal that has none; false when the turn has no room for more.
func (w *world) make(ordinal int) bool {
	from := w.update
	if u := w.set.Spec.UpdateStrategy; u.Type == appsv1.RollingUpdateStatefulSetStrategyType && ordinal < startOf(w.set)+partition(w.set) {
		from = w.current
	}
	pod := newPod(w.set, from.template, from.name, ordinal)
	for i := range w.set.Spec.VolumeClaimTemplates {
		claim := w.claim(claimName(w.set, &w.set.Spec.VolumeClaimTemplates[i], ordinal))
		if claim != nil && stale(w.set, pod, claim) {
			return true
		}
	}
	s := step{verb: create, pod: pod, claims: claimsOf(w.set, pod, w.claim, true)}
	if s.failure = invalidName(pod); s.failure == nil {
		s.failure = s.claims.leaving
	}
	return w.add(s)
}

// conform brings a pod that runs to its identity: somebody may have taken the label, and a policy may have changed.
func (w *world) conform(pod *corev1.Pod) bool {
	whole := stored(w.set, pod)
	s := step{verb: update, pod: pod, claims: claimsOf(w.set, pod, w.claim, !whole)}
	if p := identified(pod); p != nil {
		s.pod = p
	}
	if !whole {
		s.failure = errVolumes
	}
	if s.pod == pod && whole && s.claims.empty() {
		return true
	}
	w.add(s)
	return whole
}

// keepClaims gives the claims of pods that will go the owners that the retention policy asks for.
func (w *world) keepClaims() bool {
	for _, pod := range w.condemned {
		if work := claimsOf(w.set, pod, w.claim, false); !work.empty() {
			w.add(step{verb: claims, pod: pod, claims: work})
		}
	}
	return true
}

// scaleDown deletes what is beyond the range: in an ordered set the highest ordinal, when all others are well, or the first
// one that is not. One that has ended will never be well and need not be: upstream would wait for it for ever.
func (w *world) scaleDown() bool {
	if !w.ordered() {
		for _, pod := range w.condemned {
			if pod.DeletionTimestamp == nil && !w.add(step{verb: remove, pod: pod}) {
				return false
			}
		}
		return true
	}
	if len(w.condemned) == 0 {
		return true
	}
	// All replicas are settled here, or keepReplicas had ended the turn.
	pod := w.condemned[0]
	if pod.DeletionTimestamp == nil && (w.settled(pod) || podstate.Ended(pod) || pod == w.firstUnavailable()) {
		w.add(step{verb: remove, pod: pod})
	}
	return false
}

// firstUnavailable is the lowest ordinal that is not available, those in range first.
func (w *world) firstUnavailable() *corev1.Pod {
	for _, pod := range w.replicas {
		if pod != nil && !w.available(pod) {
			return pod
		}
	}
	for _, pod := range slices.Backward(w.condemned) {
		if !w.available(pod) {
			return pod
		}
	}
	return nil
}

// roll deletes pods of other templates from the highest ordinal down to the partition, so that they are made anew. No
// more than maxUnavailable are away by it: an outdated pod that is not available costs nothing and is replaced even when
// others are away, or a Parallel set could never leave a broken template. It never goes past as many unavailable pods as
// it may make.
func (w *world) roll() {
	if r := w.set.Spec.UpdateStrategy.RollingUpdate; r == nil || r.MaxUnavailable == nil {
		w.rollOne()
		return
	}
	limit := maxUnavailable(w.set)
	room := limit
	for _, pod := range w.replicas {
		if !w.available(pod) {
			room--
		}
	}
	for i := len(w.replicas) - 1; i >= partition(w.set) && limit > 0; i-- {
		pod := w.replicas[i]
		outdated := pod != nil && pod.DeletionTimestamp == nil && pod.Labels[appsv1.StatefulSetRevisionLabel] != w.update.name
		switch {
		case outdated && w.available(pod):
			if room <= 0 {
				continue
			}
			room--
		case w.available(pod):
			continue
		}
		limit--
		if outdated && !w.going(pod) && !w.add(step{verb: remove, pod: pod}) {
			return
		}
	}
}

// rollOne is roll when nobody said how many may be away: the highest outdated pod goes, when all above it are available. Those
// below it do not matter: one that cannot come back, because its node is lost, holds up no others, nor does one that a canary leaves alone.
func (w *world) rollOne() {
	for i := len(w.replicas) - 1; i >= partition(w.set); i-- {
		pod := w.replicas[i]
		if pod != nil && pod.DeletionTimestamp == nil && pod.Labels[appsv1.StatefulSetRevisionLabel] != w.update.name {
			if !w.going(pod) {
				w.add(step{verb: remove, pod: pod})
			}
			return
		}
		if !w.available(pod) {
			return
		}
	}
}

// going says that this turn deletes the pod already.
func (w *world) going(pod *corev1.Pod) bool {
	return slices.ContainsFunc(w.steps, func(s step) bool { return s.verb == remove && s.pod == pod })
}

// partition is how many of the lowest ordinals an update leaves alone.
func partition(set *appsv1.StatefulSet) int {
	if r := set.Spec.UpdateStrategy.RollingUpdate; r != nil && r.Partition != nil {
		return int(*r.Partition)
	}
	return 0
}

// maxUnavailable in pods: 1 unless said otherwise, percents round down, never less than 1.
func maxUnavailable(set *appsv1.StatefulSet) int {
	r := set.Spec.UpdateStrategy.RollingUpdate
	if r == nil {
		return 1
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(intstr.ValueOrDefault(r.MaxUnavailable, intstr.FromInt32(1)), replicasOf(set), false)
	if err != nil {
		return 1 // validation refuses such at the door
	}
	return max(n, 1)
}
