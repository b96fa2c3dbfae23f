package resource

import (
	"context"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func nodes() *Resource {
	return &Resource{
		Name: "nodes", Singular: "node", Kind: "Node", ListKind: "NodeList",
		ShortNames: []string{"no"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status": statusOf(coreV1, "Node"),
			"proxy":  {Kind: coreV1.WithKind("NodeProxyOptions"), Verbs: proxyAll},
		},
		rules: Rules{
			// A Node may be created with its status: that is how agents register. configSource is gone.
			PrepareCreate: func(obj Object) {
				node := obj.(*corev1.Node)
				node.Spec.ConfigSource, node.Status.Config = nil, nil
			},
			PrepareUpdate: func(obj, old Object) {
				node, before := obj.(*corev1.Node), old.(*corev1.Node)
				node.Status = before.Status
				node.Spec.ConfigSource = nil
			},
			PrepareStatus: func(obj, old Object) {
				node := obj.(*corev1.Node)
				node.Spec = old.(*corev1.Node).Spec
				node.Status.Config = nil
			},
			Validate: validate(validation.ValidateNode),
			ValidateUpdate: validateChange(func(in, old *core.Node) field.ErrorList {
				return append(validation.ValidateNode(in), validation.ValidateNodeUpdate(in, old)...)
			}),
			ValidateStatus: validateChange(validation.ValidateNodeUpdate),
			Warnings:       nodeWarnings,
			Fields: func(obj Object) map[string]string {
				return map[string]string{"spec.unschedulable": strconv.FormatBool(obj.(*corev1.Node).Spec.Unschedulable)}
			},
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

func nodeWarnings(_ context.Context, obj, _ Object) []string {
	node := obj.(*corev1.Node)
	var out []string
	if node.Spec.DoNotUseExternalID != "" {
		out = append(out, "spec.externalID: this field is deprecated, and is unused by Kubernetes")
	}
	for i, cidr := range node.Spec.PodCIDRs {
		out = append(out, utilvalidation.GetWarningsForCIDR(field.NewPath("spec", "podCIDRs").Index(i), cidr)...)
	}
	return out
}
