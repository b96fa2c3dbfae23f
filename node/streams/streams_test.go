package streams_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	clientexec "k8s.io/client-go/util/exec"
	"k8s.io/streaming/pkg/httpstream"

	wpruntime "github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker/pause"
	"github.com/whalepod/whalepod/node/runtime/fake"
	"github.com/whalepod/whalepod/node/streams"
)

const patience = 20 * time.Second

// world is a pod "web" on a fake engine, behind a Handler on loopback.
type world struct {
	*testing.T
	engine  *fake.Engine
	sandbox wpruntime.Sandbox
	url     string
	config  *rest.Config

	mu  sync.Mutex
	ids map[string]wpruntime.ContainerSpec // by container ID
	// byName is the newest ID of each container.
	byName map[string]string
}

func newWorld(t *testing.T) *world {
	w := &world{T: t, engine: fake.New("node"), ids: map[string]wpruntime.ContainerSpec{}, byName: map[string]string{}}
	w.engine.AddImage("busybox")
	s, err := w.engine.RunSandbox(t.Context(), wpruntime.SandboxSpec{
		Pod: wpruntime.PodRef{Namespace: "default", Name: "web", UID: "u1"}, Hostname: "web",
	})
	w.check(err)
	w.sandbox = s
	h := streams.New(streams.Config{Engine: w.engine, Lookup: w, Dial: func(ctx context.Context, pid int, port uint16) (net.Conn, error) {
		if pid != s.PID {
			return nil, fmt.Errorf("wrong PID %d", pid)
		}
		var d net.Dialer
		return d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			// The agent's tunnel ends in a net.Pipe: nothing is buffered on the way.
			local, remote := net.Pipe()
			serving.Go(func() { h.ServeConn(ctx, remote) })
			serving.Go(func() { copyAndClose(local, conn) })
			serving.Go(func() { copyAndClose(conn, local) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		serving.Wait()
	})
	w.url = "http://" + l.Addr().String()
	w.config = &rest.Config{Host: w.url}
	return w
}

func copyAndClose(to, from net.Conn) {
	io.Copy(to, from)
	to.Close()
	from.Close()
}

func (w *world) check(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// Lookup implements streams.Lookup.
func (w *world) Lookup(_ context.Context, namespace, pod, uid, container string, want streams.Want) (string, bool, int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if namespace != "default" || pod != "web" || uid != "" && uid != "u1" {
		return "", false, 0, streams.NotFound("pod %q does not exist", pod)
	}
	if container == "" {
		return "", false, w.sandbox.PID, nil
	}
	if want == streams.WantPrevious {
		return "", false, 0, streams.BadRequest("previous terminated container %q in pod %q not found", container, pod)
	}
	id, ok := w.byName[container]
	if !ok {
		return "", false, 0, streams.NotFound("container %q not found in pod %q", container, pod)
	}
	return id, w.ids[id].TTY, w.sandbox.PID, nil
}

// run starts a container with a shell script.
func (w *world) run(name, script string, change ...func(*wpruntime.ContainerSpec)) string {
	w.Helper()
	spec := wpruntime.ContainerSpec{
		SandboxID: w.sandbox.ID, Pod: w.sandbox.Pod, Name: name, Image: "busybox", Command: []string{"sh", "-c", script},
	}
	for _, c := range change {
		c(&spec)
	}
	id, err := w.engine.CreateContainer(w.Context(), spec)
	w.check(err)
	w.check(w.engine.StartContainer(w.Context(), id))
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ids[id], w.byName[name] = spec, id
	return id
}

func (w *world) get(path string) (int, string) {
	w.Helper()
	resp, err := http.Get(w.url + path)
	w.check(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.check(err)
	return resp.StatusCode, string(b)
}

// executors are the two ways of client-go.
func (w *world) executors(verb, container string, q url.Values) map[string]remotecommand.Executor {
	w.Helper()
	u, err := url.Parse(w.url + "/" + verb + "/default/web/u1/" + container + "?" + q.Encode())
	w.check(err)
	viaSPDY, err := remotecommand.NewSPDYExecutor(w.config, "POST", u)
	w.check(err)
	viaWebSocket, err := remotecommand.NewWebSocketExecutor(w.config, "GET", u.String())
	w.check(err)
	return map[string]remotecommand.Executor{"SPDY": viaSPDY, "WebSocket": viaWebSocket}
}

func TestExec(t *testing.T) {
	w := newWorld(t)
	w.run("main", "sleep 100000")
	// The API's names on one, the kubelet's on the other.
	for _, q := range []url.Values{
		{"command": {"sh", "-c", "echo out; echo err >&2; exit 5"}, "stdout": {"true"}, "stderr": {"true"}},
		{"command": {"sh", "-c", "echo out; echo err >&2; exit 5"}, "output": {"1"}, "error": {"1"}},
	} {
		for name, e := range w.executors("exec", "main", q) {
			var out, errs bytes.Buffer
			err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
			var exit clientexec.CodeExitError
			if !errors.As(err, &exit) || exit.Code != 5 || out.String() != "out\n" || errs.String() != "err\n" {
				t.Errorf("%s: %v, %q, %q", name, err, out.String(), errs.String())
			}
		}
	}
	q := url.Values{"command": {"no-such-command"}, "stdout": {"true"}}
	for name, e := range w.executors("exec", "main", q) {
		err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdout: io.Discard})
		if err == nil || !strings.Contains(err.Error(), "error executing command in container: ") ||
			!strings.Contains(err.Error(), "executable file not found in $PATH") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestExecHalfClose(t *testing.T) {
	w := newWorld(t)
	w.run("main", "sleep 100000")
	sent := strings.Repeat("0123456789abcdef", 1<<16)
	for name, e := range w.executors("exec", "main", url.Values{"command": {"cat"}, "stdin": {"true"}, "stdout": {"true"}}) {
		var out bytes.Buffer
		err := e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: strings.NewReader(sent), Stdout: &out})
		if err != nil || out.String() != sent {
			t.Errorf("%s: %v, %d bytes of %d", name, err, out.Len(), len(sent))
		}
	}
}

// sizes is a terminal that was resized once.
type sizes chan remotecommand.TerminalSize

func (s sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-s
	if !ok {
		return nil
	}
	return &size
}

// collector wakes who waits for a text in what is written.
type collector struct {
	mu    sync.Mutex
	b     bytes.Buffer
	wrote chan struct{}
}

func newCollector() *collector { return &collector{wrote: make(chan struct{}, 1)} }

func (c *collector) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case c.wrote <- struct{}{}:
	default:
	}
	return c.b.Write(p)
}

func (c *collector) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.b.String()
}

func (c *collector) has(text string) bool { return strings.Contains(c.String(), text) }

func TestExecTerminal(t *testing.T) {
	w := newWorld(t)
	w.run("main", "sleep 100000")
	q := url.Values{"command": {"sh"}, "stdin": {"true"}, "stdout": {"true"}, "tty": {"true"}}
	for name, e := range w.executors("exec", "main", q) {
		in, keys := io.Pipe()
		out, size := newCollector(), make(sizes, 1)
		size <- remotecommand.TerminalSize{Width: 123, Height: 45}
		ended := make(chan error, 1)
		go func() {
			ended <- e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out, Tty: true, TerminalSizeQueue: size})
		}()
		limit := time.After(patience)
		for !out.has("45 123") {
			fmt.Fprint(keys, "stty size\n")
			select {
			case <-out.wrote:
			case err := <-ended:
				t.Fatalf("%s: %v", name, err)
			case <-limit:
				t.Fatalf("%s: no size in %q", name, out)
			}
		}
		fmt.Fprint(keys, "exit 3\n")
		var exit clientexec.CodeExitError
		if err := <-ended; !errors.As(err, &exit) || exit.Code != 3 {
			t.Errorf("%s: %v", name, err)
		}
		close(size)
		keys.Close()
	}
}

func TestAttach(t *testing.T) {
	for _, kind := range []string{"SPDY", "WebSocket"} {
		w := newWorld(t)
		w.run("main", "cat; echo bye", func(s *wpruntime.ContainerSpec) { s.Stdin, s.StdinOnce = true, true })
		e := w.executors("attach", "main", url.Values{"stdin": {"true"}, "stdout": {"true"}, "stderr": {"true"}})[kind]
		in, keys := io.Pipe()
		out, ended := newCollector(), make(chan error, 1)
		go func() {
			ended <- e.StreamWithContext(t.Context(), remotecommand.StreamOptions{Stdin: in, Stdout: out, Stderr: out})
		}()
		fmt.Fprint(keys, "hello\n")
		for limit := time.After(patience); !out.has("hello\n"); {
			select {
			case <-out.wrote:
			case <-limit:
				t.Fatalf("%s: %q", kind, out)
			}
		}
		keys.Close()
		if err := <-ended; err != nil || out.String() != "hello\nbye\n" {
			t.Errorf("%s: %v, %q", kind, err, out)
		}
	}
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	id := w.run("done", "exit 0")
	w.run("main", "sleep 100000")
	for _, c := range []struct {
		path, words string
		code        int
	}{
		{"/containerLogs/default/none/main", `pod "none" does not exist`, 404},
		{"/containerLogs/default/web/none", `container "none" not found in pod "web"`, 404},
		{"/containerLogs/default/web/main?previous=true", `previous terminated container "main" in pod "web" not found`, 400},
		{"/containerLogs/default/web/main?tailLines=-1", `tailLines: invalid value "-1"`, 400},
		{"/containerLogs/default/web/main?sinceSeconds=5&sinceTime=2020-01-01T00:00:00Z", "at most one of", 400},
		{"/containerLogs/default/web/main?sinceTime=yesterday", "sinceTime", 400},
		{"/containerLogs/default/web/main?limitBytes=0", "limitBytes", 400},
		{"/containerLogs/default/web/main?stream=Both", `invalid stream type "Both"`, 400},
		{"/exec/default/web/u1/main?command=true", "you must specify at least 1 of stdin, stdout, stderr", 400},
		{"/exec/default/web/u1/main?stdout=1", "at least one command", 400},
		{"/exec/default/web/u2/main?command=true&stdout=1", `pod "web" does not exist`, 404},
		{"/exec/default/web/-/done?command=true&stdout=1", `container not found ("done")`, 500},
		{"/attach/default/web/-/done?stdout=1", `container done not found in pod web_default`, 500},
		{"/exec/default/web/u1/main?command=true&stdout=1", "upgrade", 400},
		{"/portForward/default/none/u1", `pod "none" does not exist`, 404},
		{"/nonsense", "not found", 404},
	} {
		code, text := w.get(c.path)
		if code != c.code || !strings.Contains(text, c.words) {
			t.Errorf("%s: %d %q, want %d %q", c.path, code, text, c.code, c.words)
		}
	}
	w.check(w.engine.RemoveContainer(t.Context(), id))
	if code, text := w.get("/containerLogs/default/web/done"); code != 404 {
		t.Errorf("logs of a removed container: %d %q", code, text)
	}
	w.engine.Down()
	if code, text := w.get("/containerLogs/default/web/main"); code != 503 {
		t.Errorf("engine down: %d %q", code, text)
	}
}

func TestLogs(t *testing.T) {
	w := newWorld(t)
	w.run("main", "echo one; echo two; echo oops >&2; echo three")
	for path, want := range map[string]string{
		"":                                "one\ntwo\noops\nthree\n",
		"?tailLines=1":                    "three\n",
		"?stream=Stderr":                  "oops\n",
		"?stream=Stdout&follow=true":      "one\ntwo\nthree\n",
		"?limitBytes=6":                   "one\ntw",
		"?limitBytes=100&follow":          "one\ntwo\noops\nthree\n",
		"?sinceSeconds=3600":              "one\ntwo\noops\nthree\n",
		"?sinceTime=2999-01-01T00:00:00Z": "",
	} {
		if code, got := w.get("/containerLogs/default/web/main" + path); code != 200 || got != want {
			t.Errorf("%s: %d %q, want %q", path, code, got, want)
		}
	}
	_, got := w.get("/containerLogs/default/web/main?timestamps=true&tailLines=1")
	stamp, rest, _ := strings.Cut(got, " ")
	if _, err := time.Parse("2006-01-02T15:04:05.000000000Z07:00", stamp); err != nil || rest != "three\n" {
		t.Errorf("timestamps: %q, %v", got, err)
	}
}

// A follower gets its headers at once and lines as they come, and goes when it likes.
func TestLogsFollow(t *testing.T) {
	w := newWorld(t)
	id := w.run("main", "sleep 100000")
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, "GET", w.url+"/containerLogs/default/web/main?follow=true", nil)
	w.check(err)
	resp, err := http.DefaultClient.Do(req)
	w.check(err)
	defer resp.Body.Close()
	w.engine.Kill(id, 0, false)
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) != 0 {
		t.Errorf("%q, %v", b, err)
	}
	cancel()
}

func TestPortForward(t *testing.T) {
	w := newWorld(t)
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	w.check(err)
	defer echo.Close()
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				b, _ := io.ReadAll(conn) // answers after the client's half-close
				conn.Write(bytes.ToUpper(b))
			}()
		}
	}()
	port := echo.Addr().(*net.TCPAddr).Port
	u, err := url.Parse(w.url + "/portForward/default/web/u1")
	w.check(err)
	transport, upgrader, err := spdy.RoundTripperFor(w.config)
	w.check(err)
	tunnel, err := portforward.NewSPDYOverWebsocketDialerForStreaming(u, w.config)
	w.check(err)
	for name, open := range map[string]func() (*portforward.PortForwarder, chan struct{}, chan struct{}, error){
		"SPDY": func() (*portforward.PortForwarder, chan struct{}, chan struct{}, error) {
			stop, ready := make(chan struct{}), make(chan struct{})
			d := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u)
			f, err := portforward.New(d, []string{fmt.Sprintf("0:%d", port), "0:1"}, stop, ready, io.Discard, io.Discard)
			return f, stop, ready, err
		},
		"tunnel": func() (*portforward.PortForwarder, chan struct{}, chan struct{}, error) {
			stop, ready := make(chan struct{}), make(chan struct{})
			f, err := newForwarder(tunnel, []string{fmt.Sprintf("0:%d", port), "0:1"}, stop, ready)
			return f, stop, ready, err
		},
	} {
		f, stop, ready, err := open()
		w.check(err)
		ended := make(chan error, 1)
		go func() { ended <- f.ForwardPorts() }()
		select {
		case <-ready:
		case err := <-ended:
			t.Fatalf("%s: %v", name, err)
		}
		ports, err := f.GetPorts()
		w.check(err)
		for range 3 {
			conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
			w.check(err)
			fmt.Fprint(conn, "hello")
			conn.(*net.TCPConn).CloseWrite()
			b, err := io.ReadAll(conn)
			if string(b) != "HELLO" || err != nil {
				t.Errorf("%s: %q, %v", name, b, err)
			}
			conn.Close()
		}
		close(stop)
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func newForwarder(d httpstream.Dialer, ports []string, stop, ready chan struct{}) (*portforward.PortForwarder, error) {
	return portforward.NewForStreaming(d, ports, stop, ready, io.Discard, io.Discard)
}

func TestLoad(t *testing.T) {
	w := newWorld(t)
	resp, err := http.Post(w.url+"/images/load", "application/x-tar", strings.NewReader("no tar at all"))
	w.check(err)
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); !strings.Contains(string(b), `"error":`) {
		t.Errorf("%s", b)
	}
	archive, err := pause.Archive("amd64")
	w.check(err)
	resp, err = http.Post(w.url+"/images/load", "application/x-tar", bytes.NewReader(archive))
	w.check(err)
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != `{"status":"Loaded whalepod/pause:1","loaded":["whalepod/pause:1"]}`+"\n" {
		t.Errorf("%s", b)
	}
	if _, err := w.engine.Image(t.Context(), pause.Image); err != nil {
		t.Error(err)
	}
}

// Fifty streams of all kinds at once, whose clients go in the middle: nothing is left.
func TestNothingLeaks(t *testing.T) {
	w := newWorld(t)
	w.run("main", "echo hello; sleep 100000", func(s *wpruntime.ContainerSpec) { s.Stdin = true })
	settled(t, 0)
	http.DefaultClient.CloseIdleConnections()
	before := runtime.NumGoroutine()
	ctx, cancel := context.WithCancel(t.Context())
	var clients, begun sync.WaitGroup
	for i := range 50 {
		begun.Add(1)
		once := sync.OnceFunc(begun.Done)
		started := writerFunc(func(p []byte) (int, error) { once(); return len(p), nil })
		clients.Go(func() {
			defer once()
			switch i % 3 {
			case 0:
				req, _ := http.NewRequestWithContext(ctx, "GET", w.url+"/containerLogs/default/web/main?follow=true", nil)
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(started, resp.Body)
				resp.Body.Close()
			default:
				kind := []string{"SPDY", "WebSocket"}[i%2]
				q := url.Values{"command": {"sh", "-c", "echo begin; sleep 100000"}, "stdout": {"true"}, "stdin": {"true"}}
				in, keys := io.Pipe()
				defer keys.Close()
				e := w.executors("exec", "main", q)[kind]
				err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: started})
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
	begun.Wait()
	cancel()
	clients.Wait()
	http.DefaultClient.CloseIdleConnections()
	settled(t, before)
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// settled waits until no more goroutines are left than there were (plus the accept loops' slack).
func settled(t *testing.T, want int) {
	t.Helper()
	const slack = 2
	for end := time.Now().Add(patience); want > 0 && runtime.NumGoroutine() > want+slack; {
		if time.Now().After(end) {
			b := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), want, b[:runtime.Stack(b, true)])
		}
		runtime.Gosched()
	}
}

// What listens for the node alone is not to be reached through its agent.
func TestConnectRefusesLocalAddresses(t *testing.T) {
	h := streams.New(streams.Config{})
	for _, host := range []string{"127.0.0.1:22", "[::1]:22", "[::ffff:127.0.0.1]:22", "169.254.169.254:80", "0.0.0.0:80", "localhost:80", "198.51.100.1:0", "198.51.100.1", ""} {
		r := httptest.NewRequest(http.MethodConnect, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "address not allowed") {
			t.Errorf("%q: %d %s", host, w.Code, w.Body)
		}
	}
}

func TestLogsOverWebSocket(t *testing.T) {
	w := newWorld(t)
	w.run("main", "echo one; echo two")
	for _, protocol := range []string{"", "binary.k8s.io", "base64.binary.k8s.io"} {
		dialer := websocket.Dialer{}
		if protocol != "" {
			dialer.Subprotocols = []string{protocol}
		}
		conn, _, err := dialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(w.url, "http")+"/containerLogs/default/web/main", nil)
		w.check(err)
		var got strings.Builder
		for {
			kind, p, err := conn.ReadMessage()
			if err != nil {
				if !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
					t.Errorf("%q: ended with %v", protocol, err)
				}
				break
			}
			if kind == websocket.TextMessage {
				p, err = base64.StdEncoding.DecodeString(string(p))
				w.check(err)
			}
			got.Write(p)
		}
		conn.Close()
		if got.String() != "one\ntwo\n" || conn.Subprotocol() != protocol {
			t.Errorf("%q: %q", protocol, &got)
		}
	}
}
