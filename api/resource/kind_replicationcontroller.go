package resource

import (
	"context"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func replicationControllers() *Resource {
	return &Resource{
		Name: "replicationcontrollers", Singular: "replicationcontroller", Kind: "ReplicationController",
		ListKind: "ReplicationControllerList", Namespaced: true,
		ShortNames: []string{"rc"}, Categories: categoryAll, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{
			"status": statusOf(coreV1, "ReplicationController"),
			"scale":  {Kind: autoscaleV1.WithKind("Scale"), Verbs: readWrite},
		},
		rules: replicationControllerRules(),
	}
}

func replicationControllerRules() Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			rc := obj.(*corev1.ReplicationController)
			rc.Status = corev1.ReplicationControllerStatus{}
			rc.Generation = 1
			ownLabels(rc)
			if rc.Spec.Template != nil {
				dropDisabledTemplateFields(rc.Spec.Template, nil)
			}
		},
		PrepareUpdate: func(obj, old Object) {
			rc, before := obj.(*corev1.ReplicationController), old.(*corev1.ReplicationController)
			rc.Status = before.Status
			ownLabels(rc)
			if rc.Spec.Template != nil {
				dropDisabledTemplateFields(rc.Spec.Template, before.Spec.Template)
			}
			keepGeneration(rc, before, differ(rc.Spec, before.Spec))
		},
		PrepareStatus: func(obj, old Object) {
			rc, before := obj.(*corev1.ReplicationController), old.(*corev1.ReplicationController)
			rc.Spec, rc.Generation = before.Spec, before.Generation
		},
		Validate: validate(func(in *core.ReplicationController) field.ErrorList {
			return validation.ValidateReplicationController(in, podutil.GetValidationOptionsFromPodTemplate(in.Spec.Template, nil))
		}),
		ValidateUpdate: validateChange(func(in, old *core.ReplicationController) field.ErrorList {
			options := podutil.GetValidationOptionsFromPodTemplate(in.Spec.Template, old.Spec.Template)
			return validation.ValidateReplicationControllerUpdate(in, old, options)
		}),
		ValidateStatus: validateChange(validation.ValidateReplicationControllerStatusUpdate),
		Warnings: func(ctx context.Context, obj, old Object) []string {
			if obj.(*corev1.ReplicationController).Spec.Template == nil {
				return nil // validation has said so
			}
			return replicationControllerWarnings(ctx, obj, old)
		},
		Fields: func(obj Object) map[string]string {
			return map[string]string{"status.replicas": strconv.Itoa(int(obj.(*corev1.ReplicationController).Status.Replicas))}
		},
		Scale: &ScaleRules{
			Get: func(obj Object) (int32, int32, string) {
				rc := obj.(*corev1.ReplicationController)
				return replicasOf(rc.Spec.Replicas), rc.Status.Replicas, labels.SelectorFromSet(rc.Spec.Selector).String()
			},
			Set: func(obj Object, n int32) { obj.(*corev1.ReplicationController).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		OrphanByDefault:          served(coreV1),
		Reset:                    specAndStatus(),
	}
}

var replicationControllerWarnings = templateWarnings(func(obj Object) *corev1.PodTemplateSpec {
	return obj.(*corev1.ReplicationController).Spec.Template
})

// ownLabels: the defaults take labels and selector from the template, which lets all three share one map.
func ownLabels(rc *corev1.ReplicationController) {
	rc.Labels, rc.Spec.Selector = maps.Clone(rc.Labels), maps.Clone(rc.Spec.Selector)
}
