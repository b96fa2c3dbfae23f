package custom

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"sigs.k8s.io/yaml"
)

const definition = `
metadata: {name: crontabs.stable.example.com, uid: u1, generation: 1}
spec:
  group: stable.example.com
  scope: Namespaced
  names: {plural: crontabs, singular: crontab, kind: CronTab, listKind: CronTabList}
  versions:
  - name: v1
    served: true
    storage: true
    selectableFields: [{jsonPath: .spec.cronSpec}]
    additionalPrinterColumns:
    - {name: Spec, type: string, jsonPath: .spec.cronSpec}
    - {name: Replicas, type: integer, jsonPath: .spec.replicas}
    - {name: Paused, type: boolean, jsonPath: .spec.paused}
    - {name: Made, type: date, jsonPath: .spec.made}
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    schema:
      openAPIV3Schema:
        type: object
        description: A tab of crons.
        properties:
          spec:
            type: object
            required: [cronSpec]
            x-kubernetes-validations:
            - {rule: "self.replicas <= 10", message: too many}
            - {rule: "self.image == oldSelf.image", message: image is immutable}
            properties:
              cronSpec: {type: string}
              image: {type: string, default: busybox}
              replicas: {type: integer, minimum: 1, default: 1}
              note: {type: string, nullable: true}
              port: {x-kubernetes-int-or-string: true}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
              hosts:
                type: array
                x-kubernetes-list-type: set
                items: {type: string}
              inner: {type: object, x-kubernetes-embedded-resource: true, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}}
  - name: v2
    served: true
    storage: false
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {cronSpec: {type: string}, replicas: {type: integer}, zone: {type: string, default: UTC}}}
status:
  acceptedNames: {plural: crontabs, singular: crontab, kind: CronTab, listKind: CronTabList}
  conditions: [{type: NamesAccepted, status: "True"}]
`

func kindOf(t *testing.T, text string) *Kind {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(text), crd); err != nil {
		t.Fatal(err)
	}
	if !Served(crd) {
		t.Fatal("the definition is not served")
	}
	k, err := New(crd, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func object(t *testing.T, version, rest string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte("{apiVersion: stable.example.com/" + version + ", kind: CronTab, metadata: {name: a, namespace: b}, " + rest + "}"))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil {
		t.Fatal(err)
	}
	return u
}

func field1(t *testing.T, u *unstructured.Unstructured, path ...string) any {
	t.Helper()
	v, _, err := unstructured.NestedFieldNoCopy(u.Object, path...)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestAccept(t *testing.T) {
	k := kindOf(t, definition)
	v, _ := k.Version("v1")
	for _, test := range []struct{ rest, unknown, left string }{
		{"spec: {cronSpec: x}", "", `{"cronSpec":"x"}`},
		{"spec: {cronSpec: x, foo: {bar: 1}}", "spec.foo", `{"cronSpec":"x"}`},
		{"spec: {cronSpec: x, free: {bar: 1}}", "", `{"cronSpec":"x","free":{"bar":1}}`},
		{"spec: {cronSpec: x, note: null}", "", `{"cronSpec":"x","note":null}`},
		{"spec: {cronSpec: x, image: null}", "", `{"cronSpec":"x","image":null}`}, // its default takes its place
		{"spec: {cronSpec: x, port: null}", "", `{"cronSpec":"x"}`},
		{"spec: {inner: {apiVersion: v1, kind: Pod, metadata: {name: a, foo: b}}}", "spec.inner.metadata.foo", `{"inner":{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}}`},
	} {
		u := object(t, "v1", test.rest)
		unknown, err := v.Accept(u, true)
		if err != nil || strings.Join(unknown, " ") != test.unknown {
			t.Errorf("%s: unknown %q, %v", test.rest, unknown, err)
		}
		if left, _ := json.Marshal(u.Object["spec"]); string(left) != test.left {
			t.Errorf("%s: left %s", test.rest, left)
		}
	}
	u := object(t, "v1", "spec: {}")
	u.Object["metadata"].(map[string]any)["labels"] = []any{"a"}
	if _, err := v.Accept(u, false); err == nil {
		t.Error("labels that are a list were taken")
	}
}

func TestVersions(t *testing.T) {
	k := kindOf(t, definition)
	sent := object(t, "v2", "spec: {cronSpec: x, replicas: 3, image: lost}")
	if err := k.Complete(sent); err != nil || sent.GetAPIVersion() != "stable.example.com/v2" || field1(t, sent, "spec", "zone") != "UTC" {
		t.Fatal(sent, err)
	}
	u, err := k.ToStorage(t.Context(), sent)
	if err != nil || u.GetAPIVersion() != "stable.example.com/v1" {
		t.Fatal(u, err)
	}
	if field1(t, u, "spec", "image") != "busybox" || field1(t, u, "spec", "replicas") != int64(3) || field1(t, u, "spec", "zone") != nil {
		t.Errorf("stored %v", u.Object["spec"])
	}
	k.Settle(5)
	u.SetResourceVersion("6")
	if same, err := k.FromStorage(u, "v1"); err != nil || same != u {
		t.Error("a fresh object was copied", err)
	}
	v2, err := k.FromStorage(u, "v2")
	if err != nil || v2 == u || v2.GetAPIVersion() != "stable.example.com/v2" || field1(t, v2, "spec", "image") != nil || u.GetAPIVersion() != "stable.example.com/v1" {
		t.Errorf("in v2: %v, %v", v2, err)
	}
	// An object from before the definition was as it is.
	old := object(t, "v1", "spec: {cronSpec: x, gone: 1}")
	old.SetResourceVersion("5")
	now, err := k.FromStorage(old, "v1")
	if err != nil || field1(t, now, "spec", "image") != "busybox" || field1(t, now, "spec", "gone") != nil || field1(t, old, "spec", "gone") != int64(1) {
		t.Errorf("an old object reads as %v, %v", now, err)
	}
	if _, err := k.FromStorage(old, "v3"); err == nil {
		t.Error("a version that there is not")
	}
}

func words(errs field.ErrorList) string { return fmt.Sprint(errs.ToAggregate()) }

func TestValidate(t *testing.T) {
	k := kindOf(t, definition)
	v := k.Storage
	for _, test := range []struct{ rest, want string }{
		{"spec: {cronSpec: x, replicas: 2, image: i}", "<nil>"},
		{"spec: {replicas: 2, image: i}", `spec.cronSpec: Required value`},
		{"spec: {cronSpec: x, replicas: 0, image: i}", `spec.replicas: Invalid value: 0: spec.replicas in body should be greater than or equal to 1`},
		{"spec: {cronSpec: x, replicas: 11, image: i}", `spec: Invalid value: too many`},
		{"spec: {cronSpec: 1, replicas: 11, image: i}", `some validation rules were not checked`},
		{"spec: {cronSpec: x, replicas: 2, image: i, hosts: [a, a]}", `spec.hosts[1]: Duplicate value: "a"`},
		{"spec: {cronSpec: x, replicas: 2, image: i, inner: {metadata: {name: a}}}", `spec.inner.apiVersion: Required value`},
		{"spec: {cronSpec: x, replicas: 2, image: i, port: {}}", `spec.port`},
	} {
		if got := words(v.Validate(t.Context(), object(t, "v1", test.rest))); !strings.Contains(got, test.want) {
			t.Errorf("%s: %s", test.rest, got)
		}
	}
	old := object(t, "v1", "spec: {cronSpec: x, replicas: 2, image: i, hosts: [a, a]}")
	u := object(t, "v1", "spec: {cronSpec: x, replicas: 2, image: j, hosts: [a, a]}")
	old.SetResourceVersion("1")
	u.SetResourceVersion("1")
	if got := words(v.ValidateUpdate(t.Context(), u, old)); got != "spec: Invalid value: image is immutable" {
		t.Error(got) // what was twice before may stay so
	}
	u = object(t, "v1", "spec: {cronSpec: x, replicas: 2, image: i}, status: {replicas: a}")
	u.SetResourceVersion("1")
	if got := words(v.ValidateStatus(t.Context(), u, old)); !strings.Contains(got, `status.replicas: Invalid value: "string": replicas in body must be of type integer`) {
		t.Error(got)
	}
}

func TestCells(t *testing.T) {
	k := kindOf(t, definition)
	u := object(t, "v1", `spec: {cronSpec: x, replicas: 2, paused: true, made: nonsense}`)
	if got := fmt.Sprint(k.Storage.Cells(u)); got != "[a x 2 true <invalid>]" {
		t.Error(got)
	}
	if got := fmt.Sprint(k.Storage.Cells(object(t, "v1", `spec: {replicas: a}`))); got != "[a <nil> <nil> <nil> <nil>]" {
		t.Error(got)
	}
	v2, _ := k.Version("v2")
	if headers := v2.Columns(); len(headers) != 2 || headers[1].Name != "Age" {
		t.Error(headers)
	}
	if got := k.Storage.Fields(u); len(got) != 1 || got["spec.cronSpec"] != "x" {
		t.Error(got)
	}
}

func TestScale(t *testing.T) {
	k := kindOf(t, definition)
	u := object(t, "v1", "spec: {replicas: 2}, status: {replicas: 1, selector: a=b}")
	spec, status, selector, err := k.Storage.Replicas(u)
	if err != nil || spec != 2 || status != 1 || selector != "a=b" {
		t.Error(spec, status, selector, err)
	}
	if err := k.Storage.SetReplicas(u, 5); err != nil || field1(t, u, "spec", "replicas") != int64(5) {
		t.Error(err, u)
	}
	if _, _, _, err := k.Storage.Replicas(object(t, "v1", "spec: {}")); err == nil || !strings.Contains(err.Error(), `the spec replicas field ".spec.replicas" does not exist`) {
		t.Error(err)
	}
	v2, _ := k.Version("v2")
	if v2.HasScale() || v2.HasStatus() || v2.SetReplicas(u, 1) == nil {
		t.Error("v2 has subresources")
	}
}

func TestSchemas(t *testing.T) {
	k := kindOf(t, definition)
	if k.Storage.Model() != "com.example.stable.v1.CronTab" || k.Storage.ListModel() != "com.example.stable.v1.CronTabList" {
		t.Error(k.Storage.Model(), k.Storage.ListModel())
	}
	data, err := json.Marshal(k.Storage.Schema(OpenAPIV3))
	for _, want := range []string{`"description":"A tab of crons."`, `"$ref":"#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"`, `"kind":"CronTab"`, `"fieldPath":"spec.cronSpec"`} {
		if err != nil || !strings.Contains(string(data), want) {
			t.Errorf("%s is not in %s, %v", want, data, err)
		}
	}
	// Where fields are free, kubectl must not be told of any.
	free := strings.Replace(definition, "description: A tab of crons.", "x-kubernetes-preserve-unknown-fields: true", 1)
	if s := kindOf(t, free).Storage.Schema(OpenAPIV2); len(s.Properties) != 0 || len(s.Type) != 1 {
		t.Errorf("%+v", s)
	}
}

func TestSame(t *testing.T) {
	k := kindOf(t, definition)
	crd := k.Definition.DeepCopy()
	crd.ResourceVersion, crd.Labels = "9", map[string]string{"a": "b"}
	if !k.Same(crd) || k.Note(crd) {
		t.Error("labels make another kind")
	}
	crd.Status.Conditions = append(crd.Status.Conditions, apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.Terminating, Status: apiextensionsv1.ConditionTrue})
	if !k.Same(crd) || !k.Note(crd) || !k.Terminating() {
		t.Error("its deletion was not noted")
	}
	crd.Generation++
	if k.Same(crd) {
		t.Error("a new generation is the same kind")
	}
	crd.Status.AcceptedNames.Kind = ""
	if _, err := New(crd, nil); err == nil {
		t.Error("a kind without a name")
	}
}
