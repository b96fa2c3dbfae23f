package resource

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
	"k8s.io/kubernetes/pkg/apis/core"
)

// daemonSets are also served in the groups of old posts, where they are updated OnDelete unless they say otherwise. The old
// field templateGeneration lives in the annotation deprecated.daemonset.template.generation.
func daemonSets() *Resource {
	return &Resource{
		Name: "daemonsets", Singular: "daemonset", Kind: "DaemonSet", ListKind: "DaemonSetList", Namespaced: true,
		ShortNames: []string{"ds"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: appsV1, Served: served(appsV1, appsV1beta2, extensionsV1),
		Subresources: map[string]Subresource{"status": statusOf(appsV1, "DaemonSet")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				ds := obj.(*appsv1.DaemonSet)
				ds.Status = appsv1.DaemonSetStatus{}
				ds.Generation = 1
				dropDisabledTemplateFields(&ds.Spec.Template, nil)
				// One that is no number is left for validation to refuse.
				if n, err := templateGeneration(ds); err == nil {
					setTemplateGeneration(ds, max(n, 1))
				}
			},
			PrepareUpdate: prepareDaemonSet,
			PrepareStatus: func(obj, old Object) {
				ds, before := obj.(*appsv1.DaemonSet), old.(*appsv1.DaemonSet)
				ds.Spec, ds.Generation = before.Spec, before.Generation
				keepTemplateGeneration(ds, before)
			},
			Validate: validate(func(in *apps.DaemonSet) field.ErrorList {
				return validation.ValidateDaemonSet(in, podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, nil))
			}),
			ValidateUpdate: validateChange(func(in, old *apps.DaemonSet) field.ErrorList {
				options := podutil.GetValidationOptionsFromPodTemplate(&in.Spec.Template, &old.Spec.Template)
				options.AllowInvalidLabelValueInSelector = options.AllowInvalidLabelValueInSelector ||
					metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
				return validation.ValidateDaemonSetUpdate(in, old, options)
			}),
			ValidateStatus: validateChange(validation.ValidateDaemonSetStatusUpdate),
			// Unlike other workloads, a DaemonSet may have dots in its name without being warned.
			Warnings: warnings(func(ctx context.Context, in, old *apps.DaemonSet) []string {
				var before *core.PodTemplateSpec
				if old != nil {
					if in.Spec.TemplateGeneration == old.Spec.TemplateGeneration {
						return nil
					}
					before = &old.Spec.Template
				}
				return podutil.GetWarningsForPodTemplate(ctx, field.NewPath("spec", "template"), &in.Spec.Template, before)
			}),
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

func prepareDaemonSet(obj, old Object) {
	ds, before := obj.(*appsv1.DaemonSet), old.(*appsv1.DaemonSet)
	ds.Status = before.Status
	dropDisabledTemplateFields(&ds.Spec.Template, &before.Spec.Template)
	keepTemplateGeneration(ds, before)
	if differ(ds.Spec.Template, before.Spec.Template) {
		if n, err := templateGeneration(before); err == nil {
			setTemplateGeneration(ds, n+1)
		}
	}
	keepGeneration(ds, before, differ(ds.Spec, before.Spec))
}

// templateGeneration counts the changes of the template; 0 when nothing says it.
func templateGeneration(ds *appsv1.DaemonSet) (int64, error) {
	text, ok := ds.Annotations[appsv1.DeprecatedTemplateGeneration]
	if !ok {
		return 0, nil
	}
	return strconv.ParseInt(text, 10, 64)
}

func setTemplateGeneration(ds *appsv1.DaemonSet, n int64) {
	metav1.SetMetaDataAnnotation(&ds.ObjectMeta, appsv1.DeprecatedTemplateGeneration, strconv.FormatInt(n, 10))
}

// keepTemplateGeneration: clients cannot set it, and those who replace all annotations do not lose it.
func keepTemplateGeneration(ds, before *appsv1.DaemonSet) {
	if n, err := templateGeneration(before); err == nil {
		setTemplateGeneration(ds, n)
	}
}
