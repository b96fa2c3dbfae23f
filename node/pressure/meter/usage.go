package meter

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Use of the processor since the beginning, and of memory now.
type Use struct {
	CPU time.Duration
	// Memory in bytes: the working set.
	Memory int64
}

// Buffer is room to read files in. A measurement of many containers needs only one.
type Buffer [4096]byte

// Use of a container. It opens three files and allocates next to nothing: with 100 pods it is called some hundred times a minute.
func (m *Meter) Use(c Container, b *Buffer) (u Use, err error) {
	g, err := m.groupsOf(c)
	if err != nil {
		return u, err
	}
	if u.CPU, err = g.processorTime(b); err != nil {
		return u, err
	}
	data, err := b.read(g.used, nil)
	if err != nil {
		return u, err
	}
	used, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	if err != nil {
		return u, err
	}
	name := g.inactive()
	data, err = b.read(g.stats, func(read []byte) bool { return hasStat(read, name) })
	if err != nil {
		return u, err
	}
	u.Memory = max(used-stat(data, name), 0)
	return u, nil
}

var errNoProcessorTime = errors.New("nobody counts the processor time of this container")

// processorTime that a container has had: nanoseconds in cpuacct.usage, microseconds in cpu.stat.
func (g *groups) processorTime(b *Buffer) (time.Duration, error) {
	if g.cpu == "" {
		return 0, errNoProcessorTime
	}
	const field = "usage_usec"
	if strings.HasSuffix(g.cpu, cpuStat) {
		data, err := b.read(g.cpu, func(read []byte) bool { return hasStat(read, field) })
		return time.Duration(stat(data, field)) * time.Microsecond, err
	}
	data, err := b.read(g.cpu, nil)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(string(bytes.TrimSpace(data)), 10, 64)
	return time.Duration(n), err
}

// read the beginning of a file, as much as there is room for, or until enough says that what is needed is there. Files of the
// kernel come in pieces, so one read may not be all.
func (b *Buffer) read(path string, enough func([]byte) bool) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer func() { _ = unix.Close(fd) }()
	n := 0
	for n < len(b) {
		k, err := unix.Read(fd, b[n:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		case k == 0:
			return b[:n], nil
		}
		if n += k; enough == nil || enough(b[:n]) {
			return b[:n], nil // without a condition: a number, which comes at once
		}
	}
	return b[:n], nil
}

// hasStat says whether the whole line of a value is there.
func hasStat(data []byte, name string) bool {
	for line := range bytes.Lines(data) {
		if len(line) > len(name) && line[len(name)] == ' ' && line[len(line)-1] == '\n' && string(line[:len(name)]) == name {
			return true
		}
	}
	return false
}

const cpuStat = "cpu.stat"

// cpuFile of the process whose /proc/PID/cgroup this is. Version 1 mounts the controller by its own name, by its name together
// with the scheduler's, or both.
func (m *Meter) cpuFile(data []byte, unified string) string {
	for line := range bytes.Lines(data) {
		parts := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(parts) < 3 || parts[2] == "/" {
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			if controller != "cpuacct" {
				continue
			}
			for _, mount := range []string{controller, parts[1]} {
				file := filepath.Join(m.sys, mount, filepath.Clean("/"+parts[2]), "cpuacct.usage")
				if _, err := os.Stat(file); err == nil {
					return file
				}
			}
		}
	}
	if unified == "" {
		return ""
	}
	file := filepath.Join(m.sys, unified, cpuStat)
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}

// tick is the unit of /proc/stat on all of Linux' architectures that count: USER_HZ is 100 there.
const tick = 10 * time.Millisecond

// Machine is what the whole machine uses: the time in which its processors worked, and the memory that could not be given to
// anybody else, which is what eviction goes by (see Memory; swap left out).
func (m *Meter) Machine(b *Buffer) (u Use, err error) {
	path := filepath.Join(m.proc, "stat")
	data, err := b.read(path, nil)
	if err != nil {
		return u, err
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	// cpu user nice system idle iowait irq softirq steal guest guest_nice; guests are part of user and nice.
	fields := strings.Fields(string(line))
	if len(fields) < 8 || fields[0] != "cpu" {
		return u, fmt.Errorf("%s: %q", path, line)
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7} {
		n, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, fmt.Errorf("%s: %w", path, err)
		}
		ticks += n
	}
	u.CPU = time.Duration(ticks) * tick
	values, err := m.meminfo()
	if err != nil {
		return u, err
	}
	available, ok := values["MemAvailable"]
	if !ok { // before Linux 3.14
		available = values["MemFree"] + values["Buffers"] + values["Cached"]
	}
	u.Memory = max(values["MemTotal"]-available, 0)
	return u, nil
}
