package rbac

import (
	"sync"
	"sync/atomic"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// Authorizer answers from the registry's last committed state.
type Authorizer struct {
	registry *registry.Registry
	last     atomic.Pointer[index]
	building sync.Mutex
}

// New makes an authorizer.
func New(r *registry.Registry) *Authorizer { return &Authorizer{registry: r} }

// index of the last committed state. Every question looks whether the one at hand still is that; if not, one builds it for all
// who wait.
func (z *Authorizer) index() *index {
	if ix := z.current(nil); ix != nil {
		return ix
	}
	z.building.Lock()
	defer z.building.Unlock()
	return z.current(newIndex)
}

// current is the index at hand if it is that of the committed state, else what build makes of that state.
func (z *Authorizer) current(build func(*registry.View) *index) (ix *index) {
	_ = z.registry.View(func(v *registry.View) error {
		if last := z.last.Load(); last.isOf(v) {
			ix = last
		} else if build != nil {
			ix = build(v)
			z.last.Store(ix)
		}
		return nil
	})
	return ix
}

// Authorize says whether a user may do something, and why; if not, the reason tells of bindings to roles that are not there.
func (z *Authorizer) Authorize(u server.User, a server.Attributes) (allowed bool, reason string) {
	q := newQuestion(a)
	var broken []error
	z.index().visit(&u, a.Namespace, func(g *grant) bool {
		if g.err != nil {
			broken = append(broken, g.err)
		}
		for i := range g.rules {
			if q.allowedBy(&g.rules[i]) {
				allowed, reason = true, g.reason
				return false
			}
		}
		return true
	})
	if !allowed && len(broken) > 0 {
		reason = "RBAC: " + utilerrors.NewAggregate(broken).Error()
	}
	return allowed, reason
}

// Rules lists everything that a user may do in a namespace and, for "", in the cluster. An error tells of bindings to roles
// that are not there; the rules are those of the others.
func (z *Authorizer) Rules(u server.User, namespace string) ([]rbacv1.PolicyRule, error) {
	var all []rbacv1.PolicyRule
	var broken []error
	seen := map[registry.Key]bool{} // a binding may name the user and groups of theirs
	z.index().visit(&u, namespace, func(g *grant) bool {
		if seen[g.binding] {
			return true
		}
		seen[g.binding] = true
		all = append(all, g.rules...)
		if g.err != nil {
			broken = append(broken, g.err)
		}
		return true
	})
	return all, utilerrors.NewAggregate(broken)
}

// Review is Rules as a SelfSubjectRulesReview tells them.
func (z *Authorizer) Review(u server.User, namespace string) ([]authorizationv1.ResourceRule, []authorizationv1.NonResourceRule, error) {
	var resources []authorizationv1.ResourceRule
	var urls []authorizationv1.NonResourceRule
	rules, err := z.Rules(u, namespace)
	for i := range rules {
		r := &rules[i]
		if len(r.Resources) > 0 {
			resources = append(resources, authorizationv1.ResourceRule{
				Verbs: r.Verbs, APIGroups: r.APIGroups, Resources: r.Resources, ResourceNames: r.ResourceNames,
			})
		}
		if len(r.NonResourceURLs) > 0 {
			urls = append(urls, authorizationv1.NonResourceRule{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return resources, urls, err
}
