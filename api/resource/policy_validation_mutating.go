package resource

import (
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	pathsegment "k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var (
	// mutatingOperations leave deletions out: nothing is left to be changed.
	mutatingOperations = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update}
	patchTypes         = []admissionv1.PatchType{admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch}
)

// validateMutatingPolicy checks a policy; old is nil for a new one.
func validateMutatingPolicy(p, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessor(p, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	spec, path := &p.Spec, field.NewPath("spec")
	errs = append(errs, validatePolicyHead(spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, path)...)
	errs = append(errs, validateMutatingOperations(spec.MatchConstraints, path.Child("matchConstraints", "resourceRules", "operations"))...)
	if old == nil || differ(old.Spec.ParamKind, spec.ParamKind) || differ(old.Spec.MatchConditions, spec.MatchConditions) {
		vars := CELVariables{Authorizer: true, Params: spec.ParamKind != nil}
		errs = append(errs, validateMatchConditions(spec.MatchConditions, vars, path.Child("matchConditions"))...)
	}
	c := NewCELCompiler(spec.ParamKind != nil, len(spec.Variables) > 0)
	errs = append(errs, validateVariables(c, spec.Variables, path.Child("variables"))...)
	if len(spec.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range spec.Mutations {
		errs = append(errs, validateMutation(c, &spec.Mutations[i], path.Child("mutations").Index(i))...)
	}
	if spec.ReinvocationPolicy == "" {
		return append(errs, field.Required(path.Child("reinvocationPolicy"), ""))
	}
	return append(errs, oneOf(path.Child("reinvocationPolicy"), &spec.ReinvocationPolicy, reinvocations)...)
}

func validateMutatingOperations(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for _, rule := range m.ResourceRules {
		for _, op := range rule.Operations {
			errs = append(errs, oneOf(path, &op, mutatingOperations)...)
		}
	}
	return errs
}

func validateMutation(c *CELCompiler, m *admissionv1.Mutation, path *field.Path) field.ErrorList {
	patch, apply := path.Child("jsonPatch"), path.Child("applyConfiguration")
	var errs field.ErrorList
	switch m.PatchType {
	case "":
		errs = append(errs, field.Required(path.Child("patchType"), ""))
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(patch, "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, validatePatchExpression(c, m, m.JSONPatch.Expression, patch.Child("expression"))...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, validatePatchExpression(c, m, m.ApplyConfiguration.Expression, apply.Child("expression"))...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patch, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("patchType"), m.PatchType, patchTypes))
	}
	return errs
}

func validatePatchExpression(c *CELCompiler, m *admissionv1.Mutation, expression string, path *field.Path) field.ErrorList {
	expression = strings.TrimSpace(expression)
	if expression == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	_, err := c.Mutation(m)
	return celError(path, expression, err)
}

// Mutation compiles the expression of a mutation, which is valid but for that.
func (c *CELCompiler) Mutation(m *admissionv1.Mutation) (*CELProgram, error) {
	vars := CELVariables{Authorizer: true, Patches: true}
	if m.PatchType == admissionv1.PatchTypeJSONPatch {
		return c.Compile(strings.TrimSpace(m.JSONPatch.Expression), vars, CELJSONPatch)
	}
	return c.Compile(strings.TrimSpace(m.ApplyConfiguration.Expression), vars, CELObject)
}

func validateValidatingBinding(obj Object) field.ErrorList {
	b := obj.(*admissionv1.ValidatingAdmissionPolicyBinding)
	path := field.NewPath("spec")
	errs := validation.ValidateObjectMetaAccessor(b, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, path)...)
	return append(errs, validateActions(b.Spec.ValidationActions, path.Child("validationActions"))...)
}

func validateMutatingBinding(obj Object) field.ErrorList {
	b := obj.(*admissionv1.MutatingAdmissionPolicyBinding)
	path := field.NewPath("spec")
	errs := validation.ValidateObjectMetaAccessor(b, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, validateBinding(b.Spec.PolicyName, b.Spec.ParamRef, b.Spec.MatchResources, path)...)
	return append(errs, validateMutatingOperations(b.Spec.MatchResources, path.Child("matchResources", "resourceRules", "operations"))...)
}

func validateBinding(policy string, params *admissionv1.ParamRef, match *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Required(path.Child("policyName"), ""))
	} else {
		for _, msg := range validation.NameIsDNSSubdomain(policy, false) {
			errs = append(errs, field.Invalid(path.Child("policyName"), policy, msg))
		}
	}
	errs = append(errs, validateParamRef(params, path.Child("paramRef"))...)
	return append(errs, validateMatchResources(match, path.Child("matchResources"))...)
}

func validateParamRef(p *admissionv1.ParamRef, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	const exclusive = "name and selector are mutually exclusive"
	var errs field.ErrorList
	if p.Name != "" {
		for _, msg := range pathsegment.IsPathSegmentName(p.Name) {
			errs = append(errs, field.Invalid(path.Child("name"), p.Name, msg))
		}
		if p.Selector != nil {
			errs = append(errs, field.Forbidden(path.Child("name"), exclusive))
		}
	}
	if p.Selector != nil {
		errs = append(errs, metavalidation.ValidateLabelSelector(p.Selector, metavalidation.LabelSelectorValidationOptions{}, path.Child("selector"))...)
		if p.Name != "" {
			errs = append(errs, field.Forbidden(path.Child("selector"), exclusive))
		}
	}
	if p.Name == "" && p.Selector == nil {
		errs = append(errs, field.Required(path, "one of name or selector must be specified"))
	}
	if p.ParameterNotFoundAction == nil || *p.ParameterNotFoundAction == "" {
		return append(errs, field.Required(path.Child("parameterNotFoundAction"), ""))
	}
	return append(errs, oneOf(path.Child("parameterNotFoundAction"), p.ParameterNotFoundAction, notFoundActions)...)
}

func validateActions(actions []admissionv1.ValidationAction, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[admissionv1.ValidationAction]bool{}
	for i, a := range actions {
		errs = append(errs, oneOf(path.Index(i), &a, validationDoings)...)
		if seen[a] {
			errs = append(errs, field.Duplicate(path.Index(i), a))
		}
		seen[a] = true
	}
	if seen[admissionv1.Deny] && seen[admissionv1.Warn] {
		errs = append(errs, field.Invalid(path, actions,
			"must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"))
	}
	if len(actions) == 0 {
		errs = append(errs, field.Required(path, "at least one validation action is required"))
	}
	return errs
}
