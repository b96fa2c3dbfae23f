package resource

import (
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/networking/validation"
)

// serviceCIDRs: the cluster has one range of Service addresses, that of wp-master --service-cidr, of which the ServiceCIDR
// "kubernetes" tells. One that somebody makes is kept and never gets ready, so that nobody waits for addresses of it
// without being told why.
func serviceCIDRs() *Resource {
	return &Resource{
		Name: "servicecidrs", Singular: "servicecidr", Kind: "ServiceCIDR", ListKind: "ServiceCIDRList",
		Storage: networkingV1, Served: served(networkingV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(networkingV1, "ServiceCIDR")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				obj.(*networkingv1.ServiceCIDR).Status = networkingv1.ServiceCIDRStatus{Conditions: []metav1.Condition{{
					Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionFalse, Reason: "NotSupported",
					Message:            "The Services of this cluster have addresses of one range, which wp-master --service-cidr names",
					LastTransitionTime: metav1.Now(),
				}}}
			},
			PrepareUpdate: func(obj, old Object) {
				obj.(*networkingv1.ServiceCIDR).Status = *old.(*networkingv1.ServiceCIDR).Status.DeepCopy()
			},
			PrepareStatus: func(obj, old Object) {
				s, before := obj.(*networkingv1.ServiceCIDR), old.(*networkingv1.ServiceCIDR)
				s.Spec = *before.Spec.DeepCopy()
				metav1.ResetObjectMetaForStatus(&s.ObjectMeta, &before.ObjectMeta)
			},
			Validate:                 validate(validation.ValidateServiceCIDR),
			ValidateUpdate:           validateChange(validation.ValidateServiceCIDRUpdate),
			ValidateStatus:           validateChange(validation.ValidateServiceCIDRStatusUpdate),
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// ipAddresses are what clients write down of addresses. The cluster makes none for its Services: what they have is what
// they say.
func ipAddresses() *Resource {
	return &Resource{
		Name: "ipaddresses", Singular: "ipaddress", Kind: "IPAddress", ListKind: "IPAddressList", ShortNames: []string{"ip"},
		Storage: networkingV1, Served: served(networkingV1), Verbs: allVerbs,
		rules: Rules{
			Validate: validate(validation.ValidateIPAddress),
			ValidateUpdate: validateChange(func(in, old *networking.IPAddress) field.ErrorList {
				return append(validation.ValidateIPAddress(in), validation.ValidateIPAddressUpdate(in, old)...)
			}),
			AllowUnconditionalUpdate: true,
		},
	}
}
