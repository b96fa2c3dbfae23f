package admission

import (
	"context"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/whalepod/whalepod/api/resource"
)

// mutate asks the mutating webhooks one after the other and gives the object as they want it. When one changes it, those
// asked before it that wish so are asked a second time.
func (b *Backend) mutate(ctx context.Context, all []*hook, a *attributes) (resource.Object, error) {
	var asked, again []*hook
	for _, h := range all {
		changed, invoked, err := b.mutateBy(ctx, h, a)
		if err != nil {
			return nil, err
		}
		if changed {
			again = append(again, asked...)
			asked = nil
		}
		if invoked && h.reinvocable() {
			asked = append(asked, h)
		}
	}
	for _, h := range again {
		if _, _, err := b.mutateBy(ctx, h, a); err != nil {
			return nil, err
		}
	}
	obj, _ := a.object.(resource.Object)
	return obj, nil
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
	next, changed, err := b.patched(ctx, q, a, answer)
	if next != nil {
		a.object = next
	}
	return changed, true, err
}

// validate asks all validating webhooks at once; the first refusal in their order counts.
func (b *Backend) validate(ctx context.Context, all []*hook, a *attributes) error {
	var questions []question
	for _, h := range all {
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

// any says whether a hook has a rule for the request: all others cost nothing.
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
