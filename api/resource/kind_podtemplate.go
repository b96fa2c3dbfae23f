package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func podTemplates() *Resource {
	return &Resource{
		Name: "podtemplates", Singular: "podtemplate", Kind: "PodTemplate", ListKind: "PodTemplateList", Namespaced: true,
		Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) {
				template := obj.(*corev1.PodTemplate)
				template.Generation = 1
				dropDisabledTemplateFields(&template.Template, nil)
			},
			PrepareUpdate: func(obj, old Object) {
				template, before := obj.(*corev1.PodTemplate), old.(*corev1.PodTemplate)
				dropDisabledTemplateFields(&template.Template, &before.Template)
				keepGeneration(template, before, differ(template.Template, before.Template))
			},
			Validate: validate(func(in *core.PodTemplate) field.ErrorList {
				return validation.ValidatePodTemplate(in, podutil.GetValidationOptionsFromPodTemplate(&in.Template, nil))
			}),
			ValidateUpdate: validateChange(func(in, old *core.PodTemplate) field.ErrorList {
				options := podutil.GetValidationOptionsFromPodTemplate(&in.Template, &old.Template)
				return validation.ValidatePodTemplateUpdate(in, old, options)
			}),
			Warnings: warnings(func(ctx context.Context, in, old *core.PodTemplate) []string {
				var before *core.PodTemplateSpec
				if old != nil {
					if in.Generation == old.Generation {
						return nil
					}
					before = &old.Template
				}
				return podutil.GetWarningsForPodTemplate(ctx, field.NewPath("template"), &in.Template, before)
			}),
			AllowUnconditionalUpdate: true,
		},
	}
}
