package admission

import (
	"cmp"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// policy is an admission policy of either kind, compiled; only those that are bound are.
type policy struct {
	name string
	matcher
	// lenient: the request passes when the policy cannot be evaluated.
	lenient    bool
	params     *schema.GroupVersionKind
	conditions []expression
	// computed are the policy's variables; nil for none.
	computed *resource.CELComputed
	bindings []*policyBinding

	// Of validating policies.
	validations []validation
	audits      []auditAnnotation
	// Of mutating ones.
	mutations   []mutation
	reinvocable bool
}

type validation struct {
	expression
	text, message string
	// compose is the message expression; nil for none.
	compose *expression
	reason  metav1.StatusReason
}

type auditAnnotation struct {
	expression
	key, text string
}

type mutation struct {
	expression
	// jsonPatch, or else an apply configuration.
	jsonPatch bool
}

// policyBinding puts a policy into force, for what it matches and with the parameters that it names.
type policyBinding struct {
	name string
	// matcher is nil when everything that the policy matches is meant.
	*matcher
	params   *admissionv1.ParamRef
	selector labels.Selector
	actions  []admissionv1.ValidationAction
}

// policies are those in force in one state, in the order of their names.
type policies struct {
	stamps               [4]any
	mutating, validating []*policy
	// compiled are those at hand, by what they were compiled from.
	compiled map[policyID]*policy
}

// policyID says of which state of which policy something was made.
type policyID struct {
	uid        types.UID
	generation int64
}

var policyTables = [4]string{
	"validatingadmissionpolicies.admissionregistration.k8s.io", "validatingadmissionpolicybindings.admissionregistration.k8s.io",
	"mutatingadmissionpolicies.admissionregistration.k8s.io", "mutatingadmissionpolicybindings.admissionregistration.k8s.io",
}

func (p *policies) isOf(v *registry.View) bool {
	if p == nil {
		return false
	}
	for i, table := range policyTables {
		if stamp := v.Stamp(table); stamp == nil || stamp != p.stamps[i] {
			return false
		}
	}
	return true
}

// compilePolicies makes the policies of a state; what has not changed since the one before is taken over.
func compilePolicies(v *registry.View, before *policies) *policies {
	out := &policies{compiled: map[policyID]*policy{}}
	for i, table := range policyTables {
		out.stamps[i] = v.Stamp(table)
	}
	bindings := map[string][]*policyBinding{}
	for b := range registry.List[*admissionv1.ValidatingAdmissionPolicyBinding](v, "") {
		made := newBinding(b.Name, b.Spec.ParamRef, b.Spec.MatchResources)
		made.actions = b.Spec.ValidationActions
		bindings[b.Spec.PolicyName] = append(bindings[b.Spec.PolicyName], made)
	}
	for p := range registry.List[*admissionv1.ValidatingAdmissionPolicy](v, "") {
		if bound := bindings[p.Name]; len(bound) > 0 {
			out.validating = append(out.validating, out.bind(p, bound, before, func() *policy { return newValidating(p) }))
		}
	}
	clear(bindings)
	for b := range registry.List[*admissionv1.MutatingAdmissionPolicyBinding](v, "") {
		bindings[b.Spec.PolicyName] = append(bindings[b.Spec.PolicyName], newBinding(b.Name, b.Spec.ParamRef, b.Spec.MatchResources))
	}
	for p := range registry.List[*admissionv1.MutatingAdmissionPolicy](v, "") {
		if bound := bindings[p.Name]; len(bound) > 0 {
			out.mutating = append(out.mutating, out.bind(p, bound, before, func() *policy { return newMutating(p) }))
		}
	}
	byName := func(x, y *policy) int { return cmp.Compare(x.name, y.name) }
	slices.SortFunc(out.validating, byName)
	slices.SortFunc(out.mutating, byName)
	return out
}

// bind gives a compiled policy its bindings.
func (p *policies) bind(obj metav1.Object, bindings []*policyBinding, before *policies, compile func() *policy) *policy {
	id := policyID{obj.GetUID(), obj.GetGeneration()}
	var made *policy
	if before != nil {
		made = before.compiled[id]
	}
	if made == nil {
		made = compile()
	}
	bound := *made // the one at hand may be in use
	bound.bindings = slices.SortedFunc(slices.Values(bindings), func(x, y *policyBinding) int { return cmp.Compare(x.name, y.name) })
	p.compiled[id] = &bound
	return &bound
}

func newBinding(name string, params *admissionv1.ParamRef, match *admissionv1.MatchResources) *policyBinding {
	b := &policyBinding{name: name, params: params}
	if match != nil {
		b.matcher = newMatcher(match)
	}
	if params != nil && params.Selector != nil {
		s, err := metav1.LabelSelectorAsSelector(params.Selector)
		if b.selector = s; err != nil { // was validated
			b.selector = labels.Nothing()
		}
	}
	return b
}

func newMatcher(m *admissionv1.MatchResources) *matcher {
	out := &matcher{rules: m.ResourceRules, exclude: m.ExcludeResourceRules, all: true}
	out.exact = m.MatchPolicy == nil || *m.MatchPolicy == admissionv1.Exact
	out.setSelectors(m.NamespaceSelector, m.ObjectSelector)
	return out
}

// newPolicy compiles what both kinds have.
func newPolicy(name string, failure *admissionv1.FailurePolicyType, match *admissionv1.MatchResources, params *admissionv1.ParamKind,
	variables []admissionv1.Variable, conditions []admissionv1.MatchCondition,
) (*policy, *resource.CELCompiler) {
	p := &policy{name: name, lenient: failure != nil && *failure == admissionv1.Ignore}
	if match != nil {
		p.matcher = *newMatcher(match)
	}
	if params != nil {
		gvk := schema.FromAPIVersionAndKind(params.APIVersion, params.Kind)
		p.params = &gvk
	}
	c := resource.NewCELCompiler(params != nil, len(variables) > 0)
	for _, v := range variables {
		_ = c.Variable(v.Name, v.Expression) // an error for those who use it
	}
	p.computed = c.Computed()
	for _, m := range conditions {
		p.conditions = append(p.conditions, compiled(c.Compile(m.Expression, resource.CELVariables{Authorizer: true}, resource.CELBool)))
	}
	return p, c
}

func newValidating(in *admissionv1.ValidatingAdmissionPolicy) *policy {
	spec := &in.Spec
	p, c := newPolicy(in.Name, spec.FailurePolicy, spec.MatchConstraints, spec.ParamKind, spec.Variables, spec.MatchConditions)
	for _, v := range spec.Validations {
		x := compiled(c.Compile(v.Expression, resource.CELVariables{Authorizer: true}, resource.CELBool))
		made := validation{expression: x, text: v.Expression, message: v.Message, reason: metav1.StatusReasonInvalid}
		if v.MessageExpression != "" {
			x := compiled(c.Compile(v.MessageExpression, resource.CELVariables{}, resource.CELText))
			made.compose = &x
		}
		if v.Reason != nil {
			made.reason = *v.Reason
		}
		p.validations = append(p.validations, made)
	}
	for _, a := range spec.AuditAnnotations {
		x := compiled(c.Compile(a.ValueExpression, resource.CELVariables{Authorizer: true}, resource.CELText, resource.CELNull))
		p.audits = append(p.audits, auditAnnotation{x, a.Key, a.ValueExpression})
	}
	return p
}

func newMutating(in *admissionv1.MutatingAdmissionPolicy) *policy {
	spec := &in.Spec
	p, c := newPolicy(in.Name, spec.FailurePolicy, spec.MatchConstraints, spec.ParamKind, spec.Variables, spec.MatchConditions)
	p.reinvocable = spec.ReinvocationPolicy == admissionv1.IfNeededReinvocationPolicy
	for i := range spec.Mutations {
		m := &spec.Mutations[i]
		p.mutations = append(p.mutations, mutation{compiled(c.Mutation(m)), m.PatchType == admissionv1.PatchTypeJSONPatch})
	}
	return p
}

// concernsPolicies says whether a policy's rules mean the request: all others cost nothing.
func concernsPolicies(all []*policy, a *attributes) bool {
	return slices.ContainsFunc(all, func(p *policy) bool {
		_, ok := p.concerns(a)
		return ok
	})
}
