package resource

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	storageutil "k8s.io/kubernetes/pkg/api/storage"
	"k8s.io/kubernetes/pkg/apis/storage"
	"k8s.io/kubernetes/pkg/apis/storage/validation"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

func volumeAttachments() *Resource {
	return &Resource{
		Name: "volumeattachments", Singular: "volumeattachment", Kind: "VolumeAttachment", ListKind: "VolumeAttachmentList",
		Storage: storageV1, Served: served(storageV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(storageV1, "VolumeAttachment")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				obj.(*storagev1.VolumeAttachment).Status = storagev1.VolumeAttachmentStatus{}
			},
			PrepareUpdate: func(obj, old Object) {
				obj.(*storagev1.VolumeAttachment).Status = old.(*storagev1.VolumeAttachment).Status
			},
			PrepareStatus: func(obj, old Object) {
				attachment, before := obj.(*storagev1.VolumeAttachment), old.(*storagev1.VolumeAttachment)
				attachment.Spec = before.Spec
				metav1.ResetObjectMetaForStatus(attachment, before)
			},
			Validate:       validate(validation.ValidateVolumeAttachment),
			ValidateUpdate: validateChange(validation.ValidateVolumeAttachmentUpdate),
			ValidateStatus: validateChange(validation.ValidateVolumeAttachmentUpdate),
			Reset: map[string][]fieldpath.Path{
				"": resetStatus, "status": append(resetSpec[:1:1], fieldpath.MakePathOrDie("metadata")),
			},
		},
	}
}

func csiDrivers() *Resource {
	return &Resource{
		Name: "csidrivers", Singular: "csidriver", Kind: "CSIDriver", ListKind: "CSIDriverList",
		Storage: storageV1, Served: served(storageV1), Verbs: allVerbs,
		rules: Rules{
			PrepareCreate: func(obj Object) { dropVolumeLimits(obj) },
			PrepareUpdate: func(obj, old Object) {
				dropVolumeLimits(obj)
				keepGeneration(obj, old, differ(obj.(*storagev1.CSIDriver).Spec, old.(*storagev1.CSIDriver).Spec))
			},
			Validate:       validate(validation.ValidateCSIDriver),
			ValidateUpdate: validateChange(validation.ValidateCSIDriverUpdate),
			Warnings:       warnings(csiDriverWarnings),
		},
	}
}

// dropVolumeLimits drops the field of VolumeLimitScaling, a feature that is off by default.
func dropVolumeLimits(obj Object) {
	obj.(*storagev1.CSIDriver).Spec.PreventPodSchedulingIfMissing = nil
}

func csiDriverWarnings(_ context.Context, in, old *storage.CSIDriver) []string {
	if len(in.Spec.TokenRequests) == 0 || in.Spec.ServiceAccountTokenInSecrets != nil ||
		old != nil && !differ(old.Spec.TokenRequests, in.Spec.TokenRequests) {
		return nil
	}
	return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
}

func csiNodes() *Resource {
	return &Resource{
		Name: "csinodes", Singular: "csinode", Kind: "CSINode", ListKind: "CSINodeList",
		Storage: storageV1, Served: served(storageV1), Verbs: allVerbs,
		rules: Rules{
			Validate:       validate(validation.ValidateCSINode),
			ValidateUpdate: validateChange(validation.ValidateCSINodeUpdate),
		},
	}
}

func csiStorageCapacities() *Resource {
	return &Resource{
		Name: "csistoragecapacities", Singular: "csistoragecapacity",
		Kind: "CSIStorageCapacity", ListKind: "CSIStorageCapacityList", Namespaced: true,
		Storage: storageV1, Served: served(storageV1), Verbs: allVerbs,
		rules: Rules{
			Validate: validate(func(in *storage.CSIStorageCapacity) field.ErrorList {
				return validation.ValidateCSIStorageCapacity(in, validation.CSIStorageCapacityValidateOptions{})
			}),
			ValidateUpdate: validateChange(func(in, old *storage.CSIStorageCapacity) field.ErrorList {
				// A selector that was let in once stays good.
				options := validation.CSIStorageCapacityValidateOptions{AllowInvalidLabelValueInSelector: len(metavalidation.ValidateLabelSelector(
					old.NodeTopology, metavalidation.LabelSelectorValidationOptions{}, nil)) > 0}
				return append(validation.ValidateCSIStorageCapacity(in, options), validation.ValidateCSIStorageCapacityUpdate(in, old)...)
			}),
			Warnings: warnings(func(_ context.Context, in, _ *storage.CSIStorageCapacity) []string {
				return storageutil.GetWarningsForCSIStorageCapacity(in)
			}),
		},
	}
}
