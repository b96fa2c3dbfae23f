package streams

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// idleTimeout of a stream without a byte either way, as the kubelet's --streaming-connection-idle-timeout.
	idleTimeout = 4 * time.Hour
	// headerTimeout is how long the master may take to send a request on a fresh connection.
	headerTimeout = 30 * time.Second
	// anyUID in a path asks for the pod of that name, whatever its UID.
	anyUID = "-"
)

// Lookup finds containers; the agent knows their pods.
type Lookup interface {
	// Lookup returns a container's ID in the engine, whether it has a terminal, and the PID of its pod's sandbox.
	// An empty uid means any pod of that name. Errors are told to the user word for word; *Error carries the status code.
	Lookup(ctx context.Context, namespace, pod, uid, container string, want Want) (id string, tty bool, pid int, err error)
}

// Want says what is to be found.
type Want int

const (
	// WantLog is the container that runs, or else the last that ran; WantPrevious is the one before it.
	WantLog Want = iota
	WantPrevious
	// WantRunning is the container that runs.
	WantRunning
	// WantSandbox is the pod only; the container is empty.
	WantSandbox
)

// Engine is what of runtime.Engine is needed.
type Engine interface {
	runtime.Streamer
	Inspect(ctx context.Context, id string) (runtime.Container, error)
	runtime.Images
}

// Config of a Handler.
type Config struct {
	Engine Engine
	Lookup Lookup
	// Dial connects to a port on the loopback of the pod whose sandbox has this PID; nil enters its network namespace.
	Dial func(ctx context.Context, pid int, port uint16) (net.Conn, error)
	// Loaded, if not nil, is told the names of images that were loaded, before the client hears that they are.
	Loaded func(ctx context.Context, names []string)
	// RemoveVolume deletes the data of a local volume, by the name of its directory; nil: there are none on this node.
	RemoveVolume func(name string) error
	// Diagnose answers questions about this node; nil: none are answered.
	Diagnose http.Handler
	Log      *slog.Logger
}

// Handler serves streams.
type Handler struct {
	engine Engine
	lookup Lookup
	dial   func(ctx context.Context, pid int, port uint16) (net.Conn, error)
	loaded func(ctx context.Context, names []string)
	remove func(name string) error
	log    *slog.Logger
	mux    http.ServeMux
}

// New makes a Handler.
func New(cfg Config) *Handler {
	h := &Handler{engine: cfg.Engine, lookup: cfg.Lookup, dial: cfg.Dial, loaded: cfg.Loaded, remove: cfg.RemoveVolume, log: cfg.Log}
	if h.dial == nil {
		h.dial = dialPod
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	h.log = h.log.With("component", "streams")
	h.mux.HandleFunc("GET /containerLogs/{namespace}/{pod}/{container}", h.logs)
	h.mux.HandleFunc("/exec/{namespace}/{pod}/{uid}/{container}", h.exec)
	h.mux.HandleFunc("/exec/{namespace}/{pod}/{container}", h.exec)
	h.mux.HandleFunc("/attach/{namespace}/{pod}/{uid}/{container}", h.attach)
	h.mux.HandleFunc("/attach/{namespace}/{pod}/{container}", h.attach)
	h.mux.HandleFunc("/portForward/{namespace}/{pod}/{uid}", h.portForward)
	h.mux.HandleFunc("/portForward/{namespace}/{pod}", h.portForward)
	h.mux.HandleFunc("POST /images/load", h.load)
	h.mux.HandleFunc("DELETE /localVolumes/{name}", h.removeVolume)
	if cfg.Diagnose != nil {
		h.mux.Handle("/diagnose/", cfg.Diagnose)
	}
	return h
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect { // it names an address, not a path
		h.connect(w, r)
		return
	}
	h.mux.ServeHTTP(w, r)
}

// ServeConn serves one connection of the tunnel until it or ctx ends, and closes it.
func (h *Handler) ServeConn(ctx context.Context, conn net.Conn) {
	one := &oneConn{conn: conn, closed: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	server := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug),
	}
	server.Serve(one) // ends with errConnClosed
}

// oneConn is a listener that yields one connection, then waits for its end.
type oneConn struct {
	conn   net.Conn
	given  bool
	closed chan struct{}
}

var errConnClosed = errors.New("the connection was closed")

func (l *oneConn) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return &closing{Conn: l.conn, closed: l.closed}, nil
	}
	<-l.closed
	return nil, errConnClosed
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// target is whose stream a request asks for.
type target struct{ namespace, pod, uid, container string }

func targetOf(r *http.Request) target {
	t := target{r.PathValue("namespace"), r.PathValue("pod"), r.PathValue("uid"), r.PathValue("container")}
	if t.uid == anyUID {
		t.uid = ""
	}
	return t
}

func (h *Handler) find(ctx context.Context, t target, want Want) (id string, tty bool, pid int, err error) {
	return h.lookup.Lookup(ctx, t.namespace, t.pod, t.uid, t.container, want)
}

// options reads which streams a client wants.
func options(r *http.Request) (*remotecommand.Options, error) {
	q := r.URL.Query()
	is := func(names ...string) bool {
		for _, n := range names {
			if v := q.Get(n); v == "1" || v == "true" {
				return true
			}
		}
		return false
	}
	o := &remotecommand.Options{
		Stdin:  is(remotecommand.ExecStdinParam, "stdin"),
		Stdout: is(remotecommand.ExecStdoutParam, "stdout"),
		Stderr: is(remotecommand.ExecStderrParam, "stderr"),
		TTY:    is(remotecommand.ExecTTYParam),
	}
	if o.TTY {
		o.Stderr = false // a terminal has one output
	}
	if !o.Stdin && !o.Stdout && !o.Stderr {
		return nil, BadRequest("you must specify at least 1 of stdin, stdout, stderr")
	}
	return o, nil
}
