package server

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	strategicType = "Content-Type: application/strategic-merge-patch+json"
	mergeType     = "Content-Type: application/merge-patch+json"
	jsonPatchType = "Content-Type: application/json-patch+json"
	applyType     = "Content-Type: application/apply-patch+yaml"
)

func (s *testServer) mustCreateDeployment(t testing.TB) {
	t.Helper()
	body := strings.Replace(fmt.Sprintf(deployYAML, "apps/v1"), "  template:", "  selector: {matchLabels: {app: web}}\n  template:", 1)
	if r := s.ask(t, "POST", deploys, body, "Content-Type: application/yaml"); r.code != 201 {
		t.Fatal(r)
	}
}

func (s *testServer) deployment(t testing.TB) *appsv1.Deployment {
	t.Helper()
	d := &appsv1.Deployment{}
	if err := json.Unmarshal([]byte(s.ask(t, "GET", deploys+"/web", "").body), d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestPatchTypes(t *testing.T) {
	s := newTestServer(t)
	s.mustCreateDeployment(t)
	image := func(img string) string {
		return `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"` + img + `"}]}}}}`
	}
	for i, c := range []struct{ path, typ, body, want string }{
		{deploys, strategicType, image("one"), "one"},
		{deploys, mergeType, image("two"), "two"},
		{deploys, jsonPatchType, `[{"op":"replace","path":"/spec/template/spec/containers/0/image","value":"three"}]`, "three"},
		{"/apis/extensions/v1beta1/namespaces/default/deployments", strategicType, image("four"), "four"},
		{"/apis/apps/v1beta1/namespaces/default/deployments", mergeType, image("five"), "five"},
	} {
		s.backend.mu.Lock()
		s.backend.conflicts = 2 // others are quicker twice: the patch is applied again
		s.backend.mu.Unlock()
		if r := s.ask(t, "PATCH", c.path+"/web", c.body, c.typ); r.code != 200 {
			t.Fatal(c, r)
		}
		d := s.deployment(t)
		if got := d.Spec.Template.Spec.Containers; len(got) != 1 || got[0].Image != c.want {
			t.Errorf("%d: %v", i, got)
		}
		if len(d.ManagedFields) != 0 {
			t.Errorf("fields tracked without apply")
		}
	}
	stale := `{"metadata":{"resourceVersion":"1","labels":{"a":"b"}}}`
	if r := s.ask(t, "PATCH", deploys+"/web", stale, mergeType); r.code != 409 || !strings.Contains(r.body, "the object has been modified; please apply your changes to the latest version and try again") {
		t.Error(r)
	}
	before := s.deployment(t).ResourceVersion
	if r := s.ask(t, "PATCH", deploys+"/web?dryRun=All", `{"metadata":{"labels":{"dry":"run"}}}`, mergeType); r.code != 200 || !strings.Contains(r.body, `"dry":"run"`) {
		t.Error(r)
	}
	if s.deployment(t).ResourceVersion != before {
		t.Error("dry run wrote")
	}
	r := s.ask(t, "PATCH", deploys+"/web", `{"spec":{"nope":1}}`, mergeType)
	if r.code != 200 || r.header.Get("Warning") != `299 - "unknown field \"spec.nope\""` {
		t.Error(r.code, r.header)
	}
	if r := s.ask(t, "PATCH", deploys+"/web/status", `{"spec":{"replicas":9},"status":{"replicas":7}}`, mergeType); r.code != 200 {
		t.Error(r)
	}
	if d := s.deployment(t); d.Status.Replicas != 7 || *d.Spec.Replicas != 2 {
		t.Error("status patch:", d.Status, *d.Spec.Replicas)
	}
	ops := "[" + strings.TrimSuffix(strings.Repeat(`{"op":"test","path":"/kind","value":"Deployment"},`, maxPatchOps+1), ",") + "]"
	if r := s.ask(t, "PATCH", deploys+"/web", ops, jsonPatchType); r.code != 413 || !strings.Contains(r.body, "The allowed maximum operations in a JSON patch is 10000, got 10001") {
		t.Error(r.code)
	}
}

func TestOldVersions(t *testing.T) {
	s := newTestServer(t)
	ext := "/apis/extensions/v1beta1/namespaces/default/deployments"
	if r := s.ask(t, "POST", ext, fmt.Sprintf(deployYAML, "extensions/v1beta1"), "Content-Type: application/yaml"); r.code != 201 || !strings.Contains(r.body, `"apiVersion":"extensions/v1beta1"`) {
		t.Fatal(r)
	}
	if d := s.deployment(t); d.APIVersion != "apps/v1" || d.Spec.Selector.MatchLabels["app"] != "web" {
		t.Fatalf("%+v", d)
	}
	r := s.ask(t, "GET", ext, "")
	if !strings.Contains(r.body, `"kind":"DeploymentList","apiVersion":"extensions/v1beta1"`) {
		t.Fatal(r.body)
	}
	if r := s.ask(t, "POST", ext+"/web/rollback", `{"kind":"DeploymentRollback","apiVersion":"extensions/v1beta1","name":"web","rollbackTo":{"revision":1}}`); r.code != 201 {
		t.Fatal(r)
	}
}

func TestScale(t *testing.T) {
	s := newTestServer(t)
	s.mustCreateDeployment(t)
	scale := deploys + "/web/scale"
	r := s.ask(t, "GET", scale, "")
	if r.code != 200 || !strings.Contains(r.body, `"kind":"Scale","apiVersion":"autoscaling/v1"`) || !strings.Contains(r.body, `"spec":{"replicas":2}`) || !strings.Contains(r.body, `"selector":"app=web"`) {
		t.Fatal(r)
	}
	if r := s.ask(t, "PUT", scale, strings.Replace(r.body, `"spec":{"replicas":2}`, `"spec":{"replicas":5}`, 1)); r.code != 200 || !strings.Contains(r.body, `"replicas":5`) {
		t.Fatal(r)
	}
	if r := s.ask(t, "PUT", scale, r.body); r.code != 409 {
		t.Fatal("stale scale:", r)
	}
	if r := s.ask(t, "PATCH", scale, `{"spec":{"replicas":6}}`, mergeType); r.code != 200 || *s.deployment(t).Spec.Replicas != 6 {
		t.Fatal(r)
	}
	if r := s.ask(t, "PATCH", scale, `{"spec":{"replicas":-1}}`, mergeType); r.code != 422 || !strings.Contains(r.body, "must be greater than or equal to 0") {
		t.Fatal(r)
	}
	if r := s.ask(t, "GET", "/apis/extensions/v1beta1/namespaces/default/deployments/web/scale", ""); !strings.Contains(r.body, `"apiVersion":"extensions/v1beta1"`) {
		t.Fatal(r)
	}
	if r := s.ask(t, "GET", scale, "", tableJSON); !strings.Contains(r.body, `"kind":"Table"`) || !strings.Contains(r.body, `"cells":["web",6,`) || !strings.Contains(r.body, `{"name":"Available","type":"integer"`) || !strings.Contains(r.body, `"kind":"PartialObjectMetadata"`) {
		t.Fatal("columns:", r)
	}
	if r := s.ask(t, "GET", deploys+"/nope/scale", ""); r.code != 404 || !strings.Contains(r.body, `deployments.apps \"nope\" not found`) {
		t.Fatal(r)
	}
}

func TestActions(t *testing.T) {
	s := newTestServer(t)
	for _, c := range []struct{ path, body, want string }{
		{pods + "/web/binding", `{"apiVersion":"v1","kind":"Binding","metadata":{"name":"web"},"target":{"kind":"Node","name":"n"}}`, "pods/default/web/binding *v1.Binding"},
		{"/api/v1/namespaces/default/bindings", `{"metadata":{"name":"web"},"target":{"name":"n"}}`, "pods/default/web/binding *v1.Binding"},
		{pods + "/web/eviction", `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"web"}}`, "pods/default/web/eviction *v1.Eviction"},
		{pods + "/web/eviction", `{"apiVersion":"policy/v1beta1","kind":"Eviction","metadata":{"name":"web"}}`, "pods/default/web/eviction *v1.Eviction"},
		{"/api/v1/namespaces/default/serviceaccounts/sa/token", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{"audiences":["x"]}}`, "serviceaccounts/default/sa/token *v1.TokenRequest"},
	} {
		if r := s.ask(t, "POST", c.path, c.body); r.code != 201 {
			t.Fatal(c, r)
		}
		if got := s.backend.acted[len(s.backend.acted)-1]; got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if r := s.ask(t, "POST", pods+"/web/exec/", "", "Authorization: Bearer reader"); r.code != 403 && r.code != 404 {
		t.Error(r)
	}
	for path, want := range map[string]string{
		pods + "/web/log":                             "GET pods log default/web ",
		"/api/v1/nodes/n/proxy/metrics/":              "GET nodes proxy /n /metrics/",
		"/api/v1/namespaces/default/services/s/proxy": "GET services proxy default/s ",
	} {
		if r := s.ask(t, "GET", path, ""); r.code != 200 || r.body != want {
			t.Errorf("%s: %d %q", path, r.code, r.body)
		}
	}
}

func TestReviews(t *testing.T) {
	s := newTestServer(t)
	const sar = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
	body := `{"spec":{"resourceAttributes":{"verb":"list","resource":"pods"}}}`
	if r := s.ask(t, "POST", sar, body); r.code != 201 || !strings.Contains(r.body, `"allowed":true`) {
		t.Error(r)
	}
	s.api.Authorize = nil
	if r := s.ask(t, "POST", sar, `{"spec":{}}`); r.code != 422 {
		t.Error(r)
	}
	if r := s.ask(t, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", `{}`); r.code != 201 || !strings.Contains(r.body, `"username":"admin"`) {
		t.Error(r)
	}
	if r := s.ask(t, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"reader"}}`); r.code != 201 || !strings.Contains(r.body, `"authenticated":true`) {
		t.Error(r)
	}
	if r := s.ask(t, "POST", "/apis/authentication.k8s.io/v1/tokenreviews", `{"spec":{"token":"nope"}}`); r.code != 201 || strings.Contains(r.body, `"authenticated":true`) {
		t.Error(r)
	}
	if r := s.ask(t, "POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", `{"spec":{"namespace":"default"}}`); r.code != 201 || !strings.Contains(r.body, `"resourceRules":[{"verbs":["*"]`) {
		t.Error(r)
	}
	if r := s.ask(t, "GET", sar, ""); r.code != 405 {
		t.Error(r)
	}
}

func TestCreateDropsWhatTheSystemSets(t *testing.T) {
	s := newTestServer(t)
	r := s.ask(t, "POST", cms, `{"metadata":{"name":"a","uid":"mine","creationTimestamp":"2001-01-01T00:00:00Z","deletionTimestamp":"2001-01-01T00:00:00Z",
		"managedFields":[{"manager":"x","operation":"Update","apiVersion":"v1","time":"2001-01-01T00:00:00Z","fieldsType":"FieldsV1","fieldsV1":{"f:data":{}}}],
		"ownerReferences":[{"apiVersion":"v1","kind":"Pod","name":"p","uid":"1"},{"apiVersion":"v1","kind":"Pod","name":"p","uid":"1"}]}}`)
	var m metav1.PartialObjectMetadata
	if err := json.Unmarshal([]byte(r.body), &m); err != nil || r.code != 201 {
		t.Fatal(err, r)
	}
	if m.UID == "mine" || m.CreationTimestamp.Year() == 2001 || m.DeletionTimestamp != nil || len(m.ManagedFields) != 0 || len(m.OwnerReferences) != 1 {
		t.Errorf("%+v", m)
	}
	if !strings.Contains(r.header.Get("Warning"), "duplicate UID(s) observed: 1") {
		t.Error(r.header)
	}
}

func TestImpersonation(t *testing.T) {
	s := newTestServer(t)
	const who = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
	r := s.ask(t, "POST", pods, podJSON, "Impersonate-User: jane", "Impersonate-Group: dev")
	if r.code != 403 || !strings.Contains(r.body, `User \"jane\" cannot create resource`) {
		t.Error(r)
	}
	r = s.ask(t, "POST", who, "{}", "Impersonate-User: jane", "Impersonate-Group: dev", "Impersonate-Extra-Acme.com%2Fteam: a")
	if r.code != 201 || !strings.Contains(r.body, `"username":"jane","groups":["dev","system:authenticated"],"extra":{"acme.com/team":["a"]}`) {
		t.Error(r)
	}
	r = s.ask(t, "POST", who, "{}", "Impersonate-User: system:serviceaccount:default:web")
	if !strings.Contains(r.body, `"groups":["system:serviceaccounts","system:serviceaccounts:default","system:authenticated"]`) {
		t.Error(r)
	}
	if r = s.ask(t, "POST", who, "{}", "Impersonate-Group: dev"); r.code != 400 {
		t.Error(r)
	}
	s = newTestServer(t)
	if r = s.ask(t, "GET", pods+"/x", "", "Authorization: Bearer reader", "Impersonate-User: admin"); r.code != 403 || !strings.Contains(r.body, `User \"reader\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope`) {
		t.Error(r)
	}
}

// TestBasicRights: nobody may do more than the hook allows.
func TestBasicRights(t *testing.T) {
	s := newTestServer(t)
	reader := "Authorization: Bearer reader"
	for _, path := range []string{"/api", "/apis/apps/v1", "/openapi/v2", "/version"} {
		if r := s.ask(t, "GET", path, "", reader); r.code != 200 {
			t.Error(path, r.code)
		}
	}
	if r := s.ask(t, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", "{}", reader); r.code != 201 || !strings.Contains(r.body, `"username":"reader"`) {
		t.Error(r)
	}
	sar := `{"spec":{"resourceAttributes":{"verb":"list","resource":"pods"}}}`
	if r := s.ask(t, "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", sar, reader); r.code != 201 || !strings.Contains(r.body, `"allowed":false`) {
		t.Error(r)
	}
	if r := s.ask(t, "POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", sar, reader); r.code != 403 {
		t.Error(r)
	}
	if r := s.ask(t, "GET", "/metrics", "", reader); r.code != 403 || !strings.Contains(r.body, `User \"reader\" cannot get path \"/metrics\"`) {
		t.Error(r)
	}
	// A WebSocket's GET is no reading.
	if r := s.ask(t, "GET", pods+"/web/exec", "", reader); r.code != 403 || !strings.Contains(r.body, "cannot create resource") {
		t.Error(r)
	}
}
