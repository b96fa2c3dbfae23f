package meter

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestUse(t *testing.T) {
	// More than a page before the line that counts, and a name that begins like it.
	long := "inactive_file_x 7\n" + strings.Repeat("some_other_statistic 1234567890\n", 100)
	sys := files(t, map[string]string{
		"memory/docker/ctr/memory.usage_in_bytes": "5000\n", "memory/docker/ctr/memory.stat": long + "total_inactive_file 2000\n",
		"cpuacct/docker/ctr/cpuacct.usage":        "1500000000\n",
		"cpu,cpuacct/docker/sbx/cpuacct.usage":    "7\n",
		"memory/docker/sbx/memory.usage_in_bytes": "40\n", "memory/docker/sbx/memory.stat": "",
		"memory/docker/nocpu/memory.usage_in_bytes": "40\n", "memory/docker/nocpu/memory.stat": "",
		"memory/docker/bad/memory.usage_in_bytes": "max\n", "memory/docker/bad/memory.stat": "", "cpuacct/docker/bad/cpuacct.usage": "1\n",
		"system.slice/docker-ctr.scope/memory.current": "9000\n",
		"system.slice/docker-ctr.scope/memory.stat":    "anon 1\n" + long + "inactive_file 1000\n",
		"system.slice/docker-ctr.scope/cpu.stat":       "usage_usec 2500000\nuser_usec 1\nsystem_usec 1\n",
	})
	for _, tt := range []struct {
		name, cgroup string
		c            Container
		want         Use
		fails        bool
	}{
		{"version 1", v1, Container{ID: "ctr", SandboxID: "sbx", SandboxPID: 5}, Use{CPU: 1500 * time.Millisecond, Memory: 3000}, false},
		{"version 1, mounted together", v1, Container{ID: "sbx", PID: 5}, Use{CPU: 7, Memory: 40}, false},
		{"version 2", v2, Container{ID: "ctr", SandboxID: "sbx", SandboxPID: 5}, Use{CPU: 2500 * time.Millisecond, Memory: 8000}, false},
		{"nobody counts", v1, Container{ID: "nocpu", SandboxID: "sbx", SandboxPID: 5}, Use{}, true},
		{"nonsense", v1, Container{ID: "bad", SandboxID: "sbx", SandboxPID: 5}, Use{CPU: 1}, true},
		{"gone", v1, Container{ID: "gone", SandboxID: "sbx", SandboxPID: 5}, Use{}, true},
	} {

		m, b := at(files(t, map[string]string{"5/cgroup": tt.cgroup}), sys), new(Buffer)
		for range 2 { // looked up, and remembered
			got, err := m.Use(tt.c, b)
			if got != tt.want || (err != nil) != tt.fails {
				t.Errorf("%s: %+v %v", tt.name, got, err)
			}
		}
	}
}

func TestMachine(t *testing.T) {
	const memory = "MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 250 kB\n"
	for text, want := range map[string]Use{
		"cpu  100 10 50 9999 777 1 2 33 5 5\ncpu0 1 1\n": {CPU: 1630 * time.Millisecond, Memory: 750 << 10},
		"cpu 1 2 3\n": {}, "": {}, "intr 1 2 3 4 5 6 7 8\n": {}, "cpu a b c d e f g h\n": {},
	} {
		got, err := at(files(t, map[string]string{"stat": text, "meminfo": memory}), "").Machine(new(Buffer))
		if got != want || (err == nil) != (want.CPU > 0) {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	if u, err := New().Machine(new(Buffer)); err != nil || u.CPU <= 0 || u.Memory <= 0 {
		t.Errorf("of this machine: %+v %v", u, err)
	}
}

// One measurement of 100 pods with a container each, in control groups of this machine where they can be made, else in files.
func BenchmarkUse100(b *testing.B) {
	var containers []Container
	m := New()
	for i := range 100 {
		id := "wpbench-" + strconv.Itoa(i)
		for _, controller := range []string{"memory", "cpuacct"} {
			dir := filepath.Join("/sys/fs/cgroup", controller, id)
			if err := os.Mkdir(dir, 0o755); err != nil {
				b.Skip("control groups of version 1 cannot be made here: ", err)
			}
			b.Cleanup(func() { _ = os.Remove(dir) })
		}
		c := Container{ID: id}
		g := groups{memory: "/sys/fs/cgroup/memory/" + id, cpu: fmt.Sprintf("/sys/fs/cgroup/cpuacct/%s/cpuacct.usage", id)}
		g.used, g.stats = g.memory+"/memory.usage_in_bytes", g.memory+"/memory.stat"
		m.groups[id] = g
		containers = append(containers, c)
	}
	buffer := new(Buffer)
	b.ReportAllocs()
	for b.Loop() {
		for _, c := range containers {
			if _, err := m.Use(c, buffer); err != nil {
				b.Fatal(err)
			}
		}
	}
}
