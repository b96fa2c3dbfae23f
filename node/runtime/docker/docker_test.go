package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	cerrdefs "github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/node/runtime"
)

var pod = runtime.PodRef{Namespace: "default", Name: "web-1", UID: "4b2c"}

func TestNames(t *testing.T) {
	i := identity{pod, "app", 3}
	if got, want := i.name(), "k8s_app_web-1_default_4b2c_3"; got != want {
		t.Errorf("name %q, want %q", got, want)
	}
	labels := i.labels("n1", map[string]string{"hash": "x", labelNode: "forged"})
	got, ok := identify("n1", "/"+i.name(), labels)
	if !ok || got != i {
		t.Errorf("identified %+v, %v", got, ok)
	}
	if g := givenLabels(labels); len(g) != 1 || g["hash"] != "x" {
		t.Errorf("given labels %v", g)
	}
	for name, c := range map[string]struct{ node, name, drop string }{
		"other node":              {"n2", i.name(), ""},
		"labels from an image":    {"n1", "happy_whale", ""},
		"being removed, nameless": {"n1", "", ""},
		"no attempt":              {"n1", i.name(), labelAttempt},
	} {
		l := i.labels("n1", nil)
		delete(l, c.drop)
		if _, ok := identify(c.node, c.name, l); ok {
			t.Errorf("%s: taken for ours", name)
		}
	}
}

func TestSandboxRequest(t *testing.T) {
	cfg, host := sandboxRequest("n1", runtime.SandboxSpec{
		Pod: pod, Hostname: "web-1", Sysctls: map[string]string{"a": "b"}, ShmSize: 7, CgroupParent: "/pods",
	}, features{shareable: true})
	if cfg.Hostname != "web-1" || cfg.Image != "whalepod/pause:1" || host.NetworkMode != "none" || host.IpcMode != "shareable" ||
		host.RestartPolicy.Name != "no" || host.ShmSize != 7 || host.CgroupParent != "/pods" || host.Sysctls["a"] != "b" ||
		cfg.Labels[labelType] != typeSandbox || cfg.Labels[labelNode] != "n1" {
		t.Errorf("%+v %+v", cfg, host)
	}
	cfg, host = sandboxRequest("n1", runtime.SandboxSpec{Pod: pod, Hostname: "web-1", HostNetwork: true, HostPID: true, HostIPC: true}, features{})
	if cfg.Hostname != "" || host.NetworkMode != "host" || host.UTSMode != "host" || host.PidMode != "host" || host.IpcMode != "host" {
		t.Errorf("%+v %+v", cfg, host)
	}
	if _, host = sandboxRequest("n1", runtime.SandboxSpec{}, features{}); host.IpcMode != "" {
		t.Errorf("IPC mode %q on an engine that does not know it", host.IpcMode)
	}
}

func TestContainerRequest(t *testing.T) {
	cfg, host, err := containerRequest("n1", runtime.ContainerSpec{
		SandboxID: "sb", Pod: pod, Name: "app", Image: "nginx", Command: []string{"a"}, Args: []string{"b"},
		Mounts:         []runtime.Mount{{HostPath: "/h", ContainerPath: "/c", ReadOnly: true, Propagation: "rslave"}},
		Devices:        []runtime.Device{{HostPath: "/dev/a", ContainerPath: "/dev/b", Permissions: "r"}},
		Resources:      runtime.Resources{MemoryBytes: 64 << 20, CPUShares: 512, CPUQuota: 5, CPUPeriod: 10, PidsLimit: 99, OOMScoreAdj: 7},
		StdinOnce:      true,
		SharePID:       true,
		MaskedPathsOff: true, NoNewPrivileges: true, SupplementalGroups: []int64{12}, SeccompProfile: "unconfined",
		AppArmorProfile: "localhost/mine",
	}, features{selinux: true})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Entrypoint, []string{"a"}) || !slices.Equal(cfg.Cmd, []string{"b"}) || cfg.StdinOnce || cfg.Hostname != "" {
		t.Errorf("%+v", cfg)
	}
	if host.NetworkMode != "container:sb" || host.IpcMode != "container:sb" || host.PidMode != "container:sb" ||
		host.Memory != 64<<20 || host.MemorySwap != host.Memory || *host.PidsLimit != 99 || host.OomScoreAdj != 7 ||
		host.LogConfig.Type != "json-file" || host.LogConfig.Config["max-size"] != "10m" || host.LogConfig.Config["max-file"] != "3" ||
		host.MaskedPaths == nil || host.ReadonlyPaths == nil || !slices.Equal(host.GroupAdd, []string{"12"}) {
		t.Errorf("%+v", host)
	}
	if want := []string{"label=disable", "no-new-privileges", "seccomp=unconfined", "apparmor=mine"}; !slices.Equal(host.SecurityOpt, want) {
		t.Errorf("security options %q", host.SecurityOpt)
	}
	if m := host.Mounts[0]; m.Source != "/h" || m.Target != "/c" || !m.ReadOnly || m.BindOptions.Propagation != "rslave" {
		t.Errorf("mount %+v", m)
	}
	_, host, _ = containerRequest("n1", runtime.ContainerSpec{HostNetwork: true, HostPID: true, HostIPC: true}, features{})
	if host.UTSMode != "host" || host.PidMode != "host" || host.IpcMode != "host" || host.MaskedPaths != nil || host.PidsLimit != nil {
		t.Errorf("%+v", host)
	}
	for _, spec := range []runtime.ContainerSpec{
		{SeccompProfile: "localhost//no/such/file"}, {SeccompProfile: "odd"}, {AppArmorProfile: "odd"},
	} {
		if _, _, err := containerRequest("n1", spec, features{}); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%+v: %v", spec, err)
		}
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	for _, test := range []struct {
		below     runtime.RecursiveReadOnly
		engineCan bool
		never     bool
		force     bool
		refused   bool
	}{
		{runtime.RecursiveNever, true, true, false, false},
		{runtime.RecursiveIfPossible, true, false, false, false},
		{runtime.RecursiveAlways, true, false, true, false},
		{runtime.RecursiveNever, false, false, false, false},
		{runtime.RecursiveIfPossible, false, false, false, false},
		{runtime.RecursiveAlways, false, false, false, true},
	} {
		m, err := bind(runtime.Mount{HostPath: "/h", ContainerPath: "/c", ReadOnly: true, Below: test.below}, features{recursive: test.engineCan})
		if (err != nil) != test.refused || err != nil && !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%+v: %v", test, err)
		}
		never, force := m.BindOptions != nil && m.BindOptions.ReadOnlyNonRecursive, m.BindOptions != nil && m.BindOptions.ReadOnlyForceRecursive
		if never != test.never || force != test.force {
			t.Errorf("%+v: %+v", test, m.BindOptions)
		}
	}
	if m, err := bind(runtime.Mount{HostPath: "/h", ContainerPath: "/c"}, features{recursive: true}); err != nil || m.BindOptions != nil {
		t.Errorf("a writable mount: %+v, %v", m.BindOptions, err)
	}
}

func TestClassify(t *testing.T) {
	for _, c := range []struct {
		err  error
		want error
	}{
		{fmt.Errorf("x: %w", cerrdefs.ErrNotFound), runtime.ErrNotFound},
		{fmt.Errorf("x: %w", cerrdefs.ErrInvalidArgument), runtime.ErrInvalid},
		{fmt.Errorf("x: %w", io.ErrUnexpectedEOF), runtime.ErrUnavailable},
		{fmt.Errorf("x: %w", context.DeadlineExceeded), runtime.ErrUnavailable},
		{context.Canceled, context.Canceled},
	} {
		if got := classify(c.err); !errors.Is(got, c.want) || got.Error() != c.err.Error() {
			t.Errorf("%v: %v", c.err, got)
		}
	}
	if classify(nil) != nil || classifyStart(nil) != nil || classifyPull(nil) != nil {
		t.Error("no error became one")
	}
}

func TestClassifyStart(t *testing.T) {
	const oci = "Error response from daemon: OCI runtime create failed: container_linux.go:380: starting container process caused: "
	for text, want := range map[string]error{
		oci + `exec: "nope": executable file not found in $PATH: unknown`:                             runtime.ErrInvalid,
		oci + `exec: "/nope": stat /nope: no such file or directory: unknown`:                         runtime.ErrInvalid,
		oci + `exec: "/etc/passwd": permission denied: unknown`:                                       runtime.ErrInvalid,
		"Error response from daemon: No command specified":                                            runtime.ErrInvalid,
		"invalid mount config for type \"bind\": bind source path does not exist: /x":                 runtime.ErrInvalid,
		"Error response from daemon: unable to find user nobody2: no matching entries in passwd file": runtime.ErrInvalid,
		"Error response from daemon: no space left on device":                                         nil,
		"Error response from daemon: cannot join network of a non running container: abc":             nil,
	} {
		got := classifyStart(errors.New(text))
		if got.Error() != text || errors.Is(got, runtime.ErrInvalid) != (want != nil) {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestClassifyPull(t *testing.T) {
	for text, want := range map[string]error{
		"manifest for nginx:nope not found: manifest unknown: manifest unknown":                                       runtime.ErrImageMissing,
		"received unexpected: name unknown: repository name not known to registry":                                    runtime.ErrImageMissing,
		"no matching manifest for linux/arm64/v8 in the manifest list entries":                                        runtime.ErrImageMissing,
		"pull access denied for x, repository does not exist or may require 'docker login': denied: requested access": runtime.ErrImageDenied,
		"Head \"http://r/v2/x/manifests/1\": no basic auth credentials":                                               runtime.ErrImageDenied,
		"unauthorized: incorrect username or password":                                                                runtime.ErrImageDenied,
		"Get \"https://registry-1.docker.io/v2/\": dial tcp: lookup registry-1.docker.io: no such host":               runtime.ErrRegistryUnavailable,
		"Get \"http://127.0.0.1:1/v2/\": dial tcp 127.0.0.1:1: connect: connection refused":                           runtime.ErrRegistryUnavailable,
		"net/http: TLS handshake timeout":                                                                             runtime.ErrRegistryUnavailable,
		"received unexpected HTTP status: 503 Service Unavailable":                                                    runtime.ErrRegistryUnavailable,
		"no space left on device": nil,
	} {
		got := classifyPull(errors.New(text))
		for _, kind := range []error{runtime.ErrImageMissing, runtime.ErrImageDenied, runtime.ErrRegistryUnavailable} {
			if errors.Is(got, kind) != (kind == want) {
				t.Errorf("%s: %v is %v", text, got, kind)
			}
		}
	}
}

func TestSetState(t *testing.T) {
	const zero, start, end = "0001-01-01T00:00:00Z", "2026-01-02T03:04:05.5+09:00", "2026-01-02T03:04:06.5+09:00"
	at := func(s string) time.Time { return parseTime(s) }
	created := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		in   container.State
		want runtime.Container
	}{
		{container.State{Status: "created", StartedAt: zero, FinishedAt: zero}, runtime.Container{State: runtime.StateCreated}},
		{container.State{Status: "created", ExitCode: 127, Error: "exec: no", StartedAt: zero, FinishedAt: zero},
			runtime.Container{State: runtime.StateExited, ExitCode: 127, Error: "exec: no", FinishedAt: created}},
		{container.State{Status: "running", Pid: 7, StartedAt: start, FinishedAt: zero},
			runtime.Container{State: runtime.StateRunning, PID: 7, StartedAt: at(start)}},
		{container.State{Status: "paused", Pid: 7, StartedAt: start, FinishedAt: end}, // ran before
			runtime.Container{State: runtime.StateRunning, PID: 7, StartedAt: at(start)}},
		{container.State{Status: "exited", ExitCode: 137, OOMKilled: true, StartedAt: start, FinishedAt: end},
			runtime.Container{State: runtime.StateExited, ExitCode: 137, OOMKilled: true, StartedAt: at(start), FinishedAt: at(end)}},
		{container.State{Status: "exited", StartedAt: end, FinishedAt: start},
			runtime.Container{State: runtime.StateExited, StartedAt: at(end), FinishedAt: at(end)}},
		{container.State{Status: "dead", StartedAt: "nonsense"}, runtime.Container{State: runtime.StateExited}},
	} {
		got := runtime.Container{CreatedAt: created}
		setState(&got, &c.in)
		c.want.CreatedAt = created
		if d := cmp.Diff(c.want, got); d != "" {
			t.Errorf("%+v: %s", c.in, d)
		}
	}
	if got := parseTime(start); got.Location() != time.UTC || got.Hour() != 18 {
		t.Errorf("time %v", got)
	}
}

func TestFormatImageID(t *testing.T) {
	for _, c := range []struct {
		asked   string
		digests []string
		want    string
	}{
		{"nginx", nil, "docker://sha256:1"},
		{"nginx:1.25", []string{"mirror/nginx@sha256:a", "nginx@sha256:b"}, "docker-pullable://nginx@sha256:b"},
		{"docker.io/library/nginx", []string{"x@sha256:a", "nginx@sha256:b"}, "docker-pullable://nginx@sha256:b"},
		{"other", []string{"x@sha256:a"}, "docker-pullable://x@sha256:a"},
		{"NOT A REF", []string{"x@sha256:a"}, "docker-pullable://x@sha256:a"},
	} {
		if got := formatImageID("sha256:1", c.asked, c.digests); got != c.want {
			t.Errorf("%s: %s, want %s", c.asked, got, c.want)
		}
	}
}

func TestReadMessages(t *testing.T) {
	var loaded, told []string
	err := readMessages(strings.NewReader(`{"status":"Pulling fs layer","id":"abc"}
{"status":"Downloading","id":"abc","progressDetail":{"current":5,"total":10}}
{"stream":"Loaded image: busybox:latest\nLoaded image ID: sha256:12\n"}
`), func(m message) { loaded = append(loaded, m.loaded()...) }, func(s string) { told = append(told, s) })
	if err != nil || !slices.Equal(loaded, []string{"busybox:latest", "sha256:12"}) ||
		!slices.Equal(told[:2], []string{"abc: Pulling fs layer", "abc: Downloading 50%"}) {
		t.Errorf("%v, %q, %q", err, loaded, told)
	}
	for text, want := range map[string]string{
		`{"error":"short","errorDetail":{"message":"long"}}`: "long",
		`{"error":"short"}`: "short",
		`{"status":`:        "unexpected EOF",
	} {
		if err := readMessages(strings.NewReader(text), func(message) {}, nil); err == nil || err.Error() != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestFailureSniffer(t *testing.T) {
	const report = "OCI runtime exec failed: exec failed: no such thing\r\n"
	for _, c := range []struct {
		name, words, passed string
		writes              []string
	}{
		{"report", strings.TrimSpace(report), "", []string{report}},
		{"report in pieces", strings.TrimSpace(report), "", []string{report[:5], report[5:]}},
		{"output", "", "hello", []string{"hel", "lo"}},
		{"begins alike", "", "OCI run, run, run", []string{"OCI run", ", run", ", run"}},
		{"nothing", "", "", nil},
	} {
		var out bytes.Buffer
		f := &failureSniffer{w: &out}
		for _, w := range c.writes {
			if n, err := io.WriteString(f, w); n != len(w) || err != nil {
				t.Errorf("%s: %d, %v", c.name, n, err)
			}
		}
		if got := f.words(); got != c.words || out.String() != c.passed {
			t.Errorf("%s: words %q, passed %q", c.name, got, out.String())
		}
		if f.flush(); c.words != "" && out.String() != report {
			t.Errorf("%s: flushed %q", c.name, out.String())
		}
	}
}

// An engine that is not there, or does not answer, is unavailable.
func TestUnavailable(t *testing.T) {
	e, err := New(Config{Host: "unix://" + t.TempDir() + "/none.sock", Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := e.Pods(ctx); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("pods: %v", err)
	}
	if _, err := e.RunSandbox(ctx, runtime.SandboxSpec{}); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("sandbox: %v", err)
	}
	if err := e.Events(ctx, nil, func(runtime.Event) {}); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("events: %v", err)
	}
	if _, err := e.Exec(ctx, "x", []string{"true"}, runtime.Streams{}); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("exec: %v", err)
	}
	if err := e.Attach(ctx, "x", runtime.Streams{}); !errors.Is(err, runtime.ErrUnavailable) {
		t.Errorf("attach: %v", err)
	}
	if _, err := New(Config{Host: "nonsense", Node: "n"}); err == nil {
		t.Error("a host that is none was accepted")
	}
	if _, err := New(Config{}); err == nil {
		t.Error("no node name was accepted")
	}
}

// An engine that answers everything but the call in question, which it leaves hanging: every call ends with its
// context, also those that hijack their connection.
func TestHangingEngine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	release := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("/_ping", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Api-Version", "1.41") })
	mux.HandleFunc("/v1.41/info", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	mux.HandleFunc("POST /v1.41/containers/{id}/exec", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		io.WriteString(w, `{"Id":"e1"}`)
	})
	mux.HandleFunc("GET /v1.41/exec/e1/json", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "{}") })
	mux.HandleFunc("/", func(http.ResponseWriter, *http.Request) { <-release })
	server := &http.Server{Handler: mux}
	go server.Serve(l)
	defer server.Close()
	defer close(release)
	e, err := New(Config{Host: "unix://" + path, Node: "n"})
	if err != nil {
		t.Fatal(err)
	}
	for name, call := range map[string]func(context.Context) error{
		"Pods":   func(ctx context.Context) error { _, err := e.Pods(ctx); return err },
		"Create": func(ctx context.Context) error { _, err := e.CreateContainer(ctx, runtime.ContainerSpec{}); return err },
		"Start":  func(ctx context.Context) error { return e.StartContainer(ctx, "x") },
		"Stop":   func(ctx context.Context) error { return e.StopContainer(ctx, "x", time.Hour) },
		"Remove": func(ctx context.Context) error { return e.RemoveContainer(ctx, "x") },
		"Logs":   func(ctx context.Context) error { return e.Logs(ctx, "x", runtime.LogOptions{}) },
		"Pull":   func(ctx context.Context) error { _, err := e.Pull(ctx, "x", nil, nil); return err },
		"Exec": func(ctx context.Context) error {
			_, err := e.Exec(ctx, "x", []string{"true"}, runtime.Streams{})
			return err
		},
		"Attach": func(ctx context.Context) error { return e.Attach(ctx, "x", runtime.Streams{}) },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		err := call(ctx)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 10*time.Second {
			t.Errorf("%s: %v after %v", name, err, time.Since(began))
		}
	}
}
