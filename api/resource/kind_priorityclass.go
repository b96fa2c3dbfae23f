package resource

import (
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/scheduling/validation"
)

var schedulingV1 = schema.GroupVersion{Group: "scheduling.k8s.io", Version: "v1"}

// priorityClasses: that only one is the default is for the registry to check, which knows the others.
func priorityClasses() *Resource {
	return &Resource{
		Name: "priorityclasses", Singular: "priorityclass", Kind: "PriorityClass", ListKind: "PriorityClassList",
		ShortNames: []string{"pc"}, Storage: schedulingV1, Served: served(schedulingV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate:            func(obj Object) { obj.SetGeneration(1) },
			Validate:                 validate(validation.ValidatePriorityClass),
			ValidateUpdate:           validateChange(validation.ValidatePriorityClassUpdate),
			AllowUnconditionalUpdate: true,
		},
	}
}
