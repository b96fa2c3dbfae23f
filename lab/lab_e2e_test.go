//go:build e2e

package lab

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestEngines brings up everything beneath the cluster (namespaces, registry,
// engines), plays what can happen to a node, and sees that nothing stays behind.
func TestEngines(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	bin := os.Getenv("WP_BIN")
	if bin == "" {
		bin = filepath.Join("..", "bin")
	}
	dir, err := os.MkdirTemp("", "lab") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := New(Config{Nodes: 2, Links: 2, Dir: dir, Bin: bin, Prefix: "wpt-", Images: "lab", Log: func(s Step) {
		if s.Done || s.Note != "" {
			t.Logf("%s %s (%s)", s.Name, s.Note, s.Took)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	down := func() {
		if err := l.Down(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("down: %v", err)
		}
	}
	defer down()
	if err := l.Prepare(ctx, 0); err != nil {
		t.Fatal(err)
	}
	for _, step := range []func(context.Context) (string, error){l.PrepareImages, l.CreateNetwork, l.StartRegistry, l.StartEngines} {
		if err := l.Step(ctx, "step", step); err != nil {
			t.Fatal(err)
		}
	}
	one, two := l.Node(1), l.Node(2)

	if err := two.Pull(ctx, "busybox:latest"); err != nil {
		t.Error(err)
	}
	start := time.Now()
	if err := two.Pull(ctx, "nosuchimage:1"); err == nil || time.Since(start) > 30*time.Second {
		t.Errorf("an image that is not there: %v after %s; want an error at once", err, time.Since(start))
	}
	if out, err := one.Command(ctx, "iptables", "-S", "FORWARD").CombinedOutput(); err != nil || !strings.Contains(string(out), "-P FORWARD DROP") {
		t.Errorf("Docker's own rules are not on: %v\n%s", err, out)
	}
	if out, err := one.Command(ctx, "hostname").Output(); err != nil || strings.TrimSpace(string(out)) != one.Name {
		t.Errorf("host name %q, %v", out, err)
	}
	// A port where nobody listens answers "refused" at once, if the node is there.
	const answered, silence = 30 * time.Second, 2 * time.Second
	ping := func(limit time.Duration) error {
		short, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if _, err := l.Dial(short, "tcp", two.Address.String()+":2222"); !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		return nil
	}
	if err := ping(answered); err != nil {
		t.Errorf("node 2 is not reached from the switch: %v", err)
	}
	if err := two.CutLink(ctx); err != nil {
		t.Error(err)
	}
	if err := ping(silence); err == nil {
		t.Error("node 2 is reached although its cable is out")
	}
	if err := two.HealLink(ctx); err != nil {
		t.Error(err)
	}
	// It is on the other link, behind the router.
	if err := l.CutRouter(ctx); err != nil {
		t.Error(err)
	}
	if err := ping(silence); err == nil {
		t.Error("node 2 is reached although the router is cut off")
	}
	if err := l.HealRouter(ctx); err != nil {
		t.Error(err)
	}
	if err := l.SetRouterMTU(ctx, 1400); err != nil {
		t.Error(err)
	}
	if err := ping(answered); err != nil {
		t.Errorf("node 2 is not reached through the router: %v", err)
	}

	run := map[string]any{"Image": "busybox", "Cmd": []string{"sleep", "600"}, "StopTimeout": 1}
	if err := two.Engine(ctx, "POST", "/containers/create?name=sleeper", run, nil); err != nil {
		t.Fatal(err)
	}
	if err := two.Engine(ctx, "POST", "/containers/sleeper/start", nil, nil); err != nil {
		t.Fatal(err)
	}
	var info struct{ State struct{ Running bool } }
	if err := two.Engine(ctx, "GET", "/containers/sleeper/json", nil, &info); err != nil || !info.State.Running {
		t.Fatalf("the container does not run: %v", err)
	}
	if err := two.RestartDocker(ctx); err != nil {
		t.Fatal(err)
	}
	if err := two.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if two.Running() || two.PID(engine) != 0 {
		t.Error("the node runs on without power")
	}
	if _, err := os.Stat(netnsPath(two.Name)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its links are still there: %v", err)
	}
	if err := two.boot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := two.startEngine(ctx); err != nil {
		t.Fatal(err)
	}
	if err := two.Engine(ctx, "GET", "/containers/sleeper/json", nil, &info); err != nil || info.State.Running {
		t.Errorf("its disk should have kept the container, stopped: %+v, %v", info, err)
	}
	if err := two.Engine(ctx, "POST", "/containers/sleeper/start", nil, nil); err != nil {
		t.Error(err)
	}

	// As after a crash: nothing but the state file knows of the lab.
	again, err := New(Config{Dir: dir, Bin: bin, Prefix: "wpt-"})
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Down(ctx); err != nil {
		t.Fatal(err)
	}
	checkGone(t, l)
	down() // once more does no harm
}

// checkGone looks for what a lab could leave behind.
func checkGone(t *testing.T, l *Lab) {
	t.Helper()
	names, err := l.namespaces()
	if err != nil || len(names) > 0 {
		t.Errorf("namespaces %v stay, %v", names, err)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, where := range []string{l.cfg.Dir, filepath.Join(l.cfg.Cache, "engines", l.cfg.Prefix)} {
		if strings.Contains(string(mounts), where) {
			t.Errorf("mounts below %s stay", where)
		}
	}
	groups, err := exec.Command("find", "/sys/fs/cgroup", "-name", strings.TrimPrefix(l.cfg.cgroup(), "/")).Output()
	if err != nil || len(groups) > 0 {
		t.Errorf("control groups stay: %s %v", groups, err)
	}
	err = processes(func(pid int) {
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && pid != os.Getpid() && strings.Contains(string(line), l.cfg.Dir) {
			t.Errorf("process %d stays: %q", pid, line)
		}
	})
	if err != nil {
		t.Error(err)
	}
}
