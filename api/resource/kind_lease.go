package resource

import (
	coordinationv1 "k8s.io/api/coordination/v1"
	"k8s.io/kubernetes/pkg/apis/coordination/validation"
)

func leases() *Resource {
	return &Resource{
		Name: "leases", Singular: "lease", Kind: "Lease", ListKind: "LeaseList", Namespaced: true,
		Storage: leaseV1, Served: served(leaseV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate:       dropCoordination,
			PrepareUpdate:       func(obj, _ Object) { dropCoordination(obj) },
			Validate:            validate(validation.ValidateLease),
			ValidateUpdate:      validateChange(validation.ValidateLeaseUpdate),
			AllowCreateOnUpdate: true,
		},
	}
}

// dropCoordination drops the fields of coordinated leader election, a feature that is off by default.
func dropCoordination(obj Object) {
	spec := &obj.(*coordinationv1.Lease).Spec
	spec.Strategy, spec.PreferredHolder = nil, nil
}
