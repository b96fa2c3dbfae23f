package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime/fake"
	"github.com/whalepod/whalepod/node/session"
	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/policy"
)

// testAgent is one whose data plane is up; nothing of it runs.
func testAgent(t *testing.T, engine *fake.Engine) *Agent {
	t.Helper()
	prefix := netip.MustParsePrefix("10.244.0.0/16")
	services, err := proxy.New(proxy.Config{PodCIDR: prefix, ClusterPodCIDR: prefix, ServiceCIDR: prefix, Applier: struct{ proxy.Applier }{}})
	if err != nil {
		t.Fatal(err)
	}
	state, err := desired.Open(desired.Config{})
	if err != nil {
		t.Fatal(err)
	}
	a := &Agent{
		desired: state,
		cfg:     Config{Identity: &session.Identity{Node: "n1"}, NodeIP: netip.MustParseAddr("198.51.100.11"), Engine: engine, DataDir: t.TempDir()},
		log:     slog.New(slog.DiscardHandler), plane: &dataPlane{proxy: services, policy: policy.New(policy.Config{})}, planeUp: make(chan struct{}),
	}
	a.guard = newGuard(guardConfig{DataDir: a.cfg.DataDir, Log: a.log})
	return a
}

// readiness that a status tells of; empty if it says nothing of it.
func readiness(s *corev1.NodeStatus) corev1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status
		}
	}
	return ""
}

// reporting runs a nodeReport; told is what it told of readiness.
func reporting(t *testing.T, a *Agent) (told func() []corev1.ConditionStatus) {
	var mu sync.Mutex
	var all []corev1.ConditionStatus
	r := &nodeReport{Agent: a, tell: func(s *corev1.NodeStatus) {
		mu.Lock()
		defer mu.Unlock()
		all = append(all, readiness(s))
	}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = r.run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return func() []corev1.ConditionStatus {
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		out := all
		all = nil
		return out
	}
}

func TestReportOfTheEngine(t *testing.T) {
	const yes, no = corev1.ConditionTrue, corev1.ConditionFalse
	synctest.Test(t, func(t *testing.T) {
		engine := fake.New("n1")
		told := reporting(t, testAgent(t, engine))
		want := func(what string, want ...corev1.ConditionStatus) {
			t.Helper()
			if got := told(); !slices.Equal(got, want) {
				t.Errorf("%s: told %v, want %v", what, got, want)
			}
		}
		want("start", yes)
		engine.Fail("Ping", errors.New("slow"), errors.New("slow"))
		time.Sleep(10 * time.Minute)
		want("a hiccup", yes) // told again because five minutes have passed
		time.Sleep(15 * time.Second)
		told()
		engine.Delay("Ping", time.Hour)
		time.Sleep(enginePatience)
		want("it is silent for a moment")
		time.Sleep(30 * time.Second)
		want("it hangs", no)
		engine.Delay("Ping", 0)
		time.Sleep(30 * time.Second)
		want("it goes on", yes)
		engine.Down()
		want("it goes away", no)
		time.Sleep(4 * time.Minute)
		want("it is still away")
		engine.Up()
		time.Sleep(engineRetryMost)
		want("it is back", yes)
	})
}

// Docker answers /info once it has had each container's lock, which takes seconds while it starts and ends some.
func TestSessionDoesNotWaitForABusyEngine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		engine := fake.New("n1")
		engine.Delay("Info", time.Hour)
		a := testAgent(t, engine)
		told := reporting(t, a)
		type facts struct {
			ready   corev1.ConditionStatus
			version string
			sized   bool
		}
		says := func(what string, want facts) {
			t.Helper()
			asked := time.Now()
			n, err := a.node(t.Context())
			if took := time.Since(asked); err != nil || took != 0 {
				t.Fatalf("described after %v: %v", took, err)
			}
			_, sized := n.Status.Capacity[corev1.ResourceEphemeralStorage]
			if got := (facts{readiness(&n.Status), n.Status.NodeInfo.ContainerRuntimeVersion, sized}); got != want {
				t.Errorf("%s: says %+v, want %+v", what, got, want)
			}
		}
		says("at the start", facts{})
		time.Sleep(infoTimeout)
		if got := told(); !slices.Equal(got, []corev1.ConditionStatus{corev1.ConditionTrue}) {
			t.Errorf("told %v", got)
		}
		says("the engine answers and has no time for more", facts{ready: corev1.ConditionTrue})
		time.Sleep(10 * time.Minute)
		if got := told(); slices.Contains(got, corev1.ConditionFalse) {
			t.Errorf("a container that hangs in its start makes the node unready: %v", got)
		}
		engine.Delay("Info", 0)
		time.Sleep(engineCheck + infoTimeout)
		says("it has time again", facts{corev1.ConditionTrue, "docker://28.5.2", true})
	})
}

// The network of an agent that was started again is there; it takes the agent a moment to find it.
func TestAgentThatReturnsIsNotUnready(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, fake.New("n1"))
		plane := a.plane
		a.plane, a.setUpBy = nil, time.Now().Add(setUpPatience)
		told := reporting(t, a)
		if got := told(); !slices.Equal(got, []corev1.ConditionStatus{""}) {
			t.Errorf("at the start told %v", got)
		}
		time.Sleep(100 * time.Millisecond)
		a.mu.Lock()
		a.plane = plane
		a.mu.Unlock()
		close(a.planeUp)
		if got := told(); !slices.Equal(got, []corev1.ConditionStatus{corev1.ConditionTrue}) {
			t.Errorf("with its network told %v", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		a := testAgent(t, fake.New("n1"))
		a.plane, a.setUpBy = nil, time.Now().Add(setUpPatience)
		told := reporting(t, a)
		time.Sleep(setUpPatience + engineCheck)
		if got := told(); got[len(got)-1] != corev1.ConditionFalse {
			t.Errorf("its network is missing; told %v", got)
		}
	})
}
