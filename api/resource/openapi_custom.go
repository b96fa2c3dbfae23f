package resource

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource/custom"
)

// The documents of custom kinds are made when somebody asks for them, and kept compressed until a definition changes. In
// OpenAPI v3 each group version has a document of its own. The one document of OpenAPI v2 is the generated one with
// definitions added: they are spliced into the JSON, and appended to the protobuf form, where a message that comes twice
// is merged. It has no paths of custom kinds, which no client reads.

// customDocuments belong to one set of kinds.
type customDocuments struct {
	mu     sync.Mutex
	byForm map[string]Document
	hashes map[string]string
}

// keep makes a document once.
func (c *customDocuments) keep(form string, make func() (Document, error)) (Document, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if doc, ok := c.byForm[form]; ok {
		return doc, nil
	}
	doc, err := make()
	if err != nil {
		return doc, err
	}
	if c.byForm == nil {
		c.byForm = map[string]Document{}
	}
	c.byForm[form] = doc
	return doc, nil
}

// customPath reads the path of a v3 document, as in "apis/stable.example.com/v1"; false when no custom kind is served there.
func (s *kindSet) customPath(path string) (schema.GroupVersion, bool) {
	parts := strings.Split(path, "/")
	if len(parts) != 3 || parts[0] != "apis" {
		return schema.GroupVersion{}, false
	}
	gv := schema.GroupVersion{Group: parts[1], Version: parts[2]}
	return gv, len(s.customVersions(gv)) > 0
}

// customVersions are those of the custom kinds that are served in a group version.
func (s *kindSet) customVersions(gv schema.GroupVersion) (out []*custom.Version) {
	for _, r := range s.all {
		if r.custom == nil || !slices.Contains(r.Served, gv) {
			continue
		}
		if v, ok := r.custom.Version(gv.Version); ok {
			out = append(out, v)
		}
	}
	return out
}

// index is the list of all v3 documents. The hash of a custom one is of the definitions that it is made of.
func (c *customDocuments) index(s *kindSet) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return indexOf(c.hashesOf(s))
}

func (c *customDocuments) hashesOf(s *kindSet) map[string]string {
	if c.hashes != nil {
		return c.hashes
	}
	c.hashes = map[string]string{}
	for _, gv := range s.versions {
		if versions := s.customVersions(gv); len(versions) > 0 && openAPIV3[documentPath(gv)].json == nil {
			c.hashes[documentPath(gv)] = hashOf(versions)
		}
	}
	return c.hashes
}

func documentPath(gv schema.GroupVersion) string { return "apis/" + gv.String() }

// hashOf changes whenever one of the definitions does.
func hashOf(versions []*custom.Version) string {
	sum := sha512.New()
	for _, v := range versions {
		crd := v.Kind.Definition
		fmt.Fprintln(sum, crd.UID, crd.Generation, v.Kind.Names.Plural, v.Kind.Names.Kind, v.Kind.Names.ListKind, v.GVK.Version)
	}
	return fmt.Sprintf("%X", sum.Sum(nil))
}

func compress(data []byte) ([]byte, error) {
	var buf bytes.Buffer
	z, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(data); err != nil {
		return nil, err
	}
	err = z.Close()
	return bytes.Clone(buf.Bytes()), err
}

func decompress(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// v2 is the generated document with the custom kinds' definitions.
func (c *customDocuments) v2(s *kindSet, contentType string) (Document, error) {
	return c.keep("v2 "+contentType, func() (Document, error) {
		var all []*custom.Version
		definitions := map[string]any{}
		for _, gv := range s.versions {
			for _, v := range s.customVersions(gv) {
				all = append(all, v)
				definitions[v.Model()] = v.Schema(custom.OpenAPIV2)
				definitions[v.ListModel()] = v.ListSchema(custom.OpenAPIV2)
			}
		}
		data, err := json.Marshal(definitions)
		if err != nil {
			return Document{}, err
		}
		doc := Document{ContentType: contentType, Hash: hashOf(all)}
		if contentType == jsonType {
			doc.Gzip, err = spliceDefinitions(openAPIV2JSON, data)
		} else {
			doc.Gzip, err = appendDefinitions(openAPIV2Proto, data)
		}
		return doc, err
	})
}

// spliceDefinitions puts further ones before those of a document, which begins with them.
func spliceDefinitions(document, definitions []byte) ([]byte, error) {
	text, err := decompress(document)
	if err != nil {
		return nil, err
	}
	head := []byte(`{"definitions":{`)
	rest, ok := bytes.CutPrefix(text, head)
	inner := bytes.TrimSuffix(bytes.TrimPrefix(definitions, []byte("{")), []byte("}"))
	if !ok {
		return nil, errors.New("the OpenAPI document does not begin with its definitions")
	}
	if len(inner) == 0 {
		return document, nil
	}
	return compress(slices.Concat(head, inner, []byte(","), rest))
}

// appendDefinitions adds a message with nothing but definitions: gzip streams may follow one another, too.
func appendDefinitions(document, definitions []byte) ([]byte, error) {
	small := slices.Concat([]byte(`{"swagger":"2.0","info":{"title":"","version":""},"paths":{},"definitions":`), definitions, []byte(`}`))
	doc, err := openapi_v2.ParseDocument(small)
	if err != nil {
		return nil, err
	}
	data, err := proto.Marshal(&openapi_v2.Document{Definitions: doc.Definitions})
	if err != nil {
		return nil, err
	}
	more, err := compress(data)
	return slices.Concat(document, more), err
}

// v3 is the document of one group version.
func (c *customDocuments) v3(s *kindSet, gv schema.GroupVersion, contentType string) (Document, error) {
	return c.keep("v3 "+gv.String()+" "+contentType, func() (Document, error) {
		versions := s.customVersions(gv)
		data, err := describe(gv, versions)
		if err != nil {
			return Document{}, err
		}
		if contentType != jsonType {
			doc, err := openapi_v3.ParseDocument(data)
			if err != nil {
				return Document{}, err
			}
			if data, err = proto.Marshal(doc); err != nil {
				return Document{}, err
			}
		}
		packed, err := compress(data)
		return Document{ContentType: contentType, Hash: hashOf(versions), Gzip: packed}, err
	})
}

// model is a group version of one plain kind, Leases: what its document says of paths and metadata is true of custom kinds,
// in other names.
var model = struct{ gv, list, one, kind, ref, tag, operation string }{
	gv: "apis/coordination.k8s.io/v1", list: "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases",
	one: "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}", kind: "Lease",
	ref: "io.k8s.api.coordination.v1.", tag: "coordination_v1", operation: "CoordinationV1",
}

// describe writes the document of custom kinds.
func describe(gv schema.GroupVersion, versions []*custom.Version) ([]byte, error) {
	text, err := decompress(*openAPIV3[model.gv].json)
	if err != nil {
		return nil, err
	}
	var from struct {
		Info       any
		OpenAPI    string
		Paths      map[string]json.RawMessage
		Components struct {
			Schemas         map[string]any
			SecuritySchemes any
		}
	}
	if err := json.Unmarshal(text, &from); err != nil {
		return nil, err
	}
	schemas, paths := map[string]any{}, map[string]any{}
	for name, s := range from.Components.Schemas {
		if strings.HasPrefix(name, "io.k8s.apimachinery.") {
			schemas[name] = s
		}
	}
	for _, v := range versions {
		schemas[v.Model()] = v.Schema(custom.OpenAPIV3)
		schemas[v.ListModel()] = v.ListSchema(custom.OpenAPIV3)
		if err := describePaths(gv, v, from.Paths, paths); err != nil {
			return nil, err
		}
	}
	return json.Marshal(map[string]any{
		"openapi": from.OpenAPI, "info": from.Info, "paths": paths,
		"components": map[string]any{"schemas": schemas, "securitySchemes": from.Components.SecuritySchemes},
	})
}

// describePaths adds the paths of one version.
func describePaths(gv schema.GroupVersion, v *custom.Version, from map[string]json.RawMessage, to map[string]any) error {
	root := "/apis/" + gv.String() + "/"
	if v.Kind.Namespaced() {
		root += "namespaces/{namespace}/"
	}
	root += v.Kind.Names.Plural
	add := func(path, source, subresource string) error {
		var item map[string]any
		if err := json.Unmarshal(from[source], &item); err != nil {
			return err
		}
		if subresource != "" {
			delete(item, "delete")
		}
		to[path] = renamed(item, v, subresource)
		return nil
	}
	err := errors.Join(add(root, model.list, ""), add(root+"/{name}", model.one, ""))
	if v.HasStatus() {
		err = errors.Join(err, add(root+"/{name}/status", model.one, "Status"))
	}
	if v.HasScale() {
		err = errors.Join(err, add(root+"/{name}/scale", model.one, "Scale"))
	}
	return err
}

// renamed says of a custom kind what a part of the model's document says of Leases.
func renamed(value any, v *custom.Version, subresource string) any {
	switch value := value.(type) {
	case map[string]any:
		out := make(map[string]any, len(value))
		for key, inner := range value {
			switch {
			case key == "application/strategic-merge-patch+json", strings.Contains(key, "cbor"), strings.Contains(key, "protobuf"):
				continue // not for custom kinds
			case key == "x-kubernetes-group-version-kind":
				out[key] = maps.Clone(kindExtension(v, subresource))
				continue
			}
			out[key] = renamed(inner, v, subresource)
			if key == "operationId" && subresource != "" {
				out[key] = fmt.Sprint(out[key], subresource)
			}
		}
		return out
	case []any:
		out := make([]any, 0, len(value))
		for _, inner := range value {
			if p, ok := inner.(map[string]any); ok && p["in"] == "path" && p["name"] == "namespace" && !v.Kind.Namespaced() {
				continue
			}
			out = append(out, renamed(inner, v, subresource))
		}
		return out
	case string:
		return renamedText(value, v)
	}
	return value
}

func kindExtension(v *custom.Version, subresource string) map[string]any {
	if subresource == "Scale" {
		return map[string]any{"group": autoscaleV1.Group, "version": autoscaleV1.Version, "kind": "Scale"}
	}
	return map[string]any{"group": v.GVK.Group, "version": v.GVK.Version, "kind": v.GVK.Kind}
}

func renamedText(text string, v *custom.Version) string {
	switch {
	case strings.HasSuffix(text, "/"+model.ref+model.kind):
		return custom.OpenAPIV3.Prefix + v.Model()
	case strings.HasSuffix(text, "/"+model.ref+model.kind+"List"):
		return custom.OpenAPIV3.Prefix + v.ListModel()
	case strings.HasPrefix(text, "#"):
		return text
	case text == model.tag:
		return strings.ReplaceAll(v.GVK.Group, ".", "") + "_" + v.GVK.Version
	}
	if !v.Kind.Namespaced() {
		text = strings.ReplaceAll(text, "Namespaced"+model.kind, model.kind)
	}
	text = strings.ReplaceAll(text, model.operation, operationName(v.GVK.GroupVersion()))
	return strings.ReplaceAll(text, model.kind, v.GVK.Kind)
}

// operationName is how a group version is part of an operation's name, as in StableExampleComV1.
func operationName(gv schema.GroupVersion) string {
	var out strings.Builder
	for _, part := range strings.FieldsFunc(gv.Group+"."+gv.Version, func(r rune) bool { return r == '.' || r == '-' }) {
		out.WriteString(strings.ToUpper(part[:1]) + part[1:])
	}
	return out.String()
}
