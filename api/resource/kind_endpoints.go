package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func endpoints() *Resource {
	return &Resource{
		Name: "endpoints", Singular: "endpoints", Kind: "Endpoints", ListKind: "EndpointsList", Namespaced: true,
		ShortNames: []string{"ep"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		rules: Rules{
			Validate:                 validate(validation.ValidateEndpointsCreate),
			ValidateUpdate:           validateChange(validation.ValidateEndpointsUpdate),
			Warnings:                 endpointsWarnings,
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
		},
	}
}

// Marks of objects that Kubernetes' controllers write; their addresses need no check for odd spellings.
const (
	endpointsManagedBy = "endpoints.kubernetes.io/managed-by"
	endpointsManager   = "endpoint-controller"
)

func endpointsWarnings(_ context.Context, obj, _ Object) []string {
	e := obj.(*corev1.Endpoints)
	if e.Labels[endpointsManagedBy] == endpointsManager {
		return nil
	}
	var out []string
	for i, subset := range e.Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, a := range subset.Addresses {
			out = append(out, utilvalidation.GetWarningsForIP(path.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range subset.NotReadyAddresses {
			out = append(out, utilvalidation.GetWarningsForIP(path.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return out
}
