package pods

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// stops writes down when containers are told to end and how long they get for it, and when their hooks run.
type stops struct {
	mu    sync.Mutex
	began time.Time
	names map[string]string // by ID
	list  []string
}

type watchedEngine struct {
	runtime.Engine
	stops *stops
}

func (e watchedEngine) CreateContainer(ctx context.Context, spec runtime.ContainerSpec) (string, error) {
	id, err := e.Engine.CreateContainer(ctx, spec)
	e.stops.mu.Lock()
	defer e.stops.mu.Unlock()
	e.stops.names[id] = spec.Name
	return id, err
}

func (e watchedEngine) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	if ctx.Err() == nil {
		e.stops.note(e.stops.names[id], fmt.Sprint("for ", grace.Round(100*time.Millisecond)))
	}
	return e.Engine.StopContainer(ctx, id, grace)
}

// note with the time in seconds, so that the lines can be sorted: what happens at one time has no order.
func (s *stops) note(name, what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, fmt.Sprintf("%04.1f %s %s", time.Since(s.began).Seconds(), name, what))
}

func (s *stops) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.list = time.Now(), nil
}

func (s *stops) want(t *testing.T, want ...string) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.list)
	if !slices.Equal(s.list, want) {
		t.Errorf("\n got %s\nwant %s", strings.Join(s.list, "; "), strings.Join(want, "; "))
	}
}

// sidecarTest runs on a node whose engine's stops, and runs of the hook "hook", are written down.
func sidecarTest(t *testing.T, fn func(t *testing.T, n *node, s *stops)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		s := &stops{names: map[string]string{}}
		n.wrap = func(e runtime.Engine) runtime.Engine { return watchedEngine{e, s} }
		n.engine.OnExec(func(c runtime.Container, cmd []string, _ runtime.Streams) (int, error) {
			s.note(c.Name, cmd[0])
			d, _ := time.ParseDuration(cmd[1])
			time.Sleep(d)
			return 0, nil
		})
		n.start()
		synctest.Wait()
		fn(t, n, s)
		n.stop()
	})
}

// lasts tells how long something is left of the pod.
func (n *node) lasts(uid string) time.Duration {
	began := time.Now()
	for n.containers(uid) != "" && time.Since(began) < 5*time.Minute {
		seconds(0.1)
	}
	return time.Since(began).Round(500 * time.Millisecond)
}

// preStop hook that takes so long; one that "hangs" is not written down.
func preStop(d string) *corev1.Lifecycle {
	if d == "hangs" {
		return &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3600}}}
	}
	return &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook", d}}}}
}

func takes(s int) fake.Program { return fake.Program{StopAfter: time.Duration(s) * time.Second} }

func TestSidecarsEndInTurnWithinOneGracePeriod(t *testing.T) {
	stubborn := fake.Program{IgnoreTERM: true}
	for _, tt := range []struct {
		name            string
		a, side1, side2 fake.Program
		hook1, hook2    string
		grace           int64
		lasts           time.Duration
		want            []string
	}{
		{
			name: "in turn", a: takes(5), side2: takes(2), side1: takes(1), grace: 30, lasts: 8 * time.Second,
			want: []string{"00.0 a for 30s", "05.0 side2 for 25s", "07.0 side1 for 23s"},
		},
		{
			name: "nobody listens", a: stubborn, side1: stubborn, side2: stubborn, grace: 30, lasts: 32 * time.Second,
			want: []string{"00.0 a for 30s", "30.0 side1 for 2s", "30.0 side2 for 2s"},
		},
		{
			name: "a sidecar that does not listen gets what is left", a: takes(10), side2: stubborn, grace: 30, lasts: 30 * time.Second,
			want: []string{"00.0 a for 30s", "10.0 side2 for 20s", "30.0 side1 for 2s"},
		},
		{
			name: "hooks begin at once", a: takes(5), hook1: "8s", hook2: "2s", grace: 30, lasts: 8 * time.Second,
			want: []string{"00.0 a for 30s", "00.0 side1 hook", "00.0 side2 hook", "05.0 side2 for 25s", "08.0 side1 for 22s"},
		},
		{
			name: "a hook that hangs", a: takes(1), hook2: "hangs", grace: 10, lasts: 10 * time.Second,
			want: []string{"00.0 a for 10s", "10.0 side1 for 2s", "10.0 side2 for 2s"},
		},
		{
			name: "no grace period", a: stubborn, side2: stubborn, hook1: "1s", grace: 0, lasts: 2 * time.Second,
			want: []string{"00.0 a for 2s", "00.0 side1 for 2s", "00.0 side2 for 2s"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			sidecarTest(t, func(t *testing.T, n *node, s *stops) {
				n.script("a", tt.a)
				n.script("side1", tt.side1)
				n.script("side2", tt.side2)
				p := pod("p", "side1", "side2", "a")
				for i, d := range []string{tt.hook1, tt.hook2} {
					if d != "" {
						p.Spec.InitContainers[i].Lifecycle = preStop(d)
					}
				}
				n.apply(p)
				n.want("uid-p", "Running side1=running+ side2=running+ a=running+")
				n.takeEvents()
				s.begin()
				n.delete(p, tt.grace)
				n.wantEvents("Killing: Stopping container a", "Killing: Stopping container side1", "Killing: Stopping container side2")
				if got := n.lasts("uid-p"); got != tt.lasts {
					t.Errorf("the pod lasted %s, want %s", got, tt.lasts)
				}
				s.want(t, tt.want...)
			})
		})
	}
}

// When a pod's own containers have ended by themselves, its sidecars share one grace period too.
func TestSidecarsOfAnEndedPod(t *testing.T) {
	sidecarTest(t, func(t *testing.T, n *node, s *stops) {
		n.script("a", fake.Program{After: 5 * time.Second})
		n.script("side1", fake.Program{IgnoreTERM: true})
		n.script("side2", takes(1))
		p := pod("p", "side1", "side2", "a")
		p.Spec.RestartPolicy = "Never"
		p.Spec.TerminationGracePeriodSeconds = ref(int64(10))
		for i := range p.Spec.InitContainers {
			p.Spec.InitContainers[i].Lifecycle = preStop("3s")
		}
		n.apply(p)
		s.begin()
		seconds(16)
		n.want("uid-p", "Succeeded side1=Error:137 side2=Completed:0 a=Completed:0")
		s.want(t, "05.0 side1 hook", "05.0 side2 hook", "08.0 side2 for 7s", "09.0 side1 for 6s")
	})
}

// A second deletion with a shorter grace period counts from then, for all of them.
func TestSidecarsHurried(t *testing.T) {
	sidecarTest(t, func(t *testing.T, n *node, s *stops) {
		n.script("a", fake.Program{IgnoreTERM: true})
		n.script("side1", takes(1))
		n.script("side2", takes(1))
		p := pod("p", "side1", "side2", "a")
		n.apply(p)
		s.begin()
		n.delete(p, 3600)
		seconds(10)
		n.delete(p, 5)
		if got := n.lasts("uid-p"); got != 6*time.Second {
			t.Error("it lasted", got)
		}
		s.want(t, "00.0 a for 1h0m0s", "10.0 a for 5s", "15.0 side1 for 2s", "15.0 side2 for 2s")
	})
}

// Between the agents a hook is begun anew, and the order stays.
func TestSidecarsEndInTurnAfterARestart(t *testing.T) {
	sidecarTest(t, func(t *testing.T, n *node, s *stops) {
		n.script("a", takes(5))
		p := pod("p", "side1", "side2", "a")
		p.Spec.InitContainers[1].Lifecycle = preStop("1s")
		n.script("side1", takes(1))
		n.script("side2", takes(1))
		n.apply(p)
		s.begin()
		n.delete(p, 30)
		seconds(2)
		n.restart()
		if got := n.lasts("uid-p"); got != 5*time.Second {
			t.Error("it lasted", got)
		}
		s.want(t, "00.0 a for 30s", "00.0 side2 hook", "02.0 a for 30s", "02.0 side2 hook", "05.0 side2 for 27s", "06.0 side1 for 26s")
	})
}

// A pod that a Service sends requests to answers them with its sidecars.
func TestSidecarsOfAServedPod(t *testing.T) {
	sidecarTest(t, func(t *testing.T, n *node, s *stops) {
		n.script("a", takes(1))
		n.script("side1", takes(1))
		p := pod("p", "side1", "a")
		p.Spec.InitContainers[0].Lifecycle = preStop("1s")
		n.applySlice(slice(p, true))
		n.apply(p)
		n.net.set(false, time.Now().Add(4*time.Second))
		s.begin()
		time.AfterFunc(2*time.Second, func() { n.manager.Withdrawn(string(p.UID)) })
		n.delete(p, 30)
		if got := n.lasts("uid-p"); got != 6*time.Second {
			t.Error("it lasted", got)
		}
		s.want(t, "00.0 side1 hook", "04.0 a for 26s", "05.0 side1 for 25s")
	})
}

// A sidecar that ends before its turn holds nobody up.
func TestSidecarEndsBeforeItsTurn(t *testing.T) {
	sidecarTest(t, func(t *testing.T, n *node, s *stops) {
		n.script("a", takes(4))
		n.script("side1", takes(1))
		n.script("side2", fake.Program{After: 2 * time.Second})
		p := pod("p", "side1", "side2", "a")
		n.apply(p)
		s.begin()
		n.delete(p, 30)
		if got := n.lasts("uid-p"); got != 5*time.Second {
			t.Error("it lasted", got)
		}
		s.want(t, "00.0 a for 30s", "02.0 side2 for 28s", "04.0 side1 for 26s") // the engine is told of side2 in vain
	})
}
