package server

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/websocket"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// wireEvent is an event as JSON clients see it.
type wireEvent struct {
	Type   string         `json:"type"`
	Object map[string]any `json:"object"`
}

func (e wireEvent) meta() map[string]any {
	m, _ := e.Object["metadata"].(map[string]any)
	return m
}

func (e wireEvent) name() string { n, _ := e.meta()["name"].(string); return n }

// watchStreamOf opens a watch and returns a function that reads its next event.
func (s *testServer) watchJSON(t testing.TB, path string, headers ...string) func() (wireEvent, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+path, nil)
	req.Header.Set("Authorization", "Bearer admin")
	for _, h := range headers {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Set(k, v)
	}
	resp, err := s.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != 200 {
		data, _ := io.ReadAll(resp.Body)
		t.Fatalf("%d %s", resp.StatusCode, data)
	}
	dec := json.NewDecoder(resp.Body)
	return func() (wireEvent, error) {
		var e wireEvent
		err := dec.Decode(&e)
		return e, err
	}
}

func mustEvent(t testing.TB, next func() (wireEvent, error), typ, name string) wireEvent {
	t.Helper()
	e, err := next()
	if err != nil {
		t.Fatal(err)
	}
	if e.Type != typ || e.name() != name {
		t.Fatalf("got %s %q (%v), want %s %q", e.Type, e.name(), e.Object, typ, name)
	}
	return e
}

func (s *testServer) mustCreatePod(t testing.TB, name string) {
	t.Helper()
	if r := s.ask(t, "POST", pods, strings.Replace(podJSON, `"name":"web"`, `"name":"`+name+`"`, 1)); r.code != 201 {
		t.Fatal(r)
	}
}

func TestWatchEvents(t *testing.T) {
	s := newTestServer(t)
	s.mustCreatePod(t, "a")
	for _, path := range []string{pods + "?watch=1", "/api/v1/watch/namespaces/default/pods", "/api/v1/pods?watch=true", "/api/v1/watch/pods"} {
		mustEvent(t, s.watchJSON(t, path), "ADDED", "a")
	}
	one := s.watchJSON(t, "/api/v1/watch/namespaces/default/pods/b?resourceVersion=2")
	all := s.watchJSON(t, pods+"?watch=1&resourceVersion=2&labelSelector=app%3Dweb")
	s.mustCreatePod(t, "c")
	s.mustCreatePod(t, "b")
	if r := s.ask(t, "DELETE", pods+"/b", ""); r.code != 200 {
		t.Fatal(r)
	}
	mustEvent(t, one, "ADDED", "b")
	mustEvent(t, one, "DELETED", "b")
	e := mustEvent(t, all, "ADDED", "c")
	if e.Object["kind"] != "Pod" || e.Object["apiVersion"] != "v1" {
		t.Fatalf("event without kind: %v", e.Object)
	}
}

func TestWatchOldVersion(t *testing.T) {
	s := newTestServer(t)
	next := s.watchJSON(t, "/apis/extensions/v1beta1/namespaces/default/deployments?watch=1")
	if r := s.ask(t, "POST", deploys, `{"metadata":{"name":"web"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`); r.code != 201 {
		t.Fatal(r)
	}
	if e := mustEvent(t, next, "ADDED", "web"); e.Object["apiVersion"] != "extensions/v1beta1" {
		t.Fatalf("%v", e.Object["apiVersion"])
	}
}

func TestWatchListAndBookmarks(t *testing.T) {
	s := newTestServer(t)
	s.mustCreatePod(t, "a")
	next := s.watchJSON(t, pods+"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")
	mustEvent(t, next, "ADDED", "a")
	e := mustEvent(t, next, "BOOKMARK", "")
	notes, _ := e.meta()["annotations"].(map[string]any)
	if notes[metav1.InitialEventsAnnotationKey] != "true" || e.meta()["resourceVersion"] != "2" || e.Object["kind"] != "Pod" {
		t.Fatalf("%v", e.Object)
	}
	// The same as a Table, even when rows are to have no objects: the annotation is the message.
	for _, include := range []string{"", "&includeObject=None"} {
		next = s.watchJSON(t, pods+"?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"+include, tableJSON)
		if _, err := next(); err != nil {
			t.Fatal(err)
		}
		e, err := next()
		if err != nil {
			t.Fatal(err)
		}
		data, _ := json.Marshal(e)
		if e.Type != "BOOKMARK" || !strings.Contains(string(data), metav1.InitialEventsAnnotationKey) {
			t.Fatalf("%s", data)
		}
	}
}

func TestWatchTable(t *testing.T) {
	s := newTestServer(t)
	s.mustCreatePod(t, "a")
	next := s.watchJSON(t, pods+"?watch=1", tableJSON)
	s.mustCreatePod(t, "b")
	for i := range 2 {
		e, err := next()
		if err != nil {
			t.Fatal(err)
		}
		cols, _ := e.Object["columnDefinitions"].([]any)
		rows, _ := e.Object["rows"].([]any)
		if e.Object["kind"] != "Table" || (len(cols) > 0) != (i == 0) || len(rows) != 1 {
			t.Fatalf("event %d: %d columns, %d rows: %v", i, len(cols), len(rows), e.Object)
		}
	}
	meta := s.watchJSON(t, pods+"?watch=1", "Accept: application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io")
	if e := mustEvent(t, meta, "ADDED", "a"); e.Object["kind"] != "PartialObjectMetadata" || e.Object["spec"] != nil {
		t.Fatalf("%v", e.Object)
	}
}

func TestWatchEnds(t *testing.T) {
	s := newTestServer(t)
	next := s.watchJSON(t, pods+"?watch=1&timeoutSeconds=1")
	if _, err := next(); err != io.EOF {
		t.Fatalf("timeoutSeconds: %v", err)
	}
	// History that is gone is an ERROR event.
	s.backend.mu.Lock()
	s.backend.compacted = 100
	s.backend.mu.Unlock()
	e, err := s.watchJSON(t, pods+"?watch=1&resourceVersion=1")()
	if err != nil || e.Type != "ERROR" || e.Object["code"] != 410.0 || e.Object["reason"] != "Expired" {
		t.Fatalf("%v %v", err, e)
	}
}

func TestWatchProtobuf(t *testing.T) {
	s := newTestServer(t)
	s.mustCreatePod(t, "a")
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+pods+"?watch=1&timeoutSeconds=1", nil)
	req.Header.Set("Authorization", "Bearer admin")
	req.Header.Set("Accept", "application/vnd.kubernetes.protobuf;stream=watch")
	resp, err := s.client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if ct := resp.Header.Get("Content-Type"); ct != "application/vnd.kubernetes.protobuf;stream=watch" {
		t.Fatal(ct)
	}
	r := bufio.NewReader(resp.Body)
	var size uint32
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		t.Fatal(err)
	}
	var e metav1.WatchEvent
	if err := e.Unmarshal(data); err != nil || e.Type != "ADDED" {
		t.Fatal(err, e.Type)
	}
	var env runtime.Unknown
	if err := env.Unmarshal(e.Object.Raw[4:]); err != nil {
		t.Fatal(err)
	}
	var pod corev1.Pod
	if err := pod.Unmarshal(env.Raw); err != nil || pod.Name != "a" || env.Kind != "Pod" {
		t.Fatal(err, pod.Name, env.Kind)
	}
}

func TestWatchWebSocket(t *testing.T) {
	s := newTestServer(t)
	s.mustCreatePod(t, "a")
	conf, err := websocket.NewConfig("wss"+strings.TrimPrefix(s.URL, "https")+pods+"?watch=1", "https://browser.example")
	if err != nil {
		t.Fatal(err)
	}
	conf.TlsConfig = s.config11()
	conf.Header = http.Header{"Authorization": {"Bearer admin"}}
	ws, err := websocket.DialConfig(conf)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	for _, name := range []string{"a", "b"} {
		var e wireEvent
		if err := websocket.JSON.Receive(ws, &e); err != nil || e.name() != name {
			t.Fatal(err, e)
		}
		if name == "a" {
			s.mustCreatePod(t, "b")
		}
	}
}

// lines collects what a watch writes.
type lines struct {
	h  http.Header
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Header() http.Header { return l.h }
func (l *lines) WriteHeader(int)     {}
func (l *lines) Flush()              {}
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// TestBookmarks: a quiet watch that allows bookmarks gets one each interval, another none; each ends in its time.
func TestBookmarks(t *testing.T) {
	api := New(Config{Table: testTable(), Backend: newMemBackend(testTable()), Auth: testAuth{}})
	for query, want := range map[string]int{"&allowWatchBookmarks=true": 4, "": 0} {
		synctest.Test(t, func(t *testing.T) {
			api.Backend = newMemBackend(testTable())
			req := httptest.NewRequest("GET", pods+"?watch=1&resourceVersion=1&timeoutSeconds=270"+query, nil).WithContext(t.Context())
			req.Header.Set("Authorization", "Bearer admin")
			w := &lines{h: http.Header{}}
			start := time.Now()
			api.ServeHTTP(w, req)
			if took := time.Since(start); took != 270*time.Second {
				t.Errorf("lasted %v", took)
			}
			if got := strings.Count(w.b.String(), `{"type":"BOOKMARK","object":{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"1"}`); got != want {
				t.Errorf("%q: %d bookmarks: %s", query, got, w.b.String())
			}
		})
	}
	// Without timeoutSeconds a watch lasts between 30 and 60 minutes.
	synctest.Test(t, func(t *testing.T) {
		api.Backend = newMemBackend(testTable())
		req := httptest.NewRequest("GET", pods+"?watch=1&resourceVersion=1", nil).WithContext(t.Context())
		req.Header.Set("Authorization", "Bearer admin")
		start := time.Now()
		api.ServeHTTP(&lines{h: http.Header{}}, req)
		if took := time.Since(start); took < minWatch || took > 2*minWatch {
			t.Errorf("lasted %v", took)
		}
	})
}

// TestServeEndsWatches: a server that is asked to end closes watches cleanly and returns nil.
func TestServeEndsWatches(t *testing.T) {
	s := newTestServer(t)
	l, addr := listenLoopback(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.api.Serve(ctx, l, s.TLS) }()
	s.URL = "https://" + addr
	next := s.watchJSON(t, pods+"?watch=1")
	if r := s.ask(t, "GET", "/readyz", ""); r.code != 200 {
		t.Fatal(r)
	}
	req, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/version", nil)
	if resp, err := s.client().Do(req); err != nil || resp.ProtoMajor != 2 {
		t.Fatal("no HTTP/2:", err, resp)
	}
	cancel()
	if _, err := next(); err != io.EOF {
		t.Fatalf("watch ended with %v", err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestServeDropsSilentConnections: whoever connected and asked nothing must not hold up the end for five seconds.
func TestServeDropsSilentConnections(t *testing.T) {
	s := newTestServer(t)
	l, addr := listenLoopback(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.api.Serve(ctx, l, s.TLS) }()
	silent, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	// The server accepts in order: once this is answered, the silent one is known.
	s.URL = "https://" + addr
	if r := s.ask(t, "GET", "/readyz", ""); r.code != 200 {
		t.Fatal(r)
	}
	start := time.Now()
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 3*time.Second {
		t.Errorf("the end took %v", took)
	}
}
