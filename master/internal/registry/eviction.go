package registry

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

const (
	// maxDisruptedPods are the evictions that a budget may have granted without its controller having confirmed them.
	maxDisruptedPods = 2000
	// evictionRetrySeconds is what a client is told to wait for a budget that nobody has counted yet.
	evictionRetrySeconds = 10

	evictionReason, evictionMessage = "EvictionByEvictionAPI", "Eviction API: evicting"
)

// eviction is one call of pods/eviction.
type eviction struct {
	r        *Registry
	res      *resource.Resource
	pod      *corev1.Pod
	deletion deletion
	dryRun   bool
}

// actEviction deletes a pod if the disruption budget that covers it, if there is one, allows that. Budget and pod change
// in one transaction: however many evict at once, nobody overdraws, and an eviction that fails costs the budget nothing.
// (Kubernetes writes one after the other, and its controller takes back after two minutes what was not used.)
func (r *Registry) actEviction(ctx context.Context, res *resource.Resource, namespace, name string, e *policyv1.Eviction, o server.WriteOptions) (*metav1.Status, error) {
	if e.Name != "" && e.Name != name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	v := eviction{r: r, res: res, dryRun: o.DryRun}
	if d := e.DeleteOptions; d != nil {
		if d.IgnoreStoreReadErrorWithClusterBreakingPotential != nil && *d.IgnoreStoreReadErrorWithClusterBreakingPotential {
			path := field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential")
			return nil, apierrors.NewInvalid(policyv1.SchemeGroupVersion.WithKind("Eviction").GroupKind(), name, field.ErrorList{
				field.Invalid(path, true, "can not be set for pod eviction, try after removing the option"),
			})
		}
		v.deletion.grace, v.deletion.propagation = d.GracePeriodSeconds, d.PropagationPolicy
		v.dryRun = v.dryRun || len(d.DryRun) > 0
		if p := d.Preconditions; p != nil {
			v.deletion.uid, v.deletion.resourceVersion = p.UID, p.ResourceVersion
		}
	}
	err := r.Transact(ctx, func(tx *Tx) (err error) {
		if v.pod, err = Get[*corev1.Pod](tx, namespace, name); err != nil {
			return err
		}
		if err := v.spend(tx); err != nil {
			return err
		}
		if err := v.delete(tx); err != nil {
			return err
		}
		if v.dryRun {
			return errDryRun
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDryRun) {
		return nil, err
	}
	return success(), nil
}

// spend asks the pod's budget and takes the eviction out of it.
func (v *eviction) spend(tx *Tx) error {
	// A pod that does not run, or is going, disrupts nobody by going.
	if v.pod.Status.Phase == corev1.PodPending || podEnded(v.pod) || v.pod.DeletionTimestamp != nil {
		return nil
	}
	budgets := slices.Collect(BudgetsOf(tx, v.pod))
	switch {
	case len(budgets) == 0:
		return nil
	case len(budgets) > 1:
		return &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	b := recounted(tx, budgets[0])
	if !podReady(v.pod) && sparesUnhealthy(b) {
		return nil
	}
	if err := refusal(b); err != nil {
		return err
	}
	b.Status.DisruptionsAllowed--
	if b.Status.DisruptionsAllowed == 0 {
		pdbhelper.UpdateDisruptionAllowedCondition(b)
	}
	if b.Status.DisruptedPods == nil {
		b.Status.DisruptedPods = map[string]metav1.Time{}
	}
	b.Status.DisruptedPods[v.pod.Name] = metav1.Time{Time: time.Now().Truncate(time.Second)}
	_, err := PutStatus(tx, b)
	return err
}

// delete notes on the pod why it goes, and deletes it.
func (v *eviction) delete(tx *Tx) error {
	d := v.deletion
	if !v.dryRun {
		if err := v.checkPreconditions(); err != nil {
			return err
		}
		pod := v.pod.DeepCopy()
		setPodCondition(pod, corev1.DisruptionTarget, corev1.ConditionTrue, evictionReason, evictionMessage)
		if _, err := PutStatus(tx, pod); err != nil {
			return err
		}
		d.resourceVersion = nil // checked; it is another one now
	}
	_, _, err := v.r.deleteIn(tx, v.res, v.pod.Namespace, v.pod.Name, d)
	return err
}

// checkPreconditions has the words that Kubernetes has for evictions only.
func (v *eviction) checkPreconditions() error {
	conflict := func(format string, args ...any) error {
		return apierrors.NewConflict(corev1.Resource("Pod"), v.pod.Name, errorf(format, args...))
	}
	if uid := v.deletion.uid; uid != nil && *uid != "" && *uid != v.pod.UID {
		return conflict("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *uid, v.pod.UID)
	}
	if rv := v.deletion.resourceVersion; rv != nil && *rv != "" && *rv != v.pod.ResourceVersion {
		return conflict("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *rv, v.pod.ResourceVersion)
	}
	return nil
}

// BudgetsOf walks the disruption budgets that cover a pod. A selector that cannot be read covers none.
func BudgetsOf(vr Viewer, pod *corev1.Pod) iter.Seq[*policyv1.PodDisruptionBudget] {
	return func(yield func(*policyv1.PodDisruptionBudget) bool) {
		for b := range List[*policyv1.PodDisruptionBudget](vr, pod.Namespace) {
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err == nil && selector.Matches(labels.Set(pod.Labels)) && !yield(b) {
				return
			}
		}
	}
}

// recounted is a budget that does not allow more than the pods as they are now: its controller writes what it has counted a
// moment later, and when a node is lost, pods that were healthy in the last count would go for nothing, as not ready.
func recounted(vr Viewer, b *policyv1.PodDisruptionBudget) *policyv1.PodDisruptionBudget {
	b = b.DeepCopy()
	if b.Status.CurrentHealthy == 0 {
		return b
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil { // then it covers no pod
		return b
	}
	healthy := int32(0)
	for pod := range List[*corev1.Pod](vr, b.Namespace) {
		_, disrupted := b.Status.DisruptedPods[pod.Name]
		if !disrupted && pod.DeletionTimestamp == nil && podReady(pod) && selector.Matches(labels.Set(pod.Labels)) {
			healthy++
		}
	}
	s := &b.Status
	s.CurrentHealthy = min(s.CurrentHealthy, healthy)
	s.DisruptionsAllowed = min(s.DisruptionsAllowed, max(0, s.CurrentHealthy-s.DesiredHealthy))
	return b
}

// sparesUnhealthy says whether a pod that is not ready may go for nothing: it is not one of those that the budget counts.
func sparesUnhealthy(b *policyv1.PodDisruptionBudget) bool {
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true
	}
	return b.Status.DesiredHealthy > 0 && b.Status.CurrentHealthy >= b.Status.DesiredHealthy
}

// refusal says why a budget does not allow a disruption now; nil when it does.
func refusal(b *policyv1.PodDisruptionBudget) error {
	forbidden := func(why string) error {
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(why))
	}
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		return tooMany(evictionRetrySeconds, "The disruption budget "+b.Name+" is still being processed by the server.")
	case b.Status.DisruptionsAllowed < 0:
		return forbidden("pdb disruptions allowed is negative")
	case len(b.Status.DisruptedPods) > maxDisruptedPods:
		return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller")
	case b.Status.DisruptionsAllowed > 0:
		return nil
	}
	c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition)
	if c != nil && (c.Status != metav1.ConditionFalse || c.Message == "") {
		c = nil // it explains nothing
	}
	switch {
	case c != nil && c.Reason == policyv1.SyncFailedReason: // then the numbers are not to be trusted
		return tooMany(0, "The disruption budget "+b.Name+" does not allow evicting pods currently because it failed sync: "+c.Message)
	case b.Status.CurrentHealthy <= b.Status.DesiredHealthy:
		return tooMany(0, errorf("The disruption budget %s needs %d healthy pods and has %d currently",
			b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy).Error())
	case c != nil:
		return tooMany(0, errorf("The disruption budget %s does not allow evicting pods currently (%s): %s", b.Name, c.Reason, c.Message).Error())
	}
	return tooMany(0, "The disruption budget "+b.Name+" does not allow evicting pods currently")
}

// tooMany is the answer on which clients try again: kubectl drain every five seconds, client-go after the named time.
func tooMany(retrySeconds int, cause string) error {
	err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retrySeconds)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: cause,
	})
	return err
}

func podEnded(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

func podReady(pod *corev1.Pod) bool {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
