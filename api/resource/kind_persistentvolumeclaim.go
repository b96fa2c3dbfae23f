package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	pvcutil "k8s.io/kubernetes/pkg/api/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/apis/core"
	corev1conversion "k8s.io/kubernetes/pkg/apis/core/v1"
	"k8s.io/kubernetes/pkg/apis/core/validation"
)

func persistentVolumeClaims() *Resource {
	return &Resource{
		Name: "persistentvolumeclaims", Singular: "persistentvolumeclaim",
		Kind: "PersistentVolumeClaim", ListKind: "PersistentVolumeClaimList", Namespaced: true,
		ShortNames: []string{"pvc"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(coreV1, "PersistentVolumeClaim")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				pvc := obj.(*corev1.PersistentVolumeClaim)
				pvc.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}
				prepareClaimSpec(pvc, nil)
			},
			PrepareUpdate: func(obj, old Object) {
				pvc, before := obj.(*corev1.PersistentVolumeClaim), old.(*corev1.PersistentVolumeClaim)
				pvc.Status = before.Status
				if differ(pvc.Spec, before.Spec) {
					prepareClaimSpec(pvc, before)
				}
			},
			// Kubernetes drops fields of disabled features here; in its release those of the status are all on.
			PrepareStatus: func(obj, old Object) {
				obj.(*corev1.PersistentVolumeClaim).Spec = old.(*corev1.PersistentVolumeClaim).Spec
			},
			Validate: validate(func(in *core.PersistentVolumeClaim) field.ErrorList {
				return validation.ValidatePersistentVolumeClaim(in, validation.ValidationOptionsForPersistentVolumeClaim(in, nil))
			}),
			ValidateUpdate: validateChange(func(in, old *core.PersistentVolumeClaim) field.ErrorList {
				return validation.ValidatePersistentVolumeClaimUpdate(in, old, validation.ValidationOptionsForPersistentVolumeClaim(in, old))
			}),
			ValidateStatus: validateChange(func(in, old *core.PersistentVolumeClaim) field.ErrorList {
				return validation.ValidatePersistentVolumeClaimStatusUpdate(in, old, validation.ValidationOptionsForPersistentVolumeClaim(in, old))
			}),
			Warnings: warnings(func(_ context.Context, in, _ *core.PersistentVolumeClaim) []string {
				return pvcutil.GetWarningsForPersistentVolumeClaim(in)
			}),
			// "name" is an old slip of Kubernetes that clients rely on.
			Fields:                   func(obj Object) map[string]string { return map[string]string{"name": obj.GetName()} },
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// prepareClaimSpec drops what Kubernetes drops from a claim and makes dataSource and dataSourceRef agree. pvc must not
// share memory with before.
func prepareClaimSpec(pvc, before *corev1.PersistentVolumeClaim) {
	var in core.PersistentVolumeClaimSpec
	if corev1conversion.Convert_v1_PersistentVolumeClaimSpec_To_core_PersistentVolumeClaimSpec(&pvc.Spec, &in, nil) != nil {
		return // validation meets the same error and reports it
	}
	var old *core.PersistentVolumeClaimSpec
	if before != nil {
		old = new(core.PersistentVolumeClaimSpec)
		if corev1conversion.Convert_v1_PersistentVolumeClaimSpec_To_core_PersistentVolumeClaimSpec(&before.Spec, old, nil) != nil {
			return
		}
	}
	pvcutil.DropDisabledFields(&in, old)
	pvcutil.EnforceDataSourceBackwardsCompatibility(&in, old)
	pvcutil.NormalizeDataSources(&in)
	_ = corev1conversion.Convert_core_PersistentVolumeClaimSpec_To_v1_PersistentVolumeClaimSpec(&in, &pvc.Spec, nil)
}
