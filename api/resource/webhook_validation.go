package resource

import (
	"fmt"
	"net/url"
	"reflect"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// The rules of webhooks are Kubernetes', with its words (pkg/apis/admissionregistration/validation). That package is not used:
// it links the whole admission machinery of k8s.io/apiserver, with all informers and fake clients, into the process.

// reviewVersions are those of AdmissionReviews that Kubernetes has spoken.
var reviewVersions = []string{"v1", "v1beta1"}

// maxMatchConditions of one webhook or policy.
const maxMatchConditions = 64

// leniency is what a changed configuration may keep that a new one may not have.
type leniency struct{ sideEffects, versions, names, selectors, conditions bool }

func leniencyOf(hooks, old []Webhook) leniency {
	var l leniency
	seen := map[string]bool{}
	for i := range old {
		w := &old[i]
		l.sideEffects = l.sideEffects || w.SideEffects == nil || !slices.Contains(noSideEffects, *w.SideEffects)
		l.versions = l.versions || len(w.ReviewVersions) > 0 && !recognized(w.ReviewVersions)
		l.names = l.names || seen[w.Name]
		l.selectors = l.selectors || len(validateSelectors(w, false, nil)) > 0
		seen[w.Name] = true
	}
	l.conditions = len(hooks) == len(old)
	for i := range old {
		l.conditions = l.conditions && reflect.DeepEqual(hooks[i].MatchConditions, old[i].MatchConditions)
	}
	return l
}

// validateWebhooks checks a configuration; old is nil for a new one.
func validateWebhooks(obj, old Object) field.ErrorList {
	errs := validation.ValidateObjectMetaAccessor(obj, false, validation.NameIsDNSSubdomain, field.NewPath("metadata"))
	hooks := Webhooks(obj)
	var lenient leniency
	if old != nil {
		lenient = leniencyOf(hooks, Webhooks(old))
	}
	names := map[string]bool{}
	for i := range hooks {
		w, path := &hooks[i], field.NewPath("webhooks").Index(i)
		errs = append(errs, validateWebhook(w, lenient, path)...)
		if w.Name != "" && names[w.Name] && !lenient.names {
			errs = append(errs, field.Duplicate(path.Child("name"), w.Name))
		}
		names[w.Name] = true
	}
	return errs
}

var (
	noSideEffects   = []admissionv1.SideEffectClass{admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun}
	anySideEffects  = append(noSideEffects[:2:2], admissionv1.SideEffectClassSome, admissionv1.SideEffectClassUnknown)
	failurePolicies = []admissionv1.FailurePolicyType{admissionv1.Fail, admissionv1.Ignore}
	matchPolicies   = []admissionv1.MatchPolicyType{admissionv1.Equivalent, admissionv1.Exact}
	reinvocations   = []admissionv1.ReinvocationPolicyType{admissionv1.IfNeededReinvocationPolicy, admissionv1.NeverReinvocationPolicy}
	allOperations   = []admissionv1.OperationType{admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update}
	allScopes       = []admissionv1.ScopeType{admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope}
)

// oneOf checks a value that may be absent.
func oneOf[T ~string](path *field.Path, value *T, of []T) field.ErrorList {
	if value == nil || slices.Contains(of, *value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, *value, of)}
}

func validateWebhook(w *Webhook, lenient leniency, path *field.Path) field.ErrorList {
	errs := utilvalidation.IsFullyQualifiedName(path.Child("name"), w.Name)
	for i := range w.Rules {
		errs = append(errs, validateRule(&w.Rules[i], path.Child("rules").Index(i))...)
	}
	errs = append(errs, oneOf(path.Child("failurePolicy"), w.FailurePolicy, failurePolicies)...)
	errs = append(errs, oneOf(path.Child("matchPolicy"), w.MatchPolicy, matchPolicies)...)
	effects := noSideEffects
	if lenient.sideEffects {
		effects = anySideEffects
	}
	if w.SideEffects == nil {
		errs = append(errs, field.Required(path.Child("sideEffects"), fmt.Sprintf("must specify one of %v", join(effects))))
	}
	errs = append(errs, oneOf(path.Child("sideEffects"), w.SideEffects, effects)...)
	if t := w.TimeoutSeconds; t != nil && (*t > 30 || *t < 1) {
		errs = append(errs, field.Invalid(path.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds"))
	}
	errs = append(errs, validateSelectors(w, lenient.selectors, path)...)
	errs = append(errs, oneOf(path.Child("reinvocationPolicy"), w.Reinvocation, reinvocations)...)
	errs = append(errs, validateClientConfig(&w.ClientConfig, path.Child("clientConfig"))...)
	if !lenient.conditions {
		errs = append(errs, validateMatchConditions(w.MatchConditions, CELVariables{Authorizer: true}, path.Child("matchConditions"))...)
	}
	return append(errs, validateReviewVersions(w.ReviewVersions, lenient.versions, path.Child("admissionReviewVersions"))...)
}

func join[T ~string](values []T) string {
	texts := make([]string, 0, len(values))
	for _, v := range values {
		texts = append(texts, string(v))
	}
	return strings.Join(texts, ", ")
}

func validateSelectors(w *Webhook, lenient bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	o := metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lenient}
	if w.NamespaceSelector != nil {
		errs = append(errs, metavalidation.ValidateLabelSelector(w.NamespaceSelector, o, path.Child("namespaceSelector"))...)
	}
	if w.ObjectSelector != nil {
		errs = append(errs, metavalidation.ValidateLabelSelector(w.ObjectSelector, o, path.Child("objectSelector"))...)
	}
	return errs
}

func recognized(versions []string) bool {
	return slices.ContainsFunc(versions, func(v string) bool { return slices.Contains(reviewVersions, v) })
}

func validateReviewVersions(versions []string, lenient bool, path *field.Path) field.ErrorList {
	if len(versions) == 0 {
		return field.ErrorList{field.Required(path, "must specify one of "+join(reviewVersions))}
	}
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, v := range versions {
		if seen[v] {
			errs = append(errs, field.Invalid(path.Index(i), v, "duplicate version"))
			continue
		}
		seen[v] = true
		for _, msg := range utilvalidation.IsDNS1035Label(v) {
			errs = append(errs, field.Invalid(path.Index(i), v, msg))
		}
	}
	if !lenient && !recognized(versions) {
		errs = append(errs, field.Invalid(path, versions, "must include at least one of "+join(reviewVersions)))
	}
	return errs
}

func validateRule(rule *admissionv1.RuleWithOperations, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(rule.Operations) == 0 {
		errs = append(errs, field.Required(path.Child("operations"), ""))
	}
	if len(rule.Operations) > 1 && slices.Contains(rule.Operations, admissionv1.OperationAll) {
		errs = append(errs, field.Invalid(path.Child("operations"), rule.Operations, "if '*' is present, must not specify other operations"))
	}
	for i := range rule.Operations {
		errs = append(errs, oneOf(path.Child("operations").Index(i), &rule.Operations[i], allOperations)...)
	}
	if len(rule.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), ""))
	}
	if len(rule.APIGroups) > 1 && slices.Contains(rule.APIGroups, "*") {
		errs = append(errs, field.Invalid(path.Child("apiGroups"), rule.APIGroups, "if '*' is present, must not specify other API groups"))
	}
	if len(rule.APIVersions) == 0 {
		errs = append(errs, field.Required(path.Child("apiVersions"), ""))
	}
	if len(rule.APIVersions) > 1 && slices.Contains(rule.APIVersions, "*") {
		errs = append(errs, field.Invalid(path.Child("apiVersions"), rule.APIVersions, "if '*' is present, must not specify other API versions"))
	}
	for i, v := range rule.APIVersions {
		if v == "" {
			errs = append(errs, field.Required(path.Child("apiVersions").Index(i), ""))
		}
	}
	errs = append(errs, validateRuleResources(rule.Resources, path.Child("resources"))...)
	return append(errs, oneOf(path.Child("scope"), rule.Scope, allScopes)...)
}

// validateRuleResources refuses names that others of the list include.
func validateRuleResources(resources []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(resources) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	allOf, ofAll := map[string]bool{}, map[string]bool{} // x in x/*, y in */y
	var plain bool
	for i, name := range resources {
		if name == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		res, sub, isSub := strings.Cut(name, "/")
		if !isSub {
			plain = name != "*"
			continue
		}
		if allOf[res] {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("if '%s/*' is present, must not specify %s", res, name)))
		}
		if ofAll[sub] {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, name)))
		}
		allOf[res] = allOf[res] || sub == "*"
		ofAll[sub] = ofAll[sub] || res == "*"
	}
	if len(resources) > 1 && slices.Contains(resources, "*/*") {
		errs = append(errs, field.Invalid(path, resources, "if '*/*' is present, must not specify other resources"))
	}
	if slices.Contains(resources, "*") && plain {
		errs = append(errs, field.Invalid(path, resources, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}

func validateClientConfig(c *admissionv1.WebhookClientConfig, path *field.Path) field.ErrorList {
	switch {
	case (c.URL == nil) == (c.Service == nil):
		return field.ErrorList{field.Required(path, "exactly one of url or service is required")}
	case c.URL != nil:
		return validateWebhookURL(*c.URL, path.Child("url"))
	}
	return validateWebhookService(c.Service, path.Child("service"))
}

func validateWebhookURL(text string, path *field.Path) field.ErrorList {
	const form = "; desired format: https://host[/path]"
	u, err := url.Parse(text)
	if err != nil {
		return field.ErrorList{field.Required(path, "url must be a valid URL: "+err.Error()+form)}
	}
	var errs field.ErrorList
	if u.Scheme != "https" {
		errs = append(errs, field.Invalid(path, u.Scheme, "'https' is the only allowed URL scheme"+form))
	}
	if u.Host == "" {
		errs = append(errs, field.Invalid(path, u.Host, "host must be specified"+form))
	}
	if u.User != nil {
		errs = append(errs, field.Invalid(path, u.User.String(), "user information is not permitted in the URL"))
	}
	if u.Fragment != "" {
		errs = append(errs, field.Invalid(path, u.Fragment, "fragments are not permitted in the URL"))
	}
	if u.RawQuery != "" {
		errs = append(errs, field.Invalid(path, u.RawQuery, "query parameters are not permitted in the URL"))
	}
	return errs
}

func validateWebhookService(s *admissionv1.ServiceReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if s.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	if s.Namespace == "" {
		errs = append(errs, field.Required(path.Child("namespace"), ""))
	}
	if s.Port != nil {
		if msgs := utilvalidation.IsValidPortNum(int(*s.Port)); msgs != nil {
			errs = append(errs, field.Invalid(path.Child("port"), *s.Port, "port is not valid: "+strings.Join(msgs, ", ")))
		}
	}
	if s.Path == nil || *s.Path == "" || *s.Path == "/" {
		return errs
	}
	at := path.Child("path")
	if *s.Path == "//" {
		return append(errs, field.Invalid(at, *s.Path, "segment[0] may not be empty"))
	}
	if !strings.HasPrefix(*s.Path, "/") {
		errs = append(errs, field.Invalid(at, *s.Path, "must start with a '/'"))
	}
	for i, step := range strings.Split(strings.TrimSuffix((*s.Path)[1:], "/"), "/") {
		if step == "" {
			errs = append(errs, field.Invalid(at, *s.Path, fmt.Sprintf("segment[%d] may not be empty", i)))
			continue
		}
		for _, msg := range utilvalidation.IsDNS1123Subdomain(step) {
			errs = append(errs, field.Invalid(at, *s.Path, fmt.Sprintf("segment[%d]: %v", i, msg)))
		}
	}
	return errs
}

// validateMatchConditions checks names and compiles expressions.
func validateMatchConditions(conditions []admissionv1.MatchCondition, vars CELVariables, path *field.Path) field.ErrorList {
	if len(conditions) > maxMatchConditions {
		return field.ErrorList{field.TooMany(path, len(conditions), maxMatchConditions)}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i, c := range conditions {
		at := path.Index(i)
		expression := strings.TrimSpace(c.Expression)
		if expression == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else if _, err := CompileCEL(expression, vars, CELBool); err != nil {
			errs = append(errs, field.Invalid(at.Child("expression"), expression, err.Error()))
		}
		if c.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		for _, msg := range utilvalidation.IsQualifiedName(c.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), c.Name, msg))
		}
		if names[c.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		}
		names[c.Name] = true
	}
	return errs
}
