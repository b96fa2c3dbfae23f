package resource

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/autoscaling/validation"
)

var autoscaleV2 = schema.GroupVersion{Group: "autoscaling", Version: "v2"}

// horizontalPodAutoscalers: a minimum of no replicas is refused, as in Kubernetes without its alpha feature for that. Nothing
// counts generations here, there neither.
func horizontalPodAutoscalers() *Resource {
	return &Resource{
		Name: "horizontalpodautoscalers", Singular: "horizontalpodautoscaler", Kind: "HorizontalPodAutoscaler",
		ListKind: "HorizontalPodAutoscalerList", Namespaced: true, ShortNames: []string{"hpa"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: autoscaleV2, Served: served(autoscaleV2, autoscaleV1),
		Subresources: map[string]Subresource{"status": statusOf(autoscaleV2, "HorizontalPodAutoscaler")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				obj.(*autoscalingv2.HorizontalPodAutoscaler).Status = autoscalingv2.HorizontalPodAutoscalerStatus{}
			},
			PrepareUpdate: func(obj, old Object) {
				obj.(*autoscalingv2.HorizontalPodAutoscaler).Status = old.(*autoscalingv2.HorizontalPodAutoscaler).Status
			},
			PrepareStatus: func(obj, old Object) {
				obj.(*autoscalingv2.HorizontalPodAutoscaler).Spec = old.(*autoscalingv2.HorizontalPodAutoscaler).Spec
			},
			Validate: validate(func(in *autoscaling.HorizontalPodAutoscaler) field.ErrorList {
				return validation.ValidateHorizontalPodAutoscaler(in, autoscalerOptions(in, nil))
			}),
			ValidateUpdate: validateChange(func(in, old *autoscaling.HorizontalPodAutoscaler) field.ErrorList {
				return validation.ValidateHorizontalPodAutoscalerUpdate(in, old, autoscalerOptions(in, old))
			}),
			ValidateStatus:           validateChange(validation.ValidateHorizontalPodAutoscalerStatusUpdate),
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// autoscalerOptions are how strictly an autoscaler is looked at; old is nil for a new one. What was accepted once stays valid.
func autoscalerOptions(in, old *autoscaling.HorizontalPodAutoscaler) validation.HorizontalPodAutoscalerSpecValidationOptions {
	o := validation.HorizontalPodAutoscalerSpecValidationOptions{
		MinReplicasLowerBound:          1,
		ObjectMetricsValidationOptions: validation.CrossVersionObjectReferenceValidationOptions{AllowEmptyAPIGroup: true},
	}
	target := in.Spec.ScaleTargetRef
	switch {
	case old != nil && old.Spec.ScaleTargetRef.APIVersion == target.APIVersion && old.Spec.ScaleTargetRef.Kind == target.Kind:
		o.ScaleTargetRefValidationOptions.AllowInvalidAPIVersion = true
	case target.Kind == "ReplicationController": // the only one without a group
		o.ScaleTargetRefValidationOptions.AllowEmptyAPIGroup = true
	}
	if old == nil {
		return o
	}
	if old.Spec.MinReplicas != nil && *old.Spec.MinReplicas == 0 {
		o.MinReplicasLowerBound = 0
	}
	for _, m := range old.Spec.Metrics {
		if m.Type == autoscaling.ObjectMetricSourceType && m.Object != nil &&
			validation.ValidateAPIVersion(m.Object.DescribedObject, o.ObjectMetricsValidationOptions) != nil {
			o.ObjectMetricsValidationOptions.AllowInvalidAPIVersion = true
		}
	}
	return o
}
