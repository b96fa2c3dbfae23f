package disruption

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

const (
	// deletionTimeout is how long a pod in status.disruptedPods is taken to be as good as deleted.
	deletionTimeout = 2 * time.Minute
	// staleAfter is how long a pod may be about to be disrupted without being deleted.
	staleAfter = 2 * time.Minute
)

// demand is what a budget asks for.
type demand struct {
	expected, healthy int32
	// unmanaged says that some of the pods have no controller.
	unmanaged bool
}

// demandOf computes it; scale gives the sum of the replicas of the pods' controllers, and is asked only when a share of
// them counts.
func demandOf(b *policyv1.PodDisruptionBudget, pods int, scale func() (replicas int32, unmanaged bool, err error)) (d demand, err error) {
	spec := &b.Spec
	switch {
	case spec.MaxUnavailable != nil:
		if d.expected, d.unmanaged, err = scale(); err != nil {
			return d, err
		}
		most, err := intstr.GetScaledValueFromIntOrPercent(spec.MaxUnavailable, int(d.expected), true)
		if err != nil {
			return d, err
		}
		d.healthy = max(0, d.expected-int32(most))
	case spec.MinAvailable == nil:
	case spec.MinAvailable.Type == intstr.Int:
		d.expected, d.healthy = int32(pods), spec.MinAvailable.IntVal
	default:
		if d.expected, d.unmanaged, err = scale(); err != nil {
			return d, err
		}
		least, err := intstr.GetScaledValueFromIntOrPercent(spec.MinAvailable, int(d.expected), true)
		if err != nil {
			return d, err
		}
		d.healthy = int32(least)
	}
	return d, nil
}

// count is what there is.
type count struct {
	healthy int32
	// disrupted are the evicted pods that are still there as if nothing had happened.
	disrupted map[string]metav1.Time
	// overdue of them should have been deleted long ago.
	overdue []*corev1.Pod
	// next is when the first of disrupted will be overdue; 0 for none.
	next time.Duration
}

func countPods(now time.Time, b *policyv1.PodDisruptionBudget, pods []*corev1.Pod) count {
	var c count
	for _, pod := range pods {
		if pod.DeletionTimestamp != nil {
			continue
		}
		if at, ok := b.Status.DisruptedPods[pod.Name]; ok {
			if left := at.Add(deletionTimeout).Sub(now); left > 0 {
				if c.disrupted == nil {
					c.disrupted = map[string]metav1.Time{}
				}
				c.disrupted[pod.Name] = at
				if c.next == 0 || left < c.next {
					c.next = left
				}
				continue
			}
			c.overdue = append(c.overdue, pod)
		}
		if podstate.Ready(pod) {
			c.healthy++
		}
	}
	return c
}

// makeStatus puts both together. A budget that no pod counts for allows nothing, so that the first pods to come are not
// disrupted before they have been counted.
func makeStatus(b *policyv1.PodDisruptionBudget, d demand, c count) policyv1.PodDisruptionBudgetStatus {
	out := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{
		ObservedGeneration: b.Generation, DisruptedPods: c.disrupted,
		CurrentHealthy: c.healthy, DesiredHealthy: d.healthy, ExpectedPods: d.expected,
		Conditions: append([]metav1.Condition{}, b.Status.Conditions...),
	}}
	if d.expected > 0 {
		out.Status.DisruptionsAllowed = max(0, c.healthy-d.healthy)
	}
	pdbhelper.UpdateDisruptionAllowedCondition(out)
	return out.Status
}

// failedStatus allows nothing while the budget cannot be computed.
func failedStatus(b *policyv1.PodDisruptionBudget, why error) policyv1.PodDisruptionBudgetStatus {
	out := b.Status.DeepCopy()
	out.DisruptionsAllowed = 0
	meta.SetStatusCondition(&out.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: why.Error(), ObservedGeneration: out.ObservedGeneration,
	})
	return *out
}

// staleIn says whether a pod carries the condition DisruptionTarget without being disrupted, and when that will have
// lasted long enough to be wrong. An agent's own condition is never wrong: it may take its time to end the pod.
func staleIn(now time.Time, pod *corev1.Pod) (time.Duration, bool) {
	if pod.DeletionTimestamp != nil || podstate.Ended(pod) {
		return 0, false
	}
	c := podstate.Condition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet {
		return 0, false
	}
	return max(0, c.LastTransitionTime.Add(staleAfter).Sub(now)), true
}
