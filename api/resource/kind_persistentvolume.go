package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	pvutil "k8s.io/kubernetes/pkg/api/persistentvolume"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	volumevalidation "k8s.io/kubernetes/pkg/volume/validation"
)

func persistentVolumes() *Resource {
	return &Resource{
		Name: "persistentvolumes", Singular: "persistentvolume", Kind: "PersistentVolume", ListKind: "PersistentVolumeList",
		ShortNames: []string{"pv"}, Storage: coreV1, Served: served(coreV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(coreV1, "PersistentVolume")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				pv := obj.(*corev1.PersistentVolume)
				created := pv.CreationTimestamp
				pv.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &created}
			},
			PrepareUpdate: func(obj, old Object) {
				obj.(*corev1.PersistentVolume).Status = old.(*corev1.PersistentVolume).Status
			},
			PrepareStatus: preparePersistentVolumeStatus,
			Validate: validate(func(in *core.PersistentVolume) field.ErrorList {
				return append(validation.ValidatePersistentVolume(in, validation.ValidationOptionsForPersistentVolume(in, nil)),
					volumevalidation.ValidatePersistentVolume(in)...)
			}),
			ValidateUpdate: validateChange(func(in, old *core.PersistentVolume) field.ErrorList {
				options := validation.ValidationOptionsForPersistentVolume(in, old)
				errs := append(validation.ValidatePersistentVolume(in, options), volumevalidation.ValidatePersistentVolume(in)...)
				return append(errs, validation.ValidatePersistentVolumeUpdate(in, old, options)...)
			}),
			ValidateStatus: validateChange(validation.ValidatePersistentVolumeStatusUpdate),
			Warnings: warnings(func(_ context.Context, in, _ *core.PersistentVolume) []string {
				return pvutil.GetWarningsForPersistentVolume(in)
			}),
			// "name" is an old slip of Kubernetes that clients rely on.
			Fields:                   func(obj Object) map[string]string { return map[string]string{"name": obj.GetName()} },
			AllowUnconditionalUpdate: true,
			Reset:                    specAndStatus(),
		},
	}
}

// preparePersistentVolumeStatus notes when the phase changed, unless the writer says it.
func preparePersistentVolumeStatus(obj, old Object) {
	pv, before := obj.(*corev1.PersistentVolume), old.(*corev1.PersistentVolume)
	pv.Spec = before.Spec
	at, was := pv.Status.LastPhaseTransitionTime, before.Status.LastPhaseTransitionTime
	switch {
	case pv.Status.Phase == before.Status.Phase:
		if at == nil {
			pv.Status.LastPhaseTransitionTime = was
		}
	case at == nil || at.Equal(was):
		now := metav1.Now()
		pv.Status.LastPhaseTransitionTime = &now
	}
}
