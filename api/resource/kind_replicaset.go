package resource

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
)

func replicaSets() *Resource {
	return &Resource{
		Name: "replicasets", Singular: "replicaset", Kind: "ReplicaSet", ListKind: "ReplicaSetList", Namespaced: true,
		ShortNames: []string{"rs"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: appsV1, Served: served(appsV1, appsV1beta2, extensionsV1),
		Subresources: map[string]Subresource{
			"status": statusOf(appsV1, "ReplicaSet"),
			"scale":  {Kind: autoscaleV1.WithKind("Scale"), Verbs: readWrite},
		},
		rules: replicaSetRules(),
	}
}

func replicaSetRules() Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			rs := obj.(*appsv1.ReplicaSet)
			rs.Status = appsv1.ReplicaSetStatus{}
			rs.Generation = 1
			dropDisabledTemplateFields(&rs.Spec.Template, nil)
		},
		PrepareUpdate: func(obj, old Object) {
			rs, before := obj.(*appsv1.ReplicaSet), old.(*appsv1.ReplicaSet)
			rs.Status = before.Status
			dropDisabledTemplateFields(&rs.Spec.Template, &before.Spec.Template)
			keepGeneration(rs, before, differ(rs.Spec, before.Spec))
		},
		PrepareStatus: func(obj, old Object) {
			rs, before := obj.(*appsv1.ReplicaSet), old.(*appsv1.ReplicaSet)
			rs.Spec, rs.Generation = before.Spec, before.Generation
		},
		Validate: validate(func(in *apps.ReplicaSet) field.ErrorList {
			return validation.ValidateReplicaSet(in, podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, nil))
		}),
		ValidateUpdate: validateChange(func(in, old *apps.ReplicaSet) field.ErrorList {
			options := podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, &old.Spec.Template)
			return validation.ValidateReplicaSetUpdate(in, old, options)
		}),
		ValidateStatus: validateChange(validation.ValidateReplicaSetStatusUpdate),
		Warnings: templateWarnings(func(obj Object) *corev1.PodTemplateSpec {
			return &obj.(*appsv1.ReplicaSet).Spec.Template
		}),
		Scale: &ScaleRules{
			Get: func(obj Object) (int32, int32, string) {
				rs := obj.(*appsv1.ReplicaSet)
				return replicasOf(rs.Spec.Replicas), rs.Status.Replicas, selectorText(rs.Spec.Selector)
			},
			Set: func(obj Object, n int32) { obj.(*appsv1.ReplicaSet).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		Reset:                    specAndStatus(),
	}
}
