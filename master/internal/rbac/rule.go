package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/whalepod/whalepod/api/server"
)

// question is what somebody wants to do, in the form that rules are compared with.
type question struct {
	server.Attributes
	// resource is "pods", or "pods/log" with a subresource; sub is then "/log".
	resource, sub string
}

func newQuestion(a server.Attributes) question {
	q := question{Attributes: a, resource: a.Resource}
	if a.Subresource != "" {
		q.resource = a.Resource + "/" + a.Subresource
		q.sub = q.resource[len(a.Resource):]
	}
	return q
}

// allowedBy says whether one rule is enough.
func (q *question) allowedBy(r *rbacv1.PolicyRule) bool {
	if !has(r.Verbs, rbacv1.VerbAll, q.Verb) {
		return false
	}
	if q.Path != "" {
		return slices.ContainsFunc(r.NonResourceURLs, q.within)
	}
	return has(r.APIGroups, rbacv1.APIGroupAll, q.Group) && slices.ContainsFunc(r.Resources, q.isAbout) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, q.Name))
}

// has says whether a list holds everything or the one value.
func has(list []string, all, value string) bool {
	for _, s := range list {
		if s == all || s == value {
			return true
		}
	}
	return false
}

// isAbout compares with a rule's resource: pods, pods/log, */log or *, which includes subresources.
func (q *question) isAbout(resource string) bool {
	if resource == rbacv1.ResourceAll || resource == q.resource {
		return true
	}
	return q.sub != "" && len(resource) == len(q.sub)+1 && resource[0] == '*' && resource[1:] == q.sub
}

// within compares with a rule's URL: a path, one that ends with *, or * alone.
func (q *question) within(url string) bool {
	if url == q.Path {
		return true
	}
	return strings.HasSuffix(url, "*") && strings.HasPrefix(q.Path, strings.TrimRight(url, "*"))
}
