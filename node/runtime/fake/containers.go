package fake

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// Exit codes of a process ended by SIGKILL and SIGTERM, and of one that could not be executed.
const (
	codeKilled  = 137
	codeTermed  = 143
	codeMissing = 127
)

// ctr is a sandbox or a container.
type ctr struct {
	runtime.Container
	node     string
	name     string
	sandbox  bool
	hostname string
	handler  string // of a sandbox
	spec     runtime.ContainerSpec
	pid      int

	ops   []op
	pc    int
	timer *time.Timer
	// reading: it waits for input (cat).
	reading    bool
	ignoreTERM bool
	termCode   int
	termAfter  time.Duration

	log []line
	// changed is closed and replaced whenever log or state change; ended is closed at the end of a run.
	changed, ended chan struct{}
}

func (c *ctr) touch() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (e *Engine) find(id string) (*ctr, error) {
	c := e.containers[id]
	if c == nil || c.node != e.node {
		return nil, mark(runtime.ErrNotFound, "Error response from daemon: No such container: %s", id)
	}
	return c, nil
}

// add makes a container; its name may be taken over from one that never ran.
func (e *Engine) add(c *ctr) error {
	if old := e.containers[e.names[c.name]]; old != nil {
		if old.State != runtime.StateCreated || old.node != e.node {
			return mark(runtime.ErrConflict, "Error response from daemon: Conflict. The container name %q is already in use by container %q", "/"+c.name, old.ID)
		}
		e.remove(old)
	}
	c.ID, c.pid = e.id()
	c.node, c.CreatedAt, c.State = e.node, time.Now(), runtime.StateCreated
	c.changed, c.ended = make(chan struct{}), make(chan struct{})
	e.containers[c.ID], e.names[c.name] = c, c.ID
	return nil
}

func name(container string, p runtime.PodRef, attempt int) string {
	return fmt.Sprintf("k8s_%s_%s_%s_%s_%d", container, p.Name, p.Namespace, p.UID, attempt)
}

// RunSandbox implements runtime.Runtime.
func (e *Engine) RunSandbox(ctx context.Context, spec runtime.SandboxSpec) (runtime.Sandbox, error) {
	if err := e.enter(ctx, "RunSandbox"); err != nil {
		return runtime.Sandbox{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if h := spec.RuntimeHandler; h != "" && !e.handlers[h] {
		return runtime.Sandbox{}, mark(runtime.ErrNoHandler, "failed to get sandbox runtime: no runtime for %q is configured", h)
	}
	c := &ctr{
		name: name("POD", spec.Pod, spec.Attempt), sandbox: true, hostname: spec.Hostname, ops: []op{{kind: opForever}},
		handler:   spec.RuntimeHandler,
		Container: runtime.Container{Pod: spec.Pod, Name: "POD", Attempt: spec.Attempt, Labels: maps.Clone(spec.Labels)},
	}
	if err := e.add(c); err != nil {
		return runtime.Sandbox{}, err
	}
	e.begin(c)
	return c.asSandbox(), nil
}

func (c *ctr) asSandbox() runtime.Sandbox {
	return runtime.Sandbox{
		ID: c.ID, Pod: c.Pod, Attempt: c.Attempt, PID: c.PID, Running: c.State == runtime.StateRunning,
		CreatedAt: c.CreatedAt, Labels: maps.Clone(c.Labels),
	}
}

// CreateContainer implements runtime.Runtime.
func (e *Engine) CreateContainer(ctx context.Context, spec runtime.ContainerSpec) (string, error) {
	if err := e.enter(ctx, "CreateContainer"); err != nil {
		return "", err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s, err := e.find(spec.SandboxID)
	if err != nil {
		return "", err
	}
	if spec.RuntimeHandler != s.handler {
		return "", mark(runtime.ErrInvalid, "runtime %q in a sandbox of runtime %q", spec.RuntimeHandler, s.handler)
	}
	i := e.image(spec.Image)
	if i == nil {
		return "", mark(runtime.ErrNotFound, "Error response from daemon: No such image: %s", spec.Image)
	}
	c := &ctr{
		name: name(spec.Name, spec.Pod, spec.Attempt), spec: spec, hostname: s.hostname,
		Container: runtime.Container{
			Pod: spec.Pod, Name: spec.Name, Attempt: spec.Attempt, Image: spec.Image, ImageID: i.running(),
			Labels: maps.Clone(spec.Labels),
		},
	}
	if err := e.add(c); err != nil {
		return "", err
	}
	return c.ID, nil
}

// StartContainer implements runtime.Runtime.
func (e *Engine) StartContainer(ctx context.Context, id string) error {
	if err := e.enter(ctx, "StartContainer"); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(id)
	if err != nil || c.State == runtime.StateRunning {
		return err
	}
	if s := e.containers[c.spec.SandboxID]; !c.sandbox && (s == nil || s.State != runtime.StateRunning) {
		return fmt.Errorf("Error response from daemon: cannot join network of a non running container: %s", c.spec.SandboxID)
	}
	if err := e.program(c); err != nil {
		c.State, c.ExitCode, c.Error, c.FinishedAt = runtime.StateExited, codeMissing, err.Error(), time.Now()
		c.touch()
		e.emit(c, "die")
		return err
	}
	e.begin(c)
	return nil
}

// program sets what the container will do: the test's script, or its command.
func (e *Engine) program(c *ctr) error {
	if script := e.scripts[c.Name]; script != nil {
		p := script(c.spec)
		if p.StartError != nil {
			return p.StartError
		}
		c.ops = p.compile()
		c.ignoreTERM, c.termAfter, c.termCode = p.IgnoreTERM, p.StopAfter, p.StopCode
		return nil
	}
	argv := append(slices.Clone(c.spec.Command), c.spec.Args...)
	if i := e.image(c.Image); len(c.spec.Command) == 0 && i != nil {
		args := c.spec.Args
		if len(args) == 0 {
			args = i.Cmd
		}
		argv = append(slices.Clone(i.Entrypoint), args...)
	}
	ops, err := c.shell().compile(argv)
	c.ops, c.termCode = ops, codeTermed
	return err
}

// begin starts a run.
func (e *Engine) begin(c *ctr) {
	c.State, c.PID, c.StartedAt, c.FinishedAt, c.ExitCode, c.OOMKilled, c.Error = runtime.StateRunning, c.pid, time.Now(), time.Time{}, 0, false, ""
	c.pc, c.ended = 0, make(chan struct{})
	c.touch()
	e.emit(c, "start")
	e.advance(c)
}

// advance carries out operations until one takes time.
func (e *Engine) advance(c *ctr) { e.world.advance(c) }

func (w *world) advance(c *ctr) {
	for c.State == runtime.StateRunning {
		o := op{kind: opExit}
		if c.pc < len(c.ops) {
			o = c.ops[c.pc]
		}
		c.pc++
		switch o.kind {
		case opPrint:
			c.write(o.stderr, o.text)
		case opExit:
			w.exit(c, o.code, false)
		case opOOM:
			w.exit(c, codeKilled, true)
		case opIgnoreTERM:
			c.ignoreTERM = true
		case opTermCode:
			c.ignoreTERM, c.termCode = false, o.code
		case opForever:
			return
		case opCat:
			if c.spec.Stdin {
				c.reading = true
				return
			}
		case opSleep:
			c.timer = time.AfterFunc(o.d, func() {
				w.mu.Lock()
				defer w.mu.Unlock()
				w.advance(c)
			})
			return
		}
	}
}

// exit ends a run, if there is one.
func (w *world) exit(c *ctr, code int, oom bool) {
	if c.State != runtime.StateRunning {
		return
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.State, c.PID, c.ExitCode, c.OOMKilled, c.FinishedAt, c.reading = runtime.StateExited, 0, code, oom, time.Now(), false
	close(c.ended)
	c.touch()
	if oom {
		w.emit(c, "oom")
	}
	w.emit(c, "die")
}

// StopContainer implements runtime.Runtime.
func (e *Engine) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	if err := e.enter(ctx, "StopContainer"); err != nil {
		return err
	}
	e.mu.Lock()
	c, err := e.find(id)
	if err != nil || c.State != runtime.StateRunning {
		e.mu.Unlock()
		return nil
	}
	ended := c.ended
	switch {
	case grace <= 0:
		e.exit(c, codeKilled, false)
	case c.ignoreTERM:
	case c.termAfter == 0:
		e.exit(c, c.termCode, false)
	default:
		time.AfterFunc(c.termAfter, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if c.ended == ended {
				e.exit(c, c.termCode, false)
			}
		})
	}
	e.mu.Unlock()
	over := time.NewTimer(grace)
	defer over.Stop()
	select {
	case <-ended:
	case <-ctx.Done():
		return ctx.Err()
	case <-over.C:
		e.mu.Lock()
		defer e.mu.Unlock()
		if c.ended == ended {
			e.exit(c, codeKilled, false)
		}
	}
	return nil
}

// RemoveContainer implements runtime.Runtime.
func (e *Engine) RemoveContainer(ctx context.Context, id string) error {
	if err := e.enter(ctx, "RemoveContainer"); err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c, err := e.find(id); err == nil {
		e.remove(c)
	}
	return nil
}

func (e *Engine) remove(c *ctr) {
	e.exit(c, codeKilled, false)
	delete(e.containers, c.ID)
	delete(e.names, c.name)
	c.touch()
	e.emit(c, "destroy")
}

// Inspect implements runtime.Runtime.
func (e *Engine) Inspect(ctx context.Context, id string) (runtime.Container, error) {
	if err := e.enter(ctx, "Inspect"); err != nil {
		return runtime.Container{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	c, err := e.find(id)
	if err != nil {
		return runtime.Container{}, err
	}
	return c.snapshot(), nil
}

func (c *ctr) snapshot() runtime.Container {
	out := c.Container
	out.Labels = maps.Clone(c.Labels)
	return out
}

// Pods implements runtime.Runtime.
func (e *Engine) Pods(ctx context.Context) ([]runtime.Pod, error) {
	if err := e.enter(ctx, "Pods"); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.list(func(*ctr) bool { return true }), nil
}

// Pod implements runtime.Runtime.
func (e *Engine) Pod(ctx context.Context, uid string) (runtime.Pod, error) {
	if err := e.enter(ctx, "Pod"); err != nil {
		return runtime.Pod{}, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if pods := e.list(func(c *ctr) bool { return c.Pod.UID == uid }); len(pods) > 0 {
		return pods[0], nil
	}
	return runtime.Pod{Ref: runtime.PodRef{UID: uid}}, nil
}

func (e *Engine) list(want func(*ctr) bool) []runtime.Pod {
	var all []*ctr
	for _, c := range e.containers {
		if c.node == e.node && want(c) {
			all = append(all, c)
		}
	}
	slices.SortFunc(all, func(a, b *ctr) int {
		return cmp.Or(b.Attempt-a.Attempt, strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
	})
	var pods []runtime.Pod
	for _, c := range all {
		at := slices.IndexFunc(pods, func(p runtime.Pod) bool { return p.Ref == c.Pod })
		if at < 0 {
			at = len(pods)
			pods = append(pods, runtime.Pod{Ref: c.Pod})
		}
		if c.sandbox {
			pods[at].Sandboxes = append(pods[at].Sandboxes, c.asSandbox())
		} else {
			pods[at].Containers = append(pods[at].Containers, c.snapshot())
		}
	}
	return pods
}
