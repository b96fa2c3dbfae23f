package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReleaseCodename(t *testing.T) {
	tests := map[string]string{
		"ID=debian\nVERSION_CODENAME=bookworm\n":     "bookworm",
		"VERSION_CODENAME=\"noble\"\nID=ubuntu":      "noble",
		"ID=rocky\nVERSION_ID=9\n":                   "",
		"# VERSION_CODENAME=sid\nX_VERSION_CODENAME": "",
	}
	for in, want := range tests {
		if got := releaseCodename(in); got != want {
			t.Errorf("releaseCodename(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestSourceLines(t *testing.T) {
	got := sourceLines(`http://mirror/debian/ bookworm main
http://mirror/debian/ bookworm main
http://mirror/debian/ bookworm contrib
http://mirror/debian/ bookworm-updates main
http://mirror/security/ bookworm-security main
http://vendor/ nodistro main
http://mirror/debian/ bookworm-backports main
http://mirror/debian/ trixie main
broken
`, "bookworm")
	want := `deb http://mirror/debian/ bookworm main contrib
deb http://mirror/debian/ bookworm-updates main
deb http://mirror/security/ bookworm-security main
`
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestProxies(t *testing.T) {
	got := proxies("Acquire \"\";\nAcquire::http::Proxy \"http://proxy:3128\";\nAcquire::https::Proxy \"\";\nAcquire::Languages \"none\";\n")
	if d := cmp.Diff([]string{`Acquire::http::Proxy "http://proxy:3128";`}, got); d != "" {
		t.Error(d)
	}
}

// Every recipe stands on an earlier one, and no two claim the same tag.
func TestRecipes(t *testing.T) {
	names, seen := map[string]bool{"": true}, map[string]string{}
	for _, r := range Recipes {
		if !names[r.From] {
			t.Errorf("%s stands on %s, which is not before it", r.Name, r.From)
		}
		names[r.Name] = true
		for _, tag := range r.Tags {
			if by := seen[tag]; by != "" {
				t.Errorf("%s is claimed by %s and %s", tag, by, r.Name)
			}
			seen[tag] = r.Name
		}
		if _, err := r.overlay(); err != nil {
			t.Errorf("%s: %v", r.Name, err)
		}
	}
	for _, tag := range HubImages {
		if seen[tag] == "" {
			t.Errorf("no recipe makes %s", tag)
		}
	}
}

func TestLeft(t *testing.T) {
	tests := map[string]bool{
		"dev": false, "dev/null": true, "etc/resolv.conf": true, "etc/resolv.conf.d": false,
		"var/cache/apt": false, "var/cache/apt/archives": true, "run/lock": true, "out": true, "usr/out": false,
	}
	for path, want := range tests {
		if got, _ := left(path, false); got != want {
			t.Errorf("left(%q) = %t, want %t", path, got, want)
		}
	}
}

func tree(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range []string{"bin", "dev", "var/cache/apt"} {
		if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"bin/sh": "#!", "dev/null": "x", "var/cache/apt/pkg": "x"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(root, "bin/sh"), filepath.Join(root, "bin/ssh")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("sh", filepath.Join(root, "bin/ash")); err != nil {
		t.Fatal(err)
	}
	return root
}

func TestWriteLayer(t *testing.T) {
	root := tree(t)
	var first, second bytes.Buffer
	l, err := writeLayer(&first, root, false)
	if err != nil {
		t.Fatal(err)
	}
	if l.Size != int64(first.Len()) {
		t.Errorf("size %d, wrote %d", l.Size, first.Len())
	}
	if l2, err := writeLayer(&second, root, false); err != nil || l2 != l {
		t.Errorf("a second time: %+v, %v; first %+v", l2, err, l)
	}
	zip, err := gzip.NewReader(&first)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%c %s %s", h.Typeflag, h.Name, h.Linkname))
	}
	want := []string{
		"5 bin/ ", "2 bin/ash sh", "0 bin/sh ", "1 bin/ssh bin/sh", "5 dev/ ", "5 var/ ", "5 var/cache/ ", "5 var/cache/apt/ ",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// An image written to one store is served, copied by Hub with a login on the way,
// and found whole in another.
func TestStoreServeCopy(t *testing.T) {
	from, to := Store{t.TempDir()}, Store{t.TempDir()}
	layer, err := from.PutLayer(tree(t), false)
	if err != nil {
		t.Fatal(err)
	}
	digest, err := from.PutImage(Config{Cmd: []string{"sh"}}, []Layer{layer}, []string{"library/busybox:latest", "library/busybox:1"})
	if err != nil {
		t.Fatal(err)
	}
	if got := from.Tagged("library/busybox:1"); got != digest {
		t.Errorf("Tagged = %q, want %q", got, digest)
	}
	registry := from.Handler()
	var server *httptest.Server
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/token":
			if r.FormValue("scope") != "repository:library/busybox:pull" {
				t.Errorf("scope %q", r.FormValue("scope"))
			}
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "secret"})
		case r.Header.Get("Authorization") != "Bearer secret":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+server.URL+`/token",service="test",scope="repository:library/busybox:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			registry.ServeHTTP(w, r)
		}
	}))
	defer server.Close()
	hub := Hub{URL: server.URL, Store: to, Arch: "amd64"}
	if err := hub.Copy(context.Background(), []string{"library/busybox:latest"}); err != nil {
		t.Fatal(err)
	}
	if got := to.Tagged("library/busybox:latest"); got != digest {
		t.Errorf("copied image is %q, want %q", got, digest)
	}
	if err := hub.Copy(context.Background(), []string{"library/none:latest"}); err == nil || !strings.Contains(err.Error(), "library/none") {
		t.Errorf("an image that is not there: %v", err)
	}
}

func TestPutFromRefusesOtherContent(t *testing.T) {
	s := Store{t.TempDir()}
	want := "sha256:" + strings.Repeat("0", 64)
	if err := s.PutFrom(strings.NewReader("other"), want); err == nil || s.Has(want) {
		t.Errorf("stored content with another digest: %v", err)
	}
}

func TestHandlerErrors(t *testing.T) {
	h := Store{t.TempDir()}.Handler()
	tests := []struct {
		method, path string
		code         int
	}{
		{"GET", "/v2/", 200},
		{"GET", "/v2/library/none/manifests/latest", 404},
		{"GET", "/v2/library/none/blobs/sha256:" + strings.Repeat("a", 64), 404},
		{"GET", "/v2/../../etc/blobs/passwd", 404},
		{"GET", "/v2/a/blobs/sha256:short", 404},
		{"POST", "/v2/a/blobs/uploads/", 405},
	}
	for _, tt := range tests {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(tt.method, tt.path, nil))
		if w.Code != tt.code {
			t.Errorf("%s %s: %d, want %d", tt.method, tt.path, w.Code, tt.code)
		}
	}
}

func TestPrivate(t *testing.T) {
	h := Private(Store{t.TempDir()}.Handler(), "whale", "pod")
	for password, code := range map[string]int{"": 401, "guess": 401, "pod": 200} {
		w, r := httptest.NewRecorder(), httptest.NewRequest("GET", "/v2/", nil)
		if password != "" {
			r.SetBasicAuth("whale", password)
		}
		h.ServeHTTP(w, r)
		if w.Code != code || (code == 401) != (w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("%q: %d", password, w.Code)
		}
	}
}
