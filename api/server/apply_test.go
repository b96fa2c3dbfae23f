package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func applyDeployment(replicas int, image string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: %s}]}
`, replicas, image)
}

func (s *testServer) managersOf(t *testing.T, path string) map[string]string {
	t.Helper()
	var m metav1.PartialObjectMetadata
	if err := json.Unmarshal([]byte(s.ask(t, "GET", path, "").body), &m); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range m.ManagedFields {
		out[f.Manager+" "+string(f.Operation)+" "+f.Subresource] = string(f.FieldsV1.Raw)
	}
	return out
}

func TestApplyCreates(t *testing.T) {
	s := newTestServer(t)
	r := s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(2, "one"), applyType)
	if r.code != 201 {
		t.Fatal(r)
	}
	if r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(3, "one"), applyType); r.code != 200 || *s.deployment(t).Spec.Replicas != 3 {
		t.Fatal(r)
	}
	// An ordinary update is tracked from now on: who changes replicas owns them.
	if r = s.ask(t, "PATCH", deploys+"/web?fieldManager=other", `{"spec":{"replicas":4}}`, mergeType); r.code != 200 {
		t.Fatal(r)
	}
	m := s.managersOf(t, deploys+"/web")
	if len(m) != 2 || !strings.Contains(m["other Update "], "f:replicas") || strings.Contains(m["me Apply "], "f:replicas") {
		t.Fatalf("%v", m)
	}
	r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(5, "one"), applyType)
	if r.code != 409 || !strings.Contains(r.body, `Apply failed with 1 conflict: conflict with \"other\" using apps/v1: .spec.replicas`) ||
		!strings.Contains(r.body, `"causes":[{"reason":"FieldManagerConflict","message":"conflict with \"other\" using apps/v1`) {
		t.Fatal(r)
	}
	if r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me&force=true", applyDeployment(5, "one"), applyType); r.code != 200 || *s.deployment(t).Spec.Replicas != 5 {
		t.Fatal(r)
	}
	// Scaling is the scale subresource's.
	if r = s.ask(t, "PATCH", deploys+"/web/scale?fieldManager=hpa", `{"spec":{"replicas":6}}`, mergeType); r.code != 200 {
		t.Fatal(r)
	}
	if m := s.managersOf(t, deploys+"/web"); !strings.Contains(m["hpa Update scale"], "f:replicas") {
		t.Fatalf("%v", m)
	}
	// What is no longer applied goes, when nobody else owns it.
	before := s.deployment(t)
	r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me&force=true", strings.Replace(applyDeployment(5, "one"), "metadata: {name: web}", "metadata: {name: web, labels: {a: b}}", 1), applyType)
	if s.deployment(t).Labels["a"] != "b" {
		t.Fatal(r)
	}
	r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(5, "one"), applyType)
	if r.code != 200 || len(s.deployment(t).Labels) != 0 || before.UID != s.deployment(t).UID {
		t.Fatal(r)
	}
}

func TestApplyToUntracked(t *testing.T) {
	s := newTestServer(t)
	s.mustCreateDeployment(t)
	r := s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(9, "nginx"), applyType)
	if r.code != 409 || !strings.Contains(r.body, `conflict with \"before-first-apply\" using apps/v1: .spec.replicas`) {
		t.Fatal(r)
	}
	if r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me&dryRun=All&force=true", applyDeployment(9, "nginx"), applyType); r.code != 200 || *s.deployment(t).Spec.Replicas != 2 {
		t.Fatal(r)
	}
	if r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(2, "nginx"), applyType); r.code != 200 {
		t.Fatal(r)
	}
	if m := s.managersOf(t, deploys+"/web"); len(m) != 2 {
		t.Fatalf("%v", m)
	}
	// Status is not the main resource's to own, nor the labels the status'.
	if r = s.ask(t, "PATCH", deploys+"/web/status?fieldManager=ctl", `{"metadata":{"labels":{"x":"y"}},"status":{"replicas":2}}`, mergeType); r.code != 200 {
		t.Fatal(r)
	}
	if m := s.managersOf(t, deploys+"/web"); !strings.Contains(m["ctl Update status"], "f:status") || strings.Contains(m["ctl Update status"], "f:labels") {
		t.Fatalf("%v", m)
	}
}

// TestApplyAfterClientSide: what kubectl applied on its side is known as kubectl's, what came later is not.
func TestApplyAfterClientSide(t *testing.T) {
	s := newTestServer(t)
	last := `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"labels":{"a":"b"},"name":"web"},"spec":{"replicas":2,"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"image":"nginx","name":"c"}]}}}}`
	s.mustCreateDeployment(t)
	note, _ := json.Marshal(map[string]any{"metadata": map[string]any{"labels": map[string]string{"a": "b", "other": "x"}, "annotations": map[string]string{"kubectl.kubernetes.io/last-applied-configuration": last}}})
	if r := s.ask(t, "PATCH", deploys+"/web", string(note), mergeType); r.code != 200 {
		t.Fatal(r)
	}
	r := s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(9, "nginx"), applyType)
	if r.code != 409 || !strings.Contains(r.body, `conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas`) {
		t.Fatal(r)
	}
	if r = s.ask(t, "PATCH", deploys+"/web?fieldManager=me", applyDeployment(2, "nginx"), applyType); r.code != 200 {
		t.Fatal(r)
	}
	m := s.managersOf(t, deploys+"/web")
	mine, before := m["kubectl-client-side-apply Update "], m["before-first-apply Update "]
	if !strings.Contains(mine, `"f:a"`) || strings.Contains(mine, "f:other") || !strings.Contains(before, "f:other") || strings.Contains(before, `"f:a"`) ||
		!strings.Contains(mine, "last-applied") || strings.Contains(before, "last-applied") || strings.Contains(mine, "f:strategy") {
		t.Fatalf("%v", m)
	}
}

func TestApplyRefusals(t *testing.T) {
	s := newTestServer(t)
	for _, c := range []struct {
		name, query, body string
		code              int
		words             string
	}{
		{"unknown field", "", strings.Replace(applyDeployment(1, "x"), "replicas:", "repicas:", 1), 400, ".spec.repicas: field not declared in schema"},
		{"another kind", "", "apiVersion: v1\nkind: Pod\nmetadata: {name: web}", 400, "invalid object type: /v1, Kind=Pod"},
		{"another version", "", strings.Replace(applyDeployment(1, "x"), "apps/v1", "apps/v1beta2", 1), 400, "invalid object type"},
		{"another name", "", strings.Replace(applyDeployment(1, "x"), "name: web}", "name: other}", 1), 400, "does not match the name on the URL (web)"},
		{"managedFields", "", strings.Replace(applyDeployment(1, "x"), "name: web}", "name: web, managedFields: [{manager: x}]}", 1), 400, "metadata.managedFields must be nil"},
		{"duplicate", "&fieldValidation=Strict", applyDeployment(1, "x") + "kind: Deployment\n", 400, "error strict decoding YAML"},
		{"broken", "", "a: [", 400, "error decoding YAML"},
	} {
		r := s.ask(t, "PATCH", deploys+"/web?fieldManager=me"+c.query, c.body, applyType)
		if r.code != c.code || !strings.Contains(r.body, c.words) {
			t.Errorf("%s: %d %s", c.name, r.code, r.body)
		}
	}
}

// TestApplyOtherKinds: kinds with quirks of their own merge too, also in an old version.
func TestApplyOtherKinds(t *testing.T) {
	s := newTestServer(t)
	for path, body := range map[string]string{
		"/api/v1/namespaces/default/secrets/s":  "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: b}",
		"/api/v1/namespaces/default/services/s": "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {selector: {a: b}, ports: [{port: 80}]}",
		cms + "/c":                              "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b}",
		pods + "/p":                             "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i, resources: {limits: {cpu: 100m}}}]}",
		"/api/v1/namespaces/ns1":                "apiVersion: v1\nkind: Namespace\nmetadata: {name: ns1}",
		"/api/v1/nodes/n1":                      "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {a: b}}",
		"/apis/extensions/v1beta1/namespaces/default/deployments/d": strings.NewReplacer("apps/v1", "extensions/v1beta1", "name: web}", "name: d}").Replace(applyDeployment(1, "i")),
	} {
		if r := s.ask(t, "PATCH", path+"?fieldManager=me", body, applyType); r.code != 201 {
			t.Errorf("%s: %d %s", path, r.code, r.body)
		}
		if r := s.ask(t, "PATCH", path+"?fieldManager=me", body, applyType); r.code != 200 {
			t.Errorf("%s again: %d %s", path, r.code, r.body)
		}
		if r := s.ask(t, "PATCH", path+"?fieldManager=you", `{"metadata":{"labels":{"x":"y"}}}`, mergeType); r.code != 200 || !strings.Contains(r.body, `"manager":"you"`) {
			t.Errorf("%s patch: %d %s", path, r.code, r.body)
		}
	}
	if r := s.ask(t, "GET", "/api/v1/namespaces/default/secrets/s", ""); !strings.Contains(r.body, `"data":{"a":"Yg=="}`) {
		t.Error(r)
	}
}
