package resource

import (
	"context"
	"fmt"
	"slices"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	schemavalidation "k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

var extensionsAPIV1 = schema.GroupVersion{Group: "apiextensions.k8s.io", Version: "v1"}

// customResourceDefinitions describe further kinds; what is made of one is in customresource.go.
func customResourceDefinitions() *Resource {
	return &Resource{
		Name: "customresourcedefinitions", Singular: "customresourcedefinition", Kind: "CustomResourceDefinition", ListKind: "CustomResourceDefinitionList",
		ShortNames: []string{"crd", "crds"}, Categories: []string{"api-extensions"},
		Storage: extensionsAPIV1, Served: served(extensionsAPIV1), Verbs: allVerbs,
		Subresources: map[string]Subresource{"status": statusOf(extensionsAPIV1, "CustomResourceDefinition")},
		rules: Rules{
			PrepareCreate: func(obj Object) {
				crd := obj.(*apiextensionsv1.CustomResourceDefinition)
				crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
				crd.Generation = 1
				noteStorageVersion(crd)
			},
			PrepareUpdate: func(obj, old Object) {
				crd, before := obj.(*apiextensionsv1.CustomResourceDefinition), old.(*apiextensionsv1.CustomResourceDefinition)
				crd.Status = *before.Status.DeepCopy()
				keepGeneration(crd, before, differ(crd.Spec, before.Spec))
				noteStorageVersion(crd)
			},
			PrepareStatus: func(obj, old Object) {
				crd, before := obj.(*apiextensionsv1.CustomResourceDefinition), old.(*apiextensionsv1.CustomResourceDefinition)
				crd.Spec, crd.Generation = before.Spec, before.Generation
			},
			Validate: func(ctx context.Context, obj Object) field.ErrorList {
				in, err := internalAs[apiextensions.CustomResourceDefinition](obj)
				if err != nil {
					return conversionFailed(err)
				}
				return validation.ValidateCustomResourceDefinition(ctx, in)
			},
			ValidateUpdate: func(ctx context.Context, obj, old Object) field.ErrorList {
				in, err := internalAs[apiextensions.CustomResourceDefinition](obj)
				if err != nil {
					return conversionFailed(err)
				}
				before, err := internalAs[apiextensions.CustomResourceDefinition](old)
				if err != nil {
					return conversionFailed(err)
				}
				return validation.ValidateCustomResourceDefinitionUpdate(ctx, in, before)
			},
			ValidateStatus: validateChange(validation.ValidateUpdateCustomResourceDefinitionStatus),
			Warnings: warnings(func(_ context.Context, in, old *apiextensions.CustomResourceDefinition) []string {
				return newFormatWarnings(in, old)
			}),
			Reset: specAndStatus(),
		},
	}
}

// noteStorageVersion keeps the list of all versions in which objects may have been written.
func noteStorageVersion(crd *apiextensionsv1.CustomResourceDefinition) {
	for _, v := range crd.Spec.Versions {
		if v.Storage && !slices.Contains(crd.Status.StoredVersions, v.Name) {
			crd.Status.StoredVersions = append(crd.Status.StoredVersions, v.Name)
		}
	}
}

// newFormatWarnings name the formats of strings that nothing checks, as far as they are new.
func newFormatWarnings(in, old *apiextensions.CustomResourceDefinition) (out []string) {
	var known []string
	if old != nil {
		known = unknownFormats(&old.Spec)
	}
	for _, format := range unknownFormats(&in.Spec) {
		if !slices.Contains(known, format) {
			out = append(out, fmt.Sprintf("unrecognized format %q", format))
		}
	}
	return out
}

func unknownFormats(s *apiextensions.CustomResourceDefinitionSpec) (out []string) {
	validation.HasSchemaWith(s, func(s *apiextensions.JSONSchemaProps) bool {
		return validation.SchemaHas(s, func(s *apiextensions.JSONSchemaProps) bool {
			if s.Format != "" {
				one := &spec.Schema{SchemaProps: spec.SchemaProps{Format: s.Format, Type: []string{s.Type}}}
				out = append(out, schemavalidation.GetUnrecognizedFormats(one, environment.DefaultCompatibilityVersion())...)
			}
			return false // look on
		})
	})
	return out
}
