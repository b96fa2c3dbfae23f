// Package podstate has the pure questions that several controllers ask of pods, and how a pod is made from a template. It
// has no effects and knows no controller.
package podstate

import (
	"math"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Condition returns a pod's condition, or nil.
func Condition(p *corev1.Pod, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == t {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// SetCondition sets a condition and reports whether anything changed. The time of transition moves with the status.
func SetCondition(p *corev1.Pod, now time.Time, c corev1.PodCondition) bool {
	old := Condition(p, c.Type)
	if old == nil {
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
		p.Status.Conditions = append(p.Status.Conditions, c)
		return true
	}
	if old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message {
		return false
	}
	c.LastTransitionTime = old.LastTransitionTime
	if old.Status != c.Status {
		c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
	}
	*old = c
	return true
}

// Ready says whether the pod's Ready condition holds.
func Ready(p *corev1.Pod) bool {
	c := Condition(p, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// AvailableIn is 0 for a pod that has been ready for minReady, how long it has yet to stay ready, or a negative duration
// when it is not ready.
func AvailableIn(p *corev1.Pod, minReady time.Duration, now time.Time) time.Duration {
	c := Condition(p, corev1.PodReady)
	if c == nil || c.Status != corev1.ConditionTrue {
		return -1
	}
	if minReady == 0 {
		return 0
	}
	if c.LastTransitionTime.IsZero() {
		return -1
	}
	return max(0, c.LastTransitionTime.Add(minReady).Sub(now))
}

// Ended says that the pod will never run again.
func Ended(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// Active says that the pod counts as a replica: it has not ended and is not being deleted.
func Active(p *corev1.Pod) bool { return !Ended(p) && p.DeletionTimestamp == nil }

// FromTemplate makes the pod that a template describes, owned and controlled by owner. The name is generated.
func FromTemplate(t *corev1.PodTemplateSpec, owner metav1.Object, kind schema.GroupVersionKind) *corev1.Pod {
	t = t.DeepCopy()
	prefix := owner.GetName() + "-"
	// A name that cannot be a prefix of a valid one (63 characters end in a hyphen) goes without the hyphen.
	if len(validation.IsDNS1123Subdomain(strings.TrimSuffix(prefix, "-")+"-x")) > 0 {
		prefix = owner.GetName()
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), GenerateName: prefix,
			Labels: t.Labels, Annotations: t.Annotations, Finalizers: t.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
		Spec: t.Spec,
	}
}

// Claim is what becomes of an object's ownership.
type Claim int

const (
	// Ignore: the object is somebody else's, or nobody's and not wanted.
	Ignore Claim = iota
	// Keep: it is the owner's and stays so.
	Keep
	// Adopt: it is nobody's and the owner's selector wants it.
	Adopt
	// Release: it is the owner's and its selector does not want it any more.
	Release
)

// ClaimOf decides as Kubernetes' controller_ref_manager does: an owner that is being deleted neither takes nor gives.
func ClaimOf(owner, obj metav1.Object, selector labels.Selector) Claim {
	deleting := owner.GetDeletionTimestamp() != nil
	matches := selector.Matches(labels.Set(obj.GetLabels()))
	if ref := metav1.GetControllerOfNoCopy(obj); ref != nil {
		switch {
		case ref.UID != owner.GetUID():
			return Ignore
		case matches:
			return Keep
		case deleting:
			return Ignore
		default:
			return Release
		}
	}
	if deleting || !matches || obj.GetDeletionTimestamp() != nil {
		return Ignore
	}
	return Adopt
}

// SetController makes owner the controller of obj.
func SetController(obj, owner metav1.Object, kind schema.GroupVersionKind) {
	refs := append([]metav1.OwnerReference{}, obj.GetOwnerReferences()...)
	obj.SetOwnerReferences(append(refs, *metav1.NewControllerRef(owner, kind)))
}

// DropOwner removes the references to an owner.
func DropOwner(obj, owner metav1.Object) {
	var keep []metav1.OwnerReference
	for _, ref := range obj.GetOwnerReferences() {
		if ref.UID != owner.GetUID() {
			keep = append(keep, ref)
		}
	}
	obj.SetOwnerReferences(keep)
}

// Seconds turns an API field in seconds into a duration without overflow.
func Seconds(n int32) time.Duration {
	return time.Duration(min(int64(n), math.MaxInt64/int64(time.Second))) * time.Second
}
