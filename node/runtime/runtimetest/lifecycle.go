package runtimetest

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
)

func testSandbox(h *harness) {
	p := h.pod()
	s, err := h.e.RunSandbox(h.ctx, runtime.SandboxSpec{
		Pod: p, Attempt: 2, Hostname: p.Name, Labels: map[string]string{"hash": "abc"},
	})
	h.check(err)
	if s.ID == "" || s.PID == 0 || !s.Running || s.Pod != p || s.Attempt != 2 || s.CreatedAt.IsZero() {
		h.Errorf("sandbox %+v", s)
	}
	got, err := h.e.Pod(h.ctx, p.UID)
	h.check(err)
	if got.Ref != p || len(got.Sandboxes) != 1 || len(got.Containers) != 0 {
		h.Fatalf("pod %+v", got)
	}
	g := got.Sandboxes[0]
	if g.ID != s.ID || g.PID != s.PID || !g.Running || g.Attempt != 2 || g.Labels["hash"] != "abc" || g.CreatedAt.IsZero() {
		h.Errorf("listed sandbox %+v, made %+v", g, s)
	}
	none, err := h.e.Pod(h.ctx, "no-such-uid")
	h.check(err)
	if len(none.Sandboxes)+len(none.Containers) != 0 {
		h.Errorf("a pod that is not there has %+v", none)
	}
	h.check(h.e.StopContainer(h.ctx, s.ID, 0))
	got, err = h.e.Pod(h.ctx, p.UID)
	h.check(err)
	if len(got.Sandboxes) != 1 || got.Sandboxes[0].Running || got.Sandboxes[0].PID != 0 {
		h.Errorf("stopped sandbox %+v", got.Sandboxes)
	}
}

// What one client made, a new one of the same node finds as it is.
func testAdopt(h *harness) {
	s, id := h.run("sleep 1000")
	spec := h.spec(s, "exit 4")
	spec.Name, spec.Attempt, spec.Labels = "side", 3, map[string]string{"io.example/hash": "1"}
	side := h.start(spec)
	h.untilExited(side)
	again := h.env.New(h.T, h.node)
	pods, err := again.Pods(h.ctx)
	h.check(err)
	if len(pods) != 1 || len(pods[0].Sandboxes) != 1 || len(pods[0].Containers) != 2 {
		h.Fatalf("pods %+v", pods)
	}
	if got := pods[0].Sandboxes[0]; got.ID != s.ID || got.PID != s.PID || !got.Running {
		h.Errorf("sandbox %+v, want %+v", got, s)
	}
	// Newest attempts first.
	first, second := pods[0].Containers[0], pods[0].Containers[1]
	if first.ID != side || first.Name != "side" || first.Attempt != 3 || first.ExitCode != 4 ||
		first.State != runtime.StateExited || first.PID != 0 || first.Labels["io.example/hash"] != "1" {
		h.Errorf("ended container %+v", first)
	}
	if second.ID != id || second.Name != "main" || second.State != runtime.StateRunning || second.PID == 0 ||
		second.StartedAt.IsZero() || !second.FinishedAt.IsZero() || second.Image != h.env.Image || second.Pod != s.Pod {
		h.Errorf("running container %+v", second)
	}
	if !strings.HasPrefix(second.ImageID, "docker") || !strings.Contains(second.ImageID, "sha256:") {
		h.Errorf("image ID %q", second.ImageID)
	}
}

func testExitCodes(h *harness) {
	s := h.sandbox()
	for attempt, c := range []struct {
		script string
		code   int
	}{{"exit 0", 0}, {"exit 3", 3}, {"sleep 0.1; exit 255", 255}, {"true", 0}, {"false", 1}} {
		spec := h.spec(s, c.script)
		spec.Attempt = attempt
		id := h.start(spec)
		got := h.untilExited(id)
		if got.ExitCode != c.code || got.OOMKilled || got.Error != "" || got.PID != 0 {
			h.Errorf("%q: %+v", c.script, got)
		}
		if got.CreatedAt.IsZero() || got.StartedAt.Before(got.CreatedAt) || got.FinishedAt.Before(got.StartedAt) {
			h.Errorf("%q: created %v, started %v, finished %v", c.script, got.CreatedAt, got.StartedAt, got.FinishedAt)
		}
	}
}

func testOutOfMemory(h *harness) {
	spec := h.spec(h.sandbox(), "tail /dev/zero")
	spec.Resources.MemoryBytes = 32 << 20
	got := h.untilExited(h.start(spec))
	if !got.OOMKilled || got.ExitCode != 137 {
		h.Errorf("container %+v", got)
	}
}

func testStopObeyed(h *harness) {
	_, id := h.run("trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")
	h.untilLogged(id, "ready")
	began := time.Now()
	h.check(h.e.StopContainer(h.ctx, id, 20*time.Second))
	got, err := h.e.Inspect(h.ctx, id)
	h.check(err)
	if got.State != runtime.StateExited || got.ExitCode != 7 {
		h.Errorf("container %+v", got)
	}
	if took := time.Since(began); took > 15*time.Second {
		h.Errorf("stopping took %v", took)
	}
}

func testStopIgnored(h *harness) {
	_, id := h.run("trap '' TERM; echo ready; while :; do sleep 0.1; done")
	h.untilLogged(id, "ready")
	began := time.Now()
	h.check(h.e.StopContainer(h.ctx, id, 1500*time.Millisecond))
	took := time.Since(began)
	got, err := h.e.Inspect(h.ctx, id)
	h.check(err)
	if got.State != runtime.StateExited || got.ExitCode != 137 || got.OOMKilled {
		h.Errorf("container %+v", got)
	}
	if took < 1500*time.Millisecond || took > 15*time.Second {
		h.Errorf("a grace of 1.5 s took %v", took)
	}
}

func testIdempotent(h *harness) {
	s, id := h.run("sleep 1000")
	h.check(h.e.StartContainer(h.ctx, id))
	for range 2 {
		h.check(h.e.StopContainer(h.ctx, id, 0))
	}
	for range 2 {
		h.check(h.e.RemoveContainer(h.ctx, id))
	}
	h.check(h.e.StopContainer(h.ctx, id, time.Second))
	if _, err := h.e.Inspect(h.ctx, id); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("inspecting a removed container: %v", err)
	}
	if err := h.e.StartContainer(h.ctx, id); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("starting a removed container: %v", err)
	}
	for range 2 {
		h.check(h.e.RemoveContainer(h.ctx, s.ID)) // a running one
	}
	pods, err := h.e.Pods(h.ctx)
	h.check(err)
	if len(pods) != 0 {
		h.Errorf("left over: %+v", pods)
	}
}

// A name taken by a container that never ran is taken over; any other is a conflict.
func testConflict(h *harness) {
	s := h.sandbox()
	spec := h.spec(s, "sleep 1000")
	first, err := h.e.CreateContainer(h.ctx, spec)
	h.check(err)
	second, err := h.e.CreateContainer(h.ctx, spec)
	h.check(err)
	if first == second {
		h.Error("one ID for two containers")
	}
	h.check(h.e.StartContainer(h.ctx, second))
	if _, err := h.e.CreateContainer(h.ctx, spec); !errors.Is(err, runtime.ErrConflict) {
		h.Errorf("creating over a running container: %v", err)
	}
	if _, err := h.e.RunSandbox(h.ctx, runtime.SandboxSpec{Pod: s.Pod}); !errors.Is(err, runtime.ErrConflict) {
		h.Errorf("running a second sandbox of one attempt: %v", err)
	}
	spec.Attempt++
	h.start(spec)
	pod, err := h.e.Pod(h.ctx, s.Pod.UID)
	h.check(err)
	if len(pod.Containers) != 2 || pod.Containers[0].Attempt != 1 || pod.Containers[1].ID != second {
		h.Errorf("containers %+v", pod.Containers)
	}
}

func testMissingCommand(h *harness) {
	s := h.sandbox()
	for i, c := range []struct{ command, words string }{
		{"no-such-command", `exec: "no-such-command": executable file not found in $PATH`},
		{"/etc/no-such-file", "no such file or directory"},
	} {
		spec := h.spec(s, "")
		spec.Command, spec.Attempt = []string{c.command}, i
		id, err := h.e.CreateContainer(h.ctx, spec)
		h.check(err)
		err = h.e.StartContainer(h.ctx, id)
		if !errors.Is(err, runtime.ErrInvalid) || !strings.Contains(err.Error(), c.words) {
			h.Errorf("%s: %v", c.command, err)
		}
		got, err := h.e.Inspect(h.ctx, id)
		h.check(err)
		if got.State != runtime.StateExited || got.ExitCode == 0 || !strings.Contains(got.Error, c.words) || got.FinishedAt.IsZero() {
			h.Errorf("%s: left %+v", c.command, got)
		}
	}
}

func testMissingImage(h *harness) {
	spec := h.spec(h.sandbox(), "true")
	spec.Image = "example.invalid/no/such:image"
	if _, err := h.e.CreateContainer(h.ctx, spec); !errors.Is(err, runtime.ErrNotFound) || !strings.Contains(err.Error(), spec.Image) {
		h.Errorf("creating: %v", err)
	}
	if _, err := h.e.Image(h.ctx, spec.Image); !errors.Is(err, runtime.ErrNotFound) {
		h.Errorf("reading: %v", err)
	}
	h.check(h.e.RemoveImage(h.ctx, spec.Image))
}

func testEvents(h *harness) {
	other := h.env.New(h.T, h.node+"-other")
	events := make(chan runtime.Event, 100)
	ready, ended := make(chan struct{}), make(chan error, 1)
	ctx, cancel := contextWithCancel(h)
	go func() { ended <- h.e.Events(ctx, ready, func(e runtime.Event) { events <- e }) }()
	<-ready
	foreign, err := other.RunSandbox(h.ctx, runtime.SandboxSpec{Pod: h.pod()})
	h.check(err)
	s, id := h.run("sleep 1000")
	h.check(h.e.StopContainer(h.ctx, id, 0))
	h.check(h.e.RemoveContainer(h.ctx, id))
	h.check(other.RemoveContainer(h.ctx, foreign.ID))
	var seen []string
	limit := time.After(h.env.Patience)
	for !slices.Contains(seen, "main destroy") {
		select {
		case e := <-events:
			if e.PodUID != s.Pod.UID {
				h.Errorf("event of a foreign pod: %+v", e)
			}
			switch e.Container {
			case s.ID:
				seen = append(seen, "sandbox "+e.Action)
			case id:
				seen = append(seen, "main "+e.Action)
			}
		case <-limit:
			h.Fatalf("events: %q", seen)
		}
	}
	if want := []string{"sandbox start", "main start", "main die", "main destroy"}; !slices.Equal(seen, want) {
		h.Errorf("events %q, want %q", seen, want)
	}
	cancel()
	if err := <-ended; err != nil {
		h.Errorf("end of events: %v", err)
	}
}

func testTwoNodes(h *harness) {
	other := h.env.New(h.T, h.node+"-other")
	s, _ := h.run("sleep 1000")
	p := h.pod()
	o, err := other.RunSandbox(h.ctx, runtime.SandboxSpec{Pod: p})
	h.check(err)
	defer func() { h.check(other.RemoveContainer(h.ctx, o.ID)) }()
	for _, c := range []struct {
		e    runtime.Engine
		want runtime.PodRef
	}{{h.e, s.Pod}, {other, p}} {
		pods, err := c.e.Pods(h.ctx)
		h.check(err)
		if len(pods) != 1 || pods[0].Ref != c.want {
			h.Errorf("pods %+v, want only %v", pods, c.want)
		}
	}
	if pod, err := h.e.Pod(h.ctx, p.UID); err != nil || len(pod.Sandboxes) != 0 {
		h.Errorf("the other node's pod: %+v, %v", pod, err)
	}
}

// testRestart: the engine goes and comes; what ran has ended and says so, and pods can be made again.
func testRestart(h *harness) {
	s, id := h.run("sleep 1000")
	broken := make(chan error, 1)
	ready := make(chan struct{})
	go func() { broken <- h.e.Events(h.ctx, ready, func(runtime.Event) {}) }()
	<-ready
	h.env.Restart(h.T)
	if err := <-broken; !errors.Is(err, runtime.ErrUnavailable) {
		h.Errorf("events ended with %v", err)
	}
	pod, err := h.e.Pod(h.ctx, s.Pod.UID)
	h.check(err)
	if len(pod.Sandboxes) != 1 || pod.Sandboxes[0].Running || pod.Sandboxes[0].PID != 0 {
		h.Errorf("sandboxes %+v", pod.Sandboxes)
	}
	if len(pod.Containers) != 1 || pod.Containers[0].ID != id || pod.Containers[0].State != runtime.StateExited {
		h.Errorf("containers %+v", pod.Containers)
	}
	again, err := h.e.RunSandbox(h.ctx, runtime.SandboxSpec{Pod: s.Pod, Attempt: 1})
	h.check(err)
	spec := h.spec(again, "exit 5")
	spec.Attempt = 1
	if c := h.untilExited(h.start(spec)); c.ExitCode != 5 {
		h.Errorf("container %+v", c)
	}
}
