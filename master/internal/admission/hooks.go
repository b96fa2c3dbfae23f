package admission

import (
	"cmp"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/master/internal/registry"
	"github.com/whalepod/whalepod/master/internal/webhook"
)

// Keys of the kinds in the registry.
const (
	mutatingConfigs   = "mutatingwebhookconfigurations.admissionregistration.k8s.io"
	validatingConfigs = "validatingwebhookconfigurations.admissionregistration.k8s.io"
)

// hook is one webhook, ready to be matched and called.
type hook struct {
	resource.Webhook
	// What concerns a matcher that is broken fails or passes as the failure policy says.
	matcher
	conditions []expression
	caller     *caller
}

// hooks are those of one state, in the order in which they are called.
type hooks struct {
	stamps               [2]any
	mutating, validating []*hook
}

func stampsOf(v *registry.View) [2]any {
	return [2]any{v.Stamp(mutatingConfigs), v.Stamp(validatingConfigs)}
}

func (h *hooks) isOf(v *registry.View) bool {
	if h == nil {
		return false
	}
	for i, stamp := range stampsOf(v) {
		if stamp == nil || stamp != h.stamps[i] {
			return false
		}
	}
	return true
}

// compile makes the hooks of a state; building is held.
func (b *Backend) compile(v *registry.View) *hooks {
	before := b.callers
	b.callers = map[webhook.ID]*caller{}
	h := b.compileState(v, before)
	for id, c := range before {
		if b.callers[id] == nil && c.client != nil {
			c.client.CloseIdle()
		}
	}
	return h
}

func (b *Backend) compileState(v *registry.View, before map[webhook.ID]*caller) *hooks {
	h := &hooks{stamps: stampsOf(v)}
	for c := range registry.List[*admissionv1.MutatingWebhookConfiguration](v, "") {
		h.mutating = append(h.mutating, b.compileAll(c, before)...)
	}
	for c := range registry.List[*admissionv1.ValidatingWebhookConfiguration](v, "") {
		h.validating = append(h.validating, b.compileAll(c, before)...)
	}
	// By the configurations' names; the webhooks of one keep their order.
	byName := func(x, y *hook) int { return cmp.Compare(x.Configuration, y.Configuration) }
	slices.SortStableFunc(h.mutating, byName)
	slices.SortStableFunc(h.validating, byName)
	return h
}

func (b *Backend) compileAll(config resource.Object, before map[webhook.ID]*caller) []*hook {
	var out []*hook
	for _, w := range resource.Webhooks(config) {
		h := &hook{Webhook: w, caller: b.callerOf(&w.ClientConfig, before)}
		h.setSelectors(w.NamespaceSelector, w.ObjectSelector)
		h.exact = w.MatchPolicy != nil && *w.MatchPolicy == admissionv1.Exact
		for _, rule := range w.Rules {
			h.rules = append(h.rules, admissionv1.NamedRuleWithOperations{RuleWithOperations: rule})
		}
		for _, c := range w.MatchConditions {
			program, err := resource.CompileCEL(c.Expression, resource.CELVariables{Authorizer: true}, resource.CELBool)
			if err != nil {
				h.broken = err
			}
			h.conditions = append(h.conditions, compiled(program, err))
		}
		out = append(out, h)
	}
	return out
}

// ignores says whether the request passes when the webhook cannot be asked.
func (h *hook) ignores() bool {
	return h.FailurePolicy != nil && *h.FailurePolicy == admissionv1.Ignore
}

func (h *hook) reinvocable() bool {
	return h.Reinvocation != nil && *h.Reinvocation == admissionv1.IfNeededReinvocationPolicy
}
