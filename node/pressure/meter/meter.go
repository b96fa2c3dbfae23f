package meter

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/whalepod/whalepod/node/pressure"
)

// Meter of this machine. Safe for concurrent use.
type Meter struct {
	proc, sys string

	mu sync.Mutex
	// groups by container ID: where its control groups are does not change.
	groups map[string]groups
	// layers by container ID: where its writable layer is.
	layers map[string]string
}

// New makes a Meter that reads the kernel's own files.
func New() *Meter { return at("/proc", "/sys/fs/cgroup") }

// at reads them in other places.
func at(proc, sys string) *Meter {
	return &Meter{proc: proc, sys: sys, groups: map[string]groups{}, layers: map[string]string{}}
}

// swapStalls: while everybody had to wait for memory in less than that many percent of the last ten seconds, swapping harms nobody.
const swapStalls = 10

// Memory of the machine. What is available is the kernel's own estimate: free pages and those that it can take back without
// harm. The kubelet's is MemFree and Inactive(file); it counts the active half of the page cache as used, so that a small
// server that reads many files looks full and loses pods for nothing (kubernetes/kubernetes#43916).
//
// Free swap counts as well, as long as the kernel says that using it does not hold everybody up. The kubelet does not run where
// there is swap, or leaves it out; but small servers have some, and there the kernel keeps so little memory available at any
// time that pods would be evicted from a machine that is well. Where it cannot tell, swap does not count.
func (m *Meter) Memory() (o pressure.Observation, err error) {
	values, err := m.meminfo()
	if err != nil {
		return o, err
	}
	total, ok := values["MemTotal"]
	if !ok {
		return o, fmt.Errorf("%s/meminfo has no MemTotal", m.proc)
	}
	available, ok := values["MemAvailable"]
	if !ok { // before Linux 3.14
		available = values["MemFree"] + values["Buffers"] + values["Cached"]
	}
	if swap := values["SwapFree"]; swap > 0 {
		if stalled, err := m.stalled(); err == nil && stalled < swapStalls {
			available += swap
		}
	}
	return pressure.Observation{Available: available, Capacity: total}, nil
}

// stalled is in how many percent of the last ten seconds nothing went on for want of memory.
func (m *Meter) stalled() (float64, error) {
	data, err := os.ReadFile(filepath.Join(m.proc, "pressure/memory"))
	if err != nil {
		return 0, err
	}
	// full avg10=0.00 avg60=0.00 avg300=0.00 total=0
	_, rest, _ := strings.Cut(string(data), "full avg10=")
	number, _, _ := strings.Cut(rest, " ")
	return strconv.ParseFloat(number, 64)
}

// meminfo in bytes.
func (m *Meter) meminfo() (map[string]int64, error) {
	data, err := os.ReadFile(filepath.Join(m.proc, "meminfo"))
	if err != nil {
		return nil, err
	}
	out := make(map[string]int64, 8)
	for line := range bytes.Lines(data) {
		name, rest, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			continue
		}
		switch string(name) {
		case "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapFree":
			fields := bytes.Fields(rest)
			if len(fields) == 0 {
				continue
			}
			if n, err := strconv.ParseInt(string(fields[0]), 10, 64); err == nil {
				out[string(name)] = n << 10
			}
		}
	}
	return out, nil
}

// PIDs left. A process ID is taken by each thread, not only by each process.
func (m *Meter) PIDs() (o pressure.Observation, err error) {
	most, err := m.number("sys/kernel/pid_max")
	if err != nil {
		return o, err
	}
	if threads, err := m.number("sys/kernel/threads-max"); err == nil {
		most = min(most, threads)
	}
	data, err := os.ReadFile(filepath.Join(m.proc, "loadavg"))
	if err != nil {
		return o, err
	}
	// 0.20 0.18 0.12 1/80 11206: the fourth field is running/all.
	fields := strings.Fields(string(data))
	if len(fields) < 4 {
		return o, fmt.Errorf("%s/loadavg: %q", m.proc, data)
	}
	_, all, _ := strings.Cut(fields[3], "/")
	n, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return o, fmt.Errorf("%s/loadavg: %w", m.proc, err)
	}
	return pressure.Observation{Available: most - n, Capacity: most}, nil
}

func (m *Meter) number(name string) (int64, error) {
	return readNumber(filepath.Join(m.proc, name))
}

func readNumber(path string) (int64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// Disk is a file system.
type Disk struct {
	// Device tells file systems apart.
	Device        uint64
	Space, Inodes pressure.Observation
}

// Disk that holds path. What only root may use does not count, neither as available nor as capacity, so that percentages are
// those that df shows.
func (m *Meter) Disk(path string) (d Disk, err error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	size := int64(fs.Bsize)
	d.Device = uint64(st.Dev)
	d.Space = pressure.Observation{Available: int64(fs.Bavail) * size, Capacity: int64(fs.Blocks-fs.Bfree+fs.Bavail) * size}
	// btrfs and others have no fixed number of inodes, and say 0.
	d.Inodes = pressure.Observation{Available: int64(fs.Ffree), Capacity: int64(fs.Files)}
	return d, nil
}
