package resource

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	pvcutil "k8s.io/kubernetes/pkg/api/persistentvolumeclaim"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
)

// statefulSets: updateStrategy.rollingUpdate.maxUnavailable is always there. Kubernetes 1.36 has it behind a feature gate
// that is off unless asked for (KEP-961); nil means what it means there without it: one at a time, whatever is away below.
func statefulSets() *Resource {
	return &Resource{
		Name: "statefulsets", Singular: "statefulset", Kind: "StatefulSet", ListKind: "StatefulSetList", Namespaced: true,
		ShortNames: []string{"sts"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: appsV1, Served: served(appsV1, appsV1beta2, appsV1beta1),
		Subresources: map[string]Subresource{
			"status": statusOf(appsV1, "StatefulSet"),
			"scale":  {Kind: autoscaleV1.WithKind("Scale"), Verbs: readWrite},
		},
		rules: statefulSetRules(),
	}
}

func statefulSetRules() Rules {
	return Rules{
		PrepareCreate: func(obj Object) {
			set := obj.(*appsv1.StatefulSet)
			set.Status = appsv1.StatefulSetStatus{}
			set.Generation = 1
			dropDisabledTemplateFields(&set.Spec.Template, nil)
		},
		PrepareUpdate: func(obj, old Object) {
			set, before := obj.(*appsv1.StatefulSet), old.(*appsv1.StatefulSet)
			set.Status = before.Status
			dropDisabledTemplateFields(&set.Spec.Template, &before.Spec.Template)
			keepGeneration(set, before, differ(set.Spec, before.Spec))
		},
		PrepareStatus: func(obj, old Object) {
			set, before := obj.(*appsv1.StatefulSet), old.(*appsv1.StatefulSet)
			set.Spec, set.Generation = before.Spec, before.Generation
		},
		Validate: validate(func(in *apps.StatefulSet) field.ErrorList {
			return validation.ValidateStatefulSet(in, podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, nil))
		}),
		ValidateUpdate: validateChange(func(in, old *apps.StatefulSet) field.ErrorList {
			options := podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, &old.Spec.Template)
			return validation.ValidateStatefulSetUpdate(in, old, options)
		}),
		ValidateStatus: validateChange(validation.ValidateStatefulSetStatusUpdate),
		Warnings:       warnings(statefulSetWarnings),
		Scale: &ScaleRules{
			Get: func(obj Object) (int32, int32, string) {
				set := obj.(*appsv1.StatefulSet)
				return replicasOf(set.Spec.Replicas), set.Status.Replicas, selectorText(set.Spec.Selector)
			},
			Set: func(obj Object, n int32) { obj.(*appsv1.StatefulSet).Spec.Replicas = &n },
		},
		AllowUnconditionalUpdate: true,
		Reset:                    specAndStatus(),
	}
}

// statefulSetWarnings are Kubernetes' own: the template's when it is new or changed, those of the claims always.
func statefulSetWarnings(ctx context.Context, in, old *apps.StatefulSet) []string {
	path := field.NewPath("spec")
	var out []string
	switch {
	case old == nil:
		out = podutil.GetWarningsForPodTemplate(ctx, path.Child("template"), &in.Spec.Template, nil)
	case in.Generation != old.Generation:
		out = podutil.GetWarningsForPodTemplate(ctx, path.Child("template"), &in.Spec.Template, &old.Spec.Template)
	}
	for i := range in.Spec.VolumeClaimTemplates {
		claim := path.Child("volumeClaimTemplates").Index(i)
		if old != nil {
			claim = claim.Child("Spec")
		}
		out = append(out, pvcutil.GetWarningsForPersistentVolumeClaimSpec(claim, in.Spec.VolumeClaimTemplates[i].Spec)...)
	}
	if limit := in.Spec.RevisionHistoryLimit; limit != nil && *limit < 0 {
		out = append(out, fmt.Sprintf("%s: a negative value retains all historical revisions; a value >= 0 is recommended", path.Child("revisionHistoryLimit")))
	}
	return out
}
