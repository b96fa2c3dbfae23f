package admission

import (
	"context"
	"errors"
	"fmt"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
)

// invocation is one application of a policy: by one binding, with one parameter.
type invocation struct {
	*policy
	bound *policyBinding
	param *param
	gv    schema.GroupVersion
}

// invoked names an invocation over the rounds of a request.
type invoked struct{ policy, binding, namespace, param string }

func (i *invocation) id() invoked {
	id := invoked{policy: i.name, binding: i.bound.name}
	if i.param != nil {
		id.namespace, id.param = i.param.namespace, i.param.name
	}
	return id
}

// applyPolicies applies the mutating policies in the order of their names. What fails refuses the request unless its policy
// is lenient; the others are applied all the same, so that the client hears of every failure.
func (b *Backend) applyPolicies(ctx context.Context, all []*policy, a *attributes, t *turns) error {
	if len(all) == 0 {
		return nil
	}
	var refusals []refusal
	refuse := func(p *policy, bound *policyBinding, reason metav1.StatusReason, err error) {
		if !p.lenient {
			refusals = append(refusals, refusal{finding{err.Error(), reason}, p, bound})
		}
	}
	for _, i := range b.invocations(ctx, all, a, refuse) {
		if err := b.invoke(ctx, &i, a, t, refuse); err != nil {
			return err
		}
	}
	if len(refusals) == 0 {
		return nil
	}
	status := forbidden(a, errors.New("admission request denied by policy"))
	for i, r := range refusals {
		message := fmt.Sprintf("policy %q denied request: %s", r.policy.name, r.message)
		if r.binding != nil {
			message = fmt.Sprintf("policy '%s' with binding '%s' denied request: %s", r.policy.name, r.binding.name, r.message)
		}
		if i == 0 {
			status.ErrStatus.Message = message
			if r.reason != "" {
				status.ErrStatus.Reason = r.reason
			}
		}
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Message: message})
	}
	return status
}

// invocations are those that the request makes as it comes in: what a policy changes is not matched anew.
func (b *Backend) invocations(ctx context.Context, all []*policy, a *attributes, refuse func(*policy, *policyBinding, metav1.StatusReason, error)) []invocation {
	var out []invocation
	for _, p := range all {
		gv, ok, err := b.meant(p, a)
		if err != nil {
			refuse(p, nil, "", fmt.Errorf("failed to configure policy: %w", err))
		}
		if err != nil || !ok {
			continue
		}
		for _, bound := range p.bindings {
			params, err := b.paramsFor(ctx, p, bound, a)
			if err != nil {
				refuse(p, bound, "", fmt.Errorf("failed to configure binding: %w", err))
			}
			for _, param := range params {
				out = append(out, invocation{p, bound, param, gv})
			}
		}
	}
	return out
}

// invoke applies a policy's mutations one after the other.
func (b *Backend) invoke(ctx context.Context, i *invocation, a *attributes, t *turns, refuse func(*policy, *policyBinding, metav1.StatusReason, error)) error {
	in, err := b.inputFor(ctx, i, a)
	if err != nil {
		return err
	}
	ok, err := meet(ctx, i.conditions, resource.NewCELEvaluation(ctx, in, i.computed, resource.CELBudget))
	if err != nil {
		refuse(i.policy, i.bound, metav1.StatusReasonInvalid, err)
	}
	if err != nil || !ok || !t.has(i.id()) {
		return nil
	}
	before := a.object
	for n := range i.mutations {
		if a.object == nil {
			break // nothing to be changed
		}
		if n > 0 {
			if in, err = b.inputFor(ctx, i, a); err != nil {
				return err
			}
		}
		err := b.mutateWith(ctx, i, &i.mutations[n], in, a)
		var status *apierrors.StatusError
		if errors.As(err, &status) {
			return status
		}
		if err != nil {
			refuse(i.policy, i.bound, metav1.StatusReasonInvalid, err)
		}
	}
	t.took(i.id(), before != a.object && !apiequality.Semantic.DeepEqual(before, a.object), i.reinvocable)
	return nil
}

// inputFor is the request as the invocation sees it now.
func (b *Backend) inputFor(ctx context.Context, i *invocation, a *attributes) (resource.CELInput, error) {
	s := sight{b: b, a: a}
	in, err := s.in(ctx, i.gv)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	if err := s.withNamespace(in); err != nil {
		return nil, err
	}
	return with(in, i.param), nil
}

// mutateWith evaluates a mutation and makes the object what it says.
func (b *Backend) mutateWith(ctx context.Context, i *invocation, m *mutation, in resource.CELInput, a *attributes) error {
	if m.err != nil {
		return m.err
	}
	val, err := m.eval(ctx, resource.NewCELEvaluation(ctx, in, i.computed, resource.CELPolicyBudget))
	if err != nil {
		return err
	}
	before, err := b.versioned(ctx, a, a.object, i.gv)
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	next, err := before, error(nil)
	if m.jsonPatch {
		next, err = b.patchBy(val, before)
	} else {
		next, err = b.mergeWith(val, before)
	}
	if err != nil || next == before || apiequality.Semantic.DeepEqual(before, next) {
		return err
	}
	return b.become(ctx, a, next)
}
