package resource

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cliresource "k8s.io/cli-runtime/pkg/resource"
	"k8s.io/client-go/openapi"
	protomodels "k8s.io/kube-openapi/pkg/util/proto"
	"k8s.io/kube-openapi/pkg/util/proto/validation"
	explainv2 "k8s.io/kubectl/pkg/explain/v2"
	"sigs.k8s.io/yaml"
)

const (
	protoV2    = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
	protoV2Old = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf" // kubectl 1.20
	protoV3    = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf"
)

func gunzip(t testing.TB, doc Document) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := doc.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestOpenAPINegotiation(t *testing.T) {
	for accept, want := range map[string]string{
		"":                                      jsonType,
		"*/*":                                   jsonType,
		"application/json":                      jsonType,
		protoV2:                                 protoV2,
		protoV2Old:                              protoV2,
		protoV2Old + ", application/json;q=0.5": protoV2,
		"text/html, application/*;q=0.8":        jsonType,
		"text/html":                             "",
	} {
		doc, ok := table.OpenAPIV2(accept)
		if ok != (want != "") || ok && doc.ContentType != want {
			t.Errorf("%q: %v %q", accept, ok, doc.ContentType)
		}
	}
	if _, found, _ := table.OpenAPIV3("apis/example.com/v1", ""); found {
		t.Error("example.com/v1 has a document")
	}
	if _, found, acceptable := table.OpenAPIV3("api/v1", "text/html"); !found || acceptable {
		t.Error("api/v1 as HTML")
	}
}

// v2Models reads the document as kubectl does.
func v2Models(t testing.TB) protomodels.Models {
	t.Helper()
	doc, _ := table.OpenAPIV2(protoV2Old)
	var parsed openapi_v2.Document
	if err := proto.Unmarshal(gunzip(t, doc), &parsed); err != nil {
		t.Fatal(err)
	}
	models, err := protomodels.NewOpenAPIData(&parsed)
	if err != nil {
		t.Fatal(err)
	}
	return models
}

// What kubectl 1.20 checks before it sends a manifest.
func TestClientSideValidation(t *testing.T) {
	models := v2Models(t)
	byKind := map[schema.GroupVersionKind]protomodels.Schema{}
	for _, name := range models.ListModels() {
		model := models.LookupModel(name)
		list, _ := model.GetExtensions()["x-kubernetes-group-version-kind"].([]any)
		for _, item := range list {
			gvk, ok := item.(map[any]any)
			if !ok {
				t.Fatalf("%s: %T", name, item)
			}
			byKind[schema.GroupVersionKind{Group: gvk["group"].(string), Version: gvk["version"].(string), Kind: gvk["kind"].(string)}] = model
		}
	}
	for _, r := range table.All() {
		for _, gv := range r.Served {
			for _, kind := range []string{r.Kind, r.ListKind} {
				if byKind[gv.WithKind(kind)] == nil {
					t.Errorf("no definition of %s", gv.WithKind(kind))
				}
			}
		}
	}
	const text = "{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: a}, spec: {replicas: 2, rollbackTo: {revision: 1}, template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}"
	for change, want := range map[string]string{
		"":         "",
		"replicas": `unknown field "replicsa" in io.k8s.api.extensions.v1beta1.DeploymentSpec`,
		"image: i": "invalid type for io.k8s.api.core.v1.Container.image",
	} {
		manifest := text
		switch change {
		case "replicas":
			manifest = strings.Replace(text, "replicas", "replicsa", 1)
		case "image: i":
			manifest = strings.Replace(text, "image: i", "image: [i]", 1)
		}
		var obj any
		if err := yaml.Unmarshal([]byte(manifest), &obj); err != nil {
			t.Fatal(err)
		}
		errs := validation.ValidateModel(obj, byKind[extensionsV1.WithKind("Deployment")], "Deployment")
		if want == "" && len(errs) > 0 || want != "" && (len(errs) == 0 || !strings.Contains(errs[0].Error(), want)) {
			t.Errorf("%q: %v", change, errs)
		}
	}
	// A rule's http comes from a struct that JSON inlines.
	const rule = "{spec: {rules: [{host: a.example, http: {paths: [{path: /, backend: {serviceName: web, servicePort: 80}}]}}]}}"
	for _, gv := range []schema.GroupVersion{extensionsV1, {Group: "networking.k8s.io", Version: "v1beta1"}} {
		var obj any
		if err := yaml.Unmarshal([]byte(rule), &obj); err != nil {
			t.Fatal(err)
		}
		if errs := validation.ValidateModel(obj, byKind[gv.WithKind("Ingress")], "Ingress"); len(errs) > 0 {
			t.Errorf("Ingress of %s: %v", gv, errs)
		}
	}
}

func TestOpenAPIV3Forms(t *testing.T) {
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal(table.OpenAPIV3Paths(), &index); err != nil {
		t.Fatal(err)
	}
	for _, gv := range table.GroupVersions() {
		path := "apis/" + gv.String()
		if gv == metricsV1beta1 {
			continue // Kubernetes' document does not have it
		}
		if gv.Group == "" {
			path = "api/v1"
		}
		if !strings.HasPrefix(index.Paths[path].ServerRelativeURL, "/openapi/v3/"+path+"?hash=") {
			t.Errorf("%s is at %q", path, index.Paths[path].ServerRelativeURL)
		}
	}
	for path := range index.Paths {
		doc, _, _ := table.OpenAPIV3(path, jsonType)
		if !json.Valid(gunzip(t, doc)) {
			t.Errorf("%s is not JSON", path)
		}
		doc, _, _ = table.OpenAPIV3(path, protoV3)
		if err := proto.Unmarshal(gunzip(t, doc), &openapi_v3.Document{}); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// No document refers to what has been left out.
func TestOpenAPIReferences(t *testing.T) {
	check := func(name, text, prefix string, definitions map[string]any) {
		for _, part := range strings.Split(text, `"$ref":"`+prefix)[1:] {
			if ref, _, _ := strings.Cut(part, `"`); definitions[ref] == nil {
				t.Errorf("%s refers to %s", name, ref)
			}
		}
	}
	doc, _ := table.OpenAPIV2(jsonType)
	data := gunzip(t, doc)
	var v2 struct {
		Definitions, Parameters map[string]any
	}
	if err := json.Unmarshal(data, &v2); err != nil {
		t.Fatal(err)
	}
	check("v2", string(data), "#/definitions/", v2.Definitions)
	check("v2", string(data), "#/parameters/", v2.Parameters)
	for path := range openAPIV3 {
		doc, _, _ := table.OpenAPIV3(path, jsonType)
		data := gunzip(t, doc)
		var v3 struct {
			Components struct{ Schemas map[string]any }
		}
		if err := json.Unmarshal(data, &v3); err != nil {
			t.Fatal(err)
		}
		check(path, string(data), "#/components/schemas/", v3.Components.Schemas)
		if strings.Contains(string(data), "io.k8s.api.apps.v1.") && path != "apis/apps/v1" {
			t.Errorf("%s speaks of apps/v1", path)
		}
	}
}

// embedded gives the documents to client-go's consumers.
type embedded struct{ path string }

func (e embedded) Paths() (map[string]openapi.GroupVersion, error) {
	out := map[string]openapi.GroupVersion{}
	for path := range openAPIV3 {
		out[path] = embedded{path}
	}
	return out, nil
}

func (e embedded) Schema(contentType string) ([]byte, error) {
	doc, _, _ := table.OpenAPIV3(e.path, contentType)
	var out bytes.Buffer
	_, err := doc.WriteTo(&out)
	return out.Bytes(), err
}

func (e embedded) ServerRelativeURL() string { return "" }

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		gv     schema.GroupVersion
		plural string
		fields []string
		want   string
	}{
		{coreV1, "pods", []string{"spec", "containers", "livenessProbe"}, "Periodic probe of container liveness"},
		{appsV1, "deployments", []string{"spec", "strategy"}, "RollingUpdate"},
		{extensionsV1, "deployments", []string{"spec"}, "rollbackTo"},
		{extensionsV1, "deployments", []string{"spec", "template", "spec"}, "containers"},
		{appsV1beta1, "deployments", nil, "DEPRECATED"},
		{appsV1beta2, "replicasets", []string{"status", "conditions"}, "lastTransitionTime"},
		{eventsV1, "events", []string{"regarding"}, "fieldPath"},
	} {
		var out bytes.Buffer
		if err := explainv2.PrintModelDescription(test.fields, &out, embedded{}, test.gv.WithResource(test.plural), false, "plaintext"); err != nil {
			t.Errorf("%s %s %v: %v", test.gv, test.plural, test.fields, err)
		}
		if !strings.Contains(out.String(), test.want) {
			t.Errorf("%s %s %v: %s", test.gv, test.plural, test.fields, out.String())
		}
	}
}

// kubectl asks whether the server validates fields before it leaves that to it.
func TestFieldValidationProbe(t *testing.T) {
	verifier := cliresource.NewQueryParamVerifierV3(nil, embedded{}, cliresource.QueryParamFieldValidation)
	for _, r := range table.All() {
		for _, gv := range r.Served {
			if err := verifier.HasSupport(gv.WithKind(r.Kind)); err != nil {
				t.Errorf("%s: %v", gv.WithKind(r.Kind), err)
			}
		}
	}
}
