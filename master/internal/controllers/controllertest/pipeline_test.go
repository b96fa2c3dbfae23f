package controllertest_test

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/controllers/binding"
	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/deployment"
	"github.com/whalepod/whalepod/master/internal/controllers/endpoints"
	"github.com/whalepod/whalepod/master/internal/controllers/gc"
	"github.com/whalepod/whalepod/master/internal/controllers/namespace"
	"github.com/whalepod/whalepod/master/internal/controllers/nodelife"
	"github.com/whalepod/whalepod/master/internal/controllers/replicaset"
	"github.com/whalepod/whalepod/master/internal/controllers/serviceaccount"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// words is a witness whose nodes are alive until said otherwise.
type words struct {
	mu      sync.Mutex
	said    map[string]bool
	changed chan struct{}
}

func (w *words) say(name string, alive bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said[name] = alive
}

func (w *words) States() map[string]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.said)
}

func (w *words) Alive() map[string]bool   { return w.States() }
func (w *words) Heard(string) time.Time   { return time.Time{} }
func (w *words) Changed() <-chan struct{} { return w.changed }

func startAll(e *ct.Env, w *words) {
	for _, run := range []func(context.Context) error{
		namespace.New(namespace.Config{Registry: e.Registry, Logger: e.Logger}).Run,
		serviceaccount.New(serviceaccount.Config{Registry: e.Registry, Logger: e.Logger}).Run,
		deployment.New(deployment.Config{Registry: e.Registry, Logger: e.Logger}).Run,
		replicaset.New(replicaset.Config{Registry: e.Registry, Logger: e.Logger}).Run,
		binding.New(binding.Config{Registry: e.Registry, Logger: e.Logger}).Run,
		endpoints.New(endpoints.Config{Registry: e.Registry, Logger: e.Logger}).Run,
		gc.New(gc.Config{Registry: e.Registry, Logger: e.Logger}).Run,
		nodelife.New(nodelife.Config{Registry: e.Registry, Logger: e.Logger, Sessions: w, Gossip: w}).Run,
	} {
		e.Start(run)
	}
}

func web(n int32) *appsv1.Deployment {
	l := map[string]string{"app": "web"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: l},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: ct.PodSpec()},
		},
	}
}

func readyEndpoints(e *ct.Env) (n int) {
	for _, s := range ct.List[*discoveryv1.EndpointSlice](e, "default") {
		for _, ep := range s.Endpoints {
			if *ep.Conditions.Ready {
				n++
			}
		}
	}
	return n
}

func makeReady(e *ct.Env, lost string) {
	for i, p := range ct.List[*corev1.Pod](e, "default") {
		if p.Spec.NodeName != "" && p.Spec.NodeName != lost && p.Status.PodIP == "" {
			ct.SetReady(e, "default", p.Name, fmt.Sprintf("10.244.%d.%d", i/200, i%200+2), true)
		}
	}
	ct.Settle(100 * time.Millisecond)
}

// TestFromDeploymentToEndpointsAndBack: a Deployment becomes pods on different nodes behind a Service; a machine dies, its
// endpoints go at once and its replicas come up elsewhere after the grace period; deleted, it leaves nothing behind.
func TestFromDeploymentToEndpointsAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		w := &words{said: map[string]bool{}, changed: make(chan struct{}, 1)}
		for i := range 3 {
			name := fmt.Sprintf("node%d", i+1)
			w.say(name, true)
			ct.Node(e, name)
		}
		startAll(e, w)
		ct.Create(e, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
			Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "web"},
				Ports: []corev1.ServicePort{{Port: 80, Protocol: "TCP", TargetPort: intstr.FromInt32(8080)}}},
		})
		ct.Create(e, web(3))
		ct.Settle(time.Second)
		on := map[string]int{}
		for _, p := range ct.List[*corev1.Pod](e, "default") {
			on[p.Spec.NodeName]++
		}
		if on["node1"] != 1 || on["node2"] != 1 || on["node3"] != 1 {
			t.Fatalf("pods on nodes: %v", on)
		}
		makeReady(e, "")
		if n := readyEndpoints(e); n != 3 {
			t.Fatalf("%d endpoints ready, want 3", n)
		}
		synctest.Wait()
		w.say("node3", false)
		w.changed <- struct{}{}
		synctest.Wait()
		if n := readyEndpoints(e); n != 2 {
			t.Errorf("%d endpoints ready at the moment of the death, want 2", n)
		}
		ct.Settle(11 * time.Second)
		makeReady(e, "node3")
		if n := readyEndpoints(e); n != 3 {
			t.Errorf("%d endpoints ready after the grace period, want 3", n)
		}
		ct.Delete[*appsv1.Deployment](e, "default", "web", registry.DeleteOptions{})
		ct.Settle(time.Second)
		for _, p := range ct.List[*corev1.Pod](e, "default") {
			if p.DeletionTimestamp == nil {
				t.Errorf("pod %s outlives its Deployment", p.Name)
			}
		}
		if n := len(ct.List[*appsv1.ReplicaSet](e, "default")); n != 0 {
			t.Errorf("%d ReplicaSets outlive their Deployment", n)
		}
	})
}

// BenchmarkPipeline creates a Deployment of b.N replicas on 1,000 nodes and waits until all are bound.
func BenchmarkPipeline(b *testing.B) {
	e := ct.New(b)
	w := &words{said: map[string]bool{}, changed: make(chan struct{}, 1)}
	for i := range 1000 {
		name := fmt.Sprintf("node-%04d", i)
		w.say(name, true)
		ct.Node(e, name)
	}
	startAll(e, w)
	watch, err := e.Registry.ViewAndWatch([]string{"pods"}, func(*registry.View) error { return nil })
	if err != nil {
		b.Fatal(err)
	}
	defer watch.Close()
	b.ResetTimer()
	ct.Create(e, web(int32(b.N)))
	for bound := 0; bound < b.N; {
		events, err := watch.Next(e.Ctx, 1000)
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
