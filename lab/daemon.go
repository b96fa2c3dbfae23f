package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// daemon is something that runs on after the process that started it has ended.
type daemon struct {
	name string   // also of its log file
	argv []string // program and arguments, namespaces included
	env  []string // beside our own
	fork bool     // argv[0] forks and waits (nsenter and unshare with --pid): its child is the daemon
}

// start starts a daemon in a session of its own, writing to a log file. Only an
// early death is an error here; whether it is ready is for the caller to see.
func (l *Lab) start(ctx context.Context, d daemon) (process, error) {
	if err := os.MkdirAll(l.path("log"), 0o755); err != nil {
		return process{}, err
	}
	log, err := os.OpenFile(l.logPath(d.name), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return process{}, err
	}
	defer log.Close()
	// Not CommandContext: it must outlive our context.
	cmd := exec.Command(d.argv[0], d.argv[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), d.env...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return process{}, err
	}
	p, err := identify(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // reaps it where we live that long
	if err != nil {
		return p, err
	}
	if d.fork {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if p, err = childOf(ctx, p); err != nil {
			return p, fmt.Errorf("%s: %w\n%s", d.name, err, l.logTail(d.name))
		}
	}
	return p, nil
}

func (l *Lab) logPath(name string) string { return l.path("log", name+".log") }

// logTail returns the end of a daemon's log, for an error message.
func (l *Lab) logTail(name string) string {
	data, err := os.ReadFile(l.logPath(name))
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	const most = 8
	if len(lines) > most {
		lines = lines[len(lines)-most:]
	}
	return fmt.Sprintf("the end of %s:\n%s", l.logPath(name), bytes.Join(lines, []byte("\n")))
}

// until calls ready until it succeeds, the daemon dies or the time is over.
func (l *Lab) until(ctx context.Context, name string, p process, limit time.Duration, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if !p.alive() {
			return fmt.Errorf("%s has ended; %s", name, l.logTail(name))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %s: %w; %s", name, limit, err, l.logTail(name))
		case <-time.After(5 * pollEvery):
		}
	}
}

// run runs a command to its end; its output is in the error.
func run(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}
