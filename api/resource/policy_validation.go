package resource

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	pathsegment "k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/util/jsonpath"
)

// The rules of policies are Kubernetes', in its words and its order, as those of webhooks are.

const (
	maxAuditAnnotations = 20
	// maxAuditExpression bounds an expression; what it gives may be twice as long.
	maxAuditExpression = 5 * 1024
)

var (
	denialReasons    = []metav1.StatusReason{metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge}
	validationDoings = []admissionv1.ValidationAction{admissionv1.Audit, admissionv1.Deny, admissionv1.Warn}
	notFoundActions  = []admissionv1.ParameterNotFoundActionType{admissionv1.DenyAction, admissionv1.AllowAction}
)

// validateValidatingPolicy checks a policy; old is nil for a new one.
func validateValidatingPolicy(p, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessor(p, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	spec, path := &p.Spec, field.NewPath("spec")
	errs = append(errs, validatePolicyHead(spec.FailurePolicy, spec.ParamKind, spec.MatchConstraints, path)...)
	// Conditions that were accepted once stay so: a cluster must not be stuck with a policy that cannot be changed.
	if old == nil || differ(old.Spec.ParamKind, spec.ParamKind) || differ(old.Spec.MatchConditions, spec.MatchConditions) {
		vars := CELVariables{Authorizer: true, Params: spec.ParamKind != nil}
		errs = append(errs, validateMatchConditions(spec.MatchConditions, vars, path.Child("matchConditions"))...)
	}
	c := NewCELCompiler(spec.ParamKind != nil, len(spec.Variables) > 0)
	errs = append(errs, validateVariables(c, spec.Variables, path.Child("variables"))...)
	if len(spec.Validations) == 0 && len(spec.AuditAnnotations) == 0 {
		const none = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(path.Child("validations"), none), field.Required(path.Child("auditAnnotations"), none))
	}
	for i := range spec.Validations {
		errs = append(errs, validateValidation(c, &spec.Validations[i], path.Child("validations").Index(i))...)
	}
	return append(errs, validateAuditAnnotations(c, p.Name, spec.AuditAnnotations, path.Child("auditAnnotations"))...)
}

// validatePolicyHead checks what both kinds of policies begin with.
func validatePolicyHead(failure *admissionv1.FailurePolicyType, params *admissionv1.ParamKind, match *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if failure == nil {
		errs = append(errs, field.Required(path.Child("failurePolicy"), ""))
	}
	errs = append(errs, oneOf(path.Child("failurePolicy"), failure, failurePolicies)...)
	if params != nil {
		errs = append(errs, validateParamKind(params, path.Child("paramKind"))...)
	}
	if match == nil {
		return append(errs, field.Required(path.Child("matchConstraints"), ""))
	}
	errs = append(errs, validateMatchResources(match, path.Child("matchConstraints"))...)
	if len(match.ResourceRules) == 0 {
		errs = append(errs, field.Required(path.Child("matchConstraints", "resourceRules"), ""))
	}
	return errs
}

func validateParamKind(k *admissionv1.ParamKind, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	at := path.Child("apiVersion")
	if gv, err := schema.ParseGroupVersion(k.APIVersion); k.APIVersion == "" {
		errs = append(errs, field.Required(at, ""))
	} else if err != nil {
		errs = append(errs, field.Invalid(at, k.APIVersion, err.Error()))
	} else {
		if msgs := utilvalidation.IsDNS1123Subdomain(gv.Group); gv.Group != "" && len(msgs) > 0 {
			errs = append(errs, field.Invalid(at, gv.Group, strings.Join(msgs, ",")))
		}
		if gv.Version == "" {
			errs = append(errs, field.Invalid(at, k.APIVersion, "version must be specified"))
		} else if msgs := utilvalidation.IsDNS1035Label(gv.Version); len(msgs) > 0 {
			errs = append(errs, field.Invalid(at, gv.Version, strings.Join(msgs, ",")))
		}
	}
	if k.Kind == "" {
		errs = append(errs, field.Required(path.Child("kind"), ""))
	} else if msgs := utilvalidation.IsDNS1035Label(strings.ToLower(k.Kind)); len(msgs) > 0 {
		errs = append(errs, field.Invalid(path.Child("kind"), k.Kind, "may have mixed case, but should otherwise match: "+strings.Join(msgs, ",")))
	}
	return errs
}

func validateMatchResources(m *admissionv1.MatchResources, path *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(path.Child("matchPolicy"), ""))
	}
	errs = append(errs, oneOf(path.Child("matchPolicy"), m.MatchPolicy, matchPolicies)...)
	for _, s := range []struct {
		name     string
		selector *metav1.LabelSelector
	}{{"namespaceSelector", m.NamespaceSelector}, {"objectSelector", m.ObjectSelector}} {
		if s.selector == nil {
			errs = append(errs, field.Required(path.Child(s.name), ""))
			continue
		}
		errs = append(errs, metavalidation.ValidateLabelSelector(s.selector, metavalidation.LabelSelectorValidationOptions{}, path.Child(s.name))...)
	}
	for i := range m.ResourceRules {
		errs = append(errs, validateNamedRule(&m.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, validateNamedRule(&m.ExcludeResourceRules[i], path.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func validateNamedRule(rule *admissionv1.NamedRuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, name := range rule.ResourceNames {
		at := path.Child("resourceNames").Index(i)
		for _, msg := range pathsegment.IsPathSegmentName(name) {
			errs = append(errs, field.Invalid(at, name, msg))
		}
		if slices.Contains(rule.ResourceNames[:i], name) {
			errs = append(errs, field.Duplicate(at, name))
		}
	}
	return append(errs, validateRule(&rule.RuleWithOperations, path)...)
}

// celError is an expression that cannot be compiled.
func celError(path *field.Path, expression string, err error) field.ErrorList {
	if err == nil {
		return nil
	}
	return field.ErrorList{field.Invalid(path, expression, err.Error())}
}

func validateVariables(c *CELCompiler, variables []admissionv1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range variables {
		at := path.Index(i)
		if strings.TrimSpace(v.Name) == "" {
			errs = append(errs, field.Required(at.Child("name"), "name is not specified"))
		} else if !isCELIdentifier(v.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), v.Name, "must be a valid CEL identifier"))
		}
		if strings.TrimSpace(v.Expression) == "" {
			errs = append(errs, field.Required(at.Child("expression"), "expression is not specified"))
			continue
		}
		errs = append(errs, celError(at.Child("expression"), v.Expression, c.Variable(v.Name, v.Expression))...)
	}
	return errs
}

var celName = regexp.MustCompile("^[_a-zA-Z][_a-zA-Z0-9]*$")

var celReserved = []string{
	"true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop",
	"package", "namespace", "return", "var", "void", "while",
}

func isCELIdentifier(name string) bool {
	return celName.MatchString(name) && !slices.Contains(celReserved, name)
}

func validateValidation(c *CELCompiler, v *admissionv1.Validation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		_, err := c.Compile(v.Expression, CELVariables{Authorizer: true}, CELBool)
		errs = append(errs, celError(path.Child("expression"), v.Expression, err)...)
	}
	if m := v.MessageExpression; m != "" && strings.TrimSpace(m) == "" {
		errs = append(errs, field.Invalid(path.Child("messageExpression"), m, "must be non-empty if specified"))
	} else if m != "" {
		_, err := c.Compile(m, CELVariables{}, CELText)
		errs = append(errs, celError(path.Child("messageExpression"), m, err)...)
	}
	if m := strings.TrimSpace(v.Message); v.Message != "" && m == "" {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must be non-empty if specified"))
	} else if strings.ContainsAny(m, "\n\r") {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, oneOf(path.Child("reason"), v.Reason, denialReasons)...)
}

func validateAuditAnnotations(c *CELCompiler, policy string, list []admissionv1.AuditAnnotation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxAuditAnnotations {
		errs = append(errs, field.Invalid(path, list, fmt.Sprintf("must not have more than %d auditAnnotations", maxAuditAnnotations)))
	}
	keys := map[string]bool{}
	for i, a := range list {
		at := path.Index(i)
		if policy == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			for _, msg := range utilvalidation.IsQualifiedName(policy + "/" + a.Key) {
				errs = append(errs, field.Invalid(at.Child("key"), policy+"/"+a.Key, msg))
			}
		}
		expression := strings.TrimSpace(a.ValueExpression)
		switch {
		case expression == "":
			errs = append(errs, field.Required(at.Child("valueExpression"), "valueExpression is not specified"))
		case len(expression) > maxAuditExpression:
			errs = append(errs, field.Required(at.Child("valueExpression"), fmt.Sprintf("must not exceed %d bytes in length", maxAuditExpression)))
		default:
			_, err := c.Compile(expression, CELVariables{Authorizer: true}, CELText, CELNull)
			errs = append(errs, celError(at.Child("valueExpression"), a.ValueExpression, err)...)
		}
		if keys[a.Key] {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys[a.Key] = true
	}
	return errs
}

func validatePolicyStatus(s *admissionv1.ValidatingAdmissionPolicyStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.TypeChecking != nil {
		for i, w := range s.TypeChecking.ExpressionWarnings {
			at := path.Child("typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				errs = append(errs, field.Required(at.Child("warning"), ""))
			}
			if ref := strings.TrimSpace(w.FieldRef); ref == "" {
				errs = append(errs, field.Required(at.Child("fieldRef"), ""))
			} else if err := jsonpath.New("spec").Parse("{" + ref + "}"); err != nil {
				errs = append(errs, field.Invalid(at.Child("fieldRef"), ref, fmt.Sprintf("invalid JSONPath: %v", err)))
			}
		}
	}
	return append(errs, metavalidation.ValidateConditions(s.Conditions, path.Child("conditions"))...)
}
