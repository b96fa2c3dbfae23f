package resource

import (
	"slices"
	"strings"

	"k8s.io/kube-openapi/pkg/validation/spec"
)

// inliner puts the schemas that others refer to in their places. One that contains itself (JSONSchemaProps) is any object
// where it comes again.
type inliner struct {
	schemas map[string]*spec.Schema
	inside  []string
}

// inline gives a copy without references; false when one of them leads nowhere.
func (n *inliner) inline(s *spec.Schema) (*spec.Schema, bool) {
	out := *s
	if name, ok := referred(s); ok {
		if slices.Contains(n.inside, name) {
			return &spec.Schema{SchemaProps: spec.SchemaProps{Type: []string{"object"}}}, true
		}
		target := n.schemas[name]
		if target == nil {
			return nil, false
		}
		n.inside = append(n.inside, name)
		defer func() { n.inside = n.inside[:len(n.inside)-1] }()
		out = *target
	}
	if len(out.Properties) > 0 {
		properties := make(map[string]spec.Schema, len(out.Properties))
		for name, p := range out.Properties {
			whole, ok := n.inline(&p)
			if !ok {
				return nil, false
			}
			properties[name] = *whole
		}
		out.Properties = properties
	}
	if a := out.AdditionalProperties; a != nil && a.Schema != nil {
		whole, ok := n.inline(a.Schema)
		if !ok {
			return nil, false
		}
		out.AdditionalProperties = &spec.SchemaOrBool{Allows: a.Allows, Schema: whole}
	}
	if i := out.Items; i != nil && i.Schema != nil {
		whole, ok := n.inline(i.Schema)
		if !ok {
			return nil, false
		}
		out.Items = &spec.SchemaOrArray{Schema: whole}
	}
	return &out, true
}

// referred is the name of the schema that this one stands for. Documents wrap references in allOf, to describe them.
func referred(s *spec.Schema) (string, bool) {
	if s.Ref.GetURL() != nil {
		ref := s.Ref.String()
		return ref[strings.LastIndex(ref, "/")+1:], true
	}
	for i := range s.AllOf {
		if name, ok := referred(&s.AllOf[i]); ok {
			return name, ok
		}
	}
	return "", false
}
