package resource

import (
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Group versions in use by the kinds of this package.
var (
	coreV1        = schema.GroupVersion{Version: "v1"}
	appsV1        = schema.GroupVersion{Group: "apps", Version: "v1"}
	appsV1beta2   = schema.GroupVersion{Group: "apps", Version: "v1beta2"}
	appsV1beta1   = schema.GroupVersion{Group: "apps", Version: "v1beta1"}
	extensionsV1  = schema.GroupVersion{Group: "extensions", Version: "v1beta1"}
	eventsV1      = schema.GroupVersion{Group: "events.k8s.io", Version: "v1"}
	leaseV1       = schema.GroupVersion{Group: "coordination.k8s.io", Version: "v1"}
	discoveryV1   = schema.GroupVersion{Group: "discovery.k8s.io", Version: "v1"}
	autoscaleV1   = schema.GroupVersion{Group: "autoscaling", Version: "v1"}
	policyV1      = schema.GroupVersion{Group: "policy", Version: "v1"}
	policyV1beta1 = schema.GroupVersion{Group: "policy", Version: "v1beta1"}
	authnV1       = schema.GroupVersion{Group: "authentication.k8s.io", Version: "v1"}
	batchV1       = schema.GroupVersion{Group: "batch", Version: "v1"}
	batchV1beta1  = schema.GroupVersion{Group: "batch", Version: "v1beta1"}
	rbacV1        = schema.GroupVersion{Group: "rbac.authorization.k8s.io", Version: "v1"}
)

// categoryAll is what `kubectl get all` lists.
var categoryAll = []string{"all"}

// allVerbs in the order of discovery documents, which sort them.
var allVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"}

var (
	readWrite = []string{"get", "patch", "update"}
	createOne = []string{"create"}
	connect   = []string{"create", "get"}
	proxyAll  = []string{"create", "delete", "get", "patch", "update"}
)

// statusOf is the status subresource of a kind.
func statusOf(gv schema.GroupVersion, kind string) Subresource {
	return Subresource{Kind: gv.WithKind(kind), Verbs: readWrite}
}

// served lists versions, the storage version first.
func served(gvs ...schema.GroupVersion) []schema.GroupVersion { return gvs }

// SubresourcesIn gives the subresources offered in one served version, with the kinds of their bodies there:
// deployments/scale speaks autoscaling/v1 in apps/v1 and extensions/v1beta1 in extensions/v1beta1.
func (r *Resource) SubresourcesIn(gv schema.GroupVersion) map[string]Subresource {
	out := make(map[string]Subresource, len(r.Subresources))
	for name := range r.Subresources {
		if sub, ok := r.SubresourceIn(gv, name); ok {
			out[name] = sub
		}
	}
	return out
}

// SubresourceIn gives one subresource as one served version offers it.
func (r *Resource) SubresourceIn(gv schema.GroupVersion, name string) (Subresource, bool) {
	sub, ok := r.Subresources[name]
	if !ok || len(sub.Only) > 0 && !slices.Contains(sub.Only, gv) {
		return Subresource{}, false
	}
	switch {
	case sub.Kind == r.GroupVersionKind():
		sub.Kind = gv.WithKind(r.Kind)
	case r.custom != nil: // a Scale, of autoscaling/v1 in every version
	case name == "scale" && gv != r.Storage:
		sub.Kind = gv.WithKind("Scale")
	case len(sub.Only) > 0:
		sub.Kind = gv.WithKind(sub.Kind.Kind)
	}
	return sub, true
}
