package resource

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	serviceutil "k8s.io/kubernetes/pkg/api/service"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// services: the registry allocates cluster IPs and node ports between the Prepare functions and validation, so that
// "already allocated" and "invalid" are told apart and a Prepare function stays pure.
func services() *Resource {
	return &Resource{
		Name: "services", Singular: "service", Kind: "Service", ListKind: "ServiceList", Namespaced: true,
		ShortNames: []string{"svc"}, Categories: categoryAll, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status": statusOf(coreV1, "Service"),
			"proxy":  {Kind: coreV1.WithKind("ServiceProxyOptions"), Verbs: proxyAll},
		},
		rules: Rules{
			PrepareCreate: prepareService,
			PrepareUpdate: prepareServiceUpdate,
			PrepareStatus: func(obj, old Object) {
				obj.(*corev1.Service).Spec = old.(*corev1.Service).Spec
			},
			Validate: validate(func(in *core.Service) field.ErrorList {
				return append(exceptHealthPort(validation.ValidateServiceCreate(in)), validateFamilies(in, nil)...)
			}),
			ValidateUpdate: validateChange(func(in, old *core.Service) field.ErrorList {
				return append(exceptHealthPort(validation.ValidateServiceUpdate(in, old)), validateFamilies(in, old)...)
			}),
			ValidateStatus: validateChange(validation.ValidateServiceStatusUpdate),
			Warnings: warnings(func(_ context.Context, in, old *core.Service) []string {
				return serviceutil.GetWarningsForService(in, old)
			}),
			Fields: func(obj Object) map[string]string {
				svc := obj.(*corev1.Service)
				return map[string]string{"spec.clusterIP": svc.Spec.ClusterIP, "spec.type": string(svc.Spec.Type)}
			},
			AllowCreateOnUpdate:      true,
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// headless says that a Service has no address of its own; without a selector nobody knows its endpoints' families.
func headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }

func prepareService(obj Object) {
	svc := obj.(*corev1.Service)
	svc.Status = corev1.ServiceStatus{}
	// Clients that know only the old singular field.
	if svc.Spec.ClusterIP != "" && len(svc.Spec.ClusterIPs) == 0 {
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
	defaultFamilies(svc, nil)
	dropInternalPolicy(svc)
}

// dropInternalPolicy: a Service that is only a name has no traffic; Kubernetes leaves the field out when it is read.
func dropInternalPolicy(svc *corev1.Service) {
	if !hasClusterIP(svc) {
		svc.Spec.InternalTrafficPolicy = nil
	}
}

// exceptHealthPort: the registry gives a Service its healthCheckNodePort after it was validated.
func exceptHealthPort(errs field.ErrorList) field.ErrorList {
	return slices.DeleteFunc(errs, func(e *field.Error) bool {
		return e.Type == field.ErrorTypeRequired && e.Field == "spec.healthCheckNodePort"
	})
}

// defaultFamilies fills in ipFamilyPolicy and ipFamilies on a cluster whose Services have IPv4 addresses only. This is no
// default of the version, because an update takes the old value.
func defaultFamilies(svc, old *corev1.Service) {
	spec := &svc.Spec
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		switch {
		case old != nil && old.Spec.IPFamilyPolicy != nil:
			policy = *old.Spec.IPFamilyPolicy
		case headless(svc) && len(spec.Selector) == 0:
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
	given := len(spec.IPFamilies)
	single := *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if old != nil && single && len(spec.IPFamilies) > 1 && slices.Equal(spec.IPFamilies, old.Spec.IPFamilies) {
		spec.IPFamilies = spec.IPFamilies[:1:1] // asking for a single stack is reason enough to drop the second
	}
	for i, ip := range spec.ClusterIPs {
		if ip == corev1.ClusterIPNone {
			break
		}
		if i >= len(spec.IPFamilies) {
			if familyOf(ip) == corev1.IPv6Protocol {
				return // nothing is inferred of an address that is refused
			}
			spec.IPFamilies = append(spec.IPFamilies[:i:i], familyOf(ip))
		}
	}
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol}
	}
	if headless(svc) && len(spec.Selector) == 0 && !single && len(spec.IPFamilies) == 1 && (old == nil || len(old.Spec.IPFamilies) < 2 || given == 0) {
		other := corev1.IPv6Protocol
		if spec.IPFamilies[0] == corev1.IPv6Protocol {
			other = corev1.IPv4Protocol
		}
		spec.IPFamilies = append(spec.IPFamilies[:1:1], other)
	}
}

func familyOf(ip string) corev1.IPFamily {
	if slices.Contains([]byte(ip), ':') {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// validateFamilies refuses what a cluster with IPv4 Services alone cannot do; Kubernetes finds this while allocating.
func validateFamilies(in, old *core.Service) field.ErrorList {
	spec := field.NewPath("spec")
	policy := in.Spec.IPFamilyPolicy
	if in.Spec.Type == core.ServiceTypeExternalName || policy == nil {
		return nil
	}
	var errs field.ErrorList
	if *policy == core.IPFamilyPolicySingleStack {
		if len(in.Spec.ClusterIPs) == 2 {
			errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), policy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple cluster IPs are specified"))
		}
		if len(in.Spec.IPFamilies) == 2 {
			errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), policy, "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"))
		}
	}
	if old != nil && *policy != core.IPFamilyPolicySingleStack && len(in.Spec.IPFamilies) < len(old.Spec.IPFamilies) {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), policy, "must be 'SingleStack' to release the secondary IP family"))
	}
	if in.Spec.ClusterIP == core.ClusterIPNone && len(in.Spec.Selector) == 0 {
		return errs
	}
	if *policy == core.IPFamilyPolicyRequireDualStack {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), policy, "this cluster is not configured for dual-stack services"))
	}
	for i, ip := range in.Spec.ClusterIPs {
		if i >= len(in.Spec.IPFamilies) && familyOf(ip) == corev1.IPv6Protocol {
			errs = append(errs, field.Invalid(spec.Child("clusterIPs").Index(i), in.Spec.ClusterIPs, "IPv6 is not configured on this cluster"))
		}
	}
	for i, family := range in.Spec.IPFamilies {
		if family == core.IPv6Protocol {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), family, "not configured on this cluster"))
		}
	}
	return errs
}
