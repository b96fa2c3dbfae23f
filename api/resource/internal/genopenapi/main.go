// Command genopenapi writes the OpenAPI documents that the API server serves, and the schema that server-side apply merges
// by, from the documents that the k8s.io/kubernetes module ships: what the table of kinds does not serve is left out, and
// the groups of old posts, which those documents no longer have, are added.
//
// It writes into the folder that it is started in: `go generate ./api/resource`.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whalepod/whalepod/api/resource"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

func main() {
	log.SetFlags(0)
	if err := run(); err != nil {
		log.Fatal("genopenapi: ", err)
	}
}

func run() error {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		return fmt.Errorf("find the module k8s.io/kubernetes: %w", err)
	}
	g := &generator{
		table:  resource.NewTable(),
		source: filepath.Join(strings.TrimSpace(string(dir)), "api", "openapi-spec"),
	}
	v2, err := g.v2()
	if err != nil {
		return err
	}
	v3, err := g.v3()
	if err != nil {
		return err
	}
	merge, err := g.mergeSchema(v3)
	if err != nil {
		return err
	}
	return write(v2, v3, merge)
}

type generator struct {
	table  *resource.Table
	source string
}

// object is a JSON object; numbers keep their text.
type object = map[string]any

func (g *generator) read(parts ...string) (object, error) {
	data, err := os.ReadFile(filepath.Join(append([]string{g.source}, parts...)...))
	if err != nil {
		return nil, err
	}
	return parse(data)
}

func parse(data []byte) (object, error) {
	decoder := json.NewDecoder(strings.NewReader(string(data)))
	decoder.UseNumber()
	var out object
	return out, decoder.Decode(&out)
}

// v2 makes the one document of OpenAPI v2.
func (g *generator) v2() (object, error) {
	doc, err := g.read("swagger.json")
	if err != nil {
		return nil, err
	}
	paths, definitions := doc["paths"].(object), doc["definitions"].(object)
	style := swagger
	for _, gv := range g.versions() {
		if isOld(gv) {
			g.addOldGroup(gv, paths, definitions, style)
		}
	}
	for path := range paths {
		if !g.keep(path) {
			delete(paths, path)
		}
	}
	parameters := doc["parameters"].(object)
	keepReferenced(refStyle{prefix: "#/parameters/"}, parameters, []any{paths})
	roots := []any{paths, parameters}
	for _, gv := range g.versions() {
		roots = append(roots, g.kindRefs(gv, definitions, style)...)
	}
	keepReferenced(style, definitions, roots)
	return doc, nil
}

// v3 makes the documents of OpenAPI v3 by path, as in "apis/apps/v1".
func (g *generator) v3() (map[string]object, error) {
	out := map[string]object{}
	add := func(path string, doc object) { out[path] = doc }
	for _, path := range []string{"api", "apis", "version"} {
		doc, err := g.read("v3", path+"_openapi.json")
		if err != nil {
			return nil, err
		}
		add(path, doc)
	}
	for _, gv := range g.versions() {
		doc, err := g.v3Version(gv)
		if err != nil {
			return nil, err
		}
		add(versionPath(gv), doc)
		if gv.Group == "" || out["apis/"+gv.Group] != nil {
			continue
		}
		if doc, err = g.v3Group(gv.Group); err != nil {
			return nil, err
		}
		add("apis/"+gv.Group, doc)
	}
	return out, nil
}

func versionPath(gv schema.GroupVersion) string {
	if gv.Group == "" {
		return "api/" + gv.Version
	}
	return "apis/" + gv.Group + "/" + gv.Version
}

// v3Version makes the document of one group version; that of an old one begins as a copy of its models'.
func (g *generator) v3Version(gv schema.GroupVersion) (object, error) {
	sources := []schema.GroupVersion{gv}
	if isOld(gv) {
		sources = modelsOf(gv)
	}
	var doc, paths, schemas object
	for i, source := range sources {
		next, err := g.read("v3", strings.ReplaceAll(versionPath(source), "/", "__")+"_openapi.json")
		if err != nil {
			return nil, err
		}
		if i == 0 {
			doc, paths, schemas = next, next["paths"].(object), next["components"].(object)["schemas"].(object)
			continue
		}
		maps.Copy(paths, next["paths"].(object))
		maps.Copy(schemas, next["components"].(object)["schemas"].(object))
	}
	if isOld(gv) {
		core, err := g.read("v3", "api__v1_openapi.json")
		if err != nil {
			return nil, err
		}
		for path, item := range core["paths"].(object) {
			if path == evictionPath {
				paths[path] = item
			}
		}
		g.addOldGroup(gv, paths, schemas, components)
	}
	for path := range paths {
		if !g.keep(path) || !strings.HasPrefix(path, "/"+versionPath(gv)+"/") {
			delete(paths, path)
		}
	}
	keepReferenced(components, schemas, append(g.kindRefs(gv, schemas, components), paths))
	return doc, nil
}

// v3Group makes the document of a group's discovery.
func (g *generator) v3Group(group string) (object, error) {
	doc, err := g.read("v3", "apis__"+group+"_openapi.json")
	if !os.IsNotExist(err) {
		return doc, err
	}
	if doc, err = g.read("v3", "apis__apps_openapi.json"); err != nil {
		return nil, err
	}
	return rewrite(doc, "/apis/apps/", "/apis/"+group+"/", `"getAppsAPIGroup"`, `"get`+title(group)+`APIGroup"`, `"apps"`, `"`+group+`"`)
}

// keep says whether the table serves what a path of a document stands for.
func (g *generator) keep(path string) bool {
	parts := strings.Split(strings.Trim(path, "/"), "/")
	var gv schema.GroupVersion
	switch {
	case parts[0] == "version":
		return true
	case parts[0] == "api" && len(parts) == 1, parts[0] == "apis" && len(parts) == 1:
		return true
	case parts[0] == "api":
		gv, parts = schema.GroupVersion{Version: parts[1]}, parts[2:]
	case parts[0] == "apis" && len(parts) == 2:
		for _, gv := range g.versions() {
			if gv.Group == parts[1] {
				return true
			}
		}
		return false
	case parts[0] == "apis":
		gv, parts = schema.GroupVersion{Group: parts[1], Version: parts[2]}, parts[3:]
	default:
		return false
	}
	if len(parts) == 0 {
		return g.serves(gv)
	}
	if parts[0] == "namespaces" && len(parts) > 2 && parts[1] == "{namespace}" {
		parts = parts[2:]
	}
	r, ok := g.table.Lookup(gv, parts[0])
	if !ok || len(parts) < 3 {
		return ok
	}
	_, ok = r.SubresourceIn(gv, parts[2])
	return ok
}

func (g *generator) serves(gv schema.GroupVersion) bool {
	for _, served := range g.versions() {
		if served == gv {
			return true
		}
	}
	return false
}

// versions that have kinds which are stored. Kubernetes' own documents do not know the others, which are further servers' there.
func (g *generator) versions() []schema.GroupVersion {
	return slices.DeleteFunc(slices.Clone(g.table.GroupVersions()), func(gv schema.GroupVersion) bool {
		return !slices.ContainsFunc(g.table.All(), func(r *resource.Resource) bool { return slices.Contains(r.Served, gv) })
	})
}
