package meter

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// psiTrigger asks for a call when tasks waited for memory for 100 ms within 2 s. Kernels allow that window also to those who
// lack CAP_SYS_RESOURCE. (Documentation/accounting/psi.rst)
const psiTrigger = "some 100000 2000000"

// Stalls calls fn when tasks have to wait for memory, at most once in two seconds, until ctx ends. It returns an error at once
// when the kernel cannot tell (before 4.20, or without psi=1). The thresholds of control groups of version 1 are no way out:
// they count the page cache as used, and on a machine that has been up for a while that fills all memory at any time.
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
