package resource

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

// resourceQuotas: what is used is counted by the registry, in the transactions that use it.
func resourceQuotas() *Resource {
	return &Resource{
		Name: "resourcequotas", Singular: "resourcequota", Kind: "ResourceQuota", ListKind: "ResourceQuotaList", Namespaced: true,
		ShortNames: []string{"quota"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(coreV1, "ResourceQuota")},
		rules: Rules{
			PrepareCreate: func(obj Object) { obj.(*corev1.ResourceQuota).Status = corev1.ResourceQuotaStatus{} },
			PrepareUpdate: func(obj, old Object) {
				obj.(*corev1.ResourceQuota).Status = old.(*corev1.ResourceQuota).Status
			},
			PrepareStatus: func(obj, old Object) {
				obj.(*corev1.ResourceQuota).Spec = old.(*corev1.ResourceQuota).Spec
			},
			Validate:                 validate(validation.ValidateResourceQuota),
			ValidateUpdate:           validateChange(validation.ValidateResourceQuotaUpdate),
			ValidateStatus:           validateChange(validation.ValidateResourceQuotaStatusUpdate),
			Warnings:                 resourceQuotaWarnings,
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// resourceQuotaWarnings tells, on creation, of requests that may be more than the limits may.
func resourceQuotaWarnings(_ context.Context, obj, old Object) []string {
	if old != nil {
		return nil
	}
	var out []string
	hard := obj.(*corev1.ResourceQuota).Spec.Hard
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		requests, limits := "requests."+name, "limits."+name
		asked, ok := hard[requests]
		if !ok && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			if asked, ok = hard[name]; ok {
				requests = name
			}
		}
		if limit, limited := hard[limits]; ok && limited && asked.Cmp(limit) > 0 {
			out = append(out, fmt.Sprintf("ResourceQuota %s (%s) should be less than %s (%s)", requests, asked.String(), limits, limit.String()))
		}
	}
	return out
}
