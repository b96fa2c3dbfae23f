package controllertest_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controller"
	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// watcher counts the turns of each ConfigMap.
type watcher struct {
	mu    sync.Mutex
	turns map[string][]time.Duration
	do    func(name string, turn int) (time.Duration, error)
}

func (w *watcher) loop(e *ct.Env, workers int) *controller.Loop {
	start := time.Now()
	return controller.New(controller.Config{
		Name: "test", Registry: e.Registry, Logger: e.Logger, Watch: []string{"configmaps"}, Workers: workers,
		Keys: func(_ *registry.View, ev registry.Event, add func(controller.Key)) { add(ev.Key) },
		All: func(v *registry.View, add func(controller.Key)) {
			for cm := range registry.List[*corev1.ConfigMap](v, "") {
				add(controller.Key{Resource: "configmaps", Namespace: cm.Namespace, Name: cm.Name})
			}
		},
		Reconcile: func(_ context.Context, key controller.Key) (time.Duration, error) {
			w.mu.Lock()
			w.turns[key.Name] = append(w.turns[key.Name], time.Since(start))
			n := len(w.turns[key.Name])
			w.mu.Unlock()
			return w.do(key.Name, n)
		},
	})
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func TestLoopStartsEventsDelaysAndErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		ct.Create(e, configMap("before"))
		w := &watcher{turns: map[string][]time.Duration{}, do: func(name string, turn int) (time.Duration, error) {
			switch {
			case name == "later" && turn == 1:
				return time.Minute, nil
			case name == "fails" && turn < 4:
				return 0, errors.New("not yet")
			}
			return 0, nil
		}}
		e.Start(w.loop(e, 2).Run)
		synctest.Wait()
		ct.Create(e, configMap("later"))
		ct.Create(e, configMap("fails"))
		ct.Settle(2 * time.Minute)
		count := func(name string) int { w.mu.Lock(); defer w.mu.Unlock(); return len(w.turns[name]) }
		if count("before") != 1 || count("later") != 2 || count("fails") != 4 {
			t.Errorf("turns: before %d, later %d, fails %d; want 1, 2, 4", count("before"), count("later"), count("fails"))
		}
		w.mu.Lock()
		if at := w.turns["later"][1]; at != time.Minute {
			t.Errorf("second turn after %v", at)
		}
		w.mu.Unlock()
		ct.Settle(2 * controller.DefaultResync)
		if count("before") < 2 {
			t.Error("no resync")
		}
	})
}

// TestLoopListsAnewWhenOvertaken: a watch that lags behind the history loses events but no object.
func TestLoopListsAnewWhenOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		w := &watcher{turns: map[string][]time.Duration{}, do: func(string, int) (time.Duration, error) { return 0, nil }}
		l := w.loop(e, 1)
		const many = 9000 // more than the store keeps
		e.Start(l.Run)
		for i := 0; i < many; i += 500 {
			e.Update(func(tx *registry.Tx) error {
				for j := range 500 {
					if _, err := registry.Create(tx, configMap(fmt.Sprintf("c%05d", i+j))); err != nil {
						return err
					}
				}
				return nil
			})
		}
		ct.Settle(time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.turns) != many {
			t.Errorf("%d of %d objects had a turn", len(w.turns), many)
		}
	})
}
