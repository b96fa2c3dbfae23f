package server

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

func TestHealth(t *testing.T) {
	sick := errors.New("sick")
	var now error
	s := newTestServer(t, func(c *Config) { c.Checks = []Check{{"disk", func() error { return now }}} })
	anybody := "Authorization: Bearer nobody"
	for path, want := range map[string]string{"/healthz": "ok", "/livez": "ok", "/readyz": "ok", "/readyz/disk": "ok",
		"/readyz?verbose": "[+]ping ok\n[+]backend ok\n[+]disk ok\n[+]shutdown ok\nreadyz check passed\n"} {
		if r := s.ask(t, "GET", path, "", anybody); r.code != 200 || r.body != want {
			t.Errorf("%s: %d %q", path, r.code, r.body)
		}
	}
	now = sick
	if r := s.ask(t, "GET", "/readyz", ""); r.code != 500 || !strings.Contains(r.body, "[-]disk failed: reason withheld\nreadyz check failed") && !strings.Contains(r.body, "[-]disk failed") {
		t.Error(r)
	}
	if r := s.ask(t, "GET", "/livez", ""); r.code != 200 {
		t.Error(r)
	}
	if r := s.ask(t, "GET", "/readyz?exclude=disk", ""); r.code != 200 {
		t.Error(r)
	}
	if r := s.ask(t, "GET", "/readyz/nope", ""); r.code != 404 {
		t.Error(r)
	}
	if r := s.ask(t, "GET", "/version", "", anybody); r.code != 200 || !strings.Contains(r.body, `"gitVersion": "v1.36.3+whalepod-test"`) {
		t.Error(r)
	}
	if r := s.ask(t, "GET", "/metrics", "", anybody); r.code != 401 {
		t.Error(r)
	}
}

func TestOpenAPI(t *testing.T) {
	s := newTestServer(t)
	r := s.ask(t, "GET", "/openapi/v2", "")
	if r.code != 200 || !strings.Contains(r.body, `"io.k8s.api.apps.v1.Deployment"`) {
		t.Fatalf("%d %.200s", r.code, r.body)
	}
	if r := s.ask(t, "GET", "/openapi/v2", "", "If-None-Match: "+r.header.Get("ETag")); r.code != 304 {
		t.Error(r.code)
	}
	if r := s.ask(t, "GET", "/openapi/v2", "", "Accept: application/com.github.proto-openapi.spec.v2@v1.0+protobuf", "Accept-Encoding: gzip"); r.code != 200 || r.header.Get("Content-Encoding") != "gzip" ||
		r.header.Get("Content-Type") != "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" {
		t.Error(r.code, r.header)
	}
	if r := s.ask(t, "GET", "/openapi/v2", "", "Accept: text/html"); r.code != 406 {
		t.Error(r.code)
	}
	index := s.ask(t, "GET", "/openapi/v3", "")
	_, at, _ := strings.Cut(index.body, `"apis/apps/v1":{"serverRelativeURL":"`)
	at, _, _ = strings.Cut(at, `"`)
	r = s.ask(t, "GET", at, "")
	if r.code != 200 || r.header.Get("Cache-Control") != "public, immutable" || !strings.Contains(r.body, "io.k8s.api.apps.v1.Deployment") {
		t.Error(at, r.code, r.header)
	}
	if r := s.ask(t, "GET", "/openapi/v3/nope", ""); r.code != 404 {
		t.Error(r.code)
	}
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := newTestServer(t, func(c *Config) {
		c.Registerer, c.Metrics = reg, promhttp.HandlerFor(reg, promhttp.HandlerOpts{})
	})
	s.ask(t, "GET", pods+"/nope", "")
	s.ask(t, "GET", "/made/up/path", "")
	r := s.ask(t, "GET", "/metrics", "")
	if !strings.Contains(r.body, `apiserver_request_total{code="404",group="",resource="pods",subresource="",verb="get"} 1`) || strings.Contains(r.body, "made") {
		t.Error(r.body)
	}
}

// TestTooMany: with every slot taken a request waits a little and is then told when to come again.
func TestTooMany(t *testing.T) {
	s := newTestServer(t, func(c *Config) { c.MaxInFlight = 1 })
	s.api.slots <- struct{}{}
	s.api.patience = 20 * time.Millisecond
	start := time.Now()
	if r := s.ask(t, "GET", pods, ""); r.code != 429 || r.header.Get("Retry-After") != "1" || time.Since(start) < s.api.patience {
		t.Error(r)
	}
	// Health and watches do not wait in that line.
	if r := s.ask(t, "GET", "/healthz", ""); r.code != 200 {
		t.Error(r)
	}
	s.watchJSON(t, pods+"?watch=1&timeoutSeconds=1")
	<-s.api.slots
}

// TestPanic: a panic becomes a 500 and harms nobody else.
func TestPanic(t *testing.T) {
	s := newTestServer(t, func(c *Config) { c.Backend = nil })
	if r := s.ask(t, "GET", pods, ""); r.code != 500 || !strings.Contains(r.body, `"reason":"InternalError"`) {
		t.Error(r)
	}
	if r := s.ask(t, "GET", "/version", ""); r.code != 200 {
		t.Error(r)
	}
}
