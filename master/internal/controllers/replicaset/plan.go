package replicaset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// burst is how many pods one transaction makes or deletes at most, so that a large ReplicaSet does not hold up other
// writers; the rest follows in the next turn.
const burst = 250

// plan is what a ReplicaSet's turn does.
type plan struct {
	adopt, release []*corev1.Pod
	create         int
	remove         []*corev1.Pod
	// more: burst has cut the work short.
	more bool
	// pods that count after adoption and release, before creation and removal; terminating ones apart.
	active      []*corev1.Pod
	terminating int
}

func (p *plan) empty() bool {
	return len(p.adopt) == 0 && len(p.release) == 0 && p.create == 0 && len(p.remove) == 0
}

// makePlan decides over the pods that refer to the ReplicaSet or to no controller. related gives all pods of the
// ReplicaSets with the same owner; it is asked for only when pods have to be chosen for deletion.
func makePlan(now time.Time, rs *appsv1.ReplicaSet, selector labels.Selector, pods []*corev1.Pod, related func() []*corev1.Pod) *plan {
	p := &plan{}
	for _, pod := range pods {
		claim := podstate.ClaimOf(rs, pod, selector)
		if podstate.Ended(pod) || claim == podstate.Ignore {
			continue
		}
		switch claim {
		case podstate.Release:
			p.release = append(p.release, pod)
			continue
		case podstate.Adopt:
			p.adopt = append(p.adopt, pod)
		}
		if pod.DeletionTimestamp != nil {
			p.terminating++
		} else {
			p.active = append(p.active, pod)
		}
	}
	if rs.DeletionTimestamp != nil {
		return p
	}
	want := 1
	if rs.Spec.Replicas != nil {
		want = int(*rs.Spec.Replicas)
	}
	switch diff := len(p.active) - want; {
	case diff < 0:
		p.create = min(-diff, burst)
		p.more = p.create < -diff
	case diff > 0:
		n := min(diff, burst)
		p.more = n < diff
		p.remove = chooseForDeletion(now, p.active, related, n)
	}
	return p
}

// makeStatus counts what there is after the plan was carried out. next is when a ready pod will have been ready for
// minReadySeconds; 0 when none is waiting for that.
func makeStatus(now time.Time, rs *appsv1.ReplicaSet, active []*corev1.Pod, terminating int, failure *appsv1.ReplicaSetCondition) (status appsv1.ReplicaSetStatus, next time.Duration) {
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	minReady := podstate.Seconds(rs.Spec.MinReadySeconds)
	gone := int32(terminating)
	status = appsv1.ReplicaSetStatus{
		Replicas: int32(len(active)), ObservedGeneration: rs.Generation, TerminatingReplicas: &gone,
	}
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		in := podstate.AvailableIn(pod, minReady, now)
		if in < 0 {
			continue
		}
		status.ReadyReplicas++
		if in == 0 {
			status.AvailableReplicas++
		} else if next == 0 || in < next {
			next = in
		}
	}
	for _, c := range rs.Status.Conditions {
		if c.Type != appsv1.ReplicaSetReplicaFailure {
			status.Conditions = append(status.Conditions, c)
		} else if failure != nil && c.Status == failure.Status && c.Reason == failure.Reason {
			failure = &c // the first words stay: a write for each attempt would itself cause the next one
		}
	}
	if failure != nil {
		status.Conditions = append(status.Conditions, *failure)
	}
	return status, next
}
