package resource

import (
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/apps/validation"
)

// controllerRevisions hold a past template of a StatefulSet or DaemonSet as a patch. Nothing but the number of a revision
// and its metadata ever changes.
func controllerRevisions() *Resource {
	return &Resource{
		Name: "controllerrevisions", Singular: "controllerrevision", Kind: "ControllerRevision", ListKind: "ControllerRevisionList", Namespaced: true,
		Storage: appsV1, Served: served(appsV1, appsV1beta2, appsV1beta1), Verbs: allVerbs,
		rules: Rules{
			Validate: validate(validation.ValidateControllerRevisionCreate),
			ValidateUpdate: validateChange(func(in, old *apps.ControllerRevision) field.ErrorList {
				return validation.ValidateControllerRevisionUpdate(in, old)
			}),
			AllowUnconditionalUpdate: true,
		},
	}
}
