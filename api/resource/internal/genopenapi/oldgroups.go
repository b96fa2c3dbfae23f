package main

import (
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

var (
	appsV1       = schema.GroupVersion{Group: "apps", Version: "v1"}
	networkingV1 = schema.GroupVersion{Group: "networking.k8s.io", Version: "v1"}
	batchV1      = schema.GroupVersion{Group: "batch", Version: "v1"}
	policyV1     = schema.GroupVersion{Group: "policy", Version: "v1"}
)

// evictionPath is the model for deployments/rollback: a subresource that is only posted to.
const evictionPath = "/api/v1/namespaces/{namespace}/pods/{name}/eviction"

// modelsOf names today's versions of the kinds of an old version, which Kubernetes' documents no longer have; none for any
// other version.
func modelsOf(gv schema.GroupVersion) []schema.GroupVersion {
	switch {
	case gv.Group == "extensions":
		return []schema.GroupVersion{appsV1, networkingV1}
	case gv.Group == appsV1.Group && gv != appsV1:
		return []schema.GroupVersion{appsV1}
	case gv.Group == batchV1.Group && gv != batchV1:
		return []schema.GroupVersion{batchV1}
	case gv.Group == policyV1.Group && gv != policyV1:
		return []schema.GroupVersion{policyV1}
	case gv.Group == networkingV1.Group && gv != networkingV1:
		return []schema.GroupVersion{networkingV1}
	}
	return nil
}

func isOld(gv schema.GroupVersion) bool { return len(modelsOf(gv)) > 0 }

// addOldGroup adds paths and definitions of an old version: the paths are those of its models under another name, the
// definitions come from the Go types, whose doc strings k8s.io/api still carries.
func (g *generator) addOldGroup(gv schema.GroupVersion, paths, definitions object, style refStyle) {
	label := title(shortGroup(gv)) + title(gv.Version)
	swaps := []string{
		`{"group":"autoscaling","kind":"Scale","version":"v1"}`, gvkText(gv, "Scale"),
		"io.k8s.api.autoscaling.v1.Scale\"", definitionPrefix(gv) + "Scale\"",
	}
	for _, model := range modelsOf(gv) {
		swaps = append(swaps, definitionPrefix(model), definitionPrefix(gv),
			title(shortGroup(model))+title(model.Version), label,
			`"`+shortGroup(model)+"_"+model.Version+`"`, `"`+shortGroup(gv)+"_"+gv.Version+`"`)
		for _, r := range g.table.All() {
			swaps = append(swaps, gvkText(model, r.Kind), gvkText(gv, r.Kind))
		}
	}
	rename := func(item any, more ...string) any {
		out, err := rewrite(item.(object), append(more, swaps...)...)
		if err != nil {
			panic(err) // what was read as JSON is JSON
		}
		return out
	}
	to := "/" + versionPath(gv) + "/"
	for _, model := range modelsOf(gv) {
		for path, item := range paths {
			rest, ok := strings.CutPrefix(path, "/"+versionPath(model)+"/")
			if ok && g.keep(to+rest) {
				paths[to+rest] = rename(item)
			}
		}
	}
	if r, ok := g.table.Lookup(gv, "deployments"); ok {
		if _, ok := r.SubresourceIn(gv, "rollback"); ok {
			paths[to+"namespaces/{namespace}/deployments/{name}/rollback"] = rename(paths[evictionPath],
				"CoreV1NamespacedPodEviction", label+"NamespacedDeploymentRollback",
				"io.k8s.api.policy.v1.Eviction", definitionPrefix(gv)+"DeploymentRollback",
				`{"group":"policy","kind":"Eviction","version":"v1"}`, gvkText(gv, "DeploymentRollback"),
				`"core_v1"`, `"`+shortGroup(gv)+"_"+gv.Version+`"`,
				"Eviction", "DeploymentRollback", "of a Pod", "of a Deployment")
		}
	}
	types := &typeWriter{gv: gv, definitions: definitions, style: style}
	for gvk, typ := range g.table.Scheme().AllKnownTypes() {
		if gvk.GroupVersion() == gv && g.describes(gv, gvk.Kind) {
			types.define(typ)
			definitions[definitionPrefix(gv)+typ.Name()].(object)["x-kubernetes-group-version-kind"] = []any{
				object{"group": gv.Group, "kind": gvk.Kind, "version": gv.Version},
			}
		}
	}
}

func gvkText(gv schema.GroupVersion, kind string) string {
	return fmt.Sprintf(`{"group":%q,"kind":%q,"version":%q}`, gv.Group, kind, gv.Version)
}

func definitionPrefix(gv schema.GroupVersion) string {
	return "io.k8s.api." + shortGroup(gv) + "." + gv.Version + "."
}

// shortGroup is the group as packages, operations and tags name it: networking of networking.k8s.io.
func shortGroup(gv schema.GroupVersion) string {
	short, _, _ := strings.Cut(gv.Group, ".")
	return short
}

// describes says whether the documents need a kind of an old version: those served, their lists and subresources.
func (g *generator) describes(gv schema.GroupVersion, kind string) bool {
	for _, r := range g.table.All() {
		if _, ok := g.table.Lookup(gv, r.Name); !ok {
			continue
		}
		if kind == r.Kind || kind == r.ListKind {
			return true
		}
		for _, sub := range r.SubresourcesIn(gv) {
			if sub.Kind == gv.WithKind(kind) {
				return true
			}
		}
	}
	return false
}

// typeWriter writes definitions of the Go types of one version.
type typeWriter struct {
	gv          schema.GroupVersion
	definitions object
	style       refStyle
}

func (w *typeWriter) define(typ reflect.Type) {
	name := definitionPrefix(w.gv) + typ.Name()
	if _, done := w.definitions[name]; done {
		return
	}
	definition := object{"type": "object"}
	w.definitions[name] = definition
	docs := docsOf(typ)
	if docs[""] != "" {
		definition["description"] = docs[""]
	}
	// The kind of the same name in a model, for what only comments in its source say.
	var model object
	for _, gv := range modelsOf(w.gv) {
		if found, ok := w.definitions[definitionPrefix(gv)+typ.Name()].(object); ok {
			model = found
		}
	}
	modelProperties, _ := model["properties"].(object)
	properties := object{}
	required := w.fields(typ, docs, modelProperties, properties)
	if len(properties) > 0 {
		definition["properties"] = properties
	}
	if len(required) > 0 {
		definition["required"] = required
	}
}

// fields writes the properties of a struct, and returns the required ones. Those of a struct that JSON inlines, as IngressRule
// does with IngressRuleValue, are among them.
func (w *typeWriter) fields(typ reflect.Type, docs map[string]string, model, properties object) (required []any) {
	for i := range typ.NumField() {
		field := typ.Field(i)
		if field.Name == "TypeMeta" {
			w.typeMeta(properties)
			continue
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" && field.Anonymous {
			required = append(required, w.fields(field.Type, docsOf(field.Type), model, properties)...)
			continue
		}
		property := w.property(field, model[name])
		if docs[name] != "" {
			property["description"] = docs[name]
		}
		properties[name] = property
		if !strings.Contains(options, "omitempty") {
			required = append(required, name)
		}
	}
	return required
}

// docsOf is what k8s.io/api says of a type and its fields.
func docsOf(typ reflect.Type) map[string]string {
	if d, ok := reflect.Zero(typ).Interface().(interface{ SwaggerDoc() map[string]string }); ok {
		return d.SwaggerDoc()
	}
	return nil
}

// typeMeta takes apiVersion and kind, with their descriptions, from another definition.
func (w *typeWriter) typeMeta(properties object) {
	for _, kind := range []string{definitionPrefix(appsV1) + "Deployment", definitionPrefix(networkingV1) + "Ingress", definitionPrefix(batchV1) + "Job", definitionPrefix(policyV1) + "PodDisruptionBudget"} {
		if other, ok := w.definitions[kind].(object); ok {
			of := other["properties"].(object)
			properties["apiVersion"], properties["kind"] = of["apiVersion"], of["kind"]
			return
		}
	}
}

func (w *typeWriter) property(field reflect.StructField, model any) object {
	property := w.schema(field.Type)
	if w.style.allOf && field.Type.Kind() == reflect.Struct && field.Type.Name() != "Time" {
		property["default"] = object{}
	}
	if model, ok := model.(object); ok {
		for key, value := range model {
			if strings.HasPrefix(key, "x-kubernetes-list-") || key == "x-kubernetes-map-type" {
				property[key] = value
			}
		}
	}
	if strategy := field.Tag.Get("patchStrategy"); strategy != "" {
		property["x-kubernetes-patch-strategy"] = strategy
	}
	if key := field.Tag.Get("patchMergeKey"); key != "" {
		property["x-kubernetes-patch-merge-key"] = key
	}
	return property
}

func (w *typeWriter) schema(typ reflect.Type) object {
	switch typ.Kind() {
	case reflect.Pointer:
		return w.schema(typ.Elem())
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int32:
		return object{"type": "integer", "format": "int32"}
	case reflect.Int64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Slice:
		return object{"type": "array", "items": w.items(typ.Elem())}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": w.items(typ.Elem())}
	case reflect.Struct:
		return w.style.ref(w.named(typ))
	}
	panic(fmt.Sprintf("no OpenAPI type for %s", typ)) // a kind of field that no served type has
}

// items of lists and maps have an empty default in v3 as well.
func (w *typeWriter) items(typ reflect.Type) object {
	item := w.schema(typ)
	if w.style.allOf {
		switch typ.Kind() {
		case reflect.Struct:
			item["default"] = object{}
		case reflect.String:
			item["default"] = ""
		}
	}
	return item
}

// named is the name of a struct's definition, which is written when it belongs to the old version itself.
func (w *typeWriter) named(typ reflect.Type) string {
	path := typ.PkgPath()
	if rest, ok := strings.CutPrefix(path, "k8s.io/api/"); ok {
		if rest == shortGroup(w.gv)+"/"+w.gv.Version {
			w.define(typ)
		}
		return "io.k8s.api." + strings.ReplaceAll(rest, "/", ".") + "." + typ.Name()
	}
	rest := strings.TrimPrefix(path, "k8s.io/")
	return "io.k8s." + strings.ReplaceAll(rest, "/", ".") + "." + typ.Name()
}
