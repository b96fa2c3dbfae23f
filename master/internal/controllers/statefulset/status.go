package statefulset

import (
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// makeStatus counts a set's pods; those beyond its range count until they are gone. next is when a ready pod will have
// been ready for minReadySeconds; 0 when none is waiting for that.
func makeStatus(now time.Time, set *appsv1.StatefulSet, pods []*corev1.Pod, current, update string, collisions int32) (status appsv1.StatefulSetStatus, next time.Duration) {
	status = appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation, CurrentRevision: current, UpdateRevision: update, CollisionCount: &collisions,
		Conditions: set.Status.Conditions, // nobody's here; users may write some
	}
	minReady := podstate.Seconds(set.Spec.MinReadySeconds)
	for _, pod := range pods {
		if ordinalOf(set, pod) < 0 {
			continue
		}
		status.Replicas++
		if in := podstate.AvailableIn(pod, minReady, now); in >= 0 && pod.Status.Phase == corev1.PodRunning {
			status.ReadyReplicas++
			if in == 0 {
				status.AvailableReplicas++
			} else if next == 0 || in < next {
				next = in
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		switch pod.Labels[appsv1.StatefulSetRevisionLabel] {
		case update:
			status.UpdatedReplicas++
			if update == current {
				status.CurrentReplicas++
			}
		case current:
			status.CurrentReplicas++
		}
	}
	complete(set, &status)
	return status, next
}

// complete ends a rolling update when all pods are ready with its template: what was the update is current from then on.
func complete(set *appsv1.StatefulSet, status *appsv1.StatefulSetStatus) {
	n := int32(replicasOf(set))
	if set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType &&
		status.UpdatedReplicas == n && status.ReadyReplicas == n && status.Replicas == n {
		status.CurrentReplicas, status.CurrentRevision = status.UpdatedReplicas, status.UpdateRevision
	}
}
