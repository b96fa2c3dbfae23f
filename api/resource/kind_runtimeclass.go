package resource

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	nodeapi "k8s.io/kubernetes/pkg/api/node"
	"k8s.io/kubernetes/pkg/apis/node"
	_ "k8s.io/kubernetes/pkg/apis/node/install" // the scheme does not have this group from elsewhere
	"k8s.io/kubernetes/pkg/apis/node/validation"
)

var nodeV1 = schema.GroupVersion{Group: "node.k8s.io", Version: "v1"}

func runtimeClasses() *Resource {
	return &Resource{
		Name: "runtimeclasses", Singular: "runtimeclass", Kind: "RuntimeClass", ListKind: "RuntimeClassList",
		Storage: nodeV1, Served: served(nodeV1), Verbs: allVerbs,
		rules: Rules{
			Validate: validate(validation.ValidateRuntimeClass),
			ValidateUpdate: validateChange(func(in, old *node.RuntimeClass) field.ErrorList {
				return append(validation.ValidateRuntimeClass(in), validation.ValidateRuntimeClassUpdate(in, old)...)
			}),
			Warnings: warnings(func(_ context.Context, in, _ *node.RuntimeClass) []string {
				return nodeapi.GetWarningsForRuntimeClass(in)
			}),
			AllowCreateOnUpdate: true,
		},
	}
}
