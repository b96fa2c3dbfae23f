package resource

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// validatingAdmissionPolicies: who evaluates policies is master/internal/admission. Their status says what is odd about the
// types in their expressions (ObservePolicy).
func validatingAdmissionPolicies() *Resource {
	return &Resource{
		Name: "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Kind: "ValidatingAdmissionPolicy",
		ListKind: "ValidatingAdmissionPolicyList", Categories: categoryExtensions,
		Storage: admissionV1, Served: served(admissionV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(admissionV1, "ValidatingAdmissionPolicy")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				p := obj.(*admissionv1.ValidatingAdmissionPolicy)
				p.Status = admissionv1.ValidatingAdmissionPolicyStatus{}
				p.Generation = 1
			},
			PrepareUpdate: func(obj, old Object) {
				p, before := obj.(*admissionv1.ValidatingAdmissionPolicy), old.(*admissionv1.ValidatingAdmissionPolicy)
				p.Status = before.Status
				keepGeneration(p, before, differ(p.Spec, before.Spec))
			},
			PrepareStatus: func(obj, old Object) {
				p, before := obj.(*admissionv1.ValidatingAdmissionPolicy), old.(*admissionv1.ValidatingAdmissionPolicy)
				p.Spec = before.Spec
				metav1.ResetObjectMetaForStatus(p, before)
			},
			Validate: func(_ context.Context, obj Object) field.ErrorList {
				return validateValidatingPolicy(obj.(*admissionv1.ValidatingAdmissionPolicy), nil)
			},
			ValidateUpdate: func(_ context.Context, obj, old Object) field.ErrorList {
				return validateValidatingPolicy(obj.(*admissionv1.ValidatingAdmissionPolicy), old.(*admissionv1.ValidatingAdmissionPolicy))
			},
			ValidateStatus: func(_ context.Context, obj, _ Object) field.ErrorList {
				return validatePolicyStatus(&obj.(*admissionv1.ValidatingAdmissionPolicy).Status, field.NewPath("status"))
			},
			Reset: specAndStatus(fieldpath.MakePathOrDie("metadata")),
		},
	}
}

func validatingAdmissionPolicyBindings() *Resource {
	return &Resource{
		Name: "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding", Kind: "ValidatingAdmissionPolicyBinding",
		ListKind: "ValidatingAdmissionPolicyBindingList", Categories: categoryExtensions,
		Storage: admissionV1, Served: served(admissionV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, differ(obj.(*admissionv1.ValidatingAdmissionPolicyBinding).Spec, old.(*admissionv1.ValidatingAdmissionPolicyBinding).Spec))
			},
			Validate:       func(_ context.Context, obj Object) field.ErrorList { return validateValidatingBinding(obj) },
			ValidateUpdate: func(_ context.Context, obj, _ Object) field.ErrorList { return validateValidatingBinding(obj) },
		},
	}
}

// mutatingAdmissionPolicies have no status: the types of what they make are checked when it is made.
func mutatingAdmissionPolicies() *Resource {
	return &Resource{
		Name: "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Kind: "MutatingAdmissionPolicy",
		ListKind: "MutatingAdmissionPolicyList", Categories: categoryExtensions,
		Storage: admissionV1, Served: served(admissionV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, differ(obj.(*admissionv1.MutatingAdmissionPolicy).Spec, old.(*admissionv1.MutatingAdmissionPolicy).Spec))
			},
			Validate: func(_ context.Context, obj Object) field.ErrorList {
				return validateMutatingPolicy(obj.(*admissionv1.MutatingAdmissionPolicy), nil)
			},
			ValidateUpdate: func(_ context.Context, obj, old Object) field.ErrorList {
				return validateMutatingPolicy(obj.(*admissionv1.MutatingAdmissionPolicy), old.(*admissionv1.MutatingAdmissionPolicy))
			},
		},
	}
}

func mutatingAdmissionPolicyBindings() *Resource {
	return &Resource{
		Name: "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Kind: "MutatingAdmissionPolicyBinding",
		ListKind: "MutatingAdmissionPolicyBindingList", Categories: categoryExtensions,
		Storage: admissionV1, Served: served(admissionV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, differ(obj.(*admissionv1.MutatingAdmissionPolicyBinding).Spec, old.(*admissionv1.MutatingAdmissionPolicyBinding).Spec))
			},
			Validate:       func(_ context.Context, obj Object) field.ErrorList { return validateMutatingBinding(obj) },
			ValidateUpdate: func(_ context.Context, obj, _ Object) field.ErrorList { return validateMutatingBinding(obj) },
		},
	}
}
