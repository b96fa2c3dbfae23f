package resource

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/yaml"
)

const widgetDefinition = `
metadata: {name: widgets.example.com, uid: u, generation: 1}
spec:
  group: example.com
  scope: Cluster
  names: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget.
        properties:
          parts:
            type: array
            x-kubernetes-list-type: map
            x-kubernetes-list-map-keys: [name]
            items: {type: object, properties: {name: {type: string}, size: {x-kubernetes-int-or-string: true}}}
  - {name: v1beta1, served: true, storage: false, deprecated: true, schema: {openAPIV3Schema: {type: object}}}
status:
  acceptedNames: {plural: widgets, singular: widget, kind: Widget, listKind: WidgetList}
  conditions: [{type: NamesAccepted, status: "True"}]
`

func widgetTable(t *testing.T) (*Table, *Resource) {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(widgetDefinition), crd); err != nil {
		t.Fatal(err)
	}
	custom := NewTable()
	changed, errs := custom.SetCustom([]*apiextensionsv1.CustomResourceDefinition{crd})
	if len(changed) != 1 || len(errs) > 0 {
		t.Fatal(changed, errs)
	}
	return custom, changed[0]
}

func text(t *testing.T, d Document) []byte {
	t.Helper()
	var out bytes.Buffer
	if _, err := d.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestDocumentsOfCustomKinds(t *testing.T) {
	custom, _ := widgetTable(t)
	const model = "com.example.v1.Widget"
	doc, _ := custom.OpenAPIV2("")
	var v2 struct{ Definitions, Paths map[string]any }
	if err := json.Unmarshal(text(t, doc), &v2); err != nil || v2.Definitions[model] == nil || v2.Definitions["io.k8s.api.core.v1.Pod"] == nil || len(v2.Paths) == 0 {
		t.Error("v2 as JSON:", err, v2.Definitions[model])
	}
	doc, _ = custom.OpenAPIV2("application/com.github.proto-openapi.spec.v2.v1.0+protobuf")
	var v2pb openapi_v2.Document
	if err := proto.Unmarshal(text(t, doc), &v2pb); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, d := range v2pb.Definitions.AdditionalProperties {
		found[d.Name] = true
	}
	if !found[model] || !found[model+"List"] || !found["io.k8s.api.core.v1.Pod"] || v2pb.Swagger != "2.0" || v2pb.Info.Title != "Kubernetes" {
		t.Error("v2 as protobuf:", found[model], v2pb.Swagger, v2pb.Info)
	}

	const path = "apis/example.com/v1"
	if index := string(custom.OpenAPIV3Paths()); !strings.Contains(index, `"/openapi/v3/apis/example.com/v1?hash=`) || !strings.Contains(index, `"apis/apps/v1"`) {
		t.Error(index)
	}
	doc, found3, ok := custom.OpenAPIV3(path, "")
	data := string(text(t, doc))
	if !found3 || !ok || strings.Contains(data, "Lease") || strings.Contains(data, "strategic-merge") || strings.Contains(data, "{namespace}") {
		t.Error(data)
	}
	for _, want := range []string{`"/apis/example.com/v1/widgets/{name}/status"`, `"#/components/schemas/com.example.v1.Widget"`, `"patchExampleComV1WidgetStatus"`, `"kind":"Widget"`, `"fieldValidation"`} {
		if !strings.Contains(data, want) {
			t.Errorf("no %s in %s", want, data)
		}
	}
	doc, _, _ = custom.OpenAPIV3(path, "application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
	if err := proto.Unmarshal(text(t, doc), &openapi_v3.Document{}); err != nil {
		t.Error(err)
	}
	if _, found, _ := custom.OpenAPIV3("apis/example.com/v2", ""); found {
		t.Error("a version that is not served has a document")
	}
	custom.SetCustom(nil)
	if _, found, _ := custom.OpenAPIV3(path, ""); found {
		t.Error("a kind that is gone has a document")
	}
}

func TestCustomTable(t *testing.T) {
	custom, r := widgetTable(t)
	if same, _ := custom.ByKind(schema.GroupVersionKind{Group: "example.com", Version: "v1beta1", Kind: "Widget"}); !same.SameDefinition(r) || same.Storage.Version != "v1beta1" || r.Key() != "widgets.example.com" || r.Namespaced {
		t.Error(r)
	}
	if got := r.Deprecated(schema.GroupVersion{Group: "example.com", Version: "v1beta1"}); got != "example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget" {
		t.Error(got)
	}
	u := newUnstructured(r.GroupVersionKind())
	u.Object["parts"] = []any{map[string]any{"name": "a", "size": int64(1)}}
	typed, err := custom.TypeConverter().ObjectToTyped(u)
	if err != nil {
		t.Fatal(err)
	}
	set, err := typed.ToFieldSet()
	if err != nil || !set.Has(fieldpath.MakePathOrDie("parts", fieldpath.KeyByFields("name", "a"), "size")) {
		t.Errorf("parts are not told apart by their names: %v, %v", set, err)
	}
	data, err := custom.StorageCodec().Encode(r.Key(), u)
	if err != nil {
		t.Fatal(err)
	}
	back, err := table.StorageCodec().Decode(r.Key(), data) // without the definition
	if err != nil || back.(*unstructured.Unstructured).Object["parts"].([]any)[0].(map[string]any)["size"] != int64(1) {
		t.Error(back, err)
	}
	select {
	case <-r.Gone():
		t.Error("gone at once")
	default:
	}
	custom.SetCustom(nil)
	<-r.Gone()
	if len(custom.All()) != len(table.All()) {
		t.Error("not all custom kinds have gone")
	}
}
