package admission

import (
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
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
	// immutable: nobody can change the object.
	immutable bool
	// anyName: it is not known yet which objects the request is about.
	anyName bool
}

// ruleNamespace is the namespace as rules and selectors see it: a namespace is in itself.
func (a *attributes) ruleNamespace() string {
	if a.isNamespace() {
		return a.name
	}
	return a.namespace
}

func (a *attributes) isNamespace() bool { return a.res.Key() == "namespaces" }

// matcher says which requests a webhook, a policy or a binding is about.
type matcher struct {
	// rules of which one must fit; exclude, of which none may.
	rules, exclude []admissionv1.NamedRuleWithOperations
	// all: no rules mean every request.
	all bool
	// exact: rules are about the version that they name only.
	exact               bool
	namespaces, objects labels.Selector
	// broken says why it can never be said whether a request is meant.
	broken error
}

func (m *matcher) setSelectors(namespaces, objects *metav1.LabelSelector) {
	if m.namespaces, m.broken = selector(namespaces); m.broken == nil {
		m.objects, m.broken = selector(objects)
	}
}

// selector: none means everything, as Kubernetes' defaults have it.
func selector(s *metav1.LabelSelector) (labels.Selector, error) {
	if s == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(s)
}

// concerns says whether the request may be meant by the rules, and in which version they are about its objects.
func (m *matcher) concerns(a *attributes) (schema.GroupVersion, bool) {
	if len(m.exclude) > 0 {
		if _, excluded := m.find(m.exclude, a, false); excluded {
			return a.gv, false
		}
	}
	if m.all && len(m.rules) == 0 {
		return a.gv, true
	}
	return m.find(m.rules, a, a.anyName)
}

// find looks for a rule that fits; anyName takes those, too, that name objects.
func (m *matcher) find(rules []admissionv1.NamedRuleWithOperations, a *attributes, anyName bool) (schema.GroupVersion, bool) {
	named := func(rule *admissionv1.NamedRuleWithOperations) bool {
		return len(rule.ResourceNames) == 0 || anyName || slices.Contains(rule.ResourceNames, a.name)
	}
	for i := range rules {
		if matches(&rules[i].RuleWithOperations, a, a.gv) && named(&rules[i]) {
			return a.gv, true
		}
	}
	if m.exact || a.fixed {
		return a.gv, false
	}
	// The first rule that fits another version of the same objects counts.
	for i := range rules {
		for _, gv := range a.res.Served {
			if _, offered := a.res.SubresourceIn(gv, a.sub); gv == a.gv || a.sub != "" && !offered {
				continue
			}
			if matches(&rules[i].RuleWithOperations, a, gv) && named(&rules[i]) {
				return gv, true
			}
		}
	}
	return a.gv, false
}

// selects applies the selectors to a request that the rules mean.
func (b *Backend) selects(m *matcher, a *attributes) (bool, error) {
	if m.broken != nil {
		return false, m.broken
	}
	if ok, err := b.inNamespace(m, a); err != nil || !ok {
		return false, err
	}
	return matchesObject(m.objects, a), nil
}

// inNamespace applies the namespace selector. What is in no namespace is never left out by it.
func (b *Backend) inNamespace(m *matcher, a *attributes) (bool, error) {
	name := a.ruleNamespace()
	if name == "" && !a.isNamespace() || m.namespaces.Empty() {
		return true, nil
	}
	if obj, ok := a.object.(metav1.Object); ok && a.isNamespace() && a.sub == "" {
		return m.namespaces.Matches(labels.Set(obj.GetLabels())), nil // as it will be
	}
	ns, err := b.namespace(name)
	if err != nil {
		return false, err
	}
	return m.namespaces.Matches(labels.Set(ns.Labels)), nil
}

func (b *Backend) namespace(name string) (ns *corev1.Namespace, err error) {
	err = b.cfg.Registry.View(func(v *registry.View) (err error) {
		ns, err = registry.Get[*corev1.Namespace](v, "", name)
		return err
	})
	return ns, err
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
