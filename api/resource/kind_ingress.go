package resource

import (
	"context"
	"fmt"

	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	_ "k8s.io/kubernetes/pkg/apis/networking/install" // the scheme does not have this group from elsewhere
	"k8s.io/kubernetes/pkg/apis/networking/validation"
)

var (
	networkingV1      = schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}
	networkingV1beta1 = schema.GroupVersion{Group: "networking.k8s.io", Version: "v1beta1"}
)

// ingresses: as in Kubernetes, nothing acts on them until an ingress controller is installed. Old posts write them in
// networking.k8s.io/v1beta1 and extensions/v1beta1, which Kubernetes' packages still convert.
func ingresses() *Resource {
	return &Resource{
		Name: "ingresses", Singular: "ingress", Kind: "Ingress", ListKind: "IngressList", Namespaced: true,
		ShortNames: []string{"ing"}, Storage: networkingV1, Served: served(networkingV1, networkingV1beta1, extensionsV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(networkingV1, "Ingress")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				ing := obj.(*networkingv1.Ingress)
				ing.Status = networkingv1.IngressStatus{}
				ing.Generation = 1
			},
			PrepareUpdate: func(obj, old Object) {
				ing, before := obj.(*networkingv1.Ingress), old.(*networkingv1.Ingress)
				ing.Status = before.Status
				keepGeneration(obj, old, differ(ing.Spec, before.Spec))
			},
			PrepareStatus:            func(obj, old Object) { obj.(*networkingv1.Ingress).Spec = old.(*networkingv1.Ingress).Spec },
			Validate:                 validate(validation.ValidateIngressCreate),
			ValidateUpdate:           validateChange(validation.ValidateIngressUpdate),
			ValidateStatus:           validateChange(validation.ValidateIngressStatusUpdate),
			Warnings:                 ingressWarnings,
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// ingressWarnings tells, on creation, of the annotation that was there before the field.
func ingressWarnings(_ context.Context, obj, old Object) []string {
	ing := obj.(*networkingv1.Ingress)
	if _, named := ing.Annotations[networkingv1beta1.AnnotationIngressClass]; old == nil && named && ing.Spec.IngressClassName == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", networkingv1beta1.AnnotationIngressClass)}
	}
	return nil
}

func ingressClasses() *Resource {
	return &Resource{
		Name: "ingressclasses", Singular: "ingressclass", Kind: "IngressClass", ListKind: "IngressClassList",
		Storage: networkingV1, Served: served(networkingV1, networkingV1beta1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.SetGeneration(1) },
			PrepareUpdate: func(obj, old Object) {
				keepGeneration(obj, old, differ(obj.(*networkingv1.IngressClass).Spec, old.(*networkingv1.IngressClass).Spec))
			},
			Validate:                 validate(validation.ValidateIngressClass),
			ValidateUpdate:           validateChange(validation.ValidateIngressClassUpdate),
			AllowUnconditionalUpdate: true,
		},
	}
}
