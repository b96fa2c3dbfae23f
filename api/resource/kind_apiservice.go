package resource

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/duration"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/validation"
	"k8s.io/kubernetes/pkg/printers"
)

var registrationV1 = schema.GroupVersion{Group: "apiregistration.k8s.io", Version: "v1"}

// apiServices say who serves a group version: the master itself (no service), or a Service that it passes requests on to.
func apiServices() *Resource {
	return &Resource{
		Name: "apiservices", Singular: "apiservice", Kind: "APIService", ListKind: "APIServiceList", Categories: categoryExtensions,
		Storage: registrationV1, Served: served(registrationV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(registrationV1, "APIService")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				s := obj.(*apiregistrationv1.APIService)
				s.Status = apiregistrationv1.APIServiceStatus{}
				if s.Spec.Service == nil {
					s.Status.Conditions = []apiregistrationv1.APIServiceCondition{{
						Type: apiregistrationv1.Available, Status: apiregistrationv1.ConditionTrue, LastTransitionTime: metav1.Now(),
						Reason: "Local", Message: "Local APIServices are always available",
					}}
				}
			},
			PrepareUpdate: func(obj, old Object) {
				obj.(*apiregistrationv1.APIService).Status = *old.(*apiregistrationv1.APIService).Status.DeepCopy()
			},
			PrepareStatus: func(obj, old Object) {
				s, before := obj.(*apiregistrationv1.APIService), old.(*apiregistrationv1.APIService)
				s.Spec = *before.Spec.DeepCopy()
				s.Labels, s.Annotations = before.Labels, before.Annotations
				s.Finalizers, s.OwnerReferences = before.Finalizers, before.OwnerReferences
			},
			Validate:       validate(validation.ValidateAPIService),
			ValidateUpdate: validateChange(validation.ValidateAPIServiceUpdate),
			ValidateStatus: validateChange(validation.ValidateAPIServiceStatusUpdate),
			Reset:          specAndStatus(),
		},
	}
}

// addRegistrationHandlers adds kube-aggregator's columns.
func addRegistrationHandlers(h printers.PrintHandler) {
	docs := metav1.ObjectMeta{}.SwaggerDoc()
	columns := []metav1.TableColumnDefinition{
		{Name: "Name", Type: "string", Format: "name", Description: docs["name"]},
		{Name: "Service", Type: "string", Description: "The reference to the service that hosts this API endpoint."},
		{Name: "Available", Type: "string", Description: "Whether this service is available."},
		{Name: "Age", Type: "string", Description: docs["creationTimestamp"]},
	}
	utilruntime.Must(h.TableHandler(columns, func(in *apiregistration.APIService, _ printers.GenerateOptions) ([]metav1.TableRow, error) {
		service := "Local"
		if s := in.Spec.Service; s != nil {
			service = s.Namespace + "/" + s.Name
		}
		cells := []any{in.Name, service, availability(in), age(in.CreationTimestamp)}
		return []metav1.TableRow{{Cells: cells, Object: runtime.RawExtension{Object: in}}}, nil
	}))
}

func availability(s *apiregistration.APIService) string {
	for _, c := range s.Status.Conditions {
		if c.Type != apiregistration.Available {
			continue
		}
		if c.Status != apiregistration.ConditionTrue && c.Reason != "" {
			return string(c.Status) + " (" + c.Reason + ")"
		}
		return string(c.Status)
	}
	return string(apiregistration.ConditionUnknown)
}

func age(created metav1.Time) string {
	if created.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(metav1.Now().Sub(created.Time))
}
