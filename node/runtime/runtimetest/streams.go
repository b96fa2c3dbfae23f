package runtimetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

func contextWithCancel(h *harness) (context.Context, context.CancelFunc) {
	return context.WithCancel(h.ctx)
}

// output collects what is written and wakes who waits for some of it.
type output struct {
	mu    sync.Mutex
	b     bytes.Buffer
	wrote chan struct{}
}

func newOutput() *output { return &output{wrote: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.wrote <- struct{}{}:
	default:
	}
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// wait returns once the output contains text.
func (o *output) wait(h *harness, text string) {
	h.Helper()
	limit := time.After(h.env.Patience)
	for !strings.Contains(o.String(), text) {
		select {
		case <-o.wrote:
		case <-limit:
			h.Fatalf("waited in vain for %q in %q", text, o.String())
		}
	}
}

// untilLogged waits for a text in the log of a container.
func (h *harness) untilLogged(id, text string) {
	h.Helper()
	ctx, cancel := contextWithCancel(h)
	defer cancel()
	out, ended := newOutput(), make(chan error, 1)
	go func() {
		ended <- h.e.Logs(ctx, id, runtime.LogOptions{Follow: true, Tail: -1, Stdout: out, Stderr: out})
	}()
	out.wait(h, text)
	cancel()
	<-ended
}

// logs reads once.
func (h *harness) logs(id string, o runtime.LogOptions) (stdout, stderr string) {
	h.Helper()
	var a, b bytes.Buffer
	o.Stdout, o.Stderr = &a, &b
	h.check(h.e.Logs(h.ctx, id, o))
	return a.String(), b.String()
}

func testLogs(h *harness) {
	_, id := h.run("echo one; echo two; echo oops >&2; sleep 1.5; echo three; echo four; exit 1")
	h.untilExited(id)
	if out, err := h.logs(id, runtime.LogOptions{Tail: -1}); out != "one\ntwo\nthree\nfour\n" || err != "oops\n" {
		h.Errorf("all: %q, %q", out, err)
	}
	if out, _ := h.logs(id, runtime.LogOptions{Tail: 2}); out != "three\nfour\n" {
		h.Errorf("tail 2: %q", out)
	}
	if out, err := h.logs(id, runtime.LogOptions{Tail: 0}); out+err != "" {
		h.Errorf("tail 0: %q, %q", out, err)
	}
	out, _ := h.logs(id, runtime.LogOptions{Tail: -1, Timestamps: true})
	stamped := regexp.MustCompile(`^(\S+) one\n(\S+) two\n(\S+) three\n(\S+) four\n$`).FindStringSubmatch(out)
	if stamped == nil {
		h.Fatalf("timestamps: %q", out)
	}
	third, err := time.Parse(time.RFC3339Nano, stamped[3])
	h.check(err)
	if len(stamped[3]) != len("2006-01-02T15:04:05.000000000Z") {
		h.Errorf("timestamp %q has not nine digits", stamped[3])
	}
	if out, errs := h.logs(id, runtime.LogOptions{Tail: -1, Since: third}); out != "three\nfour\n" || errs != "" {
		h.Errorf("since %v: %q, %q", third, out, errs)
	}
	if err := h.e.Logs(h.ctx, "no-such-container", runtime.LogOptions{Tail: -1}); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("of a container that is not there: %v", err)
	}
}

// Following ends with the container, and everything it wrote has arrived; or with its context.
func testLogsFollow(h *harness) {
	_, id := h.run("echo begin; sleep 0.5; echo end")
	out := newOutput()
	h.check(h.e.Logs(h.ctx, id, runtime.LogOptions{Follow: true, Tail: -1, Stdout: out}))
	if out.String() != "begin\nend\n" {
		h.Errorf("followed: %q", out)
	}
	_, id = h.run("echo begin; sleep 1000")
	ctx, cancel := contextWithCancel(h)
	ended := make(chan error, 1)
	out = newOutput()
	go func() { ended <- h.e.Logs(ctx, id, runtime.LogOptions{Follow: true, Tail: -1, Stdout: out}) }()
	out.wait(h, "begin")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		h.Errorf("cancelled: %v", err)
	}
}

func testExec(h *harness) {
	_, id := h.run("sleep 1000")
	var out, errs bytes.Buffer
	code, err := h.e.Exec(h.ctx, id, []string{"sh", "-c", "echo out; echo err >&2; exit 5"}, runtime.Streams{Stdout: &out, Stderr: &errs})
	h.check(err)
	if code != 5 || out.String() != "out\n" || errs.String() != "err\n" {
		h.Errorf("code %d, %q, %q", code, out.String(), errs.String())
	}
	code, err = h.e.Exec(h.ctx, id, []string{"true"}, runtime.Streams{})
	if code != 0 || err != nil {
		h.Errorf("without streams: %d, %v", code, err)
	}
	out.Reset()
	_, err = h.e.Exec(h.ctx, id, []string{"no-such-command"}, runtime.Streams{Stdout: &out})
	if !errors.Is(err, runtime.ErrInvalid) || !strings.Contains(err.Error(), "executable file not found") || out.Len() != 0 {
		h.Errorf("missing command: %v, output %q", err, out.String())
	}
	code, err = h.e.Exec(h.ctx, id, []string{"sh", "-c", "exit 127"}, runtime.Streams{Stdout: &out})
	if code != 127 || err != nil {
		h.Errorf("a command's own 127: %d, %v", code, err)
	}
	h.check(h.e.StopContainer(h.ctx, id, 0))
	if _, err = h.e.Exec(h.ctx, id, []string{"true"}, runtime.Streams{}); err == nil {
		h.Error("exec in an ended container worked")
	}
	if _, err = h.e.Exec(h.ctx, "no-such-container", []string{"true"}, runtime.Streams{}); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("exec in no container: %v", err)
	}
}

// The end of the input closes the command's stdin and no more.
func testExecInput(h *harness) {
	_, id := h.run("sleep 1000")
	const size = 1 << 20
	sent := strings.Repeat("0123456789abcdef", size/16)
	var out bytes.Buffer
	code, err := h.e.Exec(h.ctx, id, []string{"cat"}, runtime.Streams{Stdin: strings.NewReader(sent), Stdout: &out})
	h.check(err)
	if code != 0 || out.String() != sent {
		h.Errorf("code %d, %d bytes came back of %d", code, out.Len(), size)
	}
}

func testExecTerminal(h *harness) {
	_, id := h.run("sleep 1000")
	in, keys := io.Pipe()
	defer in.Close()
	sizes := make(chan runtime.Size, 1)
	sizes <- runtime.Size{Width: 123, Height: 45}
	out, ended := newOutput(), make(chan error, 1)
	var code int
	go func() {
		var err error
		code, err = h.e.Exec(h.ctx, id, []string{"sh"}, runtime.Streams{Stdin: in, Stdout: out, TTY: true, Resize: sizes})
		ended <- err
	}()
	limit := time.After(h.env.Patience)
	for !strings.Contains(out.String(), "45 123") { // the size arrives some time after the start
		fmt.Fprint(keys, "stty size\n")
		select {
		case <-out.wrote:
		case err := <-ended:
			h.Fatalf("ended early: %v, %q", err, out)
		case <-limit:
			h.Fatalf("no size in %q", out)
		}
	}
	sizes <- runtime.Size{Width: 81, Height: 25}
	for !strings.Contains(out.String(), "25 81") {
		fmt.Fprint(keys, "stty size\n")
		select {
		case <-out.wrote:
		case <-limit:
			h.Fatalf("no new size in %q", out)
		}
	}
	fmt.Fprint(keys, "exit 9\n")
	h.check(<-ended)
	if code != 9 {
		h.Errorf("code %d", code)
	}
}

// A command whose client goes is ended.
func testExecCancelled(h *harness) {
	_, id := h.run("sleep 1000")
	ctx, cancel := contextWithCancel(h)
	out, ended := newOutput(), make(chan error, 1)
	go func() {
		_, err := h.e.Exec(ctx, id, []string{"sh", "-c", "echo begin; exec sleep 2345"}, runtime.Streams{Stdout: out})
		ended <- err
	}()
	out.wait(h, "begin")
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		h.Errorf("cancelled: %v", err)
	}
	var left bytes.Buffer
	_, err := h.e.Exec(h.ctx, id, []string{"sh", "-c", "ps | grep 'sleep 234[5]' || true"}, runtime.Streams{Stdout: &left})
	h.check(err)
	if left.Len() != 0 {
		h.Errorf("still there: %q", left.String())
	}
}

func testAttach(h *harness) {
	spec := h.spec(h.sandbox(), "cat; echo bye; exit 6")
	spec.Stdin, spec.StdinOnce = true, true
	id := h.start(spec)
	in, keys := io.Pipe()
	out, ended := newOutput(), make(chan error, 1)
	go func() { ended <- h.e.Attach(h.ctx, id, runtime.Streams{Stdin: in, Stdout: out}) }()
	fmt.Fprint(keys, "hello\n")
	out.wait(h, "hello\n")
	keys.Close()
	h.check(<-ended)
	if got := h.untilExited(id); got.ExitCode != 6 || out.String() != "hello\nbye\n" {
		h.Errorf("container %+v, output %q", got, out)
	}
	if err := h.e.Attach(h.ctx, "no-such-container", runtime.Streams{Stdout: out}); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("attaching to no container: %v", err)
	}
}
