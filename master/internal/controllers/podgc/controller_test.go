package podgc

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
)

func makePod(e *ct.Env, name string, phase corev1.PodPhase, reason string) {
	e.T.Helper()
	ct.Create(e, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
	})
	ct.ChangeStatus(e, "default", name, func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = phase, reason })
}

func names(e *ct.Env) (out []string) {
	for _, p := range ct.List[*corev1.Pod](e, "default") {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return out
}

func TestOldestEndedPodsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		makePod(e, "a-old", corev1.PodFailed, "")
		makePod(e, "a-runs", corev1.PodRunning, "")
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger, Threshold: 3}).Run)
		for _, p := range []struct {
			name, reason string
			phase        corev1.PodPhase
		}{{"b", "", corev1.PodSucceeded}, {"c", "", corev1.PodFailed}, {"c-pending", "", corev1.PodPending}} {
			time.Sleep(2 * time.Second)
			makePod(e, p.name, p.phase, p.reason)
		}
		ct.Settle(time.Minute)
		if got := names(e); !slices.Equal(got, []string{"a-old", "a-runs", "b", "c", "c-pending"}) {
			t.Errorf("as many as may be: %v", got)
		}
		makePod(e, "d-evicted", corev1.PodFailed, "Evicted")
		ct.Settle(time.Minute)
		if got := names(e); !slices.Equal(got, []string{"a-old", "a-runs", "b", "c", "c-pending"}) {
			t.Errorf("one more, evicted: %v", got)
		}
		makePod(e, "e", corev1.PodSucceeded, "")
		ct.Settle(time.Minute)
		if got := names(e); !slices.Equal(got, []string{"a-runs", "b", "c", "c-pending", "e"}) {
			t.Errorf("one more: %v", got)
		}
	})
}

func TestManyEndedPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for threshold, many := range map[int]int{10: burst + 50, 0: 5} {
			e := ct.New(t)
			for i := range many {
				makePod(e, fmt.Sprintf("p-%03d", i), corev1.PodFailed, "")
			}
			e.Start(New(Config{Registry: e.Registry, Logger: e.Logger, Threshold: threshold}).Run)
			ct.Settle(time.Minute)
			want := threshold
			if threshold == 0 {
				want = many
			}
			if got := len(names(e)); got != want {
				t.Errorf("threshold %d: %d are left", threshold, got)
			}
		}
	})
}
