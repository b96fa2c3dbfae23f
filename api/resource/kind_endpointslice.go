package resource

import (
	"context"
	"strings"

	discoveryv1 "k8s.io/api/discovery/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/discovery/validation"
)

func endpointSlices() *Resource {
	return &Resource{
		Name: "endpointslices", Singular: "endpointslice", Kind: "EndpointSlice", ListKind: "EndpointSliceList",
		Namespaced: true, Storage: discoveryV1, Served: served(discoveryV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) {
				obj.SetGeneration(1)
				dropTopology(obj.(*discoveryv1.EndpointSlice))
			},
			PrepareUpdate: func(obj, old Object) {
				slice, before := obj.(*discoveryv1.EndpointSlice), old.(*discoveryv1.EndpointSlice)
				dropTopology(slice)
				keepGeneration(obj, old, slice.AddressType != before.AddressType || differ(slice.Labels, before.Labels) ||
					differ(slice.Endpoints, before.Endpoints) || differ(slice.Ports, before.Ports))
			},
			Validate:                 validate(validation.ValidateEndpointSliceCreate),
			ValidateUpdate:           validateChange(validation.ValidateEndpointSliceUpdate),
			Warnings:                 endpointSliceWarnings,
			AllowUnconditionalUpdate: true,
		},
	}
}

// dropTopology drops what only discovery.k8s.io/v1beta1, not served here, could set.
func dropTopology(slice *discoveryv1.EndpointSlice) {
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; e.DeprecatedTopology != nil {
			e.DeprecatedTopology = nil
		}
	}
}

func endpointSliceWarnings(_ context.Context, obj, old Object) []string {
	slice := obj.(*discoveryv1.EndpointSlice)
	var out []string
	if old == nil && slice.AddressType == discoveryv1.AddressTypeFQDN {
		out = append(out, "spec.addressType: FQDN endpoints are deprecated")
	}
	// Kubernetes' own controllers are endpointslice-controller.k8s.io and endpointslicemirroring-controller.k8s.io.
	if manager := slice.Labels[discoveryv1.LabelManagedBy]; strings.HasPrefix(manager, "endpointslice") &&
		strings.HasSuffix(manager, "-controller.k8s.io") {
		return out
	}
	for i, endpoint := range slice.Endpoints {
		for j, address := range endpoint.Addresses {
			path := field.NewPath("endpoints").Index(i).Child("addresses").Index(j)
			out = append(out, utilvalidation.GetWarningsForIP(path, address)...)
		}
	}
	return out
}
