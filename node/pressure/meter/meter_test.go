package meter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/whalepod/whalepod/node/pressure"
)

// tree of files by path.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestMemory(t *testing.T) {
	const old = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 10 kB\nCached: 200 kB\nSwapCached: 7 kB\n"
	for text, want := range map[string]pressure.Observation{
		old + "MemAvailable: 250 kB\n": {Available: 250 << 10, Capacity: 1000 << 10},
		old:                            {Available: 310 << 10, Capacity: 1000 << 10},
		"MemAvailable: 1 kB\n":         {},
		"MemTotal:\n:\nMemTotal: x":    {},
	} {
		got, err := at(files(t, map[string]string{"meminfo": text}), "").Memory()
		if got != want || (err == nil) != (want.Capacity > 0) {
			t.Errorf("%q: %+v %v", text, got, err)
		}
	}
	const swapping = old + "MemAvailable: 50 kB\nSwapFree: 500 kB\n"
	for stalls, want := range map[string]int64{
		"some avg10=90.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.99 avg60=0.00 avg300=0.00 total=1\n":  550 << 10,
		"some avg10=90.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=10.00 avg60=0.00 avg300=0.00 total=1\n": 50 << 10,
		"nonsense": 50 << 10, "": 50 << 10,
	} {
		if got, err := at(files(t, map[string]string{"meminfo": swapping, "pressure/memory": stalls}), "").Memory(); got.Available != want || err != nil {
			t.Errorf("%q: %+v %v", stalls, got, err)
		}
	}
	if got, err := at(files(t, map[string]string{"meminfo": swapping}), "").Memory(); got.Available != 50<<10 || err != nil {
		t.Errorf("a kernel that cannot tell: %+v %v", got, err)
	}
	if o, err := New().Memory(); err != nil || o.Available <= 0 || o.Capacity <= 0 {
		t.Errorf("of this machine: %+v %v", o, err)
	}
}

func TestPIDs(t *testing.T) {
	proc := files(t, map[string]string{"sys/kernel/pid_max": "32768\n", "sys/kernel/threads-max": "7000\n", "loadavg": "0.20 0.18 0.12 1/180 11206\n"})
	if o, err := at(proc, "").PIDs(); err != nil || o.Capacity != 7000 || o.Available != 6820 {
		t.Errorf("%+v %v", o, err)
	}
	for _, nonsense := range []string{"", "1 2 3", "1 2 3 4 5", "1 2 3 4/x 5"} {
		_ = os.WriteFile(proc+"/loadavg", []byte(nonsense), 0o600)
		if o, err := at(proc, "").PIDs(); err == nil {
			t.Errorf("%q: %+v", nonsense, o)
		}
	}
	if o, err := New().PIDs(); err != nil || o.Available <= 0 {
		t.Errorf("of this machine: %+v %v", o, err)
	}
}

func TestDisk(t *testing.T) {
	d, err := New().Disk(t.TempDir())
	if err != nil || d.Space.Available <= 0 || d.Space.Capacity < d.Space.Available || d.Inodes.Capacity < d.Inodes.Available {
		t.Errorf("%+v %v", d, err)
	}
	if _, err := New().Disk("/no/such/place"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

const (
	v1 = "12:pids:/docker/sbx\n4:cpu,cpuacct:/docker/sbx\n3:memory:/docker/sbx\n0::/system.slice\n"
	v2 = "0::/system.slice/docker-sbx.scope\n"
)

func TestContainers(t *testing.T) {
	sys := files(t, map[string]string{
		"memory/docker/ctr/memory.usage_in_bytes": "5000\n", "memory/docker/ctr/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n", "memory/docker/ctr/cgroup.procs": "77\n78\n",
		"pids/docker/ctr/pids.current":                        "9\n",
		"system.slice/docker-ctr.scope/memory.current":        "900\n",
		"system.slice/docker-ctr.scope/memory.stat":           "anon 1\ninactive_file 1000\n",
		"system.slice/docker-ctr.scope/pids.current":          "3\n",
		"memory/docker/sbx/memory.usage_in_bytes":             "40\n",
		"memory/docker/sbx/memory.stat":                       "\n",
		"system.slice/docker-ctr.scope/memory.swap.current":   "0\n",
		"system.slice/docker-other.scope/cgroup.subtree_trap": "",
	})
	for _, tt := range []struct {
		name    string
		cgroup  string
		c       Container
		memory  int64
		threads int64
		fails   bool
	}{
		{"version 1, by the sandbox", v1, Container{ID: "ctr", SandboxID: "sbx", SandboxPID: 5}, 3000, 9, false},
		{"version 2, by the sandbox", v2, Container{ID: "ctr", SandboxID: "sbx", SandboxPID: 5}, 0, 3, false},
		{"by its own process", strings.ReplaceAll(v1, "sbx", "ctr"), Container{ID: "ctr", PID: 5}, 3000, 9, false},
		{"gone", v1, Container{ID: "gone", SandboxID: "sbx", SandboxPID: 5}, 0, 0, true},
		{"elsewhere than its sandbox", "0::/foo\n", Container{ID: "ctr", SandboxID: "sbx", SandboxPID: 5}, 0, 0, true},
		{"in no group", "0::/\n3:memory:/\n", Container{ID: "ctr", PID: 5}, 0, 0, true},
		{"nonsense", "x\n::\n", Container{ID: "ctr", PID: 5}, 0, 0, true},
		{"nothing known", v1, Container{ID: "ctr"}, 0, 0, true},
	} {
		m := at(files(t, map[string]string{"5/cgroup": tt.cgroup}), sys)
		n, err := m.WorkingSet(tt.c)
		p, err2 := m.Processes(tt.c)
		if n != tt.memory || p != tt.threads || (err != nil) != tt.fails || (err2 != nil) != tt.fails {
			t.Errorf("%s: %d %v, %d %v", tt.name, n, err, p, err2)
		}
		m.Keep(nil)
		if len(m.groups) > 0 {
			t.Errorf("%s: remembered for ever", tt.name)
		}
	}
}

func TestTree(t *testing.T) {
	dir := files(t, map[string]string{"a": strings.Repeat("x", 100_000), "d/b": strings.Repeat("y", 50_000), "d/e/f/c": "z"})
	if err := os.Link(dir+"/a", dir+"/d/again"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", dir+"/out"); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dir+"/d/b", 1<<40); err != nil { // a hole takes up nothing
		t.Fatal(err)
	}
	s, err := New().Tree(t.Context(), dir)
	if err != nil || s.Inodes != 8 || s.Bytes < 150_000 || s.Bytes > 300_000 {
		t.Errorf("%+v %v", s, err)
	}
	if s, err := New().Tree(t.Context(), dir+"/none"); err != nil || s != (pressure.Size{}) {
		t.Errorf("of nothing: %+v %v", s, err)
	}
	deep := dir
	for range maxDepth + 10 {
		deep += "/n"
	}
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if s, err := New().Tree(t.Context(), dir); err != nil || s.Inodes < maxDepth || s.Inodes > maxDepth+10 {
		t.Errorf("deep: %+v %v", s, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New().Tree(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestLayer(t *testing.T) {
	upper := files(t, map[string]string{"written": strings.Repeat("x", 8192)})
	overlay := "1 0 0:50 / / rw - overlay overlay rw,lowerdir=/l1:/l2,upperdir=" + upper + ",workdir=/w\n2 1 0:51 / /proc rw - proc proc rw\n"
	proc := files(t, map[string]string{"7/mountinfo": overlay, "8/mountinfo": "1 0 8:1 / / rw - ext4 /dev/dm-3 rw\n"})
	m := at(proc, "")
	if s, err := m.Layer(t.Context(), Container{ID: "c", PID: 7}); err != nil || s.Bytes < 8192 || s.Inodes != 2 {
		t.Errorf("%+v %v", s, err)
	}
	if _, err := m.Layer(t.Context(), Container{ID: "d", PID: 8}); !errors.Is(err, ErrNoLayer) {
		t.Error(err)
	}
	if _, err := m.Layer(t.Context(), Container{ID: "e", PID: 9}); err == nil || errors.Is(err, ErrNoLayer) {
		t.Error(err)
	}
}

func TestLogs(t *testing.T) {
	text := strings.Repeat("x", 8192)
	root := files(t, map[string]string{
		"containers/a/a-json.log": text, "containers/a/a-json.log.1": text, "containers/a/config.v2.json": text, "containers/b/local-logs/container.log": text,
	})
	m := New()
	a, err := m.Logs(t.Context(), root, "a")
	b, err2 := m.Logs(t.Context(), root, "b")
	c, err3 := m.Logs(t.Context(), root, "c")
	if err != nil || err2 != nil || err3 != nil || a.Bytes != 16384 || b.Bytes < 8192 || c.Bytes != 0 {
		t.Error(a, b, c, err, err2, err3)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(v1))
	f.Add([]byte(v2))
	f.Add([]byte("1 0 0:50 / / rw - overlay overlay rw,upperdir=/u\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, path := range func() []string { a, b, c := parseGroups(data); return []string{a, b, c} }() {
			if path != "" && (!filepath.IsAbs(path) || strings.Contains(path, "..") && filepath.Clean(path) != path) {
				t.Errorf("%q", path)
			}
		}
		if dir := upperdir(data); dir != "" && !filepath.IsAbs(dir) {
			t.Errorf("%q", dir)
		}
		stat(data, "total_inactive_file")
	})
}
