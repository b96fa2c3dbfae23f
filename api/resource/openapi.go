package resource

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"maps"
	"net/url"
	"sync"

	"github.com/munnerz/goautoneg"
)

//go:generate go run ./internal/genopenapi

// Document is an OpenAPI document in one of its forms. The bytes lie in the binary: they cost no heap and must not be
// changed.
type Document struct {
	// ContentType is that of the document itself.
	ContentType string
	// Hash is the same for all forms; in quotes it is the ETag.
	Hash string
	// Gzip holds the document, compressed.
	Gzip []byte
}

// WriteTo writes the document uncompressed, for clients that cannot gunzip.
func (d Document) WriteTo(w io.Writer) (int64, error) {
	z, err := gzip.NewReader(bytes.NewReader(d.Gzip))
	if err != nil {
		return 0, err
	}
	return io.Copy(w, z)
}

const jsonType = "application/json"

// v3Entry is a generated document of OpenAPI v3.
type v3Entry struct {
	hash         string
	json, binary *[]byte
}

// OpenAPIV2 gives the document for an Accept header; false when the header takes none of its forms (406).
func (t *Table) OpenAPIV2(accept string) (Document, bool) {
	contentType, ok := negotiate(accept, "v2")
	if !ok {
		return Document{}, false
	}
	set := t.current.Load()
	if set != t.builtin {
		if doc, err := set.openAPI.v2(set, contentType); err == nil {
			return doc, true
		}
	}
	if contentType == jsonType {
		return Document{contentType, openAPIV2Hash, openAPIV2JSON}, true
	}
	return Document{contentType, openAPIV2Hash, openAPIV2Proto}, true
}

// OpenAPIV3 gives the document of a path such as "apis/apps/v1" for an Accept header: found says that the path exists,
// acceptable that the header takes a form of it.
func (t *Table) OpenAPIV3(path, accept string) (doc Document, found, acceptable bool) {
	contentType, ok := negotiate(accept, "v3")
	entry, found := openAPIV3[path]
	if !found {
		set := t.current.Load()
		gv, isCustom := set.customPath(path)
		if !isCustom {
			return Document{}, false, false
		}
		if !ok {
			return Document{}, true, false
		}
		doc, err := set.openAPI.v3(set, gv, contentType)
		return doc, err == nil, true
	}
	if !ok {
		return Document{}, true, false
	}
	data := entry.binary
	if contentType == jsonType {
		data = entry.json
	}
	return Document{contentType, entry.hash, *data}, true, true
}

// OpenAPIV3Paths is the body of /openapi/v3: every path with the URL that holds its hash, which clients may keep for ever.
func (t *Table) OpenAPIV3Paths() []byte {
	if set := t.current.Load(); set != t.builtin {
		return set.openAPI.index(set)
	}
	return v3Index()
}

var v3Index = sync.OnceValue(func() []byte { return indexOf(nil) })

// indexOf lists the generated documents and further ones, of which it gets the hashes by path.
func indexOf(further map[string]string) []byte {
	type location struct {
		ServerRelativeURL string `json:"serverRelativeURL"`
	}
	hashes := make(map[string]string, len(openAPIV3)+len(further))
	for path, entry := range openAPIV3 {
		hashes[path] = entry.hash
	}
	maps.Copy(hashes, further)
	paths := make(map[string]location, len(hashes))
	for path, hash := range hashes {
		u := url.URL{Path: "/openapi/v3/" + path, RawQuery: url.Values{"hash": {hash}}.Encode()}
		paths[path] = location{u.String()}
	}
	out, err := json.Marshal(map[string]any{"paths": paths})
	if err != nil {
		panic(err) // strings alone
	}
	return out
}

// negotiate chooses JSON or protobuf; the protobuf type has two spellings, of which kubectl 1.20 knows only the one with
// an at sign.
func negotiate(accept, version string) (string, bool) {
	protobuf := "com.github.proto-openapi.spec." + version + ".v1.0+protobuf"
	old := "com.github.proto-openapi.spec." + version + "@v1.0+protobuf"
	if accept == "" {
		return jsonType, true
	}
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Type != "application" && clause.Type != "*" {
			continue
		}
		switch clause.SubType {
		case "json", "*":
			return jsonType, true
		case protobuf, old:
			return "application/" + protobuf, true
		}
	}
	return "", false
}
