package fake_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
	"github.com/whalepod/whalepod/node/runtime/runtimetest"
)

func TestContract(t *testing.T) {
	const image = "test/busybox:1"
	var e *fake.Engine // of the running test; tests run one after another
	runtimetest.Run(t, runtimetest.Env{
		Image: image,
		New: func(t *testing.T, node string) runtime.Engine {
			return e.As(node)
		},
		Restart: func(t *testing.T) { e.Restart() },
		Bubble: func(t *testing.T, test func(*testing.T)) {
			synctest.Test(t, func(t *testing.T) {
				e = fake.New("unused")
				e.AddImage(image)
				test(t)
			})
		},
	})
}

// start runs a container named "main" in a new pod.
func start(t *testing.T, e *fake.Engine) string {
	t.Helper()
	pod := runtime.PodRef{Namespace: "default", Name: "web", UID: "1"}
	s, err := e.RunSandbox(t.Context(), runtime.SandboxSpec{Pod: pod})
	if err != nil {
		t.Fatal(err)
	}
	id, err := e.CreateContainer(t.Context(), runtime.ContainerSpec{SandboxID: s.ID, Pod: pod, Name: "main", Image: "nginx"})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	return id
}

func TestScript(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := fake.New("n")
		e.AddImage("nginx")
		e.Script("main", func(runtime.ContainerSpec) fake.Program {
			return fake.Program{Output: []string{"up"}, After: time.Hour, ExitCode: 9, StopAfter: 3 * time.Second, StopCode: 2}
		})
		id := start(t, e)
		time.Sleep(time.Hour + time.Second)
		c, err := e.Inspect(t.Context(), id)
		if err != nil || c.State != runtime.StateExited || c.ExitCode != 9 || c.FinishedAt.Sub(c.StartedAt) != time.Hour {
			t.Errorf("%+v, %v", c, err)
		}
		if err := e.StartContainer(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := e.StopContainer(t.Context(), id, time.Minute); err != nil || time.Since(began) != 3*time.Second {
			t.Errorf("stopping: %v after %v", err, time.Since(began))
		}
		if c, _ := e.Inspect(t.Context(), id); c.ExitCode != 2 {
			t.Errorf("%+v", c)
		}
	})
}

func TestDownAndFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := fake.New("n")
		e.AddImage("nginx")
		id := start(t, e)
		ended := make(chan error, 1)
		go func() { ended <- e.Events(t.Context(), nil, func(runtime.Event) {}) }()
		synctest.Wait()
		e.Down()
		if err := <-ended; !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("events: %v", err)
		}
		if _, err := e.Pods(t.Context()); !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("pods: %v", err)
		}
		e.Up()
		if c, err := e.Inspect(t.Context(), id); err != nil || c.State != runtime.StateRunning {
			t.Errorf("after an outage: %+v, %v", c, err)
		}
		boom := errors.New("boom")
		e.Fail("Pods", nil, boom)
		if _, err := e.Pods(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := e.Pods(t.Context()); !errors.Is(err, boom) {
			t.Error(err)
		}
		e.Delay("Pods", time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.Pods(ctx); !errors.Is(err, runtime.ErrUnavailable) {
			t.Errorf("slow engine: %v", err)
		}
		if n := e.Calls("Pods"); n != 4 {
			t.Errorf("%d calls", n)
		}
	})
}

func TestPull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := fake.New("n")
		e.Publish("web", fake.Published{Takes: time.Minute, Image: runtime.Image{User: "www"}})
		e.Publish("private:1", fake.Published{Auth: &runtime.Auth{Username: "me", Password: "secret"}})
		began := time.Now()
		i, err := e.Pull(t.Context(), "web", nil, nil)
		if err != nil || i.User != "www" || time.Since(began) != time.Minute || !strings.HasPrefix(i.Digests[0], "web@sha256:") {
			t.Errorf("%+v, %v", i, err)
		}
		if _, err := e.Pull(t.Context(), "none", nil, nil); !errors.Is(err, runtime.ErrImageMissing) {
			t.Error(err)
		}
		if _, err := e.Pull(t.Context(), "private:1", nil, nil); !errors.Is(err, runtime.ErrImageDenied) {
			t.Error(err)
		}
		if _, err := e.Pull(t.Context(), "private:1", &runtime.Auth{Username: "me", Password: "secret"}, nil); err != nil {
			t.Error(err)
		}
	})
}
