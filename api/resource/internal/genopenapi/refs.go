package main

import (
	"encoding/json"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// refStyle is how a version of OpenAPI refers to definitions.
type refStyle struct {
	prefix string
	// allOf: a reference with siblings is wrapped (v3).
	allOf bool
}

var (
	swagger    = refStyle{prefix: "#/definitions/"}
	components = refStyle{prefix: "#/components/schemas/", allOf: true}
)

// ref is a reference to a definition, as the schema of a property.
func (s refStyle) ref(name string) object {
	ref := object{"$ref": s.prefix + name}
	if s.allOf {
		return object{"allOf": []any{ref}}
	}
	return ref
}

// keepReferenced deletes the definitions that nothing reaches from the roots.
func keepReferenced(style refStyle, definitions object, roots []any) {
	seen := map[string]bool{}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, item := range v {
				walk(item)
			}
		case object:
			for key, item := range v {
				name, isRef := item.(string)
				if key != "$ref" || !isRef {
					walk(item)
					continue
				}
				name, ok := strings.CutPrefix(name, style.prefix)
				if ok && !seen[name] {
					seen[name] = true
					walk(definitions[name])
				}
			}
		}
	}
	for _, root := range roots {
		walk(root)
	}
	for name := range definitions {
		if !seen[name] {
			delete(definitions, name)
		}
	}
}

// kindRefs refers to the definitions of the kinds that the table serves in a version.
func (g *generator) kindRefs(gv schema.GroupVersion, definitions object, style refStyle) []any {
	wanted := map[schema.GroupVersionKind]bool{}
	for _, r := range g.table.All() {
		if _, ok := g.table.Lookup(gv, r.Name); ok {
			wanted[gv.WithKind(r.Kind)] = true
			wanted[gv.WithKind(r.ListKind)] = true
		}
	}
	var out []any
	for name, definition := range definitions {
		for _, gvk := range kindsOf(definition) {
			if wanted[gvk] {
				out = append(out, style.ref(name))
			}
		}
	}
	return out
}

// kindsOf reads the kinds that a definition stands for.
func kindsOf(definition any) []schema.GroupVersionKind {
	list, _ := definition.(object)["x-kubernetes-group-version-kind"].([]any)
	var out []schema.GroupVersionKind
	for _, item := range list {
		gvk, _ := item.(object)
		group, _ := gvk["group"].(string)
		version, _ := gvk["version"].(string)
		kind, _ := gvk["kind"].(string)
		out = append(out, schema.GroupVersionKind{Group: group, Version: version, Kind: kind})
	}
	return out
}

// rewrite gives a copy with texts of its JSON form, whose keys are in order, replaced.
func rewrite(v object, oldnew ...string) (object, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return parse([]byte(strings.NewReplacer(oldnew...).Replace(string(data))))
}

func title(s string) string { return strings.ToUpper(s[:1]) + s[1:] }
