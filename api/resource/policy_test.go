package resource

import (
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pointer[T any](v T) *T { return &v }

func onDeployments() *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
		Operations: []admissionv1.OperationType{admissionv1.Create},
		Rule:       admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{"deployments"}},
	}}}}
}

func validatingPolicy(expressions ...string) *admissionv1.ValidatingAdmissionPolicy {
	p := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
	p.Spec.MatchConstraints = onDeployments()
	for _, x := range expressions {
		p.Spec.Validations = append(p.Spec.Validations, admissionv1.Validation{Expression: x})
	}
	table.Default(p)
	return p
}

// words checks that the rules of a kind say what is wanted of an object; "" that they say nothing.
func words(t *testing.T, obj Object, want string) {
	t.Helper()
	gvks, _, err := table.Scheme().ObjectKinds(obj)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := table.ByKind(gvks[0])
	errs := r.Rules().Validate(t.Context(), obj)
	if want == "" {
		if len(errs) > 0 {
			t.Error(errs)
		}
	} else if len(errs) == 0 || !strings.Contains(errs.ToAggregate().Error(), want) {
		t.Errorf("got %v\nwant %s", errs, want)
	}
}

// The words are Kubernetes' own.
func TestValidatingPolicyRules(t *testing.T) {
	words(t, validatingPolicy("object.spec.replicas > 1"), "")
	for _, test := range []struct {
		change func(*admissionv1.ValidatingAdmissionPolicySpec)
		want   string
	}{
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.Validations = nil }, "spec.validations: Required value: validations or auditAnnotations must contain at least one item"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.MatchConstraints = nil }, "spec.matchConstraints: Required value"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.MatchConstraints.ResourceRules = nil }, "spec.matchConstraints.resourceRules: Required value"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.MatchConstraints.ResourceRules[0].ResourceNames = []string{"a", "a"}
		}, `spec.matchConstraints.resourceRules[0].resourceNames[1]: Duplicate value: "a"`},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.FailurePolicy = pointer(admissionv1.FailurePolicyType("Never"))
		}, `spec.failurePolicy: Unsupported value: "Never": supported values: "Fail", "Ignore"`},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "a/b/c", Kind: "X"}
		}, "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.ParamKind = &admissionv1.ParamKind{APIVersion: "v1"}
		}, "spec.paramKind.kind: Required value"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.Validations[0].Expression = " " }, "spec.validations[0].expression: Required value: expression is not specified"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.Validations[0].Expression = "1" }, `spec.validations[0].expression: Invalid value: "1": must evaluate to bool but got int`},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.Validations[0].Expression = "params.x" },
			"spec.validations[0].expression: Invalid value: \"params.x\": compilation failed: ERROR: <input>:1:1: undeclared reference to 'params' (in container '')"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.Validations[0].MessageExpression = "true" }, "spec.validations[0].messageExpression: Invalid value: \"true\": must evaluate to string but got bool"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].MessageExpression = "authorizer.path('/x').check('get').reason()"
		}, "undeclared reference to 'authorizer'"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) { s.Validations[0].Message = "a\nb" }, "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.Validations[0].Reason = pointer(metav1.StatusReasonGone)
		}, `spec.validations[0].reason: Unsupported value: "Gone": supported values: "Forbidden", "Invalid", "RequestEntityTooLarge"`},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.Variables = []admissionv1.Variable{{Name: "in", Expression: "1"}}
		}, `spec.variables[0].name: Invalid value: "in": must be a valid CEL identifier`},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.Variables = []admissionv1.Variable{{Name: "a", Expression: "variables.b"}, {Name: "b", Expression: "1"}}
		}, "spec.variables[0].expression: Invalid value: \"variables.b\": compilation failed: ERROR: <input>:1:10: undefined field 'b'"},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.AuditAnnotations = []admissionv1.AuditAnnotation{{Key: "a b", ValueExpression: "'x'"}}
		}, `spec.auditAnnotations[0].key: Invalid value: "p/a b"`},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.AuditAnnotations = []admissionv1.AuditAnnotation{{Key: "a", ValueExpression: "1"}}
		}, `spec.auditAnnotations[0].valueExpression: Invalid value: "1": must evaluate to one of [string null_type] but got int`},
		{func(s *admissionv1.ValidatingAdmissionPolicySpec) {
			s.MatchConditions = []admissionv1.MatchCondition{{Name: "a", Expression: "variables.x"}}
		}, "undeclared reference to 'variables'"},
	} {
		p := validatingPolicy("true")
		test.change(&p.Spec)
		words(t, p, test.want)
	}
	// What a policy says of its variables' types is known to those who use them.
	p := validatingPolicy("variables.n == 'x'")
	p.Spec.Variables = []admissionv1.Variable{{Name: "n", Expression: "size(object.spec.containers)"}}
	words(t, p, "found no matching overload for '_==_' applied to '(int, string)'")
}

func TestMutatingPolicyRules(t *testing.T) {
	policy := func(m ...admissionv1.Mutation) *admissionv1.MutatingAdmissionPolicy {
		p := &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}}
		p.Spec.MatchConstraints, p.Spec.Mutations, p.Spec.ReinvocationPolicy = onDeployments(), m, admissionv1.NeverReinvocationPolicy
		table.Default(p)
		return p
	}
	apply := func(x string) admissionv1.Mutation {
		return admissionv1.Mutation{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: x}}
	}
	patch := func(x string) admissionv1.Mutation {
		return admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: x}}
	}
	words(t, policy(apply("Object{spec: Object.spec{replicas: 1}}"), patch(`[JSONPatch{op: "remove", path: "/metadata/labels/" + jsonpatch.escapeKey("a/b")}]`)), "")
	words(t, policy(), "spec.mutations: Required value: mutations must contain at least one item")
	words(t, policy(apply("[]")), `spec.mutations[0].applyConfiguration.expression: Invalid value: "[]": must evaluate to Object but got list(dyn)`)
	words(t, policy(patch("Object{}")), `spec.mutations[0].jsonPatch.expression: Invalid value: "Object{}": must evaluate to list(JSONPatch) but got Object`)
	words(t, policy(admissionv1.Mutation{PatchType: "Merge"}), `spec.mutations[0].patchType: Unsupported value: "Merge": supported values: "ApplyConfiguration", "JSONPatch"`)
	words(t, policy(admissionv1.Mutation{PatchType: admissionv1.PatchTypeJSONPatch, ApplyConfiguration: &admissionv1.ApplyConfiguration{}}), "spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch")
	p := policy(apply("Object{}"))
	p.Spec.ReinvocationPolicy = ""
	words(t, p, "spec.reinvocationPolicy: Required value")
	p = policy(apply("Object{}"))
	p.Spec.MatchConstraints.ResourceRules[0].Operations = []admissionv1.OperationType{admissionv1.Delete}
	words(t, p, `spec.matchConstraints.resourceRules.operations: Unsupported value: "DELETE": supported values: "*", "CONNECT", "CREATE", "UPDATE"`)
}

func TestPolicyBindingRules(t *testing.T) {
	for _, test := range []struct {
		change func(*admissionv1.ValidatingAdmissionPolicyBindingSpec)
		want   string
	}{
		{func(*admissionv1.ValidatingAdmissionPolicyBindingSpec) {}, ""},
		{func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) { s.PolicyName = "" }, "spec.policyName: Required value"},
		{func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) { s.ValidationActions = nil }, "spec.validationActions: Required value: at least one validation action is required"},
		{func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
			s.ValidationActions = append(s.ValidationActions, admissionv1.Warn)
		}, "must not contain both Deny and Warn"},
		{func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) { s.ParamRef = &admissionv1.ParamRef{} }, "spec.paramRef: Required value: one of name or selector must be specified"},
		{func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
			s.ParamRef = &admissionv1.ParamRef{Name: "a"}
		}, "spec.paramRef.parameterNotFoundAction: Required value"},
		{func(s *admissionv1.ValidatingAdmissionPolicyBindingSpec) {
			s.ParamRef = &admissionv1.ParamRef{Name: "a", Selector: &metav1.LabelSelector{}}
		}, "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive"},
	} {
		b := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
		b.Spec.PolicyName, b.Spec.ValidationActions = "p", []admissionv1.ValidationAction{admissionv1.Deny}
		test.change(&b.Spec)
		words(t, b, test.want)
	}
}

// TestPolicyTypes: a policy's status says what its expressions ask of kinds that do not have it.
func TestPolicyTypes(t *testing.T) {
	warnings := func(p *admissionv1.ValidatingAdmissionPolicy) (out []string) {
		t.Helper()
		p.Generation = 3
		table.ObservePolicy(p)
		if p.Status.ObservedGeneration != 3 || p.Status.TypeChecking == nil {
			t.Fatalf("status: %+v", p.Status)
		}
		for _, w := range p.Status.TypeChecking.ExpressionWarnings {
			out = append(out, w.FieldRef+": "+w.Warning)
		}
		return out
	}
	if w := warnings(validatingPolicy("object.spec.replicas > 1 && has(object.spec.template.spec.volumes) && oldObject.metadata.name == object.metadata.name")); w != nil {
		t.Errorf("of what is well: %q", w)
	}
	p := validatingPolicy("object.spec.replicas == '1'", "object.spec.nowhere", "variables.n == 'x'")
	p.Spec.Validations[1].MessageExpression = "object.kind + object.spec.none"
	p.Spec.Variables = []admissionv1.Variable{{Name: "n", Expression: "object.spec.replicas"}}
	want := []string{
		"spec.validations[0].expression: apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_==_' applied to '(int, string)'",
		"spec.validations[1].expression: apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'nowhere'",
		"spec.validations[1].messageExpression: apps/v1, Kind=Deployment: ERROR: <input>:1:26: undefined field 'none'",
		"spec.validations[2].expression: apps/v1, Kind=Deployment: ERROR: <input>:1:13: found no matching overload for '_==_' applied to '(int, string)'",
	}
	if got := warnings(p); len(got) != len(want) || !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// Of several kinds each is told; with a wildcard none is checked.
	p = validatingPolicy("object.spec.replicas > 0")
	p.Spec.MatchConstraints.ResourceRules[0].Resources = []string{"deployments", "daemonsets", "deployments/scale"}
	p.Spec.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	if got := warnings(p); len(got) != 1 || !strings.HasPrefix(got[0], "spec.validations[0].expression: apps/v1, Kind=DaemonSet: ERROR: <input>:1:12: undefined field 'replicas'") {
		t.Errorf("of two kinds: %q", got)
	}
	p.Spec.Validations[0].Expression = "params.data.max == 'x' && params.nothing"
	if got := warnings(p); len(got) != 1 || strings.Count(got[0], "undefined field 'nothing'") != 2 {
		t.Errorf("of parameters: %q", got)
	}
	p.Spec.MatchConstraints.ResourceRules[0].APIGroups = []string{"*"}
	if got := warnings(p); got != nil {
		t.Errorf("with a wildcard: %q", got)
	}
}
