package node

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure/meter"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// fakeUse is what containers have used, by ID; "" is the machine.
type fakeUse map[string]meter.Use

func (f fakeUse) Use(c meter.Container, _ *meter.Buffer) (meter.Use, error) {
	u, ok := f[c.ID]
	if !ok {
		return u, errors.New("gone")
	}
	return u, nil
}

func (f fakeUse) Machine(*meter.Buffer) (meter.Use, error) { return f[""], nil }

func active(name string, containers ...string) pods.Active {
	a := pods.Active{Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: "uid-1"}}}
	for _, c := range containers {
		a.Running = append(a.Running, pods.Process{Name: c, ID: "id-" + c})
	}
	return a
}

func TestUsage(t *testing.T) {
	use := fakeUse{"": {CPU: time.Hour, Memory: 1 << 30}, "id-a": {CPU: time.Second, Memory: 100}, "id-b": {CPU: 0, Memory: 7}}
	list := []pods.Active{active("web", "a", "b")}
	r := &usageReport{meter: use, log: slog.New(slog.DiscardHandler), containers: map[string]*measured{}, running: func(each func(pods.Active)) {
		for _, a := range list {
			each(a)
		}
	}}
	now := time.Unix(1000, 0)
	if u := r.look(now, true); u == nil || u.Partial || u.Node != nil || len(u.Pods) != 0 {
		t.Fatalf("a first measurement gives no rate: %v", u)
	}
	now = now.Add(5 * time.Second)
	use[""], use["id-a"] = meter.Use{CPU: time.Hour + 10*time.Second, Memory: 2 << 30}, meter.Use{CPU: 2 * time.Second, Memory: 200}
	u := r.look(now, false)
	if u == nil || !u.Partial || u.UnixNano != now.UnixNano() || u.Node.GetCpuNanos() != 2e9 || u.Node.GetMemory() != 2<<30 || u.Node.GetWindowMillis() != 5000 {
		t.Fatalf("new pods are measured again soon: %v", u)
	}
	want := []*agentv1.Sample{{CpuNanos: 2e8, Memory: 200, WindowMillis: 5000}, {CpuNanos: 0, Memory: 7, WindowMillis: 5000}}
	if len(u.Pods) != 1 || u.Pods[0].Name != "web" || u.Pods[0].Uid != "uid-1" || len(u.Pods[0].Containers) != 2 {
		t.Fatalf("%v", u)
	}
	for i, c := range u.Pods[0].Containers {
		if s := c.Sample; s.CpuNanos != want[i].CpuNanos || s.Memory != want[i].Memory || s.WindowMillis != want[i].WindowMillis {
			t.Errorf("%s: %v, want %v", c.Name, s, want[i])
		}
	}
	if u := r.look(now.Add(5*time.Second), false); u != nil {
		t.Errorf("what has been told is measured again only with everything else: %v", u)
	}
	if u := r.look(now.Add(15*time.Second), true); len(u.Pods) != 1 || u.Pods[0].Containers[0].Sample.WindowMillis != 15000 || u.Node.GetWindowMillis() != 15000 {
		t.Errorf("%v", u)
	}
	// A container that comes later holds the pod up until it has a rate of its own.
	now = now.Add(20 * time.Second)
	list[0] = active("web", "a", "c")
	use["id-c"] = meter.Use{CPU: time.Second}
	if u := r.look(now, false); u != nil {
		t.Errorf("half of a pod: %v", u)
	}
	use["id-c"] = meter.Use{CPU: 2 * time.Second}
	if u := r.look(now.Add(5*time.Second), false); u == nil || len(u.Pods) != 1 || u.Pods[0].Containers[1].Sample.CpuNanos != 2e8 {
		t.Errorf("%v", u)
	}
	// One that cannot be measured hides the pod; those that are gone are forgotten.
	delete(use, "id-a")
	now = now.Add(10 * time.Second)
	if u := r.look(now, true); len(u.Pods) != 0 || u.Node == nil {
		t.Errorf("%v", u)
	}
	list = nil
	if u := r.look(now.Add(15*time.Second), true); u == nil || len(u.Pods) != 0 || len(r.containers) != 0 {
		t.Errorf("%v, %d remembered", u, len(r.containers))
	}
}
