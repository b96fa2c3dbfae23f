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

// reporting runs a nodeReport of an agent whose data plane is up; told is what it told of readiness.
func reporting(t *testing.T, engine *fake.Engine) (told func() []corev1.ConditionStatus) {
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
	var mu sync.Mutex
	var all []corev1.ConditionStatus
	r := &nodeReport{Agent: a, tell: func(s *corev1.NodeStatus) {
		mu.Lock()
		defer mu.Unlock()
		i := slices.IndexFunc(s.Conditions, func(c corev1.NodeCondition) bool { return c.Type == corev1.NodeReady })
		all = append(all, s.Conditions[i].Status)
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
		told := reporting(t, engine)
		want := func(what string, want ...corev1.ConditionStatus) {
			t.Helper()
			if got := told(); !slices.Equal(got, want) {
				t.Errorf("%s: told %v, want %v", what, got, want)
			}
		}
		want("start", yes)
		engine.Fail("Info", errors.New("slow"), errors.New("slow"))
		time.Sleep(10 * time.Minute)
		want("a hiccup", yes) // told again because five minutes have passed
		time.Sleep(15 * time.Second)
		told()
		engine.Delay("Info", time.Hour)
		time.Sleep(enginePatience)
		want("it is silent for a moment")
		time.Sleep(30 * time.Second)
		want("it hangs", no)
		engine.Delay("Info", 0)
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
