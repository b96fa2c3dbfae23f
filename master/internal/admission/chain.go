package admission

import (
	"context"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/whalepod/whalepod/api/resource"
)

// mutate asks mutating policies and then mutating webhooks, one after the other, and makes the object what they want. Those
// that wish so are asked a second time when somebody after them has changed it.
func (b *Backend) mutate(ctx context.Context, by *state, a *attributes) error {
	var policies, webhooks turns
	for round := 1; ; round++ {
		policies.begin(a)
		if err := b.applyPolicies(ctx, by.policies.mutating, a, &policies); err != nil {
			return err
		}
		policies.end(a)
		webhooks.begin(a)
		for _, h := range by.hooks.mutating {
			if !webhooks.has(h) {
				continue
			}
			changed, invoked, err := b.mutateBy(ctx, h, a)
			if err != nil {
				return err
			}
			webhooks.took(h, changed, invoked && h.reinvocable())
		}
		webhooks.end(a)
		if round == rounds || !policies.changed && !webhooks.changed {
			return nil
		}
	}
}

func (b *Backend) mutateBy(ctx context.Context, h *hook, a *attributes) (changed, invoked bool, err error) {
	q, ok, err := b.wants(ctx, h, a)
	if err != nil || !ok {
		return false, false, err
	}
	answer, err := b.ask(ctx, q, a)
	if err != nil || answer == nil {
		return false, true, err
	}
	changed, err = b.patched(ctx, q, a, answer)
	return changed, true, err
}

// validate asks the validating policies, and then all validating webhooks at once; the first refusal in their order counts.
func (b *Backend) validate(ctx context.Context, by *state, a *attributes) error {
	if err := b.judge(ctx, by.policies.validating, a); err != nil {
		return err
	}
	var questions []question
	for _, h := range by.hooks.validating {
		q, ok, err := b.wants(ctx, h, a)
		if err != nil {
			return err
		}
		if ok {
			questions = append(questions, q)
		}
	}
	if len(questions) == 1 {
		_, err := b.ask(ctx, questions[0], a)
		return err
	}
	errs := make([]error, len(questions))
	warnings := make([][]string, len(questions))
	var g errgroup.Group
	for i, q := range questions {
		each := *a
		each.warn = func(msg string) { warnings[i] = append(warnings[i], msg) }
		g.Go(func() error {
			_, errs[i] = b.ask(ctx, q, &each)
			return nil
		})
	}
	_ = g.Wait()
	for _, list := range warnings {
		for _, msg := range list {
			if a.warn != nil {
				a.warn(msg)
			}
		}
	}
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// anyConcerns says whether a hook has a rule for the request: all others cost nothing.
func anyConcerns(all []*hook, a *attributes) bool {
	for _, h := range all {
		if _, ok := h.concerns(a); ok {
			return true
		}
	}
	return false
}

// copied is an object that the caller may keep while others change theirs.
func copied(obj resource.Object) runtime.Object {
	if obj == nil {
		return nil
	}
	return obj.DeepCopyObject()
}
