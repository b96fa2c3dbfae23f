// Package smdjson writes and reads the schema that server-side apply merges by, as JSON. The library's own YAML form takes
// ten times as long to read, and its Go types embed each other in a way that JSON cannot keep apart.
package smdjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/schema"
)

// Document is a schema with the names of its kinds.
type Document struct {
	// Kinds maps "apps/v1 Deployment" to the name of its type.
	Kinds map[string]string `json:"kinds"`
	Types []typeDef         `json:"types"`
}

type typeDef struct {
	Name string `json:"name"`
	typeRef
}

// typeRef is a named type (Named, Override) or an inlined one (the rest).
type typeRef struct {
	Named    string   `json:"n,omitempty"`
	Override string   `json:"o,omitempty"`
	Scalar   string   `json:"s,omitempty"`
	List     *listDef `json:"l,omitempty"`
	Map      *mapDef  `json:"m,omitempty"`
}

type listDef struct {
	Element      typeRef  `json:"t"`
	Relationship string   `json:"r,omitempty"`
	Keys         []string `json:"k,omitempty"`
}

type mapDef struct {
	Fields       []fieldDef `json:"f,omitempty"`
	Element      *typeRef   `json:"t,omitempty"`
	Relationship string     `json:"r,omitempty"`
}

type fieldDef struct {
	Name    string  `json:"n"`
	Type    typeRef `json:"t"`
	Default any     `json:"d,omitempty"`
}

// Encode writes the types; kinds names those of objects.
func Encode(types []schema.TypeDef, kinds map[string]string) ([]byte, error) {
	doc := Document{Kinds: kinds}
	// The library's converter leaves types and fields in no order.
	for _, t := range slices.SortedFunc(slices.Values(types), func(a, b schema.TypeDef) int {
		return strings.Compare(a.Name, b.Name)
	}) {
		atom, err := fromAtom(t.Atom)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", t.Name, err)
		}
		doc.Types = append(doc.Types, typeDef{Name: t.Name, typeRef: atom})
	}
	return json.Marshal(doc)
}

// Decode reads what Encode wrote.
func Decode(data []byte) (types []schema.TypeDef, kinds map[string]string, err error) {
	var doc Document
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, nil, err
	}
	types = make([]schema.TypeDef, len(doc.Types))
	for i, t := range doc.Types {
		types[i] = schema.TypeDef{Name: t.Name, Atom: toAtom(t.typeRef)}
	}
	return types, doc.Kinds, nil
}

func fromRef(r schema.TypeRef) (typeRef, error) {
	out, err := fromAtom(r.Inlined)
	if r.NamedType != nil {
		out.Named = *r.NamedType
	}
	if r.ElementRelationship != nil {
		out.Override = string(*r.ElementRelationship)
	}
	return out, err
}

func fromAtom(a schema.Atom) (typeRef, error) {
	var out typeRef
	var err error
	if a.Scalar != nil {
		out.Scalar = string(*a.Scalar)
	}
	if a.List != nil {
		out.List = &listDef{Relationship: string(a.List.ElementRelationship), Keys: a.List.Keys}
		if out.List.Element, err = fromRef(a.List.ElementType); err != nil {
			return out, err
		}
	}
	if a.Map != nil {
		if out.Map, err = fromMap(a.Map); err != nil {
			return out, err
		}
	}
	return out, nil
}

func fromMap(m *schema.Map) (*mapDef, error) {
	if len(m.Unions) > 0 {
		return nil, errors.New("unions are not known here")
	}
	out := &mapDef{Relationship: string(m.ElementRelationship)}
	element, err := fromRef(m.ElementType)
	if err != nil {
		return nil, err
	}
	if element != (typeRef{}) {
		out.Element = &element
	}
	for _, f := range m.Fields {
		t, err := fromRef(f.Type)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		out.Fields = append(out.Fields, fieldDef{Name: f.Name, Type: t, Default: f.Default})
	}
	slices.SortFunc(out.Fields, func(a, b fieldDef) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

func toRef(t typeRef) schema.TypeRef {
	out := schema.TypeRef{Inlined: toAtom(t)}
	if t.Named != "" {
		out.NamedType = &t.Named
	}
	if t.Override != "" {
		relationship := schema.ElementRelationship(t.Override)
		out.ElementRelationship = &relationship
	}
	return out
}

func toAtom(t typeRef) schema.Atom {
	var out schema.Atom
	if t.Scalar != "" {
		scalar := schema.Scalar(t.Scalar)
		out.Scalar = &scalar
	}
	if t.List != nil {
		out.List = &schema.List{
			ElementType: toRef(t.List.Element), Keys: t.List.Keys,
			ElementRelationship: schema.ElementRelationship(t.List.Relationship),
		}
	}
	if t.Map != nil {
		m := &schema.Map{ElementRelationship: schema.ElementRelationship(t.Map.Relationship)}
		if t.Map.Element != nil {
			m.ElementType = toRef(*t.Map.Element)
		}
		for _, f := range t.Map.Fields {
			m.Fields = append(m.Fields, schema.StructField{Name: f.Name, Type: toRef(f.Type), Default: f.Default})
		}
		out.Map = m
	}
	return out
}
