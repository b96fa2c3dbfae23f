package images

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// registryPath is the part of the Registry HTTP API V2 that a pull needs.
var registryPath = regexp.MustCompile(`^/v2/([a-z0-9][a-z0-9._/-]*)/(manifests|blobs)/([A-Za-z0-9_][A-Za-z0-9._:-]*)$`)

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Handler serves the store to engines, read-only: for machines whose distribution
// has no docker-registry package.
func (s Store) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			registryError(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read-only")
			return
		}
		if r.URL.Path == "/v2/" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte("{}"))
			return
		}
		m := registryPath.FindStringSubmatch(r.URL.Path)
		if m == nil || strings.Contains(m[1], "..") {
			registryError(w, http.StatusNotFound, "NAME_UNKNOWN", "no such repository")
			return
		}
		repository, kind, reference := m[1], m[2], m[3]
		if kind == "manifests" {
			s.serveManifest(w, r, repository, reference)
			return
		}
		if !digestForm.MatchString(reference) || !s.Has(reference) {
			registryError(w, http.StatusNotFound, "BLOB_UNKNOWN", "no such blob")
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Docker-Content-Digest", reference)
		http.ServeFile(w, r, s.BlobPath(reference))
	})
}

// Private lets nobody pass who does not know the password.
func Private(next http.Handler, user, password string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			registryError(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s Store) serveManifest(w http.ResponseWriter, r *http.Request, repository, reference string) {
	digest := reference
	if !digestForm.MatchString(reference) {
		digest = s.Tagged(repository + ":" + reference)
	} else if _, err := os.Stat(filepath.Join(s.root(), "repositories", repository)); err != nil {
		digest = ""
	}
	data, err := os.ReadFile(s.BlobPath(digest))
	if digest == "" || err != nil {
		registryError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no such image")
		return
	}
	var m manifest
	if json.Unmarshal(data, &m) != nil || m.SchemaVersion == 0 {
		registryError(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "no such image")
		return
	}
	if m.MediaType == "" { // optional in OCI's form
		m.MediaType = "application/vnd.oci.image.manifest.v1+json"
	}
	w.Header().Set("Content-Type", m.MediaType)
	w.Header().Set("Docker-Content-Digest", digest)
	_, _ = w.Write(data)
}

// registryError answers in the form that engines show to people.
func registryError(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}
