// Package custom makes kinds of CustomResourceDefinitions: what a definition says about names, schemas, defaults, columns
// and subresources becomes functions on unstructured objects. It is pure: no I/O, no store, no HTTP. Kubernetes' own
// library (k8s.io/apiextensions-apiserver) does what is about schemas; only this package and api/resource import it.
//
// A version's schema is compiled at the first object of that version: a cluster may have hundreds of definitions of which it
// uses a few.
package custom

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Kind is a custom kind, as one state of its definition has it.
type Kind struct {
	// Definition must not be changed.
	Definition *apiextensionsv1.CustomResourceDefinition
	// Names are the accepted ones.
	Names apiextensionsv1.CustomResourceDefinitionNames
	// Storage is the version in which objects are written.
	Storage  *Version
	versions map[string]*Version

	// settled is the revision from which on every write was made by this state of the definition. Older objects get their
	// defaults, and lose their unknown fields, when they are read.
	settled     atomic.Int64
	terminating atomic.Bool
	gone        chan struct{}

	// asks is nil for a kind that no webhook converts: its versions have the same fields, or there is but one.
	asks *asker
}

// Version is one version of a custom kind.
type Version struct {
	Kind *Kind
	Spec *apiextensionsv1.CustomResourceDefinitionVersion
	GVK  schema.GroupVersionKind

	once     sync.Once
	compiled compiled
	err      error

	columnsOnce sync.Once
	columns     columns

	mergeOnce sync.Once
	merge     *typed.ParseableType
	mergeErr  error

	// recent are objects that were converted to this version by a webhook a moment ago.
	recent recent
}

// compiled is what a version's schema becomes.
type compiled struct {
	// structural is nil for a version without a schema.
	structural *structuralschema.Structural
	// object and status validate by the OpenAPI schema; status is nil when there is nothing to say about it.
	object, status validation.SchemaValidator
	rules          *cel.Validator
}

// New makes the kind that a definition describes. The accepted names must be there. connect leads to its conversion webhook,
// if it has one.
func New(crd *apiextensionsv1.CustomResourceDefinition, connect Connect) (*Kind, error) {
	names := crd.Status.AcceptedNames
	if names.Plural == "" || names.Singular == "" || names.Kind == "" || names.ListKind == "" {
		return nil, fmt.Errorf("%s: not all names are accepted", crd.Name)
	}
	k := &Kind{Definition: crd, Names: names, versions: make(map[string]*Version, len(crd.Spec.Versions)), gone: make(chan struct{})}
	k.settled.Store(math.MaxInt64)
	k.terminating.Store(terminating(crd))
	if c := crd.Spec.Conversion; c != nil && c.Strategy == apiextensionsv1.WebhookConverter && len(crd.Spec.Versions) > 1 {
		k.asks = &asker{kind: k, connect: connect, turns: make(chan struct{}, maxCalls)}
	}
	for i := range crd.Spec.Versions {
		spec := &crd.Spec.Versions[i]
		v := &Version{Kind: k, Spec: spec, GVK: schema.GroupVersionKind{Group: crd.Spec.Group, Version: spec.Name, Kind: names.Kind}}
		k.versions[spec.Name] = v
		if spec.Storage {
			k.Storage = v
		}
	}
	if k.Storage == nil {
		return nil, fmt.Errorf("%s: no version is the storage version", crd.Name)
	}
	return k, nil
}

// Version finds one by its name.
func (k *Kind) Version(name string) (*Version, bool) {
	v, ok := k.versions[name]
	return v, ok
}

// versionOf finds that of an object.
func (k *Kind) versionOf(u *unstructured.Unstructured) (*Version, error) {
	group, name, ok := strings.Cut(u.GetAPIVersion(), "/")
	if v := k.versions[name]; ok && group == k.Definition.Spec.Group && v != nil {
		return v, nil
	}
	return nil, fmt.Errorf("request to convert CR from an invalid group/version: %s", u.GetAPIVersion())
}

// Namespaced says whether objects live in namespaces.
func (k *Kind) Namespaced() bool { return k.Definition.Spec.Scope == apiextensionsv1.NamespaceScoped }

// Settle tells the revision from which on every write was made by this state of the definition.
func (k *Kind) Settle(revision int64) { k.settled.Store(revision) }

// fresh says that an object was written by this state of the definition, in whatever version.
func (k *Kind) fresh(u *unstructured.Unstructured) bool {
	revision := u.GetResourceVersion()
	if revision == "" {
		return true // it comes from a client, who was heard by this state
	}
	n, err := strconv.ParseInt(revision, 10, 64)
	return err == nil && n > k.settled.Load()
}

// Gone is closed when another state of the definition has taken this one's place.
func (k *Kind) Gone() <-chan struct{} { return k.gone }

// Retire closes Gone; it is called once.
func (k *Kind) Retire() { close(k.gone) }

// Same says that a kind does not have to be made anew for a definition: nothing that it is made of has changed. That it is
// being deleted is noted (see Note).
func (k *Kind) Same(crd *apiextensionsv1.CustomResourceDefinition) bool {
	old := k.Definition
	return old.UID == crd.UID && old.Generation == crd.Generation && sameNames(k.Names, crd.Status.AcceptedNames)
}

func sameNames(a, b apiextensionsv1.CustomResourceDefinitionNames) bool {
	return a.Plural == b.Plural && a.Singular == b.Singular && a.Kind == b.Kind && a.ListKind == b.ListKind &&
		strings.Join(a.ShortNames, ",") == strings.Join(b.ShortNames, ",") && strings.Join(a.Categories, ",") == strings.Join(b.Categories, ",")
}

// Terminating says that the definition is being deleted, and its objects with it.
func (k *Kind) Terminating() bool { return k.terminating.Load() }

// Note takes over what can change without a new kind, and says whether it did.
func (k *Kind) Note(crd *apiextensionsv1.CustomResourceDefinition) bool {
	now := terminating(crd)
	return k.terminating.Swap(now) != now
}

func terminating(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return condition(crd, apiextensionsv1.Terminating) == apiextensionsv1.ConditionTrue
}

func condition(crd *apiextensionsv1.CustomResourceDefinition, kind apiextensionsv1.CustomResourceDefinitionConditionType) apiextensionsv1.ConditionStatus {
	for _, c := range crd.Status.Conditions {
		if c.Type == kind {
			return c.Status
		}
	}
	return ""
}

// Served says whether the objects of a definition are to be served: once its names were accepted.
func Served(crd *apiextensionsv1.CustomResourceDefinition) bool {
	return crd.Status.AcceptedNames.Plural != "" &&
		(condition(crd, apiextensionsv1.NamesAccepted) == apiextensionsv1.ConditionTrue || condition(crd, apiextensionsv1.Established) == apiextensionsv1.ConditionTrue)
}

// subresources of a version, of which either may be nil.
func (v *Version) HasStatus() bool {
	return v.Spec.Subresources != nil && v.Spec.Subresources.Status != nil
}

func (v *Version) scale() *apiextensionsv1.CustomResourceSubresourceScale {
	if v.Spec.Subresources == nil {
		return nil
	}
	return v.Spec.Subresources.Scale
}

// HasScale says whether the version has the subresource.
func (v *Version) HasScale() bool { return v.scale() != nil }

// preserves says that fields which the schema does not know are kept, as definitions from before apiextensions.k8s.io/v1
// may have it.
func (v *Version) preserves() bool { return v.Kind.Definition.Spec.PreserveUnknownFields }

// errSchema is Kubernetes' answer where a schema is not usable although it was accepted.
var errSchema = errors.New("the server could not properly serve the CR schema")

// compile gives what the schema becomes, at the first call.
func (v *Version) compile() (*compiled, error) {
	v.once.Do(func() { v.compiled, v.err = v.compileSchema() })
	return &v.compiled, v.err
}

func (v *Version) compileSchema() (c compiled, err error) {
	internal, err := v.internalSchema()
	if err != nil {
		return c, err
	}
	if c.object, _, err = validation.NewSchemaValidator(internal); err != nil {
		return c, err
	}
	if internal == nil {
		return c, nil
	}
	if status, ok := internal.Properties["status"]; ok && v.HasStatus() {
		if c.status, _, err = validation.NewSchemaValidator(&status); err != nil {
			return c, err
		}
	}
	if c.structural, err = v.structural(internal); err != nil {
		return c, err
	}
	c.rules = cel.NewValidator(c.structural, true, celconfig.PerCallLimit)
	return c, nil
}

// internalSchema is nil for a version without a schema.
func (v *Version) internalSchema() (*apiextensions.JSONSchemaProps, error) {
	if v.Spec.Schema == nil || v.Spec.Schema.OpenAPIV3Schema == nil {
		return nil, nil
	}
	internal := &apiextensions.CustomResourceValidation{}
	if err := apiextensionsv1.Convert_v1_CustomResourceValidation_To_apiextensions_CustomResourceValidation(v.Spec.Schema, internal, nil); err != nil {
		return nil, fmt.Errorf("%w: %w", errSchema, err)
	}
	return internal.OpenAPIV3Schema, nil
}

func (v *Version) structural(internal *apiextensions.JSONSchemaProps) (*structuralschema.Structural, error) {
	s, err := structuralschema.NewStructural(internal)
	switch {
	case err != nil && v.preserves():
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errSchema, err)
	case v.preserves():
		return s, nil
	}
	s = s.DeepCopy() // its defaults are the definition's own
	if err := defaulting.PruneDefaults(s); err != nil {
		return nil, fmt.Errorf("%w: %w", errSchema, err)
	}
	return s, nil
}
