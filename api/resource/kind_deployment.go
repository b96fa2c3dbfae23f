package resource

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// deployments are also served in the three groups of old posts; a Deployment made in one is seen in all. The old field
// rollbackTo lives in the annotation deprecated.deployment.rollback.to.
func deployments() *Resource {
	return &Resource{
		Name: "deployments", Singular: "deployment", Kind: "Deployment", ListKind: "DeploymentList", Namespaced: true,
		ShortNames: []string{"deploy"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: appsV1, Served: served(appsV1, appsV1beta2, appsV1beta1, extensionsV1),
		Subresources: map[string]Subresource{
			"status": statusOf(appsV1, "Deployment"),
			"scale":  {Kind: autoscaleV1.WithKind("Scale"), Verbs: readWrite},
			"rollback": {
				Kind: appsV1beta1.WithKind("DeploymentRollback"), Verbs: createOne,
				Only: []schema.GroupVersion{appsV1beta1, extensionsV1},
			},
		},
		rules: deploymentRules(),
	}
}

func deploymentRules() Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			d := obj.(*appsv1.Deployment)
			d.Status = appsv1.DeploymentStatus{}
			d.Generation = 1
			dropDisabledTemplateFields(&d.Spec.Template, nil)
		},
		PrepareUpdate: func(obj, old Object) {
			d, before := obj.(*appsv1.Deployment), old.(*appsv1.Deployment)
			d.Status = before.Status
			dropDisabledTemplateFields(&d.Spec.Template, &before.Spec.Template)
			// Annotations count as well: they are copied to the ReplicaSets.
			keepGeneration(d, before, differ(d.Spec, before.Spec) || differ(d.Annotations, before.Annotations))
		},
		PrepareStatus: func(obj, old Object) {
			d, before := obj.(*appsv1.Deployment), old.(*appsv1.Deployment)
			d.Spec, d.Labels, d.Generation = before.Spec, before.Labels, before.Generation
		},
		Validate: validate(func(in *apps.Deployment) field.ErrorList {
			return validation.ValidateDeployment(in, podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, nil))
		}),
		ValidateUpdate: validateChange(func(in, old *apps.Deployment) field.ErrorList {
			options := podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, &old.Spec.Template)
			return validation.ValidateDeploymentUpdate(in, old, options)
		}),
		ValidateStatus: validateChange(validation.ValidateDeploymentStatusUpdate),
		Warnings: templateWarnings(func(obj Object) *corev1.PodTemplateSpec {
			return &obj.(*appsv1.Deployment).Spec.Template
		}),
		Scale: &ScaleRules{
			Get: func(obj Object) (int32, int32, string) {
				d := obj.(*appsv1.Deployment)
				return replicasOf(d.Spec.Replicas), d.Status.Replicas, selectorText(d.Spec.Selector)
			},
			Set: func(obj Object, n int32) { obj.(*appsv1.Deployment).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		Reset:                    specAndStatus(fieldpath.MakePathOrDie("metadata", "labels")),
	}
}
