package resource

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	apiservercel "k8s.io/apiserver/pkg/cel"
	celcommon "k8s.io/apiserver/pkg/cel/common"
	"k8s.io/apiserver/pkg/cel/environment"
	"k8s.io/apiserver/pkg/cel/library"
	"k8s.io/apiserver/pkg/cel/openapi"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// maxTypesToCheck of one policy, as Kubernetes has it.
const maxTypesToCheck = 10

// ObservePolicy fills in a policy's status: its expressions are compiled once more for each kind that its rules name, with
// the types that the kind's schema gives to object, oldObject and params. Mistyped fields are warnings, for the policy may
// be about several kinds and look before it reads. Rules with wildcards are not checked.
func (t *Table) ObservePolicy(p *admissionv1.ValidatingAdmissionPolicy) {
	p.Status.ObservedGeneration = p.Generation
	p.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: t.checkTypes(p)}
}

func (t *Table) checkTypes(p *admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning {
	docs := schemaDocuments{t: t}
	var kinds []*typedKind
	for _, gvk := range t.kindsToCheck(p.Spec.MatchConstraints) {
		if object := docs.declare(gvk); object != nil {
			kinds = append(kinds, &typedKind{gvk: gvk, object: object})
		}
	}
	if len(kinds) == 0 {
		return nil
	}
	var params *apiservercel.DeclType
	if k := p.Spec.ParamKind; k != nil {
		params = docs.declare(schema.FromAPIVersionAndKind(k.APIVersion, k.Kind))
	}
	for _, k := range kinds {
		k.prepare(p, params)
	}
	var out []admissionv1.ExpressionWarning
	check := func(path *field.Path, expression string) {
		if warning := warningOf(kinds, expression); warning != "" {
			out = append(out, admissionv1.ExpressionWarning{FieldRef: path.String(), Warning: warning})
		}
	}
	for i, v := range p.Spec.Validations {
		path := field.NewPath("spec", "validations").Index(i)
		check(path.Child("expression"), v.Expression)
		if v.MessageExpression != "" {
			check(path.Child("messageExpression"), v.MessageExpression)
		}
	}
	return out
}

func warningOf(kinds []*typedKind, expression string) string {
	var warnings []string
	for _, k := range kinds {
		if err := k.check(expression); err != nil {
			warnings = append(warnings, fmt.Sprintf("%v: %v\n", k.gvk, err))
		}
	}
	return strings.Join(warnings, "\n")
}

// kindsToCheck are those that the rules name without wildcards, in order.
func (t *Table) kindsToCheck(m *admissionv1.MatchResources) []schema.GroupVersionKind {
	if m == nil {
		return nil
	}
	var out []schema.GroupVersionKind
	wild := func(s string) bool { return strings.Contains(s, "*") }
	for _, rule := range m.ResourceRules {
		if slices.ContainsFunc(rule.APIGroups, wild) || slices.ContainsFunc(rule.APIVersions, wild) {
			continue
		}
		for _, group := range rule.APIGroups {
			for _, version := range rule.APIVersions {
				gv := schema.GroupVersion{Group: group, Version: version}
				for _, name := range rule.Resources {
					r, ok := t.Lookup(gv, name) // names of subresources are not found
					if ok && !slices.Contains(out, gv.WithKind(r.Kind)) && len(out) < maxTypesToCheck {
						out = append(out, gv.WithKind(r.Kind))
					}
				}
			}
		}
	}
	slices.SortFunc(out, func(a, b schema.GroupVersionKind) int {
		return cmp.Or(strings.Compare(a.Group, b.Group), strings.Compare(a.Version, b.Version), strings.Compare(a.Kind, b.Kind))
	})
	return out
}

// typedKind is a kind with an environment in which objects are of it.
type typedKind struct {
	gvk    schema.GroupVersionKind
	object *apiservercel.DeclType
	env    *cel.Env
	err    error
}

func (k *typedKind) prepare(p *admissionv1.ValidatingAdmissionPolicy, params *apiservercel.DeclType) {
	declared := []*apiservercel.DeclType{celNamespace, celRequest, k.object}
	options := []cel.EnvOption{
		cel.Variable("object", k.object.CelType()), cel.Variable("oldObject", k.object.CelType()),
		cel.Variable("namespaceObject", celNamespace.CelType()), cel.Variable("request", celRequest.CelType()),
		cel.Variable("authorizer", library.AuthorizerType), cel.Variable("authorizer.requestResource", library.ResourceCheckType),
	}
	switch {
	case params != nil:
		declared = append(declared, params)
		options = append(options, cel.Variable("params", params.CelType()))
	case p.Spec.ParamKind != nil:
		options = append(options, cel.Variable("params", cel.DynType))
	}
	computed := newCELComputed()
	var set *environment.EnvSet
	if set, k.err = extendCEL(celBase(), options, declared...); k.err != nil {
		return
	}
	if set, k.err = computed.extend(set); k.err != nil {
		return
	}
	if k.env, k.err = set.Env(environment.StoredExpressions); k.err != nil {
		return
	}
	for _, v := range p.Spec.Variables {
		var result *cel.Type
		if ast, issues := k.env.Compile(v.Expression); issues == nil {
			result = ast.OutputType()
		}
		computed.declare(v.Name, result)
	}
}

func (k *typedKind) check(expression string) error {
	if k.err != nil {
		return fmt.Errorf("type checking error: %w", k.err)
	}
	if _, issues := k.env.Compile(expression); issues != nil {
		return issues.Err()
	}
	return nil
}

// schemaDocuments read the schemas of kinds from the OpenAPI documents, each document once.
type schemaDocuments struct {
	t    *Table
	read map[string]map[string]*spec.Schema
	// names makes the declared types distinct: that of the object may be that of the params.
	names int
}

// declare makes a type of the schema of a kind; nil when there is none.
func (d *schemaDocuments) declare(gvk schema.GroupVersionKind) *apiservercel.DeclType {
	path := "apis/" + gvk.GroupVersion().String()
	if gvk.Group == "" {
		path = "api/" + gvk.Version
	}
	schemas := d.document(path)
	for name, s := range schemas {
		if !describes(s, gvk) {
			continue
		}
		whole, ok := (&inliner{schemas: schemas}).inline(spec.RefSchema("#/components/schemas/" + name))
		if !ok {
			return nil
		}
		declared := celcommon.SchemaDeclType(&openapi.Schema{Schema: whole}, true)
		if declared == nil {
			return nil
		}
		d.names++
		return declared.MaybeAssignTypeName(fmt.Sprintf("%s%d", gvk.Kind, d.names))
	}
	return nil
}

func (d *schemaDocuments) document(path string) map[string]*spec.Schema {
	if out, ok := d.read[path]; ok {
		return out
	}
	if d.read == nil {
		d.read = map[string]map[string]*spec.Schema{}
	}
	d.read[path] = nil
	doc, found, _ := d.t.OpenAPIV3(path, jsonType)
	if !found {
		return nil
	}
	z, err := gzip.NewReader(bytes.NewReader(doc.Gzip))
	if err != nil {
		return nil
	}
	var in struct {
		Components spec3.Components `json:"components"`
	}
	if err := json.NewDecoder(z).Decode(&in); err != nil {
		return nil
	}
	d.read[path] = in.Components.Schemas
	return in.Components.Schemas
}

func describes(s *spec.Schema, gvk schema.GroupVersionKind) bool {
	list, _ := s.Extensions["x-kubernetes-group-version-kind"].([]any)
	return slices.ContainsFunc(list, func(v any) bool {
		m, _ := v.(map[string]any)
		return m["group"] == gvk.Group && m["version"] == gvk.Version && m["kind"] == gvk.Kind
	})
}
