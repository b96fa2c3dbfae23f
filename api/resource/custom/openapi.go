package custom

import (
	"fmt"
	"slices"
	"strings"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	openapiv2 "k8s.io/apiextensions-apiserver/pkg/controller/openapi/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-openapi/pkg/schemaconv"
	"k8s.io/kube-openapi/pkg/validation/spec"
	smdschema "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"
)

// Dialect is a version of OpenAPI.
type Dialect struct {
	// Prefix of references to definitions.
	Prefix string
	// V2 cannot say all that a definition's schema says.
	V2 bool
}

// Both dialects.
var (
	OpenAPIV2 = Dialect{Prefix: "#/definitions/", V2: true}
	OpenAPIV3 = Dialect{Prefix: "#/components/schemas/"}
)

const (
	metaPackage      = "io.k8s.apimachinery.pkg.apis.meta.v1."
	objectMeta       = metaPackage + "ObjectMeta"
	listMeta         = metaPackage + "ListMeta"
	kindExtension    = "x-kubernetes-group-version-kind"
	fieldsExtension  = "x-kubernetes-selectable-fields"
	preserveUnknown  = "x-kubernetes-preserve-unknown-fields"
	embeddedResource = "x-kubernetes-embedded-resource"
)

// Model is the name of the version's definition in OpenAPI documents, as in com.example.stable.v1.CronTab.
func (v *Version) Model() string { return v.model(v.GVK.Kind) }

// ListModel is that of its list.
func (v *Version) ListModel() string { return v.model(v.Kind.Names.ListKind) }

func (v *Version) model(kind string) string {
	group := strings.Split(v.GVK.Group, ".")
	slices.Reverse(group)
	return strings.Join(group, ".") + "." + v.GVK.Version + "." + kind
}

// Schema is the definition of the kind. A version whose schema is not usable is any object.
func (v *Version) Schema(d Dialect) *spec.Schema {
	s := v.publishable(d)
	out := &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}
	// kubectl would take a list of properties for the whole of them.
	if s != nil && !(d.V2 && (s.XPreserveUnknownFields || v.preserves())) {
		if d.V2 {
			s = openapiv2.ToStructuralOpenAPIV2(s)
		}
		out = s.ToKubeOpenAPI()
		out.SetProperty("metadata", d.ref(objectMeta, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
		addTypeMeta(out)
		d.addEmbedded(out)
	}
	out.AddExtension(kindExtension, v.kindOf(v.GVK.Kind))
	v.addFields(out)
	return out
}

func (v *Version) publishable(d Dialect) *structuralschema.Structural {
	internal, err := v.internalSchema()
	if err != nil || internal == nil {
		return nil
	}
	s, err := structuralschema.NewStructural(internal)
	if err != nil || len(structuralschema.ValidateStructural(nil, s)) > 0 {
		return nil
	}
	return s.Unfold()
}

func (v *Version) kindOf(kind string) []any {
	return []any{map[string]any{"group": v.GVK.Group, "version": v.GVK.Version, "kind": kind}}
}

func (v *Version) addFields(s *spec.Schema) {
	var paths []any
	for _, name := range v.SelectableFields() {
		paths = append(paths, map[string]any{"fieldPath": name})
	}
	if len(paths) > 0 {
		s.AddExtension(fieldsExtension, paths)
	}
}

// ListSchema is the definition of the list.
func (v *Version) ListSchema(d Dialect) *spec.Schema {
	items := spec.ArrayProperty(spec.RefSchema(d.Prefix + v.Model())).WithDescription(fmt.Sprintf(
		"List of %s. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md", v.Kind.Names.Plural))
	s := new(spec.Schema).Typed("object", "").
		WithDescription(fmt.Sprintf("%s is a list of %s", v.Kind.Names.ListKind, v.GVK.Kind)).
		WithRequired("items").
		SetProperty("items", *items).
		SetProperty("metadata", d.ref(listMeta, metav1.PartialObjectMetadataList{}.SwaggerDoc()["metadata"]))
	addTypeMeta(s)
	s.AddExtension(kindExtension, v.kindOf(v.Kind.Names.ListKind))
	v.addFields(s)
	return s
}

// ref refers to a definition with a description; in OpenAPI v3 nothing may stand beside a reference.
func (d Dialect) ref(model, description string) spec.Schema {
	ref := spec.RefSchema(d.Prefix + model)
	if d.V2 {
		return *ref.WithDescription(description)
	}
	return *new(spec.Schema).WithAllOf(*ref).WithDescription(description)
}

func addTypeMeta(s *spec.Schema) {
	docs := metav1.TypeMeta{}.SwaggerDoc()
	for _, name := range []string{"apiVersion", "kind"} {
		s.SetProperty(name, *spec.StringProperty().WithDescription(docs[name]))
	}
}

// addEmbedded says of embedded resources what they have without the schema's saying so.
func (d Dialect) addEmbedded(s *spec.Schema) {
	if s == nil {
		return
	}
	for name, p := range s.Properties {
		d.addEmbedded(&p)
		s.Properties[name] = p
	}
	if s.Items != nil {
		d.addEmbedded(s.Items.Schema)
	}
	if s.AdditionalProperties != nil {
		d.addEmbedded(s.AdditionalProperties.Schema)
	}
	if keep, ok := s.Extensions.GetBool(preserveUnknown); ok && keep && d.V2 {
		return // kubectl would refuse all others
	}
	if embedded, ok := s.Extensions.GetBool(embeddedResource); !ok || !embedded {
		return
	}
	docs := metav1.TypeMeta{}.SwaggerDoc()
	for _, name := range []string{"apiVersion", "kind"} {
		s.SetProperty(name, *spec.StringProperty().WithDescription(docs[name]))
		if !slices.Contains(s.Required, name) {
			s.Required = append(s.Required, name)
		}
	}
	s.SetProperty("metadata", d.ref(objectMeta, metav1.PartialObjectMetadata{}.SwaggerDoc()["metadata"]))
}

// MergeType is what server-side apply merges objects of this version by; meta are the types that metadata is made of. It is
// made once.
func (v *Version) MergeType(meta func() ([]smdschema.TypeDef, error)) (*typed.ParseableType, error) {
	v.mergeOnce.Do(func() { v.merge, v.mergeErr = v.mergeType(meta) })
	return v.merge, v.mergeErr
}

func (v *Version) mergeType(meta func() ([]smdschema.TypeDef, error)) (*typed.ParseableType, error) {
	models := map[string]*spec.Schema{v.Model(): v.Schema(OpenAPIV3)}
	own, err := schemaconv.ToSchemaFromOpenAPI(models, v.preserves())
	if err != nil {
		return nil, fmt.Errorf("schema of %s for server-side apply: %w", v.GVK, err)
	}
	types, err := meta()
	if err != nil {
		return nil, err
	}
	all := own.Types
	for _, t := range types {
		if strings.HasPrefix(t.Name, metaPackage) {
			all = append(all, t)
		}
	}
	parser := &typed.Parser{Schema: smdschema.Schema{Types: all}}
	parseable := parser.Type(v.Model())
	return &parseable, nil
}
