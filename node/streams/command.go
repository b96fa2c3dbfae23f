package streams

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/whalepod/whalepod/node/runtime"
)

// command is an exec or an attach that a client has asked for. It implements remotecommand.Executor and Attacher; the
// libraries hand it the streams.
type command struct {
	h    *Handler
	ctx  context.Context // ends with the client
	id   string
	cmd  []string
	opts *remotecommand.Options
	// tty is the container's own terminal, for attach.
	tty bool
}

func (h *Handler) exec(w http.ResponseWriter, r *http.Request) {
	c, t, err := h.command(r)
	if err == nil {
		c.cmd = r.URL.Query()["command"]
		if len(c.cmd) == 0 {
			err = BadRequest("you must specify at least one command for the container")
		}
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	u, r, done := upgrade(w, r)
	defer done()
	c.ctx = r.Context()
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		c.serveV5(u, r, c.exec, "error executing command in container")
		return
	}
	remotecommand.ServeExec(u, r, c, t.pod, t.uid, t.container, c.cmd, c.opts, idleTimeout,
		remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

func (h *Handler) attach(w http.ResponseWriter, r *http.Request) {
	c, t, err := h.command(r)
	if told := (*Error)(nil); errors.As(err, &told) && told.Code == http.StatusInternalServerError {
		err = NotRunning("container %s not found in pod %s", t.container, t.pod+"_"+t.namespace) // the kubelet's words differ from exec's
	}
	if err != nil {
		h.fail(w, r, err)
		return
	}
	u, r, done := upgrade(w, r)
	defer done()
	c.ctx = r.Context()
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		c.serveV5(u, r, c.attach, "error attaching to container")
		return
	}
	remotecommand.ServeAttach(u, r, c, t.pod, t.uid, t.container, c.opts, idleTimeout,
		remotecommand.DefaultStreamCreationTimeout, remotecommand.SupportedStreamingProtocols)
}

// command finds the running container of a request.
func (h *Handler) command(r *http.Request) (*command, target, error) {
	t := targetOf(r)
	opts, err := options(r)
	if err != nil {
		return nil, t, err
	}
	id, tty, _, err := h.find(r.Context(), t, WantRunning)
	if err != nil {
		return nil, t, err
	}
	c, err := h.engine.Inspect(r.Context(), id)
	if errors.Is(err, runtime.ErrNotFound) || err == nil && c.State != runtime.StateRunning {
		return nil, t, NotRunning("container not found (%q)", t.container)
	}
	return &command{h: h, id: id, opts: opts, tty: tty}, t, err
}

// ExecInContainer implements remotecommand.Executor.
func (c *command) ExecInContainer(_ context.Context, _, _, _ string, _ []string, in io.Reader, out, errs io.WriteCloser,
	_ bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	return c.exec(in, out, errs, resize)
}

// AttachContainer implements remotecommand.Attacher.
func (c *command) AttachContainer(_ context.Context, _, _, _ string, in io.Reader, out, errs io.WriteCloser,
	_ bool, resize <-chan remotecommand.TerminalSize) error {
	return c.attach(in, out, errs, resize)
}

func (c *command) exec(in io.Reader, out, errs io.Writer, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	code, err := c.h.engine.Exec(ctx, c.id, c.cmd, c.streams(ctx, in, out, errs, c.opts.TTY, resize))
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

func (c *command) attach(in io.Reader, out, errs io.Writer, resize <-chan remotecommand.TerminalSize) error {
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	s := c.streams(ctx, in, out, errs, c.tty, resize)
	if c.opts.TTY && !c.tty {
		s.Stderr = s.Stdout // the client has opened no other
	}
	return c.h.engine.Attach(ctx, c.id, s)
}

// streams takes what the client asked for: the libraries make streams beyond that for WebSocket.
func (c *command) streams(ctx context.Context, in io.Reader, out, errs io.Writer, tty bool, resize <-chan remotecommand.TerminalSize) runtime.Streams {
	s := runtime.Streams{TTY: tty}
	if c.opts.Stdin {
		s.Stdin = in
	}
	if c.opts.Stdout {
		s.Stdout = out
	}
	if c.opts.Stderr {
		s.Stderr = errs
	}
	if tty && resize != nil {
		s.Resize = sizes(ctx, resize)
	}
	return s
}

// sizes translates.
func sizes(ctx context.Context, in <-chan remotecommand.TerminalSize) <-chan runtime.Size {
	out := make(chan runtime.Size)
	go func() {
		defer close(out)
		for {
			select {
			case size, ok := <-in:
				if !ok {
					return
				}
				select {
				case out <- runtime.Size{Width: size.Width, Height: size.Height}:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
