package fake

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// Program says what a container does once it is started.
type Program struct {
	// StartError is what StartContainer returns; the container is left as exited with code 127.
	StartError error
	// Output are lines it writes to stdout at once.
	Output []string
	// After is how long it runs by itself; zero: until stopped. Then it ends with ExitCode, or is killed for want of memory.
	After    time.Duration
	ExitCode int
	OOM      bool
	// IgnoreTERM: only a kill ends it. Else it ends StopAfter after the signal with StopCode.
	IgnoreTERM bool
	StopAfter  time.Duration
	StopCode   int
}

// Engine is one node's view of an engine in memory.
type Engine struct {
	*world
	node string
}

var _ runtime.Engine = (*Engine)(nil)

// world is the engine itself. All state is behind mu, which is never held while waiting.
type world struct {
	mu         sync.Mutex
	down       bool
	containers map[string]*ctr
	names      map[string]string // ID by name
	images     map[string]*img   // by ID
	registry   map[string]Published
	scripts    map[string]func(runtime.ContainerSpec) Program
	onExec     func(runtime.Container, []string, runtime.Streams) (int, error)
	subs       map[*subscriber]bool
	calls      map[string]int
	delays     map[string]time.Duration
	faults     map[string][]error
	layers     map[string]int64 // by container name
	handlers   map[string]bool
	usage      map[string]int64             // by container name
	files      map[string]map[string]string // by image name
	serial     int
}

// firstPID is above any real process: a test that takes a fake PID for a real one must fail.
const firstPID = 1 << 23

// New makes an engine that is up and empty.
func New(node string) *Engine {
	return &Engine{node: node, world: &world{
		containers: map[string]*ctr{}, names: map[string]string{}, images: map[string]*img{}, registry: map[string]Published{},
		scripts: map[string]func(runtime.ContainerSpec) Program{}, subs: map[*subscriber]bool{},
		calls: map[string]int{}, delays: map[string]time.Duration{}, faults: map[string][]error{},
	}}
}

// As is the same engine as another node's agent sees it, or the same node's agent after a restart.
func (e *Engine) As(node string) *Engine { return &Engine{node: node, world: e.world} }

// Handlers are the runtimes that it knows, besides its default.
func (w *world) Handlers(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.handlers = map[string]bool{}
	for _, name := range names {
		w.handlers[name] = true
	}
}

// Script gives containers of this name their program; nil takes it away.
func (w *world) Script(container string, program func(runtime.ContainerSpec) Program) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.scripts[container] = program
}

// OnExec replaces the shell that answers Exec; nil gives it back.
func (w *world) OnExec(fn func(c runtime.Container, cmd []string, s runtime.Streams) (int, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.onExec = fn
}

// Calls is how often a method (RunSandbox, Pods, …) was called.
func (w *world) Calls(method string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[method]
}

// Delay makes each call of a method take this long.
func (w *world) Delay(method string, d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delays[method] = d
}

// Fail makes the next calls of a method return these errors, one each; nil lets one pass.
func (w *world) Fail(method string, errs ...error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[method] = append(w.faults[method], errs...)
}

// Down stops the engine from answering; containers go on. Streams of events break.
func (w *world) Down() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = true
	for s := range w.subs {
		s.break_(errDown)
		delete(w.subs, s)
	}
}

// Up makes it answer again.
func (w *world) Up() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.down = false
}

// Restart is an engine that ends and starts without live-restore: what ran has ended.
func (w *world) Restart() {
	w.Down()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.containers {
		w.exit(c, codeKilled, false)
	}
	w.down = false
}

// Kill ends a running container from outside, as `kill` or the kernel would.
func (w *world) Kill(id string, code int, oom bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.containers[id]; c != nil {
		w.exit(c, code, oom)
	}
}

var errDown = mark(runtime.ErrUnavailable, "Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?")

// enter begins a call: it is counted, delayed, and fails if the test wants it to.
func (w *world) enter(ctx context.Context, method string) error {
	w.mu.Lock()
	w.calls[method]++
	delay, down := w.delays[method], w.down
	var fault error
	if f := w.faults[method]; len(f) > 0 {
		fault, w.faults[method] = f[0], f[1:]
	}
	w.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-ctx.Done():
		}
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errors.Join(runtime.ErrUnavailable, ctx.Err())
	case ctx.Err() != nil:
		return ctx.Err()
	case down:
		return errDown
	}
	return fault
}

// id makes a new one; the number goes into PIDs too.
func (w *world) id() (string, int) {
	w.serial++
	return fmt.Sprintf("%064x", 0xfa4e000000000000+uint64(w.serial)), firstPID + w.serial
}

// Info implements runtime.Engine.
func (w *world) Ping(ctx context.Context) error { return w.enter(ctx, "Ping") }

func (w *world) Info(ctx context.Context) (runtime.Info, error) {
	if err := w.enter(ctx, "Info"); err != nil {
		return runtime.Info{}, err
	}
	return runtime.Info{
		Version: "28.5.2", OperatingSystem: "Fake Linux", KernelVersion: "6.1.0", Architecture: "x86_64",
		CgroupVersion: 2, CgroupDriver: "systemd", RootDir: "/var/lib/docker",
	}, nil
}

// kinded is an error in the engine's words that is one of package runtime's sentinels, as docker makes them.
type kinded struct {
	kind error
	text string
}

func (k *kinded) Error() string { return k.text }
func (k *kinded) Unwrap() error { return k.kind }

func mark(kind error, format string, args ...any) error {
	return &kinded{kind, fmt.Sprintf(format, args...)}
}
