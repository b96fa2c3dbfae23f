package registry

import (
	networkingv1 "k8s.io/api/networking/v1"
	networkingv1beta1 "k8s.io/api/networking/v1beta1"
)

// admitIngress does what Kubernetes' DefaultIngressClass admission does: an Ingress that names no class gets the default one;
// of several the newest counts, of equally old ones the first by name.
func admitIngress(v *View, ing *networkingv1.Ingress) {
	if _, named := ing.Annotations[networkingv1beta1.AnnotationIngressClass]; named || ing.Spec.IngressClassName != nil {
		return
	}
	var found *networkingv1.IngressClass
	for class := range List[*networkingv1.IngressClass](v, "") {
		if class.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&class.CreationTimestamp) {
			found = class
		}
	}
	if found != nil {
		name := found.Name
		ing.Spec.IngressClassName = &name
	}
}
