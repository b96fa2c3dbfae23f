//go:build e2e

package docker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/image"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker/pause"
)

// runPod starts a sandbox with one container that sleeps.
func runPod(t testing.TB, e *Engine, p runtime.PodRef) (runtime.Sandbox, string) {
	t.Helper()
	s, err := e.RunSandbox(t.Context(), runtime.SandboxSpec{Pod: p, Hostname: p.Name})
	if err != nil {
		t.Fatal(err)
	}
	id, err := e.CreateContainer(t.Context(), runtime.ContainerSpec{
		SandboxID: s.ID, Pod: p, Name: "app", Image: testImage, Command: []string{"sleep", "1000"},
	})
	if err == nil {
		err = e.StartContainer(t.Context(), id)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s, id
}

// What `docker ps` and `docker inspect` show.
func TestReadable(t *testing.T) {
	d := startDockerd(t)
	e := d.engine(t, "n1")
	s, id := runPod(t, e, pod)
	cli := d.client(t)
	defer cli.Close()
	for name, want := range map[string]string{
		"k8s_POD_web-1_default_4b2c_0": s.ID, "k8s_app_web-1_default_4b2c_0": id,
	} {
		j, err := cli.ContainerInspect(t.Context(), name)
		if err != nil || j.ID != want {
			t.Fatalf("%s: %v, %v", name, j.ID, err)
		}
		l := j.Config.Labels
		if l["io.kubernetes.pod.name"] != "web-1" || l["io.kubernetes.pod.namespace"] != "default" ||
			l["io.kubernetes.pod.uid"] != "4b2c" || l["io.kubernetes.docker.type"] == "" || j.HostConfig.RestartPolicy.Name != "no" {
			t.Errorf("%s: %v", name, l)
		}
	}
	// The pod's network namespace is Docker's business no further: loopback only, the container is in the same.
	ns := func(pid int) string {
		link, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "ns/net"))
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	c, err := e.Inspect(t.Context(), id)
	if err != nil || ns(c.PID) != ns(s.PID) || ns(s.PID) == ns(os.Getpid()) {
		t.Errorf("network namespaces %s, %s, %v", ns(c.PID), ns(s.PID), err)
	}
	// The pause program is what it says it is, and not root.
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(s.PID), "status"))
	if err != nil || !strings.HasPrefix(string(status), "Name:\tpause\n") || !regexp.MustCompile(`Uid:\s65535\s`).Match(status) {
		t.Errorf("pause: %v\n%s", err, status)
	}
	began := time.Now()
	if err := e.StopContainer(t.Context(), s.ID, 2*time.Minute); err != nil || time.Since(began) > time.Minute {
		t.Errorf("pause does not obey SIGTERM: %v after %v", err, time.Since(began))
	}
}

// An image made by `docker commit` carries our labels; a container of it is nobody's pod.
func TestForeignContainer(t *testing.T) {
	d := startDockerd(t)
	e := d.engine(t, "n1")
	_, id := runPod(t, e, pod)
	cli := d.client(t)
	defer cli.Close()
	if _, err := cli.ContainerCommit(t.Context(), id, container.CommitOptions{Reference: "committed"}); err != nil {
		t.Fatal(err)
	}
	made, err := cli.ContainerCreate(t.Context(), &container.Config{Image: "committed"}, nil, nil, nil, "mine")
	if err != nil {
		t.Fatal(err)
	}
	pods, err := e.Pods(t.Context())
	if err != nil || len(pods) != 1 || len(pods[0].Containers) != 1 || pods[0].Containers[0].ID != id {
		t.Errorf("pods %+v, %v", pods, err)
	}
	if _, err := e.Inspect(t.Context(), made.ID); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("foreign container: %v", err)
	}
	// Its name taken by a stranger, a pod's container is in conflict and the stranger stays.
	if _, err := cli.ContainerCreate(t.Context(), &container.Config{Image: testImage, Cmd: []string{"true"}}, nil, nil, nil, "k8s_app_web-1_default_4b2c_1"); err != nil {
		t.Fatal(err)
	}
	_, err = e.CreateContainer(t.Context(), runtime.ContainerSpec{SandboxID: pods[0].Sandboxes[0].ID, Pod: pod, Name: "app", Attempt: 1, Image: testImage, Command: []string{"true"}})
	if !errors.Is(err, runtime.ErrConflict) {
		t.Errorf("taken name: %v", err)
	}
}

// counter is an HTTP proxy in front of an engine that notes the calls.
type counter struct {
	mu    sync.Mutex
	calls []string
}

func (c *counter) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	calls := c.calls
	c.calls = nil
	return calls
}

// counted gives a client whose calls are noted. apiVersion, if not empty, is the newest version that the engine claims
// to speak.
func (d *dockerd) counted(t *testing.T, node, apiVersion string) (*Engine, *counter) {
	t.Helper()
	c := &counter{}
	path := filepath.Join(d.dir, node+".sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`^/v1\.\d+`)
	id := regexp.MustCompile(`[0-9a-f]{64}`)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "docker"
			path := id.ReplaceAllString(version.ReplaceAllString(r.In.URL.Path, ""), "ID")
			c.mu.Lock()
			defer c.mu.Unlock()
			c.calls = append(c.calls, r.In.Method+" "+path)
		},
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "unix", filepath.Join(d.dir, "docker.sock"))
		}},
		FlushInterval: -1,
		ModifyResponse: func(r *http.Response) error {
			if apiVersion != "" {
				r.Header.Set("Api-Version", apiVersion)
			}
			return nil
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	server := &http.Server{Handler: proxy}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	e, err := New(Config{Host: "unix://" + path, Node: node})
	if err != nil {
		t.Fatal(err)
	}
	return e, c
}

// Starting a pod costs what it must; listing pods costs one call, and one more for each container that changed.
func TestNoSuperfluousCalls(t *testing.T) {
	d := startDockerd(t)
	e, calls := d.counted(t, "n1", "")
	runPod(t, e, runtime.PodRef{Namespace: "default", Name: "first", UID: "0"}) // learns about the engine
	calls.take()
	s, id := runPod(t, e, pod)
	want := []string{
		"POST /containers/create", "POST /containers/ID/start", "GET /containers/ID/json", // sandbox and its PID
		"POST /containers/create", "POST /containers/ID/start",
	}
	if got := calls.take(); !slices.Equal(got, want) {
		t.Errorf("starting a pod: %q", got)
	}
	list := func(what string, want ...string) {
		t.Helper()
		if _, err := e.Pods(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := calls.take()
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	const all, one = "GET /containers/json", "GET /containers/ID/json"
	e.Pods(t.Context())
	calls.take()
	list("nothing changed", all)
	if err := e.StopContainer(t.Context(), id, 0); err != nil {
		t.Fatal(err)
	}
	calls.take()
	list("one stopped", all, one)
	list("nothing changed", all)
	if err := e.StopContainer(t.Context(), s.ID, 0); err != nil {
		t.Fatal(err)
	}
	calls.take()
	list("a sandbox stopped", all)
}

// With live-restore containers outlive the engine, and are the same afterwards.
func TestLiveRestore(t *testing.T) {
	d := startDockerd(t, "--live-restore")
	e := d.engine(t, "n1")
	s, id := runPod(t, e, pod)
	before, err := e.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		e.RemoveContainer(t.Context(), id)
		e.RemoveContainer(t.Context(), s.ID)
	}()
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		d.restart(t, sig)
		p, err := e.Pod(t.Context(), pod.UID)
		if err != nil || len(p.Sandboxes) != 1 || len(p.Containers) != 1 {
			t.Fatalf("%v: %+v, %v", sig, p, err)
		}
		c := p.Containers[0]
		if c.State != runtime.StateRunning || c.PID != before.PID || !c.StartedAt.Equal(before.StartedAt) || p.Sandboxes[0].PID != s.PID {
			t.Errorf("%v: %+v, before %+v", sig, c, before)
		}
	}
}

// Killed without live-restore, the engine ends what ran when it is back, and we see it ended.
func TestKilled(t *testing.T) {
	d := startDockerd(t)
	e := d.engine(t, "n1")
	_, id := runPod(t, e, pod)
	d.restart(t, syscall.SIGKILL)
	c, err := e.Inspect(t.Context(), id)
	if err != nil || c.State != runtime.StateExited || c.FinishedAt.IsZero() {
		t.Errorf("%+v, %v", c, err)
	}
	p, err := e.Pod(t.Context(), pod.UID)
	if err != nil || p.Sandboxes[0].Running {
		t.Errorf("%+v, %v", p, err)
	}
	// `docker image prune -a` takes the pause image too, which is no trouble.
	cli := d.client(t)
	defer cli.Close()
	if err := e.RemoveContainer(t.Context(), p.Sandboxes[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := cli.ImageRemove(t.Context(), pause.Image, image.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	runPod(t, e, runtime.PodRef{Namespace: "default", Name: "again", UID: "9"})
}

// registry starts Debian's docker-registry inside the daemon's namespace.
func (d *dockerd) registry(t *testing.T, port, auth string) {
	t.Helper()
	dir := filepath.Join(d.dir, "registry-"+port)
	config := filepath.Join(d.dir, "registry-"+port+".yml")
	text := "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: " + dir + "}}\nhttp: {addr: '127.0.0.1:" + port + "'}\n" + auth
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := d.nsenter("docker-registry", "serve", config)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	for end := time.Now().Add(time.Minute); ; {
		if d.nsenter("bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/"+port).Run() == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("no registry: %s", &out)
		}
		<-time.After(50 * time.Millisecond)
	}
}

func TestPull(t *testing.T) {
	d := startDockerd(t)
	d.registry(t, "5000", "")
	hash, err := exec.Command("htpasswd", "-nbB", "me", "secret").Output()
	private := err == nil
	if private {
		file := filepath.Join(d.dir, "htpasswd")
		if err := os.WriteFile(file, bytes.TrimSpace(hash), 0o600); err != nil {
			t.Fatal(err)
		}
		d.registry(t, "5001", "auth: {htpasswd: {realm: r, path: "+file+"}}\n")
	} else {
		t.Log("htpasswd is not installed: no private registry in this run")
	}
	e, cli := d.engine(t, "n1"), d.client(t)
	defer cli.Close()
	const ref = "127.0.0.1:5000/wpr/busybox:1"
	if err := cli.ImageTag(t.Context(), testImage, ref); err != nil {
		t.Fatal(err)
	}
	body, err := cli.ImagePush(t.Context(), ref, image.PushOptions{RegistryAuth: "e30="})
	if err != nil {
		t.Fatal(err)
	}
	pushed, _ := io.ReadAll(body)
	body.Close()
	if err := e.RemoveImage(t.Context(), ref); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Image(t.Context(), testImage); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("the image is still there: %v\n%s", err, pushed)
	}
	var told []string
	got, err := e.Pull(t.Context(), ref, nil, func(s string) { told = append(told, s) })
	if err != nil || len(got.Digests) != 1 || !strings.HasPrefix(got.Digests[0], "127.0.0.1:5000/wpr/busybox@sha256:") || len(told) == 0 {
		t.Fatalf("%+v, %v, told %q", got, err, told)
	}
	byDigest, err := e.Pull(t.Context(), got.Digests[0], nil, nil)
	if err != nil || byDigest.ID != got.ID {
		t.Errorf("by digest: %+v, %v", byDigest, err)
	}
	s, err := e.RunSandbox(t.Context(), runtime.SandboxSpec{Pod: pod})
	if err != nil {
		t.Fatal(err)
	}
	id, err := e.CreateContainer(t.Context(), runtime.ContainerSpec{SandboxID: s.ID, Pod: pod, Name: "app", Image: ref, Args: []string{"true"}})
	if err != nil {
		t.Fatal(err)
	}
	if c, err := e.Inspect(t.Context(), id); err != nil || c.ImageID != "docker-pullable://"+got.Digests[0] || c.Image != ref {
		t.Errorf("%+v, %v", c, err)
	}
	if err := e.RemoveImage(t.Context(), got.ID); !errors.Is(err, runtime.ErrConflict) {
		t.Errorf("removing an image in use: %v", err)
	}
	for _, c := range []struct {
		ref  string
		auth *runtime.Auth
		want error
		run  bool
	}{
		{"127.0.0.1:5000/wpr/busybox:none", nil, runtime.ErrImageMissing, true},
		{"127.0.0.1:5000/wpr/none", nil, runtime.ErrImageMissing, true},
		{"127.0.0.1:5000/NOT/A:REF:", nil, runtime.ErrImageMissing, true},
		{"127.0.0.1:5001/wpr/busybox:1", nil, runtime.ErrImageDenied, private},
		{"127.0.0.1:5001/wpr/busybox:1", &runtime.Auth{Username: "me", Password: "wrong"}, runtime.ErrImageDenied, private},
		{"127.0.0.1:5001/wpr/busybox:1", &runtime.Auth{Username: "me", Password: "secret"}, runtime.ErrImageMissing, private},
		{"127.0.0.1:9/wpr/busybox:1", nil, nil, true}, // nobody there
	} {
		if !c.run {
			continue
		}
		_, err := e.Pull(t.Context(), c.ref, c.auth, nil)
		missing, denied := errors.Is(err, runtime.ErrImageMissing), errors.Is(err, runtime.ErrImageDenied)
		if err == nil || missing != (c.want == runtime.ErrImageMissing) || denied != (c.want == runtime.ErrImageDenied) {
			t.Errorf("%s: %v (missing %v, denied %v)", c.ref, err, missing, denied)
		}
		t.Logf("%s: %v", c.ref, err)
	}
}

// Fifty commands at once, whose clients all go: no command, connection or goroutine stays.
func TestManyExecs(t *testing.T) {
	d := startDockerd(t)
	e := d.engine(t, "n1")
	_, id := runPod(t, e, pod)
	descriptors := func() int {
		list, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	exec := func(ctx context.Context, script string, out io.Writer) error {
		_, err := e.Exec(ctx, id, []string{"sh", "-c", script}, runtime.Streams{Stdout: out})
		return err
	}
	if err := exec(t.Context(), "true", io.Discard); err != nil {
		t.Fatal(err)
	}
	fds, routines := descriptors(), goruntime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	begun, ended := make(chan struct{}, 50), make(chan error, 50)
	for range 50 {
		go func() { ended <- exec(ctx, "echo x; exec sleep 2345", told(begun)) }()
	}
	for range 50 {
		<-begun
	}
	cancel()
	for range 50 {
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	var left bytes.Buffer
	if err := exec(t.Context(), "ps | grep 'sleep 234[5]' || true", &left); err != nil || left.Len() > 0 {
		t.Errorf("commands left: %v, %s", err, &left)
	}
	const slack = 12 // kept connections of net/http, with two goroutines each
	for end := time.Now().Add(time.Minute); descriptors() > fds+slack || goruntime.NumGoroutine() > routines+2*slack; {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors, %d before; %d goroutines, %d before", descriptors(), fds, goruntime.NumGoroutine(), routines)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// The commands of an agent that died end when the next one looks; those of others stay.
func TestStrayExecsEnd(t *testing.T) {
	d := startDockerd(t)
	e := d.engine(t, "n1")
	_, id := runPod(t, e, pod)
	cli := e.cli.Load()
	foreign, err := cli.ContainerExecCreate(t.Context(), id, container.ExecOptions{Cmd: []string{"sleep", "3457"}})
	if err == nil {
		err = cli.ContainerExecStart(t.Context(), foreign.ID, container.ExecStartOptions{Detach: true})
	}
	if err != nil {
		t.Fatal(err)
	}
	begun, ended := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		_, err := e.Exec(t.Context(), id, []string{"sh", "-c", "echo x; exec sleep 3456"}, runtime.Streams{Stdout: told(begun)})
		ended <- err
	}()
	<-begun
	next := d.engine(t, "n1")
	if _, err := next.Pods(t.Context()); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the command ended with %v", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the command goes on")
	}
	if e, err := cli.ContainerExecInspect(t.Context(), foreign.ID); err != nil || !e.Running {
		t.Errorf("somebody else's command: %+v, %v", e, err)
	}
	if _, err := next.Pods(t.Context()); err != nil { // and once only
		t.Fatal(err)
	}
}

// A log that is followed goes on over rotations, and the disk it takes is bounded.
func TestLogsRotate(t *testing.T) {
	d := startDockerd(t)
	e := d.engine(t, "n1")
	s, err := e.RunSandbox(t.Context(), runtime.SandboxSpec{Pod: pod})
	if err != nil {
		t.Fatal(err)
	}
	// 45 MB on the disk, slow enough for a follower to keep up.
	const lines, width = 6000, 8000
	id, err := e.CreateContainer(t.Context(), runtime.ContainerSpec{SandboxID: s.ID, Pod: pod, Name: "app", Image: testImage, Command: []string{
		"sh", "-c", fmt.Sprintf("x=$(head -c %d /dev/zero | tr '\\0' x); i=0; while [ $i -lt %d ]; do echo $x $i; i=$((i+1)); case $i in *0) usleep 10000;; esac; done", width, lines),
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	read, write := io.Pipe()
	go func() {
		write.CloseWithError(e.Logs(t.Context(), id, runtime.LogOptions{Follow: true, Tail: -1, Stdout: write}))
	}()
	next, buffered := 0, bufio.NewReaderSize(read, 2*width)
	for ; ; next++ {
		line, err := buffered.ReadString('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(strings.TrimLeft(line, "x")); got != strconv.Itoa(next) {
			t.Fatalf("line %d is %q, %d long", next, got, len(line))
		}
	}
	if next != lines {
		t.Errorf("%d lines, not %d", next, lines)
	}
	var kept int64
	files, err := filepath.Glob(filepath.Join(d.dir, "data", "containers", id, "*-json.log*"))
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			kept += info.Size()
		}
	}
	if err != nil || len(files) < 2 || kept > 31<<20 {
		t.Errorf("%d bytes of log in %d files: %v", kept, len(files), err)
	}
	var tail bytes.Buffer
	if err := e.Logs(t.Context(), id, runtime.LogOptions{Tail: 2, Stdout: &tail}); err != nil || strings.Count(tail.String(), "\n") != 2 {
		t.Errorf("tail: %v, %d bytes", err, tail.Len())
	}
}

// told is a writer that tells of its first byte.
type told chan struct{}

func (c told) Write(p []byte) (int, error) {
	select {
	case c <- struct{}{}:
	default:
	}
	return len(p), nil
}
