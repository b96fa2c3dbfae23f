package runtimetest

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// Env is what the suite runs on.
type Env struct {
	// Image has a busybox shell at /bin/sh, which is a link to bin/busybox, and no ENTRYPOINT; the engine has it.
	Image string
	// New gives a fresh client, as a restarted agent would have, of a node to the engine under test. Within one test,
	// all clients are of one engine.
	New func(t *testing.T, node string) runtime.Engine
	// Restart ends the engine and starts it again, without live-restore: containers end.
	Restart func(t *testing.T)
	// Bubble runs a test, in virtual time if it can; nil runs it as it is.
	Bubble func(t *testing.T, test func(t *testing.T))
	// Patience with one step, 30 s if zero.
	Patience time.Duration
}

// suite holds the tests in the order in which they run; Restart is last.
var suite = []struct {
	name string
	test func(h *harness)
}{
	{"Sandbox", testSandbox},
	{"Adopt", testAdopt},
	{"ExitCodes", testExitCodes},
	{"OutOfMemory", testOutOfMemory},
	{"StopObeyed", testStopObeyed},
	{"StopIgnored", testStopIgnored},
	{"Idempotent", testIdempotent},
	{"Conflict", testConflict},
	{"MissingCommand", testMissingCommand},
	{"MissingImage", testMissingImage},
	{"Events", testEvents},
	{"TwoNodes", testTwoNodes},
	{"Settings", testSettings},
	{"Namespaces", testNamespaces},
	{"RuntimeHandler", testRuntimeHandler},
	{"Resize", testResize},
	{"Logs", testLogs},
	{"LogsFollow", testLogsFollow},
	{"Exec", testExec},
	{"ExecInput", testExecInput},
	{"ExecTerminal", testExecTerminal},
	{"ExecCancelled", testExecCancelled},
	{"Attach", testAttach},
	{"Images", testImages},
	{"Housekeeping", testHousekeeping},
	{"Export", testExport},
	{"Info", testInfo},
	{"Restart", testRestart},
}

// Run runs the whole suite.
func Run(t *testing.T, env Env) {
	if env.Bubble == nil {
		env.Bubble = func(t *testing.T, test func(t *testing.T)) { test(t) }
	}
	if env.Patience == 0 {
		env.Patience = 30 * time.Second
	}
	for _, s := range suite {
		t.Run(s.name, func(t *testing.T) {
			env.Bubble(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 4*env.Patience)
				defer cancel()
				node := fmt.Sprintf("node-%d", counter.Add(1))
				h := &harness{T: t, env: env, ctx: ctx, node: node}
				h.e = env.New(t, node)
				defer h.cleanup()
				s.test(h)
			})
		})
	}
}

// counter makes nodes and pods of all tests in a process different.
var counter atomic.Int64

// harness is one test: a node of its own on the engine.
type harness struct {
	*testing.T
	env  Env
	ctx  context.Context
	node string
	e    runtime.Engine
	// stopWatch ends the watch of events, if there is one.
	stopWatch func()
	poked     chan struct{}
}

// cleanup removes all that the test left on its node.
func (h *harness) cleanup() {
	if h.stopWatch != nil {
		h.stopWatch()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(h.ctx), h.env.Patience)
	defer cancel()
	pods, err := h.e.Pods(ctx)
	if err != nil {
		h.Errorf("cleaning up: %v", err)
		return
	}
	for _, p := range pods {
		for _, c := range p.Containers {
			h.check(h.e.RemoveContainer(ctx, c.ID))
		}
		for _, s := range p.Sandboxes {
			h.check(h.e.RemoveContainer(ctx, s.ID))
		}
	}
}

// check fails the test at an error.
func (h *harness) check(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

// pod makes a name for a new pod.
func (h *harness) pod() runtime.PodRef {
	n := counter.Add(1)
	return runtime.PodRef{Namespace: "default", Name: fmt.Sprintf("web-%d", n), UID: fmt.Sprintf("uid-%d-%d", n, time.Now().UnixNano())}
}

// sandbox starts one.
func (h *harness) sandbox() runtime.Sandbox {
	h.Helper()
	p := h.pod()
	s, err := h.e.RunSandbox(h.ctx, runtime.SandboxSpec{Pod: p, Hostname: p.Name})
	h.check(err)
	return s
}

// spec of a container in s that runs a shell script.
func (h *harness) spec(s runtime.Sandbox, script string) runtime.ContainerSpec {
	return runtime.ContainerSpec{
		SandboxID: s.ID, Pod: s.Pod, Name: "main", Image: h.env.Image, Command: []string{"sh", "-c", script},
	}
}

// start creates and starts a container.
func (h *harness) start(spec runtime.ContainerSpec) string {
	h.Helper()
	id, err := h.e.CreateContainer(h.ctx, spec)
	h.check(err)
	h.check(h.e.StartContainer(h.ctx, id))
	return id
}

// run starts a script in a new pod.
func (h *harness) run(script string) (runtime.Sandbox, string) {
	h.Helper()
	s := h.sandbox()
	return s, h.start(h.spec(s, script))
}

// watch follows the engine's events, so that until knows when to look again.
func (h *harness) watch() {
	h.Helper()
	if h.poked != nil {
		return
	}
	ctx, cancel := context.WithCancel(h.ctx)
	h.poked = make(chan struct{}, 1)
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- h.e.Events(ctx, ready, func(runtime.Event) {
			select {
			case h.poked <- struct{}{}:
			default:
			}
		})
	}()
	h.stopWatch = func() {
		cancel()
		<-ended
	}
	select {
	case <-ready:
	case err := <-ended:
		ended <- err
		h.Fatalf("events: %v", err)
	}
}

// until reads a container after each event until it is as wanted.
func (h *harness) until(id, what string, ok func(runtime.Container) bool) runtime.Container {
	h.Helper()
	h.watch()
	limit := time.After(h.env.Patience)
	for {
		c, err := h.e.Inspect(h.ctx, id)
		h.check(err)
		if ok(c) {
			return c
		}
		select {
		case <-h.poked:
		case <-limit:
			h.Fatalf("waited in vain for: %s; last seen: %+v", what, c)
		}
	}
}

func (h *harness) untilExited(id string) runtime.Container {
	h.Helper()
	return h.until(id, "container has exited", func(c runtime.Container) bool { return c.State == runtime.StateExited })
}
