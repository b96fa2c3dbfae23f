//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// running is a program of a test that goes on meanwhile, and what it has said.
type running struct {
	name  string
	cmd   *exec.Cmd
	stop  context.CancelFunc
	ended chan struct{}
	err   error // once ended

	mu  sync.Mutex
	out bytes.Buffer
}

// Write collects what the program says.
func (r *running) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.Write(p)
}

func (r *running) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.out.String()
}

// start starts a program that runs until the test ends, if not before.
func start(t testing.TB, c cli, args ...string) *running {
	t.Helper()
	r := prepare(t, c, args...)
	r.cmd.Stdout, r.cmd.Stderr = r, r
	r.begin(t)
	return r
}

// prepare makes a program ready to begin.
func prepare(t testing.TB, c cli, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	return &running{name: c.name + " " + strings.Join(args, " "), cmd: c.command(ctx, args...), stop: cancel, ended: make(chan struct{})}
}

func (r *running) begin(t testing.TB) {
	t.Helper()
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.ended)
		r.err = r.cmd.Wait()
	}()
	t.Cleanup(func() {
		r.stop()
		<-r.ended
	})
}

// waitFor waits until the program has said something.
func (r *running) waitFor(t testing.TB, pattern string) string {
	t.Helper()
	re := regexp.MustCompile(`(?m)` + pattern)
	eventually(t, settle, fmt.Sprintf("%s says %q", r.name, pattern), func() error {
		if !re.MatchString(r.text()) {
			return fmt.Errorf("so far: %s", r.text())
		}
		return nil
	})
	return re.FindString(r.text())
}

// wait waits until the program ends by itself.
func (r *running) wait(t testing.TB) error {
	t.Helper()
	eventually(t, settle, r.name+" ends", func() error {
		select {
		case <-r.ended:
			return nil
		default:
			return fmt.Errorf("it runs on: %s", r.text())
		}
	})
	return r.err
}
