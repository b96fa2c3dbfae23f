package resource

import (
	"context"
	"reflect"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install" // the scheme does not have this group from elsewhere
)

var admissionV1 = schema.GroupVersion{Group: "admissionregistration.k8s.io", Version: "v1"}

// categoryExtensions is what `kubectl get api-extensions` lists.
var categoryExtensions = []string{"api-extensions"}

// mutatingWebhookConfigurations: who calls the webhooks is master/internal/admission.
func mutatingWebhookConfigurations() *Resource {
	return &Resource{
		Name: "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration", Kind: "MutatingWebhookConfiguration",
		ListKind: "MutatingWebhookConfigurationList", Categories: categoryExtensions,
		Storage: admissionV1, Served: served(admissionV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, !reflect.DeepEqual(obj.(*admissionv1.MutatingWebhookConfiguration).Webhooks,
					old.(*admissionv1.MutatingWebhookConfiguration).Webhooks))
			},
			Validate: func(_ context.Context, obj Object) field.ErrorList { return validateWebhooks(obj, nil) },
			ValidateUpdate: func(_ context.Context, obj, old Object) field.ErrorList {
				return validateWebhooks(obj, old)
			},
		},
	}
}

func validatingWebhookConfigurations() *Resource {
	return &Resource{
		Name: "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration", Kind: "ValidatingWebhookConfiguration",
		ListKind: "ValidatingWebhookConfigurationList", Categories: categoryExtensions,
		Storage: admissionV1, Served: served(admissionV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, !reflect.DeepEqual(obj.(*admissionv1.ValidatingWebhookConfiguration).Webhooks,
					old.(*admissionv1.ValidatingWebhookConfiguration).Webhooks))
			},
			Validate: func(_ context.Context, obj Object) field.ErrorList { return validateWebhooks(obj, nil) },
			ValidateUpdate: func(_ context.Context, obj, old Object) field.ErrorList {
				return validateWebhooks(obj, old)
			},
		},
	}
}
