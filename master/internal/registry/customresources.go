package registry

import (
	"context"
	"fmt"
	"slices"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/whalepod/whalepod/api/resource"
)

// CleanupFinalizer keeps a CustomResourceDefinition that is being deleted until its objects are gone.
const CleanupFinalizer = apiextensionsv1.CustomResourceCleanupFinalizer

// LoadCustomResources serves the kinds of the definitions that are there. It is for the start, when nobody writes.
func (r *Registry) LoadCustomResources() error {
	return r.View(func(v *View) error {
		for _, kind := range r.setCustom(v) {
			kind.Settle(v.Revision())
		}
		return nil
	})
}

// ServeCustomResources serves the kinds of the definitions that are there now, and no other custom ones.
func (r *Registry) ServeCustomResources(ctx context.Context) error {
	var changed []*resource.Resource
	if err := r.View(func(v *View) error {
		changed = r.setCustom(v)
		return nil
	}); err != nil || len(changed) == 0 {
		return err
	}
	// Whoever writes by the rules of a former definition has been turned away since (checkCurrent), and whoever did so before
	// has a revision no newer than this transaction sees.
	return r.Transact(ctx, func(tx *Tx) error {
		for _, kind := range changed {
			kind.Settle(tx.Revision())
		}
		return nil
	})
}

func (r *Registry) setCustom(v *View) []*resource.Resource {
	changed, errs := r.cfg.Table.SetCustom(slices.Collect(List[*apiextensionsv1.CustomResourceDefinition](v, "")))
	for _, err := range errs {
		r.log.Warn("custom resource not served", "err", err)
	}
	return changed
}

// customResourceOf finds the kind of an unstructured object.
func (r *Registry) customResourceOf(u *unstructured.Unstructured) (*resource.Resource, error) {
	if res, ok := r.cfg.Table.Of(u); ok {
		return res, nil
	}
	return nil, fmt.Errorf("no resource is served for objects of kind %s", u.GroupVersionKind())
}

// checkCurrent refuses a write that was prepared by the rules of a definition that has changed meanwhile. Clients wait the
// second and try again by themselves.
func (r *Registry) checkCurrent(res *resource.Resource) error {
	if !res.IsCustom() {
		return nil
	}
	if now, ok := r.cfg.Table.ByKey(res.Key()); ok && res.SameDefinition(now) {
		return nil
	}
	return apierrors.NewTooManyRequests(fmt.Sprintf("the definition of %s has just changed, please try again", res.Key()), 1)
}

// checkTerminating refuses new objects of a kind whose definition is being deleted.
func checkTerminating(res *resource.Resource) error {
	if !res.Terminating() {
		return nil
	}
	err := apierrors.NewMethodNotSupported(res.GroupResource(), "create")
	err.ErrStatus.Message = "create not allowed while custom resource definition is terminating"
	return err
}

// beginCleanup makes the deletion of a definition wait for its objects; it says whether there was something to change.
func beginCleanup(obj Object) bool {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok || crd.DeletionTimestamp == nil || len(conditionsOf(crd, apiextensionsv1.Terminating)) > 0 {
		return false
	}
	if !slices.Contains(crd.Finalizers, CleanupFinalizer) {
		crd.Finalizers = append(crd.Finalizers, CleanupFinalizer)
	}
	crd.Status.Conditions = append(crd.Status.Conditions, apiextensionsv1.CustomResourceDefinitionCondition{
		Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue, LastTransitionTime: metav1.Now().Rfc3339Copy(),
		Reason:  "InstanceDeletionPending",
		Message: "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon",
	})
	return true
}

func conditionsOf(crd *apiextensionsv1.CustomResourceDefinition, kind apiextensionsv1.CustomResourceDefinitionConditionType) (out []apiextensionsv1.CustomResourceDefinitionCondition) {
	for _, c := range crd.Status.Conditions {
		if c.Type == kind {
			out = append(out, c)
		}
	}
	return out
}
