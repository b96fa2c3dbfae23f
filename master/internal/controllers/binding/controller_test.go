package binding

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func start(t testing.TB) *ct.Env {
	e := ct.New(t)
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

func requesting(name, cpu string) *corev1.Pod {
	p := ct.Pod(name, nil)
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	return p
}

func TestPodIsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		ct.Create(e, ct.Pod("web", nil))
		synctest.Wait()
		p := ct.Get[*corev1.Pod](e, "default", "web")
		if c := podstate.Condition(p, corev1.PodScheduled); p.Spec.NodeName != "node1" || c == nil || c.Status != corev1.ConditionTrue {
			t.Fatalf("node %q, conditions %v", p.Spec.NodeName, p.Status.Conditions)
		}
		if ev := ct.Events(e, "web"); len(ev) != 1 || ev[0] != "Scheduled: Successfully assigned default/web to node1" {
			t.Errorf("events %q", ev)
		}
	})
}

func TestUnschedulableIsRetriedWhenRoomComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		ct.Create(e, requesting("first", "3"))
		synctest.Wait()
		ct.Create(e, requesting("second", "3"))
		ct.Settle(time.Minute)
		p := ct.Get[*corev1.Pod](e, "default", "second")
		c := podstate.Condition(p, corev1.PodScheduled)
		if p.Spec.NodeName != "" || c == nil || c.Reason != "Unschedulable" || !strings.HasPrefix(c.Message, "0/1 nodes are available: 1 Insufficient cpu.") {
			t.Fatalf("node %q, condition %v", p.Spec.NodeName, c)
		}
		if ev := ct.Events(e, "second"); len(ev) != 1 || !strings.HasPrefix(ev[0], "FailedScheduling: 0/1 nodes") || strings.Contains(ev[0], " x") {
			t.Errorf("tried again although nothing changed: %q", ev)
		}
		zero := int64(0)
		ct.Delete[*corev1.Pod](e, "default", "first", registry.DeleteOptions{GracePeriodSeconds: &zero})
		ct.Settle(time.Second)
		if p := ct.Get[*corev1.Pod](e, "default", "second"); p.Spec.NodeName != "node1" {
			t.Errorf("not bound although there is room: %v", p.Status.Conditions)
		}
		ct.Create(e, requesting("third", "3"))
		ct.Settle(time.Second)
		ct.Node(e, "node2")
		ct.Settle(time.Second)
		if p := ct.Get[*corev1.Pod](e, "default", "third"); p.Spec.NodeName != "node2" {
			t.Errorf("not bound to the new node: %v", p.Status.Conditions)
		}
	})
}

func TestPodWaitsForItsCompany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		p := ct.Pod("web", nil)
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: "kubernetes.io/hostname", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}}}
		ct.Change(e, "", "node1", func(n *corev1.Node) { n.Labels = map[string]string{"kubernetes.io/hostname": "node1"} })
		ct.Create(e, p)
		ct.Settle(time.Second)
		if p := ct.Get[*corev1.Pod](e, "default", "web"); p.Spec.NodeName != "" {
			t.Fatal("bound without its company")
		}
		ct.Create(e, ct.Pod("db", map[string]string{"app": "db"}))
		ct.Settle(time.Second)
		if p := ct.Get[*corev1.Pod](e, "default", "web"); p.Spec.NodeName != "node1" {
			t.Errorf("not bound although its company is there: %v", p.Status.Conditions)
		}
	})
}

// TestNeverOvercommits: more pods than fit arrive together with pods that name their node themselves.
func TestNeverOvercommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		for i := range 3 {
			ct.Node(e, fmt.Sprintf("node%d", i))
		}
		for i := range 20 {
			p := requesting(fmt.Sprintf("p%d", i), "1")
			if i < 2 {
				p.Spec.NodeName = "node0"
			}
			ct.Create(e, p)
		}
		ct.Settle(time.Second)
		used := map[string]int{}
		for _, p := range ct.List[*corev1.Pod](e, "default") {
			used[p.Spec.NodeName]++
		}
		if used["node0"] != 4 || used["node1"] != 4 || used["node2"] != 4 || used[""] != 8 {
			t.Errorf("pods on nodes: %v", used)
		}
	})
}

// BenchmarkBinding binds pods that exist already: decisions, commits to a real disk, conditions and events.
func BenchmarkBinding(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) { benchmarkBinding(b, nodes) })
	}
}

func benchmarkBinding(b *testing.B, nodes int) {
	e := ct.New(b)
	for i := range nodes {
		ct.Node(e, fmt.Sprintf("node-%04d", i))
	}
	for done := 0; done < b.N; {
		e.Update(func(tx *registry.Tx) error {
			for range min(500, b.N-done) {
				done++
				if _, err := registry.Create(tx, requesting(fmt.Sprintf("p%d", done), "1m")); err != nil {
					return err
				}
			}
			return nil
		})
	}
	b.ResetTimer()
	w, err := e.Registry.ViewAndWatch([]string{"pods"}, func(*registry.View) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	for bound := 0; bound < b.N; {
		events, err := w.Next(e.Ctx, 1000)
		if err != nil {
			b.Fatal(err)
		}
		for _, ev := range events {
			if ev.Object.(*corev1.Pod).Spec.NodeName != "" {
				bound++
			}
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
