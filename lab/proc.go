package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a process that we started. The start time tells it from a later one
// that got the same number.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks since boot, proc_pid_stat(5)
}

// pollEvery is how often we look for what the kernel has no event for.
const pollEvery = 10 * time.Millisecond

// identify returns the process with this number as it is now.
func identify(pid int) (process, error) {
	s, err := readStat(pid)
	if err != nil {
		return process{}, err
	}
	return process{PID: pid, Start: s.start}, nil
}

// alive reports whether the process still runs. A zombie does not.
func (p process) alive() bool {
	if p.PID <= 1 {
		return false
	}
	s, err := readStat(p.PID)
	return err == nil && s.start == p.Start && s.state != 'Z' && s.state != 'X'
}

// signal sends a signal unless the process has ended.
func (p process) signal(s syscall.Signal) error {
	if !p.alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// wait returns when the process has ended.
func (p process) wait(ctx context.Context) error {
	for p.alive() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d does not end: %w", p.PID, ctx.Err())
		case <-time.After(pollEvery):
		}
	}
	return nil
}

// stop asks the process to end and kills it when it does not within grace.
func (p process) stop(ctx context.Context, grace time.Duration) error {
	if err := p.signal(syscall.SIGTERM); err != nil {
		return err
	}
	soft, cancel := context.WithTimeout(ctx, grace)
	defer cancel()
	if p.wait(soft) == nil {
		return nil
	}
	return p.kill(ctx)
}

func (p process) kill(ctx context.Context) error {
	if err := p.signal(syscall.SIGKILL); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return p.wait(ctx)
}

type stat struct {
	state  byte
	parent int
	start  uint64
}

func readStat(pid int) (stat, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return stat{}, err
	}
	return parseStat(data)
}

// parseStat reads /proc/PID/stat. The command's name may hold anything, also
// blanks and brackets, so fields are counted from its last bracket.
func parseStat(data []byte) (stat, error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return stat{}, errors.New("not a stat line")
	}
	f := strings.Fields(string(data[end+1:])) // from field 3 on
	const startField = 22 - 3
	if len(f) <= startField || len(f[0]) != 1 {
		return stat{}, errors.New("short stat line")
	}
	parent, err := strconv.Atoi(f[1])
	if err != nil {
		return stat{}, err
	}
	start, err := strconv.ParseUint(f[startField], 10, 64)
	return stat{state: f[0][0], parent: parent, start: start}, err
}

// processes calls f for every process of the machine.
func processes(f func(pid int)) error {
	dir, err := os.Open("/proc")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			f(pid)
		}
	}
	return nil
}

// childOf waits for the first child of a process: nsenter and unshare fork when
// they change the process namespace.
func childOf(ctx context.Context, parent process) (process, error) {
	for {
		var found process
		err := processes(func(pid int) {
			if s, err := readStat(pid); err == nil && s.parent == parent.PID {
				found = process{PID: pid, Start: s.start}
			}
		})
		if err != nil || found.PID != 0 {
			return found, err
		}
		if !parent.alive() {
			return process{}, errors.New("ended at once")
		}
		select {
		case <-ctx.Done():
			return process{}, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}

// inNamespace lists the processes whose network namespace is the one pinned at path.
func inNamespace(path string) ([]process, error) {
	var want, have syscall.Stat_t
	if err := syscall.Stat(path, &want); err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	var found []process
	err := processes(func(pid int) {
		if syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", pid), &have) != nil || have.Ino != want.Ino || have.Dev != want.Dev {
			return
		}
		if p, err := identify(pid); err == nil {
			found = append(found, p)
		}
	})
	return found, err
}
