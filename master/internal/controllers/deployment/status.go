package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// Reasons of conditions, as kubectl rollout status reads them.
const (
	reasonUpdated     = "ReplicaSetUpdated"
	reasonCreated     = "NewReplicaSetCreated"
	reasonFound       = "FoundNewReplicaSet"
	reasonAvailable   = "NewReplicaSetAvailable"
	reasonNotCreated  = "ReplicaSetCreateError"
	reasonTimedOut    = "ProgressDeadlineExceeded"
	reasonPaused      = "DeploymentPaused"
	reasonResumed     = "DeploymentResumed"
	reasonMinimum     = "MinimumReplicasAvailable"
	reasonUnavailable = "MinimumReplicasUnavailable"
)

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func drop(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// set replaces a condition when its status or reason is another.
func (w *world) set(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	old := condition(&w.d.Status, t)
	if old != nil && old.Status == status && old.Reason == reason {
		return
	}
	w.replace(t, status, reason, message)
}

// replace sets a condition anew, so that its time of update moves; the time of transition moves with the status.
func (w *world) replace(t appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) {
	now := metav1.NewTime(w.now.Truncate(time.Second))
	c := appsv1.DeploymentCondition{Type: t, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
	if old := condition(&w.d.Status, t); old != nil && old.Status == status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	drop(&w.d.Status, t)
	w.d.Status.Conditions = append(w.d.Status.Conditions, c)
}

func (w *world) progress(status corev1.ConditionStatus, reason, message string) {
	w.set(appsv1.DeploymentProgressing, status, reason, message)
}

// notePause keeps the deadline from running while the Deployment is paused.
func (w *world) notePause() {
	if !hasDeadline(w.d) {
		return
	}
	c := condition(&w.d.Status, appsv1.DeploymentProgressing)
	if c != nil && c.Reason == reasonTimedOut {
		return
	}
	paused := c != nil && c.Reason == reasonPaused
	if w.d.Spec.Paused && !paused {
		w.progress(corev1.ConditionUnknown, reasonPaused, "Deployment is paused")
	} else if !w.d.Spec.Paused && paused {
		w.progress(corev1.ConditionUnknown, reasonResumed, "Deployment is resumed")
	}
}

// report counts what there is; rollout says that progress and its deadline are judged, too.
func (w *world) report(rollout bool) {
	before := w.d.Status
	s := &w.d.Status
	s.ObservedGeneration = w.d.Generation
	s.Replicas = total(w.sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas })
	s.ReadyReplicas = total(w.sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.ReadyReplicas })
	s.AvailableReplicas = total(w.sets, func(rs *appsv1.ReplicaSet) int32 { return rs.Status.AvailableReplicas })
	s.UnavailableReplicas = max(0, total(w.sets, size)-s.AvailableReplicas)
	s.UpdatedReplicas = 0
	if w.current != nil {
		s.UpdatedReplicas = w.current.Status.Replicas
	}
	terminating := total(w.sets, func(rs *appsv1.ReplicaSet) int32 {
		if rs.Status.TerminatingReplicas == nil {
			return 0
		}
		return *rs.Status.TerminatingReplicas
	})
	s.TerminatingReplicas = &terminating
	s.Conditions = slices.Clone(s.Conditions)
	if s.AvailableReplicas >= replicas(w.d)-w.unavailable {
		w.set(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonMinimum, "Deployment has minimum availability.")
	} else {
		w.set(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonUnavailable, "Deployment does not have minimum availability.")
	}
	if !rollout {
		return
	}
	w.judge(&before)
	w.reportFailure()
}

// judge says whether the rollout is done, goes on, or has stood still for too long.
func (w *world) judge(before *appsv1.DeploymentStatus) {
	s := &w.d.Status
	if !hasDeadline(w.d) {
		drop(s, appsv1.DeploymentProgressing)
		return
	}
	c := condition(s, appsv1.DeploymentProgressing)
	if s.Replicas == s.UpdatedReplicas && c != nil && c.Reason == reasonAvailable {
		return // done before; what happens now is no rollout
	}
	subject := fmt.Sprintf("Deployment %q", w.d.Name)
	if w.current != nil {
		subject = fmt.Sprintf("ReplicaSet %q", w.current.Name)
	}
	switch {
	case w.complete(s):
		w.progress(corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed.")
	case advanced(before, s):
		w.replace(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, subject+" is progressing.")
	default:
		w.checkDeadline(subject)
		return
	}
	if c := condition(s, appsv1.DeploymentProgressing); c.Reason != reasonAvailable {
		w.requeue = w.untilDeadline(c)
	}
}

func (w *world) checkDeadline(subject string) {
	c := condition(&w.d.Status, appsv1.DeploymentProgressing)
	if c == nil || c.Reason == reasonAvailable || c.Reason == reasonTimedOut {
		return
	}
	if left := w.untilDeadline(c); left > 0 {
		w.requeue = left
		return
	}
	w.progress(corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing.")
}

func (w *world) untilDeadline(c *appsv1.DeploymentCondition) time.Duration {
	return c.LastUpdateTime.Add(podstate.Seconds(*w.d.Spec.ProgressDeadlineSeconds)).Sub(w.now)
}

// complete: all replicas are of the present template and available, and none of another is left.
func (w *world) complete(s *appsv1.DeploymentStatus) bool {
	n := replicas(w.d)
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= w.d.Generation &&
		total(w.sets, size) == n
}

func advanced(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas || after.AvailableReplicas > before.AvailableReplicas
}

// reportFailure takes over why a ReplicaSet cannot make pods, the current one's reasons first.
func (w *world) reportFailure() {
	for _, rs := range append([]*appsv1.ReplicaSet{w.current}, w.sets...) {
		if rs == nil {
			continue
		}
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				w.set(appsv1.DeploymentReplicaFailure, c.Status, c.Reason, c.Message)
				return
			}
		}
	}
	drop(&w.d.Status, appsv1.DeploymentReplicaFailure)
}
