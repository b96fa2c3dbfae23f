package rbac

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// groupMasters may grant everything, as it may do everything.
const groupMasters = "system:masters"

// Rights to grant more than one has: to write any role, and to bind a role that one does not cover.
const (
	verbEscalate = "escalate"
	verbBind     = "bind"
)

// guard is a backend that lets nobody grant rights that they do not have, neither in a role nor by a binding, and lets
// only those decide on certificates who may do so for their signer.
type guard struct {
	server.Backend
	*Authorizer
	table *resource.Table
}

// Guard puts itself between the API server and the backend for the kinds of this group and for certificate requests.
func Guard(b server.Backend, z *Authorizer, t *resource.Table) server.Backend { return &guard{b, z, t} }

func (g *guard) unguarded(r *resource.Resource, u *server.User) bool {
	return r.Storage.Group != rbacv1.GroupName && r.Key() != signingRequests || slices.Contains(u.Groups, groupMasters)
}

// Create implements server.Backend.
func (g *guard) Create(ctx context.Context, r *resource.Resource, namespace string, obj resource.Object, o server.WriteOptions) (resource.Object, error) {
	if !g.unguarded(r, &o.User) {
		if err := g.check(&request{r: r, namespace: namespace, user: &o.User}, obj, nil); err != nil {
			return nil, err
		}
	}
	return g.Backend.Create(ctx, r, namespace, obj, o)
}

// Update implements server.Backend. The check reads committed state, which takes no lock, also when the backend asks for the
// change inside a transaction.
func (g *guard) Update(ctx context.Context, r *resource.Resource, sub, namespace, name string, o server.UpdateOptions,
	change func(resource.Object) (resource.Object, error),
) (resource.Object, bool, error) {
	if g.unguarded(r, &o.User) {
		return g.Backend.Update(ctx, r, sub, namespace, name, o, change)
	}
	return g.Backend.Update(ctx, r, sub, namespace, name, o, func(current resource.Object) (resource.Object, error) {
		var old resource.Object
		if current != nil {
			old = current.DeepCopyObject().(resource.Object) // current is the change's own to write to
		}
		next, err := change(current)
		if err != nil {
			return nil, err
		}
		if r.Key() == signingRequests {
			return next, g.checkSigner(&o.User, sub, next, old)
		}
		return next, g.check(&request{r: r, namespace: namespace, name: name, user: &o.User}, next, old)
	})
}

// request is one write that may give rights away.
type request struct {
	r *resource.Resource
	// name is that of the request: empty for a creation.
	namespace, name string
	user            *server.User
}

// check answers nil or a 403 in Kubernetes' words; old is nil for a creation.
func (g *guard) check(w *request, obj, old resource.Object) error {
	g.table.Default(obj)
	if old != nil && onlyForCollector(obj, old) {
		return nil
	}
	switch o := obj.(type) {
	case *rbacv1.Role:
		return g.checkRole(w, obj, o.Rules, false)
	case *rbacv1.ClusterRole:
		before, _ := old.(*rbacv1.ClusterRole)
		return g.checkRole(w, obj, o.Rules, aggregates(o) || before != nil && aggregates(before))
	case *rbacv1.RoleBinding:
		return g.checkBinding(w, obj, &o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return g.checkBinding(w, obj, &o.RoleRef)
	}
	return nil
}

func aggregates(r *rbacv1.ClusterRole) bool {
	return r.AggregationRule != nil && len(r.AggregationRule.ClusterRoleSelectors) > 0
}

// onlyForCollector says whether a write changes nothing but owners and finalizers, on which the object's deletion waits.
func onlyForCollector(obj, old resource.Object) bool {
	next := obj.DeepCopyObject().(resource.Object)
	next.SetOwnerReferences(old.GetOwnerReferences())
	next.SetFinalizers(old.GetFinalizers())
	next.SetManagedFields(old.GetManagedFields())
	next.SetSelfLink(old.GetSelfLink())
	next.GetObjectKind().SetGroupVersionKind(old.GetObjectKind().GroupVersionKind())
	return apiequality.Semantic.DeepEqual(next, old)
}

func (g *guard) checkRole(w *request, obj resource.Object, rules []rbacv1.PolicyRule, gathers bool) error {
	escalate, _ := g.Authorize(*w.user, server.Attributes{
		Verb: verbEscalate, Group: rbacv1.GroupName, Version: "*", Resource: w.r.Name, Namespace: w.namespace, Name: w.name,
	})
	if escalate {
		return nil
	}
	if err := g.covers(w, rules); err != nil {
		return apierrors.NewForbidden(w.r.GroupResource(), obj.GetName(), err)
	}
	if !gathers {
		return nil
	}
	// What the selectors find is given, also what they will find later.
	everything := []rbacv1.PolicyRule{allow("*", "*", "*"), allowURLs("*", "*")}
	if err := g.covers(w, everything); err != nil {
		return apierrors.NewForbidden(w.r.GroupResource(), obj.GetName(), errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func (g *guard) checkBinding(w *request, obj resource.Object, ref *rbacv1.RoleRef) error {
	if ref.Kind != kindRole && ref.Kind != kindClusterRole || ref.Kind == kindRole && w.namespace == "" {
		return nil // validation refuses it, and says why
	}
	bind, _ := g.Authorize(*w.user, server.Attributes{
		Verb: verbBind, Group: ref.APIGroup, Version: "*", Resource: singular(ref.Kind) + "s", Namespace: w.namespace, Name: ref.Name,
	})
	if bind {
		return nil
	}
	var rules []rbacv1.PolicyRule
	if err := g.registry.View(func(v *registry.View) (err error) {
		rules, err = rulesOf(v, ref, w.namespace)
		return err
	}); err != nil {
		return err
	}
	if err := g.covers(w, rules); err != nil {
		return apierrors.NewForbidden(w.r.GroupResource(), obj.GetName(), err)
	}
	return nil
}

// covers says which of the rules the user does not have where they would be given.
func (g *guard) covers(w *request, rules []rbacv1.PolicyRule) error {
	own, broken := g.Rules(*w.user, w.namespace)
	ok, missing := validation.Covers(own, rules)
	if ok {
		return nil
	}
	msg := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		w.user.Name, w.user.Groups, strings.Join(describe(missing), "\n"))
	if broken != nil {
		msg += fmt.Sprintf("; resolution errors: %v", []error{broken})
	}
	return errors.New(msg)
}

// describe writes down rules of one resource and one verb each: those of a resource in one line, sorted.
func describe(rules []rbacv1.PolicyRule) []string {
	type what struct{ group, resource, name string }
	joined := map[what]*rbacv1.PolicyRule{}
	var lines []string
	for _, r := range rules {
		if len(r.NonResourceURLs) > 0 {
			lines = append(lines, describeRule(&r))
			continue
		}
		k := what{group: r.APIGroups[0], resource: r.Resources[0]}
		if len(r.ResourceNames) > 0 {
			k.name = "=" + r.ResourceNames[0]
		}
		if j := joined[k]; j != nil {
			j.Verbs = append(slices.Clip(j.Verbs), r.Verbs...)
		} else {
			joined[k] = &r
		}
	}
	for _, r := range joined {
		lines = append(lines, describeRule(r))
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

func describeRule(r *rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{
		{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs},
	} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
