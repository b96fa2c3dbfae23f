package admission

import (
	"cmp"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

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
	namespaces, objects labels.Selector
	conditions          []condition
	// broken says why the webhook can never be matched; what it concerns fails or passes as its failure policy says.
	broken error
	caller *caller
}

// condition is a compiled match condition.
type condition struct {
	name    string
	program *resource.CELProgram
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

// current are the hooks of the committed state: those at hand, unless a configuration has changed since.
func (b *Backend) current() (h *hooks) {
	_ = b.cfg.Registry.View(func(v *registry.View) error {
		if h = b.last.Load(); h.isOf(v) {
			return nil
		}
		b.building.Lock()
		defer b.building.Unlock()
		if h = b.last.Load(); !h.isOf(v) {
			h = b.compile(v)
			b.last.Store(h)
		}
		return nil
	})
	return h
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
		if h.namespaces, h.broken = selector(w.NamespaceSelector); h.broken == nil {
			h.objects, h.broken = selector(w.ObjectSelector)
		}
		for _, c := range w.MatchConditions {
			program, err := resource.CompileCEL(c.Expression, resource.CELVariables{Authorizer: true}, resource.CELBool)
			if err != nil {
				h.broken = err
			}
			h.conditions = append(h.conditions, condition{c.Name, program})
		}
		out = append(out, h)
	}
	return out
}

// selector: none means everything, as Kubernetes' defaults have it.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// ignores says whether the request passes when the webhook cannot be asked.
func (h *hook) ignores() bool {
	return h.FailurePolicy != nil && *h.FailurePolicy == admissionv1.Ignore
}

func (h *hook) equivalent() bool {
	return h.MatchPolicy == nil || *h.MatchPolicy == admissionv1.Equivalent
}

func (h *hook) reinvocable() bool {
	return h.Reinvocation != nil && *h.Reinvocation == admissionv1.IfNeededReinvocationPolicy
}
