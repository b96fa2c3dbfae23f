package meter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// psiTrigger asks for a call when tasks waited for memory for 100 ms within 2 s. Kernels allow that window also to those who
// lack CAP_SYS_RESOURCE. (Documentation/accounting/psi.rst)
const psiTrigger = "some 100000 2000000"

// Stalls calls fn when tasks have to wait for memory, at most once in two seconds, until ctx ends. It returns an error at once
// when the kernel cannot tell (before 4.20, or without psi=1).
func (m *Meter) Stalls(ctx context.Context, fn func()) error {
	psi, err := unix.Open(filepath.Join(m.proc, "pressure/memory"), unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("pressure stall information: %w", err)
	}
	defer func() { _ = unix.Close(psi) }()
	if _, err := unix.Write(psi, append([]byte(psiTrigger), 0)); err != nil {
		return fmt.Errorf("pressure stall information: %w", err)
	}
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(end) }()
	// Ended before the descriptor is closed, or it would write into somebody else's.
	var ending sync.WaitGroup
	ending.Add(1)
	stop := context.AfterFunc(ctx, func() {
		defer ending.Done()
		_, _ = unix.Write(end, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	})
	defer func() {
		if !stop() {
			ending.Wait()
		}
	}()
	// A trigger is told as POLLPRI, which the runtime's poller does not know.
	for fds := []unix.PollFd{{Fd: int32(psi), Events: unix.POLLPRI}, {Fd: int32(end), Events: unix.POLLIN}}; ; {
		_, err := unix.Poll(fds, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case ctx.Err() != nil:
			return nil
		case fds[0].Revents&(unix.POLLERR|unix.POLLNVAL) != 0:
			return errors.New("pressure stall information ended")
		case fds[0].Revents&unix.POLLPRI != 0:
			fn()
		}
	}
}

// Crossing is a call by the kernel when the machine's memory use crosses a level; control groups of version 1 have it.
type Crossing struct {
	dir string
	fn  func()

	mu     sync.Mutex
	event  *os.File
	usage  *os.File
	closed bool
}

// Crossing prepares one; Set arms it. It is an error when the machine has no control groups of version 1.
func (m *Meter) Crossing(fn func()) (*Crossing, error) {
	dir := filepath.Join(m.sys, "memory")
	for _, name := range []string{"cgroup.event_control", "memory.usage_in_bytes", "memory.stat"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return &Crossing{dir: dir, fn: fn}, nil
}

// Set makes the call come when no more than available bytes are left to processes: at a use of the whole less that, but
// with the idle part of the page cache, which can be taken back and which the kernel counts as used.
func (c *Crossing) Set(capacity, available int64) error {
	data, err := os.ReadFile(filepath.Join(c.dir, "memory.stat"))
	if err != nil {
		return err
	}
	level := capacity - available + stat(data, "total_inactive_file")
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return os.ErrClosed
	}
	c.release()
	usage, err := os.Open(filepath.Join(c.dir, "memory.usage_in_bytes"))
	if err != nil {
		return err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = usage.Close()
		return err
	}
	event := os.NewFile(uintptr(fd), "eventfd")
	line := fmt.Sprintf("%d %d %d", fd, usage.Fd(), level)
	if err := os.WriteFile(filepath.Join(c.dir, "cgroup.event_control"), []byte(line), 0); err != nil {
		_, _ = usage.Close(), event.Close()
		return fmt.Errorf("memory threshold %s: %w", strings.TrimSpace(line), err)
	}
	c.usage, c.event = usage, event
	go c.wait(event)
	return nil
}

// wait ends when the descriptor is closed.
func (c *Crossing) wait(event *os.File) {
	var count [8]byte
	for {
		if _, err := event.Read(count[:]); err != nil {
			return
		}
		c.mu.Lock()
		mine := c.event == event
		c.mu.Unlock()
		if !mine {
			return
		}
		c.fn()
	}
}

// release what is armed. Call with mu held.
func (c *Crossing) release() {
	if c.event != nil {
		_ = c.event.Close() // takes the threshold away
		_ = c.usage.Close()
		c.event, c.usage = nil, nil
	}
}

// Close ends it.
func (c *Crossing) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	c.release()
}
