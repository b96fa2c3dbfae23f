package resource

import (
	"context"

	policyv1 "k8s.io/api/policy/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/kubernetes/pkg/apis/policy/validation"
)

// podDisruptionBudgets are also served as posts from before Kubernetes 1.25 write them. An empty selector means nothing in
// v1beta1 and everything in v1; the conversion keeps what it meant.
func podDisruptionBudgets() *Resource {
	return &Resource{
		Name: "poddisruptionbudgets", Singular: "poddisruptionbudget", Kind: "PodDisruptionBudget", ListKind: "PodDisruptionBudgetList",
		Namespaced: true, ShortNames: []string{"pdb"}, Verbs: allVerbs,
		Storage: policyV1, Served: served(policyV1, policyV1beta1),
		Subresources: map[string]Subresource{"status": statusOf(policyV1, "PodDisruptionBudget")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				b := obj.(*policyv1.PodDisruptionBudget)
				b.Status = policyv1.PodDisruptionBudgetStatus{}
				b.Generation = 1
			},
			PrepareUpdate: func(obj, old Object) {
				b, before := obj.(*policyv1.PodDisruptionBudget), old.(*policyv1.PodDisruptionBudget)
				b.Status = before.Status
				keepGeneration(b, before, differ(b.Spec, before.Spec))
			},
			PrepareStatus: func(obj, old Object) {
				b, before := obj.(*policyv1.PodDisruptionBudget), old.(*policyv1.PodDisruptionBudget)
				b.Spec, b.Generation = before.Spec, before.Generation
			},
			Validate: validate(func(in *policy.PodDisruptionBudget) field.ErrorList {
				return validation.ValidatePodDisruptionBudget(in, validation.PodDisruptionBudgetValidationOptions{})
			}),
			ValidateUpdate: validateChange(func(in, old *policy.PodDisruptionBudget) field.ErrorList {
				return validation.ValidatePodDisruptionBudget(in, validation.PodDisruptionBudgetValidationOptions{
					AllowInvalidLabelValueInSelector: metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector),
				})
			}),
			ValidateStatus: validateBudgetStatus,
			Reset:          specAndStatus(),
		},
	}
}

// validateBudgetStatus is stricter with clients of v1 than with those of v1beta1.
func validateBudgetStatus(ctx context.Context, obj, old Object) field.ErrorList {
	return validateChange(func(in, old *policy.PodDisruptionBudget) field.ErrorList {
		return validation.ValidatePodDisruptionBudgetStatusUpdate(in.Status, old.Status, field.NewPath("status"), versionOf(ctx, policyV1))
	})(ctx, obj, old)
}
