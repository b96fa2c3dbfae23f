package resource

import (
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// limitRanges: what they do to pods and claims is the registry's, which asks them when it writes one.
func limitRanges() *Resource {
	return &Resource{
		Name: "limitranges", Singular: "limitrange", Kind: "LimitRange", ListKind: "LimitRangeList", Namespaced: true,
		ShortNames: []string{"limits"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) {
				if obj.GetName() == "" {
					obj.SetName(string(uuid.NewUUID())) // as Kubernetes names those that have no name
				}
			},
			Validate: validate(validation.ValidateLimitRange),
			ValidateUpdate: validateChange(func(in, _ *core.LimitRange) field.ErrorList {
				return validation.ValidateLimitRange(in)
			}),
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
		},
	}
}
