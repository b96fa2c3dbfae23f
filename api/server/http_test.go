package server

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

type reply struct {
	code   int
	header http.Header
	body   string
}

// ask sends one request; headers are "Name: value".
func (s *testServer) ask(t testing.TB, method, path, body string, headers ...string) reply {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer admin")
	req.Header.Set("User-Agent", "test/1")
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := s.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(data)}
}

const (
	pods      = "/api/v1/namespaces/default/pods"
	cms       = "/api/v1/namespaces/default/configmaps"
	deploys   = "/apis/apps/v1/namespaces/default/deployments"
	podJSON   = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"web","labels":{"app":"web"}},"spec":{"containers":[{"name":"c","image":"nginx"}]}}`
	tableJSON = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io,application/json"
	tooLarge  = "Request entity too large: limit is 3145728"
)

const deployYAML = `apiVersion: %s
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx}]}
`

// TestErrorWords is the table of answers that people and clients read, in Kubernetes' words.
func TestErrorWords(t *testing.T) {
	s := newTestServer(t)
	if r := s.ask(t, "POST", pods, podJSON); r.code != 201 {
		t.Fatal(r)
	}
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		code                     int
		words                    string
	}{
		{"unknown path", "GET", "/nope", "", nil, 404, "the server could not find the requested resource"},
		{"unknown group", "GET", "/apis/nope.io/v1/things", "", nil, 404, "the server could not find the requested resource"},
		{"unknown resource", "GET", "/api/v1/things", "", nil, 404, "the server could not find the requested resource"},
		{"cluster path of a namespaced object", "GET", "/api/v1/pods/web", "", nil, 404, "the server could not find the requested resource"},
		{"namespace path of a cluster kind", "GET", "/api/v1/namespaces/default/nodes", "", nil, 404, "the server could not find the requested resource"},
		{"unknown subresource", "GET", pods + "/web/nope", "", nil, 404, "the server could not find the requested resource"},
		{"no such pod", "GET", pods + "/nope", "", nil, 404, `pods "nope" not found`},
		{"no such deployment", "GET", deploys + "/nope", "", nil, 404, `deployments.apps "nope" not found`},
		{"method", "POST", pods + "/web", podJSON, nil, 405, "the server does not allow this method on the requested resource"},
		{"create without namespace", "POST", "/api/v1/pods", podJSON, nil, 405, "the server does not allow this method on the requested resource"},
		{"nobody", "GET", pods, "", []string{"Authorization: Bearer nobody"}, 401, "Unauthorized"},
		{"forbidden", "GET", pods, "", []string{"Authorization: Bearer reader"}, 403, `pods is forbidden: User \"reader\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"`},
		{"forbidden everywhere", "GET", "/apis/apps/v1/deployments", "", []string{"Authorization: Bearer reader"}, 403, `deployments.apps is forbidden: User \"reader\" cannot list resource \"deployments\" in API group \"apps\" at the cluster scope`},
		{"forbidden namespace", "DELETE", "/api/v1/namespaces/x", "", []string{"Authorization: Bearer reader"}, 403, `namespaces \"x\" is forbidden: User \"reader\" cannot delete resource \"namespaces\" in API group \"\" in the namespace \"x\"`},
		{"forbidden subresource", "PUT", pods + "/web/status", "", []string{"Authorization: Bearer reader"}, 403, `pods \"web\" is forbidden: User \"reader\" cannot update resource \"pods/status\" in API group \"\" in the namespace \"default\"`},
		{"406", "GET", pods, "", []string{"Accept: text/html"}, 406, "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{"406 of a stream", "GET", pods + "?watch=1", "", []string{"Accept: application/cbor"}, 406, "application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"},
		{"406 table of a review", "POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "{}", []string{"Accept: application/json;as=Table;v=v1;g=meta.k8s.io"}, 406, "only the following media types are accepted"},
		{"415", "POST", pods, "x", []string{"Content-Type: text/plain"}, 415, "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"},
		{"415 patch", "PATCH", pods + "/web", "{}", []string{"Content-Type: application/json"}, 415, "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"},
		{"broken JSON", "POST", pods, "{", nil, 400, "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse error"},
		{"another kind", "POST", pods, `{"apiVersion":"v1","kind":"Service"}`, nil, 400, `Service in version \"v1\" cannot be handled as a Pod: converting (v1.Service) to (v1.Pod): unknown conversion`},
		{"another version", "POST", deploys, `{"apiVersion":"apps/v1beta1","kind":"Deployment"}`, nil, 400, "the API version in the data (apps/v1beta1) does not match the expected API version (apps/v1)"},
		{"wrong type", "POST", pods, `{"apiVersion":"v1","kind":"Pod","spec":{"containers":3}}`, nil, 400, `Pod in version \"v1\" cannot be handled as a Pod: json: cannot unmarshal number into Go struct field`},
		{"strict", "POST", pods + "?fieldValidation=Strict", strings.Replace(podJSON, `"spec":{`, `"spec":{"foo":1,`, 1), nil, 400, `strict decoding error: unknown field \"spec.foo\"`},
		{"strict duplicate", "POST", pods + "?fieldValidation=Strict", strings.Replace(podJSON, `"name":"c"`, `"name":"c","name":"c"`, 1), nil, 400, `strict decoding error: duplicate field \"spec.containers[0].name\"`},
		{"fieldValidation", "POST", pods + "?fieldValidation=Maybe", podJSON, nil, 422, "fieldValidation: Unsupported value"},
		{"dryRun", "POST", pods + "?dryRun=Some", podJSON, nil, 422, "dryRun: Unsupported value"},
		{"invalid object", "POST", pods, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"bad"},"spec":{}}`, nil, 422, `Pod \"bad\" is invalid: spec.containers: Required value`},
		{"namespace mismatch", "POST", pods, strings.Replace(podJSON, `"name":"web"`, `"name":"b","namespace":"other"`, 1), nil, 400, "the namespace of the provided object does not match the namespace sent on the request"},
		{"name mismatch", "PUT", pods + "/other", podJSON, nil, 400, "the name of the object (web) does not match the name on the URL (other)"},
		{"exists", "POST", pods, podJSON, nil, 409, `pods \"web\" already exists`},
		{"body", "POST", pods, strings.Repeat("x", maxBody+1), nil, 413, tooLarge},
		{"label selector", "GET", pods + "?labelSelector=a%20b%20c", "", nil, 400, "unable to parse requirement: found 'b', expected: in, notin, ="},
		{"field selector", "GET", pods + "?fieldSelector=spec.foo%3Dx", "", nil, 400, "field label not supported: spec.foo"},
		{"match without version", "GET", pods + "?resourceVersionMatch=Exact", "", nil, 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"},
		{"exact zero", "GET", pods + "?resourceVersionMatch=Exact&resourceVersion=0", "", nil, 422, `resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"`},
		{"initial events of a list", "GET", pods + "?sendInitialEvents=true", "", nil, 422, "sendInitialEvents is forbidden for list"},
		{"initial events need match", "GET", pods + "?watch=1&sendInitialEvents=true", "", nil, 422, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"},
		{"shards", "GET", pods + "?shardSelector=x", "", nil, 422, "shardSelector: Forbidden"},
		{"timeout", "GET", pods + "?timeout=soon", "", nil, 400, "invalid timeout specified in the request URL"},
		{"includeObject", "GET", pods + "?includeObject=Some", "", []string{tableJSON}, 400, "Unable to convert to Table as requested"},
		{"patch of nothing", "PATCH", pods + "/nope", "{}", []string{"Content-Type: application/merge-patch+json"}, 404, `pods \"nope\" not found`},
		{"bad strategic patch", "PATCH", pods + "/web", "[]", []string{"Content-Type: application/strategic-merge-patch+json"}, 400, "cannot unmarshal array"},
		{"bad JSON patch", "PATCH", pods + "/web", `[{"op":"replace","path":"/spec/nope/x","value":1}]`, []string{"Content-Type: application/json-patch+json"}, 422, "the server rejected our request due to an error in our request"},
		{"patch with a wrong type", "PATCH", pods + "/web", `{"spec":{"containers":"x"}}`, []string{"Content-Type: application/merge-patch+json"}, 422, "patch: Invalid value"},
		{"strict patch", "PATCH", pods + "/web?fieldValidation=Strict", `{"spec":{"foo":1}}`, []string{"Content-Type: application/strategic-merge-patch+json"}, 422, `strict decoding error: unknown field \"spec.foo\"`},
		{"force without apply", "PATCH", pods + "/web?force=true", `{}`, []string{"Content-Type: application/merge-patch+json"}, 422, "may not be specified for non-apply patch"},
		{"apply without manager", "PATCH", pods + "/web", `{}`, []string{"Content-Type: application/apply-patch+yaml"}, 422, "fieldManager: Required value: is required for apply patch"},
		{"delete options", "DELETE", pods + "/web", `{"orphanDependents":true,"propagationPolicy":"Orphan"}`, nil, 422, "orphanDependents and deletionPropagation cannot be both set"},
		{"connection error", "GET", pods + "/missing/log", "", nil, 404, `pods \"missing\" not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := s.ask(t, c.method, c.path, c.body, c.headers...)
			if r.code != c.code || !strings.Contains(strings.ReplaceAll(r.body, `\"`, `"`), strings.ReplaceAll(c.words, `\"`, `"`)) {
				t.Fatalf("got %d %s\nwant %d %s", r.code, r.body, c.code, c.words)
			}
			var st metav1.Status
			if err := json.Unmarshal([]byte(r.body), &st); err != nil || st.Kind != "Status" || st.Status != "Failure" || st.Code != int32(c.code) || st.Reason == "" {
				t.Fatalf("not a Status: %v %+v", err, st)
			}
		})
	}
}

func TestNegotiation(t *testing.T) {
	s := newTestServer(t)
	s.ask(t, "POST", pods, podJSON)
	for _, c := range []struct{ accept, contentType, has string }{
		{"", "application/json", `{"kind":"Pod","apiVersion":"v1"`},
		{"*/*", "application/json", `"kind":"Pod"`},
		{"application/*", "application/json", `"kind":"Pod"`},
		{"application/yaml", "application/yaml", "kind: Pod\n"},
		{"application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf", "k8s\x00"},
		{"application/json;q=0.1, application/yaml;q=0.9", "application/yaml", "kind: Pod\n"},
		{"text/html, application/json;q=0.5", "application/json", `"kind":"Pod"`},
		{"application/json;q=0, application/yaml", "application/yaml", "kind: Pod\n"},
		{"application/json;as=Nope;v=v1;g=meta.k8s.io, application/yaml", "application/yaml", "kind: Pod\n"},
		{"application/json;as=Table;v=v1;g=meta.k8s.io", "application/json", `"kind":"Table","apiVersion":"meta.k8s.io/v1"`},
		{"application/json;as=Table;v=v1beta1;g=meta.k8s.io", "application/json", `"kind":"Table","apiVersion":"meta.k8s.io/v1beta1"`},
		{"application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/json", `"kind":"PartialObjectMetadata"`},
		{"application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io", "application/vnd.kubernetes.protobuf", "PartialObjectMetadata"},
	} {
		r := s.ask(t, "GET", pods+"/web", "", "Accept: "+c.accept)
		if r.code != 200 || r.header.Get("Content-Type") != c.contentType || !strings.Contains(r.body, c.has) {
			t.Errorf("%q: got %d %s %.200q", c.accept, r.code, r.header.Get("Content-Type"), r.body)
		}
	}
	if r := s.ask(t, "GET", pods+"/web?pretty=true", ""); !strings.HasPrefix(r.body, "{\n  \"kind\": \"Pod\",") {
		t.Errorf("not pretty: %.100s", r.body)
	}
	if r := s.ask(t, "GET", pods, "", "User-Agent: curl/8"); !strings.HasPrefix(r.body, "{\n  \"kind\": \"PodList\",") {
		t.Errorf("not pretty for curl: %.100s", r.body)
	}
	y := s.ask(t, "GET", pods, "", "Accept: application/yaml")
	var list corev1.PodList
	if err := yaml.Unmarshal([]byte(y.body), &list); err != nil || len(list.Items) != 1 {
		t.Errorf("YAML list: %v %s", err, y.body)
	}
}

func TestBodies(t *testing.T) {
	s := newTestServer(t)
	y, _ := yaml.JSONToYAML([]byte(podJSON))
	if r := s.ask(t, "POST", pods, string(y), "Content-Type: application/yaml"); r.code != 201 {
		t.Fatal(r)
	}
	pod := testPod("proto")
	pod.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	var buf bytes.Buffer
	if err := encode(&buf, formatProtobuf, false, pod); err != nil {
		t.Fatal(err)
	}
	if r := s.ask(t, "POST", pods, buf.String(), "Content-Type: application/vnd.kubernetes.protobuf", "Accept: application/json"); r.code != 201 || !strings.Contains(r.body, `"name":"proto"`) {
		t.Fatal(r)
	}
	// A kind and version left out are those of the path.
	if r := s.ask(t, "POST", cms, `{"metadata":{"name":"bare"},"data":{"a":"b"}}`); r.code != 201 || !strings.Contains(r.body, `"kind":"ConfigMap"`) {
		t.Fatal(r)
	}
}

func TestWarnings(t *testing.T) {
	s := newTestServer(t)
	body := strings.Replace(podJSON, `"spec":{`, `"spec":{"foo":1,`, 1)
	r := s.ask(t, "POST", pods+"?dryRun=All", body)
	if r.code != 201 || r.header.Get("Warning") != `299 - "unknown field \"spec.foo\""` {
		t.Fatalf("%d %q", r.code, r.header.Values("Warning"))
	}
	if r := s.ask(t, "POST", pods+"?dryRun=All&fieldValidation=Ignore", body); r.code != 201 || r.header.Get("Warning") != "" {
		t.Fatalf("%d %q", r.code, r.header.Values("Warning"))
	}
	if r := s.ask(t, "GET", pods+"/web", ""); r.code != 404 {
		t.Fatal("dry run left a pod")
	}
}

func TestGzip(t *testing.T) {
	s := newTestServer(t)
	big := strings.Repeat("0123456789", 3000)
	for _, n := range []string{"a", "b", "c", "d", "e", "f"} {
		if r := s.ask(t, "POST", cms, `{"metadata":{"name":"`+n+`"},"data":{"big":"`+big+`"}}`); r.code != 201 {
			t.Fatal(r.body)
		}
	}
	small := s.ask(t, "GET", cms+"/a", "", "Accept-Encoding: gzip")
	if small.header.Get("Content-Encoding") != "" || small.header.Get("Content-Length") == "" {
		t.Fatal("small answer compressed or of unknown length")
	}
	plain := s.ask(t, "GET", cms, "")
	packed := s.ask(t, "GET", cms, "", "Accept-Encoding: gzip")
	if packed.header.Get("Content-Encoding") != "gzip" || len(packed.body) > len(plain.body)/10 {
		t.Fatal("large answer not compressed", packed.header)
	}
	z, err := gzip.NewReader(strings.NewReader(packed.body))
	if err != nil {
		t.Fatal(err)
	}
	data, _ := io.ReadAll(z)
	if string(data) != plain.body {
		t.Fatal("compressed answer differs")
	}
	if r := s.ask(t, "GET", cms, "", "Accept-Encoding: gzip;q=0"); r.header.Get("Content-Encoding") != "" {
		t.Fatal("q=0 ignored")
	}
}
