package docker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/docker/docker/api/types"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"

	"github.com/whalepod/whalepod/node/runtime"
)

const (
	// detachKeys nobody types by accident: Docker's default (ctrl-p,ctrl-q) swallows every ctrl-p in a shell. By them
	// our commands are known from those of others, too; see endStrays.
	detachKeys = "ctrl-^,ctrl-],ctrl-^,ctrl-_,ctrl-^,ctrl-]"
	// A resize fails while the process is not there yet, which on a busy machine takes what it takes: it is tried again until
	// the session ends.
	resizeRetryMin, resizeRetryMax = 20 * time.Millisecond, time.Second
	// The engine can close the streams shortly before it has noted the end of the process.
	exitPollMin, exitPollMax = 5 * time.Millisecond, time.Second
	// Exit codes with which an engine reports that it could not run the command.
	exitNotExecutable, exitNotFound = 126, 127
)

// Exec implements runtime.Streamer. When ctx ends first, the command is killed: nobody could ever see its end.
// The caller closes s.Stdin after return if it may still block.
func (d *Engine) Exec(ctx context.Context, id string, cmd []string, s runtime.Streams) (int, error) {
	session, end := context.WithCancel(tied(ctx))
	defer end()
	cli := d.cli.Load()
	short, cancel := bounded(ctx, readLimit)
	created, err := cli.ContainerExecCreate(short, id, container.ExecOptions{
		Cmd: cmd, Tty: s.TTY, AttachStdin: s.Stdin != nil, AttachStdout: s.Stdout != nil || s.TTY,
		AttachStderr: s.Stderr != nil && !s.TTY, DetachKeys: detachKeys,
	})
	cancel()
	if err != nil {
		return 0, classifyStart(err)
	}
	conn, err := hijack(session, end, func() (types.HijackedResponse, error) {
		return cli.ContainerExecAttach(session, created.ID, container.ExecStartOptions{Tty: s.TTY})
	})
	if err != nil {
		return 0, classify(err)
	}
	defer conn.Close()
	failure := &failureSniffer{w: s.Stdout}
	s.Stdout = failure
	err = pump(session, conn, s, func(ctx context.Context, size runtime.Size) error {
		return cli.ContainerExecResize(ctx, created.ID, resizeOptions(size))
	})
	if ctx.Err() != nil || err != nil {
		d.killExec(ctx, created.ID)
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return 0, err
	}
	code, err := d.exitCode(ctx, created.ID)
	if err != nil {
		return 0, err
	}
	if code == exitNotExecutable || code == exitNotFound {
		if words := failure.words(); words != "" {
			return code, mark(runtime.ErrInvalid, errors.New(words))
		}
	}
	return code, failure.flush()
}

// Attach implements runtime.Streamer.
func (d *Engine) Attach(ctx context.Context, id string, s runtime.Streams) error {
	// The version must be negotiated by now: the client would do it on a connection that ends with the session.
	if _, err := d.features(ctx); err != nil {
		return err
	}
	session, end := context.WithCancel(tied(ctx))
	defer end()
	cli := d.cli.Load()
	conn, err := hijack(session, end, func() (types.HijackedResponse, error) {
		return cli.ContainerAttach(session, id, container.AttachOptions{
			Stream: true, Stdin: s.Stdin != nil, Stdout: s.Stdout != nil, Stderr: s.Stderr != nil && !s.TTY,
			DetachKeys: detachKeys,
		})
	})
	if err != nil {
		if _, gone := d.Inspect(ctx, id); errors.Is(gone, runtime.ErrNotFound) {
			return gone // a failed upgrade does not tell the engine's words
		}
		return classify(err)
	}
	defer conn.Close()
	err = pump(session, conn, s, func(ctx context.Context, size runtime.Size) error {
		return cli.ContainerResize(ctx, id, resizeOptions(size))
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// hijack runs dial, which does not watch its context once connected, and ends the session if it takes too long.
func hijack(session context.Context, end context.CancelFunc, dial func() (types.HijackedResponse, error)) (types.HijackedResponse, error) {
	late := time.AfterFunc(readLimit, end)
	conn, err := dial()
	if !late.Stop() && err == nil {
		conn.Close()
		err = context.DeadlineExceeded
	}
	if err != nil && session.Err() != nil {
		err = fmt.Errorf("the engine did not open the stream: %w", errors.Join(context.Cause(session), err))
	}
	return conn, err
}

// pump moves bytes both ways until the engine ends the output. Input that ends closes the process's stdin only.
func pump(ctx context.Context, conn types.HijackedResponse, s runtime.Streams, resize func(context.Context, runtime.Size) error) error {
	if s.Stdin != nil {
		go func() {
			io.Copy(conn.Conn, s.Stdin) // an error shows on the output side
			conn.CloseWrite()
		}()
	}
	if s.Resize != nil {
		go followSize(ctx, s.Resize, resize)
	}
	stdout, stderr := orDiscard(s.Stdout), orDiscard(s.Stderr)
	var err error
	if s.TTY {
		_, err = io.Copy(stdout, conn.Reader)
	} else {
		_, err = stdcopy.StdCopy(stdout, stderr, conn.Reader)
	}
	return err
}

func orDiscard(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}

// followSize tells the engine each size, and tells it again while the process is only about to start.
func followSize(ctx context.Context, sizes <-chan runtime.Size, resize func(context.Context, runtime.Size) error) {
	var size runtime.Size
	untold, wait := false, resizeRetryMin
	retry := time.NewTimer(0)
	<-retry.C
	defer retry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case next, ok := <-sizes:
			if !ok {
				sizes = nil // the last size may still have to be told
				if !untold {
					return
				}
				continue
			}
			size, untold, wait = next, next.Width > 0 && next.Height > 0, resizeRetryMin
		case <-retry.C:
		}
		if !untold {
			continue
		}
		short, cancel := bounded(ctx, readLimit)
		err := resize(short, size)
		cancel()
		if err == nil {
			untold = false
			if sizes == nil {
				return
			}
			continue
		}
		retry.Reset(wait)
		wait = min(2*wait, resizeRetryMax)
	}
}

func resizeOptions(s runtime.Size) container.ResizeOptions {
	return container.ResizeOptions{Width: uint(s.Width), Height: uint(s.Height)}
}

// exitCode waits for the end of the process and returns its code.
func (d *Engine) exitCode(ctx context.Context, execID string) (int, error) {
	wait := exitPollMin
	for {
		short, cancel := bounded(ctx, readLimit)
		e, err := d.cli.Load().ContainerExecInspect(short, execID)
		cancel()
		if err != nil {
			return 0, classify(err)
		}
		if !e.Running {
			return e.ExitCode, nil
		}
		select {
		case <-ctx.Done():
			d.killExec(ctx, execID)
			return 0, ctx.Err()
		case <-time.After(wait):
		}
		wait = min(2*wait, exitPollMax)
	}
}

// killExec ends a command whose client has gone, and returns when the engine has noted its end. Docker has no call for
// it; the agent runs beside the engine, so it signals the process itself, after a look whether it is still one of that
// container. The engine notes a command's process ID only after the command may already have written, so a command that
// runs without one is asked for again.
func (d *Engine) killExec(ctx context.Context, execID string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupLimit)
	defer cancel()
	for wait := exitPollMin; ; wait = min(2*wait, exitPollMax) {
		e, err := d.cli.Load().ContainerExecInspect(ctx, execID)
		if err != nil || !e.Running {
			return
		}
		if err := killIn(e.ContainerID, e.Pid); err != nil {
			d.log.Debug("cannot kill an abandoned command", "container", e.ContainerID, "err", err)
		}
		select {
		case <-ctx.Done():
			d.log.Debug("an abandoned command does not end", "container", e.ContainerID, "pid", e.Pid)
			return
		case <-time.After(wait):
		}
	}
}

// killIn kills a process if it is one of the container.
func killIn(container string, pid int) error {
	if pid <= 1 {
		return nil
	}
	cgroup, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if errors.Is(err, os.ErrNotExist) || err == nil && !strings.Contains(string(cgroup), container) {
		return nil
	}
	return errors.Join(err, syscall.Kill(pid, syscall.SIGKILL))
}

// failureSniffer holds back output that begins like the engine's report that it could not run the command: engines
// write it to the command's own stdout. Anything else passes at once.
type failureSniffer struct {
	w      io.Writer
	held   bytes.Buffer
	passes bool
}

// maxFailure is more than any such report.
const maxFailure = 8 << 10

var failurePrefix = []byte("OCI runtime exec failed")

func (f *failureSniffer) Write(p []byte) (int, error) {
	if !f.passes {
		head := append(bytes.Clone(f.held.Bytes()), p[:min(len(p), len(failurePrefix))]...)
		n := min(len(head), len(failurePrefix))
		if bytes.Equal(head[:n], failurePrefix[:n]) && f.held.Len()+len(p) <= maxFailure {
			return f.held.Write(p)
		}
		if err := f.flush(); err != nil {
			return 0, err
		}
	}
	if f.w == nil {
		return len(p), nil
	}
	return f.w.Write(p)
}

// words is the report, if there was one.
func (f *failureSniffer) words() string {
	if f.passes || !bytes.HasPrefix(f.held.Bytes(), failurePrefix) {
		return ""
	}
	return strings.TrimSpace(f.held.String())
}

// flush passes on what was held back.
func (f *failureSniffer) flush() error {
	f.passes = true
	if f.w == nil || f.held.Len() == 0 {
		return nil
	}
	_, err := f.held.WriteTo(f.w)
	return err
}
