package fake

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

// line is what a container wrote at one time.
type line struct {
	at     time.Time
	stderr bool
	text   string
}

func (c *ctr) write(stderr bool, text string) {
	c.log = append(c.log, line{time.Now(), stderr, text})
	c.touch()
}

// Logs implements runtime.Streamer.
func (e *Engine) Logs(ctx context.Context, id string, o runtime.LogOptions) error {
	if err := e.enter(ctx, "Logs"); err != nil {
		return err
	}
	e.mu.Lock()
	c, err := e.find(id)
	if err != nil {
		e.mu.Unlock()
		return err
	}
	from := 0
	if o.Tail >= 0 {
		from = max(0, len(c.log)-int(min(o.Tail, int64(len(c.log)))))
	}
	tty := c.spec.TTY
	e.mu.Unlock()
	for {
		e.mu.Lock()
		lines, changed, running := c.log[from:], c.changed, c.State == runtime.StateRunning && e.containers[id] == c
		e.mu.Unlock()
		for _, l := range lines {
			if err := l.to(o, tty); err != nil {
				return err
			}
		}
		from += len(lines)
		if !o.Follow || !running && len(lines) == 0 {
			return nil
		}
		if !running {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stampFormat has nine digits always.
const stampFormat = "2006-01-02T15:04:05.000000000Z07:00"

func (l line) to(o runtime.LogOptions, tty bool) error {
	w := o.Stdout
	if l.stderr && !tty {
		w = o.Stderr
	}
	if w == nil || l.at.Before(o.Since) {
		return nil
	}
	text := l.text
	if o.Timestamps {
		text = l.at.UTC().Format(stampFormat) + " " + text
	}
	_, err := io.WriteString(w, text)
	return err
}

// Attach implements runtime.Streamer.
func (e *Engine) Attach(ctx context.Context, id string, s runtime.Streams) error {
	if err := e.enter(ctx, "Attach"); err != nil {
		return err
	}
	e.mu.Lock()
	c, err := e.find(id)
	if err != nil {
		e.mu.Unlock()
		return err
	}
	from := len(c.log)
	stdin := s.Stdin != nil && c.spec.Stdin
	e.mu.Unlock()
	if stdin {
		go e.feed(c, s.Stdin)
	}
	if s.Resize != nil {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		go drain(ctx, s.Resize)
	}
	for {
		e.mu.Lock()
		lines, changed, running := c.log[from:], c.changed, c.State == runtime.StateRunning
		e.mu.Unlock()
		for _, l := range lines {
			if err := l.to(runtime.LogOptions{Stdout: s.Stdout, Stderr: s.Stderr}, s.TTY); err != nil {
				return err
			}
		}
		from += len(lines)
		if len(lines) > 0 {
			continue
		}
		if !running {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func drain(ctx context.Context, sizes <-chan runtime.Size) {
	for {
		select {
		case _, ok := <-sizes:
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// feed gives input to a container that reads; the end of it lets the program go on.
func (e *Engine) feed(c *ctr, in io.Reader) {
	b := make([]byte, 4096)
	for {
		n, err := in.Read(b)
		e.mu.Lock()
		if n > 0 && c.reading {
			c.write(false, string(b[:n]))
		}
		if err != nil && c.reading && c.spec.StdinOnce {
			c.reading = false
			e.advance(c)
		}
		e.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Exec implements runtime.Streamer.
func (e *Engine) Exec(ctx context.Context, id string, cmd []string, s runtime.Streams) (int, error) {
	if err := e.enter(ctx, "Exec"); err != nil {
		return 0, err
	}
	e.mu.Lock()
	c, err := e.find(id)
	var snapshot runtime.Container
	if err == nil {
		snapshot = c.snapshot()
	}
	hook := e.onExec
	e.mu.Unlock()
	switch {
	case err != nil:
		return 0, err
	case snapshot.State != runtime.StateRunning:
		return 0, fmt.Errorf("Error response from daemon: Container %s is not running", id)
	case hook != nil:
		return hook(snapshot, cmd, s)
	}
	sh := c.shell()
	ops, err := sh.compile(cmd)
	if err != nil {
		return codeMissing, err
	}
	r := &process{c: c, shell: sh, s: s}
	code, _, err := r.run(ctx, ops)
	return code, err
}

// process is a command run by Exec, in its caller's goroutine.
type process struct {
	c     *ctr
	shell shell
	s     runtime.Streams
	size  runtime.Size
}

// run returns exited when an exit came, and not the end of the steps.
func (p *process) run(ctx context.Context, ops []op) (code int, exited bool, err error) {
	for _, o := range ops {
		switch o.kind {
		case opExit:
			return o.code, true, nil
		case opOOM:
			return codeKilled, true, nil
		case opPrint:
			err = p.print(o.stderr, o.text)
		case opCat:
			if p.s.Stdin != nil {
				_, err = io.Copy(writer(p.s.Stdout), p.s.Stdin)
			}
		case opTermSize:
			err = p.print(false, p.termSize())
		case opTerminal:
			return p.terminal(ctx)
		case opSleep, opForever:
			if code, done, err := p.wait(ctx, o); done || err != nil {
				return code, done, err
			}
		}
		if err != nil {
			return 0, false, err
		}
	}
	return 0, false, nil
}

// wait lasts until the time is over, the caller goes, or the container ends.
func (p *process) wait(ctx context.Context, o op) (code int, done bool, err error) {
	var over <-chan time.Time
	if o.kind == opSleep {
		t := time.NewTimer(o.d)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-over:
		return 0, false, nil
	case <-p.c.ended:
		return codeKilled, true, nil
	case <-ctx.Done():
		return 0, false, ctx.Err()
	}
}

// terminal reads commands, line by line.
func (p *process) terminal(ctx context.Context) (code int, exited bool, err error) {
	if p.s.Stdin == nil {
		return 0, true, nil
	}
	lines, stop := make(chan string), make(chan struct{})
	defer close(stop)
	go func() {
		defer close(lines)
		for in := bufio.NewScanner(p.s.Stdin); in.Scan(); {
			select {
			case lines <- in.Text():
			case <-stop:
				return
			}
		}
	}()
	for {
		select {
		case l, ok := <-lines:
			if !ok {
				return 0, true, nil
			}
			if p.s.TTY {
				if err := p.print(false, l+"\r\n"); err != nil { // the terminal's echo
					return 0, true, err
				}
			}
			if code, exited, err := p.run(ctx, p.shell.script(l)); exited || err != nil {
				return code, true, err
			}
		case <-p.c.ended:
			return codeKilled, true, nil
		case <-ctx.Done():
			return 0, true, ctx.Err()
		}
	}
}

// termSize takes the newest size that was sent.
func (p *process) termSize() string {
	for {
		select {
		case s, ok := <-p.s.Resize:
			if ok {
				p.size = s
				continue
			}
			p.s.Resize = nil
		default:
		}
		return fmt.Sprintf("%d %d\n", p.size.Height, p.size.Width)
	}
}

func (p *process) print(stderr bool, text string) error {
	w := p.s.Stdout
	if stderr && !p.s.TTY {
		w = p.s.Stderr
	}
	if p.s.TTY {
		text = strings.ReplaceAll(strings.ReplaceAll(text, "\r\n", "\n"), "\n", "\r\n")
	}
	_, err := io.WriteString(writer(w), text)
	if errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

func writer(w io.Writer) io.Writer {
	if w == nil {
		return io.Discard
	}
	return w
}
