package resource

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/networking/validation"
)

// networkPolicies: nodes enforce them; see proxy/policy.
func networkPolicies() *Resource {
	return &Resource{
		Name: "networkpolicies", Singular: "networkpolicy", Kind: "NetworkPolicy", ListKind: "NetworkPolicyList", Namespaced: true,
		ShortNames: []string{"netpol"}, Storage: networkingV1, Served: served(networkingV1, extensionsV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, differ(obj.(*networkingv1.NetworkPolicy).Spec, old.(*networkingv1.NetworkPolicy).Spec))
			},
			Validate: validate(func(in *networking.NetworkPolicy) field.ErrorList {
				return validation.ValidateNetworkPolicy(in, validation.ValidationOptionsForNetworking(in, nil))
			}),
			ValidateUpdate: validateChange(func(in, old *networking.NetworkPolicy) field.ErrorList {
				return validation.ValidateNetworkPolicyUpdate(in, old, validation.ValidationOptionsForNetworking(in, old))
			}),
			Warnings:                 networkPolicyWarnings,
			AllowUnconditionalUpdate: true,
		},
	}
}

// networkPolicyWarnings tells of addresses that are written in ways that programs read differently.
func networkPolicyWarnings(_ context.Context, obj, _ Object) []string {
	var out []string
	check := func(peers []networkingv1.NetworkPolicyPeer, path *field.Path) {
		for i, peer := range peers {
			if peer.IPBlock == nil {
				continue
			}
			path := path.Index(i).Child("ipBlock")
			out = append(out, utilvalidation.GetWarningsForCIDR(path.Child("cidr"), peer.IPBlock.CIDR)...)
			for j, except := range peer.IPBlock.Except {
				out = append(out, utilvalidation.GetWarningsForCIDR(path.Child("except").Index(j), except)...)
			}
		}
	}
	spec, path := &obj.(*networkingv1.NetworkPolicy).Spec, field.NewPath("spec")
	for i, rule := range spec.Ingress {
		check(rule.From, path.Child("ingress").Index(i).Child("from"))
	}
	for i, rule := range spec.Egress {
		check(rule.To, path.Child("egress").Index(i).Child("to"))
	}
	return out
}
