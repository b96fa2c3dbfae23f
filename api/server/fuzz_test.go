package server

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/whalepod/whalepod/api/resource"
)

// stock is a server whose objects are the same for each input.
type stock struct {
	*testServer
	objs map[string]resource.Object
}

func newStock(f *testing.F) *stock {
	s := newTestServer(f)
	s.mustCreateDeployment(f)
	if r := s.ask(f, "POST", pods, podJSON, "Content-Type: application/json"); r.code != http.StatusCreated {
		f.Fatal(r)
	}
	return &stock{s, maps.Clone(s.backend.objs)}
}

// send a request past the network, and fail if it makes the server panic.
func (s *stock) send(t *testing.T, method, path, query, body string, header http.Header) *httptest.ResponseRecorder {
	t.Helper()
	s.backend.mu.Lock()
	s.backend.objs, s.backend.log, s.backend.acted, s.backend.deleted = maps.Clone(s.objs), nil, nil, nil
	s.backend.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond) // ends watches
	defer cancel()
	header.Set("Authorization", "Bearer admin")
	req := (&http.Request{
		Method: method, URL: &url.URL{Path: path, RawQuery: query}, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "x",
		Header: header, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), RemoteAddr: "192.0.2.1:1",
	}).WithContext(ctx)
	w := httptest.NewRecorder()
	defer func() {
		if v := recover(); v != nil {
			t.Errorf("%s %s?%s broke off: %v", method, path, query, v)
		}
	}()
	s.api.ServeHTTP(w, req)
	if strings.Contains(w.Body.String(), "caused apiserver to panic") {
		t.Errorf("%s %s?%s: %s", method, path, query, w.Body)
	}
	return w
}

// FuzzRequest: methods, paths, options, forms and bodies of all kinds.
func FuzzRequest(f *testing.F) {
	s := newStock(f)
	add := func(method, path, query, body, accept, content string) {
		f.Add(method, path, query, body, accept, content)
	}
	add("GET", pods, "labelSelector=app+in+(web,x),!y&fieldSelector=spec.nodeName!=n,metadata.name=web&limit=1&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEifQ", "", "", "")
	add("GET", pods+"/web", "", "", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json", "")
	add("GET", "/api/v1/watch/namespaces/default/pods", "resourceVersion=1&allowWatchBookmarks=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&timeoutSeconds=1", "", "application/vnd.kubernetes.protobuf;stream=watch", "")
	add("GET", "/apis/apps/v1/deployments", "watch=true&resourceVersion=x", "", "application/yaml", "")
	add("GET", pods, "includeObject=Metadata&limit=-1&resourceVersionMatch=Exact&resourceVersion=18446744073709551616", "", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "")
	add("POST", pods, "dryRun=All&fieldValidation=Strict&fieldManager=x", podJSON, "", "application/json")
	add("POST", pods, "", "k8s\x00\x0a\x09\x0a\x02v1\x12\x03Pod\x12\x00", "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf")
	add("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", "", `{"spec":{"nonResourceAttributes":{"path":"/"}}}`, "", "application/json")
	add("PUT", deploys+"/web/scale", "", `{"apiVersion":"autoscaling/v1","kind":"Scale","metadata":{"name":"web"},"spec":{"replicas":-1}}`, "", "application/json")
	add("DELETE", pods, "gracePeriodSeconds=x&propagationPolicy=Foreground", `{"preconditions":{"uid":"1"}}`, "", "application/json")
	add("DELETE", pods+"/web", "", "kind: DeleteOptions\napiVersion: v1\n", "", "application/yaml")
	add("GET", pods+"/web/log", "follow=1&tailLines=-1&container=", "", "", "")
	add("GET", pods+"/web/proxy/../../x//", "", "", "", "")
	add("GET", "/apis", "", "", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "")
	add("GET", "/openapi/v3/api/v1", "hash=x", "", "*/*;q=2", "")
	add("PATCH", "/api/v1/namespaces//pods/", "force=maybe", "{}", "", "application/apply-patch+yaml")
	f.Fuzz(func(t *testing.T, method, path, query, body, accept, content string) {
		h := http.Header{}
		for k, v := range map[string]string{"Accept": accept, "Content-Type": content} {
			if v != "" {
				h.Set(k, v)
			}
		}
		s.send(t, method, "/"+strings.TrimPrefix(path, "/"), query, body, h)
		if to, ok := parseTarget(path); ok && to.resource == "" {
			t.Errorf("%q names no resource: %+v", path, to)
		}
	})
}

// FuzzPatch: patches of every type on an object and on its scale. What is accepted is an object of its kind and name.
func FuzzPatch(f *testing.F) {
	s := newStock(f)
	kinds := []string{strategicType, mergeType, jsonPatchType, applyType}
	for typ, seeds := range map[uint8][]string{
		0: {
			`{"spec":{"template":{"spec":{"containers":[{"name":"c","$patch":"delete"},{"$patch":"replace"}],"$setElementOrder/containers":[{"name":"x"}]}}}}`,
			`{"metadata":{"$retainKeys":["name"],"labels":null,"finalizers":["a"],"$deleteFromPrimitiveList/finalizers":["a"]}}`,
			`{"spec":{"template":{"spec":{"volumes":[{"name":"v","$retainKeys":["name","emptyDir"],"emptyDir":{}}]}}}}`, `{"spec":[1]}`, `{"$patch":"merge"}`,
		},
		1: {`{"spec":{"replicas":3},"metadata":{"annotations":{"a":null}}}`, `null`, `[]`, `{"kind":"Pod"}`, `{"metadata":null}`},
		2: {
			`[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"d","image":"e"}},{"op":"test","path":"/spec/replicas","value":1}]`,
			`[{"op":"copy","from":"/spec","path":"/spec/template/spec/containers/0"},{"op":"move","from":"/a","path":""},{"op":"remove","path":"/metadata/~1~0"}]`, `[{}]`, `[null]`,
		},
		3: {"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 2}\n", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: other}\n", "- 1\n", "a: &a [*a]\n"},
	} {
		for _, seed := range seeds {
			f.Add(typ, seed, "Strict", false)
			f.Add(typ, seed, "", true)
		}
	}
	f.Fuzz(func(t *testing.T, typ uint8, patch, validation string, scale bool) {
		path := deploys + "/web"
		if scale {
			path += "/scale"
		}
		_, media, _ := strings.Cut(kinds[int(typ)%len(kinds)], ": ")
		query := url.Values{"fieldManager": {"fuzz"}, "fieldValidation": {validation}, "force": {"true"}}
		if media != "application/apply-patch+yaml" {
			query.Del("force")
		}
		w := s.send(t, "PATCH", path, query.Encode(), patch, http.Header{"Content-Type": {media}})
		if w.Code != http.StatusOK || scale {
			return
		}
		d := &appsv1.Deployment{}
		if err := json.Unmarshal(w.Body.Bytes(), d); err != nil || d.Name != "web" || d.Kind != "Deployment" {
			t.Errorf("accepted %s: %v, %s", patch, err, w.Body)
		}
	})
}
