package runtimetest

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/whalepod/whalepod/node/runtime"
)

// sh runs a script in a container and returns what it wrote.
func (h *harness) sh(id, script string) string {
	h.Helper()
	var out bytes.Buffer
	code, err := h.e.Exec(h.ctx, id, []string{"sh", "-c", script}, runtime.Streams{Stdout: &out, Stderr: &out})
	h.check(err)
	if code != 0 {
		h.Fatalf("%s: exit code %d, %s", script, code, out.String())
	}
	return strings.TrimSpace(out.String())
}

// testSettings: environment, working directory and arguments reach the process.
func testSettings(h *harness) {
	s := h.sandbox()
	spec := h.spec(s, "echo $GREETING; pwd; sleep 1000")
	spec.Env, spec.WorkingDir = []string{"GREETING=hi there"}, "/etc"
	id := h.start(spec)
	h.untilLogged(id, "hi there\n/etc\n")
	spec.Command, spec.Args, spec.Attempt = nil, []string{"sh", "-c", "exit 8"}, 1
	if got := h.untilExited(h.start(spec)); got.ExitCode != 8 {
		h.Errorf("arguments alone: %+v", got)
	}
}

// testNamespaces: hostname and files as asked for, and shared where a pod shares.
func testNamespaces(h *harness) {
	s := h.sandbox()
	dir := h.TempDir()
	hosts := filepath.Join(dir, "hosts")
	h.check(os.WriteFile(hosts, []byte("127.0.0.1 localhost # of the pod\n"), 0o644))
	spec := h.spec(s, "sleep 1000")
	spec.Mounts = []runtime.Mount{{HostPath: hosts, ContainerPath: "/etc/hosts"}}
	spec.SharePID = true
	id := h.start(spec)
	if got := h.sh(id, "hostname"); got != s.Pod.Name {
		h.Errorf("hostname %q, pod %q", got, s.Pod.Name)
	}
	if got := h.sh(id, "cat /etc/hosts"); got != "127.0.0.1 localhost # of the pod" {
		h.Errorf("/etc/hosts: %q", got)
	}
}

// testRuntimeHandler: an unknown one is refused by name, and nothing is left of the attempt.
func testRuntimeHandler(h *harness) {
	spec := runtime.SandboxSpec{Pod: h.pod(), RuntimeHandler: "nosuch-handler"}
	_, err := h.e.RunSandbox(h.ctx, spec)
	if !errors.Is(err, runtime.ErrNoHandler) || err.Error() != `failed to get sandbox runtime: no runtime for "nosuch-handler" is configured` {
		h.Errorf("an unknown handler: %v", err)
	}
	p, err := h.e.Pod(h.ctx, spec.Pod.UID)
	h.check(err)
	if len(p.Sandboxes) != 0 {
		h.Errorf("it left %+v", p.Sandboxes)
	}
	spec.RuntimeHandler = ""
	_, err = h.e.RunSandbox(h.ctx, spec)
	h.check(err)
}

func testImages(h *harness) {
	i, err := h.e.Image(h.ctx, h.env.Image)
	h.check(err)
	if !strings.HasPrefix(i.ID, "sha256:") || i.SizeBytes <= 0 {
		h.Errorf("image %+v", i)
	}
	list, err := h.e.Images(h.ctx)
	h.check(err)
	if !slices.ContainsFunc(list, func(l runtime.Image) bool { return l.ID == i.ID && slices.Equal(l.Tags, i.Tags) }) {
		h.Errorf("not listed: %+v in %+v", i, list)
	}
	if _, err := h.e.Load(h.ctx, strings.NewReader("no tar"), nil); err == nil {
		h.Error("loading nonsense worked")
	}
}

func testInfo(h *harness) {
	h.check(h.e.Ping(h.ctx))
	info, err := h.e.Info(h.ctx)
	h.check(err)
	if info.Version == "" || info.KernelVersion == "" || info.Architecture == "" || info.CgroupVersion < 1 || info.CgroupVersion > 2 {
		h.Errorf("info %+v", info)
	}
}
