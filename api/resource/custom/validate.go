package custom

import (
	"context"
	"fmt"
	"math"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel/model"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"k8s.io/apiserver/pkg/cel/common"
)

// Validate checks a new object of this version.
func (v *Version) Validate(ctx context.Context, u *unstructured.Unstructured) field.ErrorList {
	c, err := v.compile()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if errs := v.checkType(u); len(errs) > 0 {
		return errs
	}
	errs := apivalidation.ValidateObjectMetaAccessor(u, v.Kind.Namespaced(), apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, validation.ValidateCustomResource(nil, u.UnstructuredContent(), c.object)...)
	errs = append(errs, v.checkScale(u, true)...)
	errs = append(errs, objectmeta.Validate(nil, u.Object, c.structural, false)...)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, c.structural, u.Object)...)
	return append(errs, c.checkRules(ctx, errs, u.Object, nil)...)
}

// ValidateUpdate checks a changed object; what was wrong before and is as it was may stay so.
func (v *Version) ValidateUpdate(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	c, err := v.compile()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if errs := v.checkType(u); len(errs) > 0 {
		return errs
	}
	pairs := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: c.structural})
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(u, old, field.NewPath("metadata"))
	errs = append(errs, validation.ValidateCustomResourceUpdate(nil, u.Object, old.Object, c.object, validation.WithRatcheting(pairs))...)
	errs = append(errs, v.checkScale(u, true)...)
	errs = append(errs, objectmeta.Validate(nil, u.Object, c.structural, false)...)
	errs = append(errs, c.checkLists(u, old)...)
	return append(errs, c.checkRules(ctx, errs, u.Object, old.Object, cel.WithRatcheting(pairs))...)
}

// ValidateStatus checks an object whose status has changed.
func (v *Version) ValidateStatus(ctx context.Context, u, old *unstructured.Unstructured) field.ErrorList {
	c, err := v.compile()
	if err != nil {
		return field.ErrorList{field.InternalError(nil, err)}
	}
	if errs := v.checkType(u); len(errs) > 0 {
		return errs
	}
	pairs := common.NewCorrelatedObject(u.Object, old.Object, &model.Structural{Structural: c.structural})
	var options []validation.ValidationOption
	if c.structural != nil {
		options = append(options, validation.WithRatcheting(pairs.Key("status")))
	}
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(u, old, field.NewPath("metadata"))
	if status, ok := u.Object["status"]; ok && c.status != nil {
		errs = append(errs, validation.ValidateCustomResourceUpdate(field.NewPath("status"), status, old.Object["status"], c.status, options...)...)
	}
	errs = append(errs, v.checkScale(u, false)...)
	errs = append(errs, c.checkLists(u, old)...)
	return append(errs, c.checkRules(ctx, errs, u.Object, old.Object, cel.WithRatcheting(pairs))...)
}

func (v *Version) checkType(u *unstructured.Unstructured) (errs field.ErrorList) {
	if kind := u.GetKind(); kind != v.GVK.Kind {
		errs = append(errs, field.Invalid(field.NewPath("kind"), kind, "must be "+v.GVK.Kind))
	}
	if api, want := u.GetAPIVersion(), v.GVK.GroupVersion().String(); api != want {
		errs = append(errs, field.Invalid(field.NewPath("apiVersion"), api, "must be "+want))
	}
	return errs
}

// checkLists finds what is twice in a set or map, unless the object was as wrong before.
func (c *compiled) checkLists(u, old *unstructured.Unstructured) field.ErrorList {
	errs := listtype.ValidateListSetsAndMaps(nil, c.structural, u.Object)
	if len(errs) == 0 || len(listtype.ValidateListSetsAndMaps(nil, c.structural, old.Object)) > 0 {
		return nil
	}
	return errs
}

// checkRules evaluates x-kubernetes-validations, unless the object is not even of the types that they speak of.
func (c *compiled) checkRules(ctx context.Context, found field.ErrorList, obj map[string]any, old any, options ...cel.Option) field.ErrorList {
	if c.rules == nil {
		return nil
	}
	for _, err := range found {
		switch err.Type {
		case field.ErrorTypeNotSupported, field.ErrorTypeRequired, field.ErrorTypeTooLong, field.ErrorTypeTooMany, field.ErrorTypeTypeInvalid:
			return field.ErrorList{field.Invalid(nil, nil,
				"some validation rules were not checked because the object was invalid; correct the existing errors to complete validation")}
		}
	}
	if m, ok := old.(map[string]any); ok && m == nil {
		old = nil
	}
	errs, _ := c.rules.Validate(ctx, nil, c.structural, obj, old, celconfig.RuntimeCELCostBudget, options...)
	return errs
}

// checkScale checks what the scale subresource would read; spec says whether that of the spec, too.
func (v *Version) checkScale(u *unstructured.Unstructured, spec bool) (errs field.ErrorList) {
	s := v.scale()
	if s == nil {
		return nil
	}
	number := func(path string) {
		n, _, err := unstructured.NestedInt64(u.Object, splitPath(path)...)
		switch at := field.NewPath(path); {
		case err != nil:
			errs = append(errs, field.Invalid(at, n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(at, n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if spec {
		number(s.SpecReplicasPath)
	}
	number(s.StatusReplicasPath)
	if s.LabelSelectorPath != nil {
		if text, _, err := unstructured.NestedString(u.Object, splitPath(*s.LabelSelectorPath)...); err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*s.LabelSelectorPath), text, err.Error()))
		}
	}
	return errs
}

// splitPath reads the simple paths that the scale subresource has, as in ".spec.replicas".
func splitPath(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

// Warnings are about finalizers that are new and badly named; old is nil for a new object.
func Warnings(u, old *unstructured.Unstructured) (out []string) {
	known := map[string]bool{}
	if old != nil {
		for _, f := range old.GetFinalizers() {
			known[f] = true
		}
	}
	for _, f := range u.GetFinalizers() {
		if known[f] {
			continue
		}
		for _, msg := range utilvalidation.IsQualifiedName(f) {
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: %s", f, msg))
		}
		switch f {
		case metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes):
			continue
		}
		switch {
		case strings.Contains(f, "/"):
		case strings.Contains(f, "."):
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers", f))
		default:
			out = append(out, fmt.Sprintf("metadata.finalizers: %q: prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers", f))
		}
	}
	return out
}
