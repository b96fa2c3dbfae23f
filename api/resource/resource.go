// Package resource is the table of kinds that Whalepod serves: names, scope, versions, defaults, validation,
// conversion, columns and OpenAPI, taken from Kubernetes' own packages. It is pure: no I/O, no clock, no store. It is the
// only importer of k8s.io/kubernetes. Adding a kind is one small file.
//
// Objects live in memory and on disk in their storage version (apps/v1 for a Deployment); every rule here works on that
// version. What a client sends or asks for in another served version is converted at the door.
package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/whalepod/whalepod/api/resource/custom"
)

// Object is an API object with metadata, in its storage version unless said otherwise.
type Object interface {
	runtime.Object
	metav1.Object
}

// Resource is one served kind. All fields are set once; when the definition of a custom kind changes, the kind gets another
// Resource (see Table.SetCustom).
type Resource struct {
	// Name is the plural, as in "deployments"; Singular, Kind and ListKind go with it.
	Name, Singular, Kind, ListKind string
	ShortNames                     []string
	// Categories as in `kubectl get all`.
	Categories []string
	Namespaced bool
	// Storage is the version in which objects are kept. A custom kind has a Resource for each of its versions (see
	// Table.Lookup): then it is that version, in which objects are handled and come out of the registry, however they are kept.
	Storage schema.GroupVersion
	// Served lists the versions under which the kind is offered, preferred first, of one or several groups.
	Served []schema.GroupVersion
	// Subresources by name: status, scale, binding, eviction, log, exec, attach, portforward, finalize, token, proxy.
	Subresources map[string]Subresource
	// Verbs as discovery lists them.
	Verbs []string
	// Computed: objects are made when somebody asks for them, and none is stored.
	Computed bool

	rules Rules
	// custom is set for the kinds that CustomResourceDefinitions describe.
	custom *custom.Kind
	// inVersions are the Resources of the custom kind's other served versions; only that of the version in which objects are
	// kept has them.
	inVersions []*Resource
}

// Subresource describes one subresource for discovery and routing.
type Subresource struct {
	// Kind of the body: Deployment for deployments/status, Scale of autoscaling/v1 for deployments/scale.
	Kind schema.GroupVersionKind
	// Verbs: get, patch, update, create.
	Verbs []string
	// Only lists the versions that offer the subresource; empty means every version of the kind.
	Only []schema.GroupVersion
}

// Rules of one kind, on objects of the storage version; nil fields mean "nothing special". The functions named Prepare
// and Default may change obj (never old); the others change nothing.
type Rules struct {
	// PrepareCreate drops what clients may not set on creation (status) and sets what the kind implies
	// (generation, a pod's QoS class).
	PrepareCreate func(obj Object)
	// PrepareUpdate keeps what an update of the main resource may not change (status), and bumps the generation when the
	// spec changed.
	PrepareUpdate func(obj, old Object)
	// PrepareStatus keeps what an update of the status may not change (spec, most metadata).
	PrepareStatus  func(obj, old Object)
	Validate       func(ctx context.Context, obj Object) field.ErrorList
	ValidateUpdate func(ctx context.Context, obj, old Object) field.ErrorList
	ValidateStatus func(ctx context.Context, obj, old Object) field.ErrorList
	Warnings       func(ctx context.Context, obj, old Object) []string
	// Fields that field selectors may name, besides metadata.name and metadata.namespace.
	Fields func(obj Object) map[string]string
	// Scale reads and sets replicas through the scale subresource.
	Scale *ScaleRules
	// GraceSeconds is the default termination grace period of an object (pods); nil means deletion is immediate.
	GraceSeconds func(obj Object) int64
	// AllowCreateOnUpdate and AllowUnconditionalUpdate as in Kubernetes' strategies.
	AllowCreateOnUpdate, AllowUnconditionalUpdate bool
	// OrphanByDefault lists the versions in which a deletion that does not say what is to become of the dependents lets them
	// be, as that was once the only way (Kubernetes' DefaultGarbageCollectionPolicy).
	OrphanByDefault []schema.GroupVersion
	// Updates are the rules of further subresources that are written like the object itself, by name:
	// namespaces/finalize.
	Updates map[string]UpdateRules
	// Reset names, by subresource ("" for the object itself), the fields that a write through it never changes;
	// server-side apply leaves them out of what an applier owns. See Resource.ResetFields.
	Reset map[string][]fieldpath.Path
}

// UpdateRules are those of one subresource.
type UpdateRules struct {
	// Prepare keeps what the subresource may not change.
	Prepare  func(obj, old Object)
	Validate func(ctx context.Context, obj, old Object) field.ErrorList
	// Owned are the fields that one who applies through the subresource can come to own, when they are so few that they
	// are better named than those that Rules.Reset would name; nil otherwise.
	Owned fieldpath.Filter
}

// ScaleRules give the scale subresource of a kind.
type ScaleRules struct {
	Get func(obj Object) (specReplicas, statusReplicas int32, selector string)
	Set func(obj Object, replicas int32)
}

// Key is the resource's name with its storage group, as in "pods" or "deployments.apps": its name in the store.
func (r *Resource) Key() string {
	return schema.GroupResource{Group: r.Storage.Group, Resource: r.Name}.String()
}

// GroupResource is that of the storage version, used in errors: `deployments.apps "x" not found`.
func (r *Resource) GroupResource() schema.GroupResource {
	return schema.GroupResource{Group: r.Storage.Group, Resource: r.Name}
}

// GroupVersionKind of the storage version.
func (r *Resource) GroupVersionKind() schema.GroupVersionKind {
	return r.Storage.WithKind(r.Kind)
}

// Rules of this kind.
func (r *Resource) Rules() *Rules { return &r.rules }
