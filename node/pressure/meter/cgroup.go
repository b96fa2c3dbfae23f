package meter

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// groups of a container: directories of the memory and of the pids controller, and the file with its processor time, which is
// empty where nobody counts that.
type groups struct {
	memory, pids, cpu string
	// used, stats of memory.
	used, stats string
	unified     bool
}

var errNoGroup = errors.New("the process is in no control group that counts")

// Container is one that runs.
type Container struct {
	ID string
	// PID of its first process, or 0 when only those of its sandbox are known. The engine keeps both in the same place: there
	// the sandbox's ID stands where the container's would.
	PID        int
	SandboxID  string
	SandboxPID int
}

// groupsOf a container, looked up once.
func (m *Meter) groupsOf(c Container) (groups, error) {
	m.mu.Lock()
	g, ok := m.groups[c.ID]
	m.mu.Unlock()
	if ok {
		return g, nil
	}
	pid := c.PID
	if pid == 0 {
		pid = c.SandboxPID
	}
	data, err := os.ReadFile(filepath.Join(m.proc, strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return g, err
	}
	if c.PID == 0 {
		if c.SandboxID == "" || !bytes.Contains(data, []byte(c.SandboxID)) {
			return g, errNoGroup
		}
		data = bytes.ReplaceAll(data, []byte(c.SandboxID), []byte(c.ID))
	}
	memory, pids, unified := parseGroups(data)
	switch {
	case memory != "":
		g.memory = filepath.Join(m.sys, "memory", memory)
	case unified != "":
		g.memory, g.unified = filepath.Join(m.sys, unified), true
	default:
		return g, errNoGroup
	}
	if pids != "" {
		g.pids = filepath.Join(m.sys, "pids", pids)
	} else if g.unified {
		g.pids = g.memory
	}
	if _, err := os.Stat(g.memory); err != nil {
		return g, err
	}
	g.cpu = m.cpuFile(data, unified)
	g.used, g.stats = filepath.Join(g.memory, "memory.usage_in_bytes"), filepath.Join(g.memory, "memory.stat")
	if g.unified {
		g.used = filepath.Join(g.memory, "memory.current")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.groups[c.ID] = g
	return g, nil
}

// pidOf a container: any of its processes sees its mounts.
func (m *Meter) pidOf(c Container) (int, error) {
	if c.PID != 0 {
		return c.PID, nil
	}
	g, err := m.groupsOf(c)
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(filepath.Join(g.memory, "cgroup.procs"))
	if err != nil {
		return 0, err
	}
	first, _, _ := bytes.Cut(data, []byte("\n"))
	return strconv.Atoi(string(first))
}

// parseGroups reads /proc/PID/cgroup; see cgroups(7). The line of version 2 is the one with number 0 and no controllers. In the
// root group there is nothing to be read of a single container.
func parseGroups(data []byte) (memory, pids, unified string) {
	for line := range bytes.Lines(data) {
		parts := strings.SplitN(strings.TrimSuffix(string(line), "\n"), ":", 3)
		if len(parts) < 3 || parts[2] == "/" {
			continue
		}
		path := filepath.Clean("/" + parts[2])
		if parts[0] == "0" && parts[1] == "" {
			unified = path
			continue
		}
		for controller := range strings.SplitSeq(parts[1], ",") {
			switch controller {
			case "memory":
				memory = path
			case "pids":
				pids = path
			}
		}
	}
	return memory, pids, unified
}

// WorkingSet of a container in bytes: its memory without the file pages that have not been used for long, as the kubelet
// (cAdvisor) counts.
func (m *Meter) WorkingSet(c Container) (int64, error) {
	g, err := m.groupsOf(c)
	if err != nil {
		return 0, err
	}
	used, err := readNumber(g.used)
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(g.stats)
	if err != nil {
		return 0, err
	}
	return max(used-stat(data, g.inactive()), 0), nil
}

// inactive is the name of what does not belong to the working set.
func (g *groups) inactive() string {
	if g.unified {
		return "inactive_file"
	}
	return "total_inactive_file"
}

// stat is a value in a file of lines "name number".
func stat(data []byte, name string) int64 {
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte(name+" ")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64)
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
}

// Processes of a container, threads included.
func (m *Meter) Processes(c Container) (int64, error) {
	g, err := m.groupsOf(c)
	if err != nil {
		return 0, err
	}
	if g.pids == "" {
		return 0, errNoGroup
	}
	return readNumber(filepath.Join(g.pids, "pids.current"))
}

// Keep forgets all containers but these.
func (m *Meter) Keep(ids map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id := range m.groups {
		if !ids[id] {
			delete(m.groups, id)
		}
	}
	for id := range m.layers {
		if !ids[id] {
			delete(m.layers, id)
		}
	}
}
