package admission

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
)

// attributes are what a request wants. Objects are of the storage version; those of subresources that are verbs, and the
// options of connections, are of the one version that they have.
type attributes struct {
	operation admissionv1.OperationType
	res       *resource.Resource
	sub       string
	// gv is the version that the client speaks.
	gv              schema.GroupVersion
	namespace, name string
	object, old     runtime.Object
	user            server.User
	dryRun          bool
	warn            func(string)
	// fixed says that the objects are of one version and not the resource's.
	fixed bool
	// conversions is there for kinds that another webhook converts.
	conversions *conversions
}

// ruleNamespace is the namespace as rules and selectors see it: a namespace is in itself.
func (a *attributes) ruleNamespace() string {
	if a.isNamespace() {
		return a.name
	}
	return a.namespace
}

func (a *attributes) isNamespace() bool { return a.res.Key() == "namespaces" }

// concerns says whether a rule of the hook may be about the request, and in which version its objects go to the hook.
func (h *hook) concerns(a *attributes) (schema.GroupVersion, bool) {
	for i := range h.Rules {
		if matches(&h.Rules[i], a, a.gv) {
			return a.gv, true
		}
	}
	if !h.equivalent() || a.fixed {
		return a.gv, false
	}
	// The first rule that fits another version of the same objects counts.
	for i := range h.Rules {
		for _, gv := range a.res.Served {
			if _, offered := a.res.SubresourceIn(gv, a.sub); gv == a.gv || a.sub != "" && !offered {
				continue
			}
			if matches(&h.Rules[i], a, gv) {
				return gv, true
			}
		}
	}
	return a.gv, false
}

func matches(rule *admissionv1.RuleWithOperations, a *attributes, gv schema.GroupVersion) bool {
	return (slices.Contains(rule.Operations, admissionv1.OperationAll) || slices.Contains(rule.Operations, a.operation)) &&
		has(rule.APIGroups, gv.Group) && has(rule.APIVersions, gv.Version) &&
		slices.ContainsFunc(rule.Resources, a.isResource) && inScope(rule.Scope, a)
}

func has(list []string, value string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, value)
}

// isResource reads pods, pods/log, pods/*, */scale, * (no subresources) and */*.
func (a *attributes) isResource(name string) bool {
	res, sub, _ := strings.Cut(name, "/")
	return (res == "*" || res == a.res.Name) && (sub == "*" || sub == a.sub)
}

func inScope(scope *admissionv1.ScopeType, a *attributes) bool {
	namespaced := a.namespace != "" && !a.isNamespace()
	switch {
	case scope == nil, *scope == admissionv1.AllScopes:
		return true
	case *scope == admissionv1.NamespacedScope:
		return namespaced
	case *scope == admissionv1.ClusterScope:
		return !namespaced
	}
	return false
}

// matchesObject says whether the object, or the one that it replaces, has the labels.
func matchesObject(s labels.Selector, a *attributes) bool {
	return s.Empty() || hasLabels(s, a.object) || hasLabels(s, a.old)
}

func hasLabels(s labels.Selector, obj runtime.Object) bool {
	m, ok := obj.(metav1.Object)
	return ok && s.Matches(labels.Set(m.GetLabels()))
}
