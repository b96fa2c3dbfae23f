package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/whalepod/whalepod/lab"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/whalepod/whalepod/cmd/internal/version"
)

func TestMissingFileFlag(t *testing.T) {
	tests := map[string]string{
		"create app-wordpress2.yml":                  "wpctl create -f app-wordpress2.yml",
		"apply a.yaml b.yaml":                        "wpctl apply -f a.yaml b.yaml",
		"-n web create app.yml":                      "wpctl -n web create -f app.yml",
		"replace --force app.yml":                    "wpctl replace --force -f app.yml",
		"create -f app.yml":                          "",
		"create --filename=app.yml":                  "",
		"create -fapp.yml":                           "",
		"create deployment p4app --image=a.b/c.json": "",
		"create configmap app.yml":                   "",
		"delete pod app.yml":                         "",
		"get pods":                                   "",
		"exec web -- create app.yml":                 "",
		"apply -k dir":                               "",
		"":                                           "",
	}
	for in, want := range tests {
		got := missingFileFlag(strings.Fields(in))
		if want == "" && got != "" || want != "" && !strings.Contains(got, "\n    "+want+"\n") {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestFindKubeconfig(t *testing.T) {
	all := []string{".demo/kubeconfig", "/home/me/.kube/config", systemKubeconfig}
	tests := map[string]struct {
		args  string
		env   string
		there []string
		want  string
		set   bool
		says  string
	}{
		"flag":         {"get pods --kubeconfig mine", "env", all, "mine", false, "mine (from --kubeconfig)"},
		"flag with =":  {"--kubeconfig=mine get pods", "", all, "mine", false, "--kubeconfig"},
		"another's":    {"exec web -- tool --kubeconfig theirs", "", all, all[0], true, all[0]},
		"environment":  {"get pods", "env", all, "env", false, "env (from $KUBECONFIG)"},
		"demo":         {"get pods", "", all, all[0], true, "the first that exists"},
		"user's own":   {"get pods", "", all[1:], all[1], true, all[1]},
		"on a server":  {"get pods", "", all[2:], all[2], true, all[2]},
		"none of them": {"get pods", "", nil, "", false, "found no kubeconfig"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			k := findKubeconfig(strings.Fields(tt.args), tt.env, "/home/me", func(path string) bool {
				for _, p := range tt.there {
					if p == path {
						return true
					}
				}
				return false
			})
			if k.path != tt.want || k.set != tt.set || !strings.Contains(k.describe(), tt.says) {
				t.Errorf("%+v: %s", k, k.describe())
			}
		})
	}
}

func TestWithHint(t *testing.T) {
	none := kubeconfig{seen: []string{"x"}}
	some := kubeconfig{path: "/etc/k", why: "$KUBECONFIG"}
	tests := []struct {
		message string
		k       kubeconfig
		want    string
	}{
		{"The connection to the server localhost:8080 was refused - did you specify the right host or port?", none, "make demo"},
		{"The connection to the server 10.0.0.1:6443 was refused", some, "wp-master runs"},
		{"Unable to connect to the server: dial tcp: i/o timeout", some, "firewall"},
		{"Unable to connect to the server: x509: certificate signed by unknown authority", some, "another cluster"},
		{"error: You must be logged in to the server (Unauthorized)", some, "another cluster"},
	}
	for _, tt := range tests {
		if got := withHint(tt.message, tt.k); !strings.HasPrefix(got, tt.message) || !strings.Contains(got, tt.want) {
			t.Errorf("withHint(%q) = %q", tt.message, got)
		}
	}
	if m := `Error from server (NotFound): pods "web" not found`; withHint(m, some) != m {
		t.Error("a plain answer of the server needs no hint")
	}
}

func TestRenamed(t *testing.T) {
	tests := map[string]string{
		"  kubectl get pods":   "  wpctl get pods",
		"kubectl":              "wpctl",
		"use 'kubectl apply'.": "use 'wpctl apply'.",
		"https://kubernetes.io/docs/reference/kubectl/":   "https://kubernetes.io/docs/reference/kubectl/",
		"kubectl.kubernetes.io/last-applied":              "kubectl.kubernetes.io/last-applied",
		"files beginning with kubectl-":                   "files beginning with kubectl-",
		"(kubectl get) and kubectl, or `kubectl version`": "(wpctl get) and wpctl, or `wpctl version`",
	}
	for in, want := range tests {
		if got := renamed(in); got != want {
			t.Errorf("renamed(%q) = %q", in, got)
		}
	}
}

// kubectl's commands and ours are there, and all of them speak of wpctl.
func TestCommands(t *testing.T) {
	var out bytes.Buffer
	root := newCommand([]string{"wpctl"}, genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out})
	for _, path := range []string{
		"get", "apply", "rollout undo", "token create", "token list", "token delete", "image load", "cluster backup",
		"demo up", "demo down", "demo status", "version",
	} {
		c, rest, err := root.Find(strings.Fields(path))
		if err != nil || len(rest) > 0 {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if !strings.HasPrefix(c.CommandPath(), "wpctl ") || strings.Contains(c.Example, "kubectl get ") {
			t.Errorf("%s: %q\n%s", path, c.CommandPath(), c.Example)
		}
	}
	root.SetArgs([]string{"version", "--client"})
	if err := root.Execute(); err != nil || !strings.HasPrefix(out.String(), "Whalepod Version: "+version.Version+"\nClient Version: ") {
		t.Errorf("%q, %v", out.String(), err)
	}
}

func TestTokenSecret(t *testing.T) {
	now := time.Date(2024, 5, 1, 12, 0, 0, 0, time.UTC)
	s, err := tokenSecret("abcdef.0123456789abcdef", time.Hour, "for web1", now)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "bootstrap-token-abcdef" || s.Namespace != "kube-system" || s.Type != corev1.SecretTypeBootstrapToken {
		t.Errorf("%+v", s.ObjectMeta)
	}
	if got := string(s.Data["expiration"]); got != "2024-05-01T13:00:00Z" {
		t.Errorf("expiration %s", got)
	}
	rows := map[time.Time]string{
		now:                    "abcdef.0123456789abcdef\t1h\t2024-05-01T13:00:00Z\tfor web1",
		now.Add(2 * time.Hour): "abcdef.0123456789abcdef\t<expired>\t2024-05-01T13:00:00Z\tfor web1",
	}
	for at, want := range rows {
		if got := tokenRow(s, at); got != want {
			t.Errorf("row %q, want %q", got, want)
		}
	}
	forever, err := tokenSecret("abcdef.0123456789abcdef", 0, "", now)
	if err != nil || tokenRow(forever, now) != "abcdef.0123456789abcdef\t<forever>\t<never>\t<none>" {
		t.Errorf("%q, %v", tokenRow(forever, now), err)
	}
	for _, bad := range []string{"", "abcdef", "ABCDEF.0123456789abcdef", "abcdef.0123456789abcdef0"} {
		if _, err := tokenSecret(bad, 0, "", now); err == nil {
			t.Errorf("%q was taken for a token", bad)
		}
	}
	made, err := newToken()
	if err != nil || !tokenForm.MatchString(made) {
		t.Errorf("newToken = %q, %v", made, err)
	}
}

// An API server that knows its own address, or not, and serves a backup.
func apiServer(t *testing.T, endpoint string) *rest.Config {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /backup", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "everything") })
	mux.HandleFunc("GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		items := "[]"
		if endpoint != "" {
			items = `[{"endpoints":[{"addresses":["` + endpoint + `"]}]}]`
		}
		fmt.Fprintf(w, `{"kind":"EndpointSliceList","apiVersion":"discovery.k8s.io/v1","items":%s}`, items)
	})
	mux.HandleFunc("POST /api/v1/nodes/{node}/proxy/images/load", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		if r.PathValue("node") == "full" {
			_, _ = io.WriteString(w, `{"error":"no space left on device"}`+"\n")
			return
		}
		fmt.Fprintf(w, "{\"status\":\"Loading layer\",\"progress\":\"[=>]\"}\n{\"status\":\"Loaded %d bytes\"}\n", n)
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"not for you","reason":"Forbidden","code":403}`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &rest.Config{Host: server.URL}
}

func TestJoinCommand(t *testing.T) {
	ca, hash := authority(t)
	tests := map[string]struct{ endpoint, master, want string }{
		"the cluster's own word": {"198.51.100.11", "", "198.51.100.11:6444"},
		"the kubeconfig's":       {"", "", "127.0.0.1:6444"},
		"the user's":             {"198.51.100.11", "master.example", "master.example:6444"},
		"with a port":            {"", "master.example:7000", "master.example:7000"},
		"IPv6":                   {"2001:db8::1", "", "[2001:db8::1]:6444"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			config := apiServer(t, tt.endpoint)
			config.CAData = ca
			client, err := kubernetes.NewForConfig(config)
			if err != nil {
				t.Fatal(err)
			}
			got, err := joinCommand(t.Context(), client, config, tt.master, "abcdef.0123456789abcdef")
			want := "wp-agent join --master " + tt.want + " --token abcdef.0123456789abcdef --ca-hash " + hash
			if err != nil || got != want {
				t.Errorf("%s\n%v\nwant %s", got, err, want)
			}
		})
	}
	if _, err := caHash([]byte("no certificate")); err == nil {
		t.Error("text was taken for a certificate")
	}
}

func authority(t *testing.T) (pemData []byte, hash string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), fmt.Sprintf("sha256:%x", sha256.Sum256(public))
}

func TestBackup(t *testing.T) {
	config := apiServer(t, "")
	dir := t.TempDir()
	file := filepath.Join(dir, "b.db")
	n, err := backup(t.Context(), config, file)
	if err != nil || n != int64(len("everything")) {
		t.Fatalf("%d, %v", n, err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "everything" {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := request(t.Context(), config, http.MethodGet, "/secret", nil, 0); err == nil || err.Error() != "not for you" {
		t.Errorf("the server's own words are lost: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("%v stay beside the backup, %v", left, err)
	}
}

func TestLoadImage(t *testing.T) {
	config := apiServer(t, "")
	archive := make([]byte, 1024)
	copy(archive[257:], "ustar")
	file := filepath.Join(t.TempDir(), "shop.tar")
	if err := os.WriteFile(file, archive, 0o600); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	err := loadImage(t.Context(), config, file, []string{"web1", "full", "web2"}, &lines{w: &out})
	if err == nil || err.Error() != "node full: no space left on device" {
		t.Errorf("error %v", err)
	}
	for _, want := range []string{"web1: Loaded 1024 bytes", "web2: Loaded 1024 bytes", "web1: sent 1.0 kB of 1.0 kB"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if err := os.WriteFile(file, []byte("kind: Pod\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := loadImage(t.Context(), config, file, []string{"web1"}, &lines{w: &out}); err == nil || !strings.Contains(err.Error(), "docker save") {
		t.Errorf("a manifest was taken for an image: %v", err)
	}
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
	if err := loadImage(t.Context(), config, "shop:v2", nil, &lines{w: &out}); err == nil || !strings.Contains(err.Error(), "DOCKER_HOST") {
		t.Errorf("error %v", err)
	}
}

func TestReadLoad(t *testing.T) {
	tests := map[string]struct {
		in   string
		want []string
		err  string
	}{
		"docker":  {`{"stream":"Loaded image: a:1\n"}` + "\n\n", []string{"Loaded image: a:1"}, ""},
		"failed":  {`{"status":"x"}` + "\n" + `{"error":"bad tar"}`, []string{"x"}, "bad tar"},
		"no JSON": {"<html>", nil, `the node answered "<html>"`},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			err := readLoad(strings.NewReader(tt.in), func(s string) { got = append(got, s) })
			if tt.err == "" && err != nil || tt.err != "" && (err == nil || err.Error() != tt.err) {
				t.Errorf("error %v", err)
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestDemoProgress(t *testing.T) {
	var out bytes.Buffer
	d := &demo{out: &out}
	for _, s := range []lab.Step{
		{Name: "Images"}, {Note: "built base"}, {Name: "Images", Note: "built", Done: true, Took: 61 * time.Second},
		{Name: "Master"}, {Name: "Master", Done: true, Took: 420 * time.Millisecond},
	} {
		d.progress(s)
	}
	want := "Images                          \n  built base\nImages                          built (1m1s)\nMaster                          (400ms)\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestFetchTitle(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/install", http.StatusFound) })
	mux.HandleFunc("/install", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "<html><title>WordPress &rsaquo; Installation</title>")
	})
	mux.HandleFunc("/down", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	server := httptest.NewServer(mux)
	defer server.Close()
	if got, err := fetchTitle(context.Background(), server.Client(), server.URL+"/"); err != nil || got != `"WordPress › Installation"` {
		t.Errorf("%s, %v", got, err)
	}
	if _, err := fetchTitle(context.Background(), server.Client(), server.URL+"/down"); err == nil {
		t.Error("a page that fails was taken for one")
	}
}

func TestNodesFromEnv(t *testing.T) {
	for in, want := range map[string]int{"": 3, "5": 5, "many": -1} {
		if got := numberFromEnv(in, 3); got != want {
			t.Errorf("numberFromEnv(%q, 3) = %d, want %d", in, got, want)
		}
	}
}
