package resource

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	storageutil "k8s.io/kubernetes/pkg/api/storage"
	"k8s.io/kubernetes/pkg/apis/storage"
	"k8s.io/kubernetes/pkg/apis/storage/validation"
)

var storageV1 = schema.GroupVersion{Group: "storage.k8s.io", Version: "v1"}

func storageClasses() *Resource {
	return &Resource{
		Name: "storageclasses", Singular: "storageclass", Kind: "StorageClass", ListKind: "StorageClassList",
		ShortNames: []string{"sc"}, Storage: storageV1, Served: served(storageV1), Verbs: allVerbs,
		rules: Rules{
			Validate: validate(validation.ValidateStorageClass),
			ValidateUpdate: validateChange(func(in, old *storage.StorageClass) field.ErrorList {
				return append(validation.ValidateStorageClass(in), validation.ValidateStorageClassUpdate(in, old)...)
			}),
			Warnings: warnings(func(_ context.Context, in, _ *storage.StorageClass) []string {
				return storageutil.GetWarningsForStorageClass(in)
			}),
			AllowUnconditionalUpdate: true,
		},
	}
}

func volumeAttributesClasses() *Resource {
	return &Resource{
		Name: "volumeattributesclasses", Singular: "volumeattributesclass",
		Kind: "VolumeAttributesClass", ListKind: "VolumeAttributesClassList",
		ShortNames: []string{"vac"}, Storage: storageV1, Served: served(storageV1), Verbs: allVerbs,
		rules: Rules{
			Validate:                 validate(validation.ValidateVolumeAttributesClass),
			ValidateUpdate:           validateChange(validation.ValidateVolumeAttributesClassUpdate),
			AllowUnconditionalUpdate: true,
		},
	}
}
