package admission

import (
	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// state is who has a say in one state of the cluster.
type state struct {
	hooks    *hooks
	policies *policies
}

// current is that of the committed state: what is at hand, unless a configuration or policy has changed since.
func (b *Backend) current() (s *state) {
	_ = b.cfg.Registry.View(func(v *registry.View) error {
		if s = b.last.Load(); s.isOf(v) {
			return nil
		}
		b.building.Lock()
		defer b.building.Unlock()
		if s = b.last.Load(); s.isOf(v) {
			return nil
		}
		next := &state{}
		if s != nil {
			*next = *s
		}
		if !next.hooks.isOf(v) {
			next.hooks = b.compile(v)
		}
		if !next.policies.isOf(v) {
			next.policies = compilePolicies(v, next.policies)
		}
		s = next
		b.last.Store(s)
		return nil
	})
	return s
}

func (s *state) isOf(v *registry.View) bool { return s != nil && s.hooks.isOf(v) && s.policies.isOf(v) }

// none says that nobody has a say about objects of a kind. The kinds that say who has are left alone: who could refuse changes
// to them could not be got rid of.
func (s *state) none(r *resource.Resource) bool {
	return exempt(r) || len(s.hooks.mutating)+len(s.hooks.validating)+len(s.policies.mutating)+len(s.policies.validating) == 0
}

// mutates says whether somebody may want to change what a request is about: all others cost nothing.
func (s *state) mutates(a *attributes) bool {
	return anyConcerns(s.hooks.mutating, a) || concernsPolicies(s.policies.mutating, a)
}

// validates says whether somebody may refuse a request.
func (s *state) validates(a *attributes) bool {
	return anyConcerns(s.hooks.validating, a) || concernsPolicies(s.policies.validating, a)
}

func (s *state) concerns(a *attributes) bool { return s.mutates(a) || s.validates(a) }
