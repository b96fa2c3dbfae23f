package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/version"
)

// servePublic answers what Kubernetes answers to everybody: its health and version, so that a load balancer or a person
// with curl needs no certificate. false means that the path is something else.
func (s *Server) servePublic(rq *request, path string) bool {
	if rq.req.Method != http.MethodGet && rq.req.Method != http.MethodHead {
		return false
	}
	switch {
	case path == "/version" || path == "/version/":
		s.writeJSON(rq, s.versionInfo())
	case isHealthPath(path):
		s.serveHealth(rq, path)
	default:
		return false
	}
	return true
}

func (s *Server) versionInfo() version.Info {
	v := version.Info{GitVersion: s.Version, GitCommit: s.Commit, GitTreeState: "clean", BuildDate: s.BuildDate,
		GoVersion: runtime.Version(), Compiler: runtime.Compiler, Platform: runtime.GOOS + "/" + runtime.GOARCH}
	parts := strings.SplitN(strings.TrimPrefix(s.Version, "v"), ".", 3)
	if len(parts) == 3 {
		v.Major, v.Minor = parts[0], parts[1]
	}
	return v
}

// writeJSON answers with indented JSON, as Kubernetes does for /version and the index.
func (s *Server) writeJSON(rq *request, v any) {
	a := newAnswer(rq, http.StatusOK, "application/json")
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		a.abandon()
		s.writeError(rq, err)
		return
	}
	_, _ = a.Write(data)
	_ = a.close()
}

// writeText answers with plain text.
func writeText(rq *request, code int, text string) {
	a := newAnswer(rq, code, "text/plain; charset=utf-8")
	rq.out.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = a.Write([]byte(text))
	_ = a.close()
}

// checks of one health path. /livez says only that the process answers: a backend that cannot serve is not mended by a
// restart.
func (s *Server) checks(kind string) []Check {
	checks := []Check{{"ping", func() error { return nil }}}
	if kind == "livez" {
		return checks
	}
	checks = append(checks, Check{"backend", s.Backend.Ready})
	checks = append(checks, s.Checks...)
	if kind == "readyz" {
		checks = append(checks, Check{"shutdown", func() error {
			if s.draining.Load() {
				return fmt.Errorf("process is shutting down")
			}
			return nil
		}})
	}
	return checks
}

var healthKinds = []string{"healthz", "livez", "readyz"}

func isHealthPath(path string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	return slices.Contains(healthKinds, first)
}

// serveHealth answers /healthz, /livez and /readyz and their single checks, in Kubernetes' words.
func (s *Server) serveHealth(rq *request, path string) {
	kind, one, _ := strings.Cut(strings.Trim(path, "/"), "/")
	query := rq.req.URL.Query()
	exclude := query["exclude"]
	var text strings.Builder
	failed, found := false, one == ""
	for _, c := range s.checks(kind) {
		if one != "" && c.Name != one {
			continue
		}
		found = true
		if slices.Contains(exclude, c.Name) {
			fmt.Fprintf(&text, "[+]%s excluded: ok\n", c.Name)
			continue
		}
		if err := c.Do(); err != nil {
			failed = true
			s.log.Debug("check failed", "check", c.Name, "err", err)
			fmt.Fprintf(&text, "[-]%s failed: reason withheld\n", c.Name)
		} else {
			fmt.Fprintf(&text, "[+]%s ok\n", c.Name)
		}
	}
	_, verbose := query["verbose"]
	switch {
	case !found:
		s.writeError(rq, errNotFoundPath())
	case failed:
		writeText(rq, http.StatusInternalServerError, text.String()+kind+" check failed\n")
	case verbose && one == "":
		writeText(rq, http.StatusOK, text.String()+kind+" check passed\n")
	default:
		writeText(rq, http.StatusOK, "ok")
	}
}

// serveOther answers documents: discovery, OpenAPI, metrics and the index.
func (s *Server) serveOther(rq *request, path string) error {
	get := rq.req.Method == http.MethodGet || rq.req.Method == http.MethodHead
	path = strings.TrimSuffix(path, "/")
	if !get {
		if path == "" || s.isIndexed(path) {
			return errMethod(rq.req.Method)
		}
		return errNotFoundPath()
	}
	switch {
	case path == "" || path == "/index.html":
		s.writeJSON(rq, map[string][]string{"paths": s.index()})
		return nil
	case s.Handlers[path] != nil:
		s.Handlers[path].ServeHTTP(rq.out, rq.req)
		return nil
	case path == "/metrics" && s.Metrics != nil:
		s.Metrics.ServeHTTP(rq.out, rq.req)
		return nil
	case strings.HasPrefix(path, "/openapi/"):
		return s.serveOpenAPI(rq, path)
	case path == "/api" || path == "/apis" || strings.HasPrefix(path, "/api/") || strings.HasPrefix(path, "/apis/"):
		return s.serveDiscovery(rq, path)
	}
	return errNotFoundPath()
}

func (s *Server) isIndexed(path string) bool { return slices.Contains(s.index(), path) }

// index lists the paths, as Kubernetes does at /.
func (s *Server) index() []string {
	paths := []string{"/api", "/apis", "/openapi/v2", "/openapi/v3", "/openapi/v3/", "/version"}
	if s.Metrics != nil {
		paths = append(paths, "/metrics")
	}
	for path := range s.Handlers {
		paths = append(paths, path)
	}
	for _, gv := range s.groupVersions() {
		if gv.Group == "" {
			paths = append(paths, "/api/"+gv.Version)
			continue
		}
		paths = append(paths, "/apis/"+gv.Group, "/apis/"+gv.String())
	}
	for _, kind := range healthKinds {
		paths = append(paths, "/"+kind)
		for _, c := range s.checks(kind) {
			paths = append(paths, "/"+kind+"/"+c.Name)
		}
	}
	slices.Sort(paths)
	return slices.Compact(paths)
}

// etagMatches says whether If-None-Match names the tag.
func etagMatches(req *http.Request, tag string) bool {
	for _, t := range strings.Split(req.Header.Get("If-None-Match"), ",") {
		if t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t == "*" || t == strconv.Quote(tag) {
			return true
		}
	}
	return false
}
