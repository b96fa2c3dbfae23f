package rbac

import (
	"fmt"
	"strconv"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// Keys of the four kinds in the registry.
const (
	roles               = "roles.rbac.authorization.k8s.io"
	roleBindings        = "rolebindings.rbac.authorization.k8s.io"
	clusterRoles        = "clusterroles.rbac.authorization.k8s.io"
	clusterRoleBindings = "clusterrolebindings.rbac.authorization.k8s.io"
)

// The kinds that a binding may refer to.
const (
	kindRole        = "Role"
	kindClusterRole = "ClusterRole"
)

// accountPrefix begins the user name of a ServiceAccount.
const accountPrefix = "system:serviceaccount:"

// index holds the policy by who it is for. It shares the rules with the stored roles, and is made anew when one of them or a
// binding has changed: that is rare, and takes a millisecond with a thousand bindings.
type index struct {
	stamps [4]any
	grants map[subject][]*grant
}

// subject is a user or a group in a namespace, or in the whole cluster ("").
type subject struct {
	namespace, name string
	isGroup         bool
}

// grant is what one binding gives to one of its subjects.
type grant struct {
	binding registry.Key
	rules   []rbacv1.PolicyRule
	// err says that the role is not there.
	err error
	// reason of what these rules allow, in Kubernetes' words.
	reason string
}

func stampsOf(v *registry.View) [4]any {
	return [4]any{v.Stamp(roles), v.Stamp(roleBindings), v.Stamp(clusterRoles), v.Stamp(clusterRoleBindings)}
}

// isOf says whether the index is that of a state.
func (ix *index) isOf(v *registry.View) bool {
	if ix == nil {
		return false
	}
	for i, stamp := range stampsOf(v) {
		if stamp == nil || stamp != ix.stamps[i] {
			return false
		}
	}
	return true
}

func newIndex(v *registry.View) *index {
	ix := &index{stamps: stampsOf(v), grants: map[subject][]*grant{}}
	for b := range registry.List[*rbacv1.ClusterRoleBinding](v, "") {
		ix.add(v, registry.Key{Resource: clusterRoleBindings, Name: b.Name}, &b.RoleRef, b.Subjects,
			"RBAC: allowed by ClusterRoleBinding "+strconv.Quote(b.Name))
	}
	for b := range registry.List[*rbacv1.RoleBinding](v, "") {
		ix.add(v, registry.Key{Resource: roleBindings, Namespace: b.Namespace, Name: b.Name}, &b.RoleRef, b.Subjects,
			"RBAC: allowed by RoleBinding "+strconv.Quote(b.Name+"/"+b.Namespace))
	}
	return ix
}

// add is given the beginning of the reason.
func (ix *index) add(v *registry.View, binding registry.Key, ref *rbacv1.RoleRef, subjects []rbacv1.Subject, reason string) {
	rules, err := rulesOf(v, ref, binding.Namespace)
	if apierrors.IsNotFound(err) {
		// Kubernetes' authorizer, unlike its API, names the kind here.
		err = apierrors.NewNotFound(rbacv1.Resource(singular(ref.Kind)), ref.Name)
	}
	reason += " of " + ref.Kind + " " + strconv.Quote(ref.Name) + " to "
	for i := range subjects {
		s, described := subjectOf(&subjects[i], binding.Namespace)
		if s.name == "" {
			continue
		}
		ix.grants[s] = append(ix.grants[s], &grant{binding: binding, rules: rules, err: err, reason: reason + described})
	}
}

// subjectOf says whom a binding in a namespace means, and describes them. A ServiceAccount without namespace is of the
// binding's own; what means nobody has no name.
func subjectOf(s *rbacv1.Subject, namespace string) (subject, string) {
	switch s.Kind {
	case rbacv1.UserKind, rbacv1.GroupKind:
		return subject{namespace, s.Name, s.Kind == rbacv1.GroupKind}, s.Kind + " " + strconv.Quote(s.Name)
	case rbacv1.ServiceAccountKind:
		of := s.Namespace
		if of == "" {
			of = namespace
		}
		if of == "" || s.Name == "" {
			break
		}
		return subject{namespace: namespace, name: accountPrefix + of + ":" + s.Name}, s.Kind + " " + strconv.Quote(s.Name+"/"+of)
	}
	return subject{}, ""
}

// visit calls fn with what a user has, those of the cluster and then those of a namespace, if any, until it says stop.
func (ix *index) visit(u *server.User, namespace string, fn func(*grant) bool) {
	if ix.visitIn("", u, fn) && namespace != "" {
		ix.visitIn(namespace, u, fn)
	}
}

func (ix *index) visitIn(namespace string, u *server.User, fn func(*grant) bool) (goOn bool) {
	for _, g := range ix.grants[subject{namespace: namespace, name: u.Name}] {
		if !fn(g) {
			return false
		}
	}
	for _, name := range u.Groups {
		for _, g := range ix.grants[subject{namespace, name, true}] {
			if !fn(g) {
				return false
			}
		}
	}
	return true
}

func singular(kind string) string {
	if kind == kindRole {
		return "role"
	}
	return "clusterrole"
}

// rulesOf follows the reference of a binding in a namespace, or of the cluster ("").
func rulesOf(v *registry.View, ref *rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case kindRole:
		role, err := registry.Get[*rbacv1.Role](v, namespace, ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case kindClusterRole:
		role, err := registry.Get[*rbacv1.ClusterRole](v, "", ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
}
