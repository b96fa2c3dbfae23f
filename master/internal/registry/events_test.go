package registry_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func (e *env) eventList() (out []*corev1.Event) {
	synctest.Wait()
	list, err := e.List(e.ctx, res("events"), server.ListQuery{})
	if err != nil {
		e.Fatal(err)
	}
	for _, o := range list.Items {
		out = append(out, o.(*corev1.Event))
	}
	return out
}

func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		p := mustCreate(e, pod("web"))
		record := func(message string) {
			e.Record(p, corev1.EventTypeNormal, "Pulled", message, "kubelet")
		}
		record("same")
		record("same")
		time.Sleep(5 * time.Minute)
		record("same")
		record("different")
		got := e.eventList()
		if len(got) != 2 || got[0].Count != 3 || got[0].InvolvedObject.UID != p.UID || got[0].InvolvedObject.Kind != "Pod" ||
			got[0].Namespace != "default" || got[0].LastTimestamp.Sub(got[0].FirstTimestamp.Time) != 5*time.Minute || got[1].Count != 1 {
			t.Fatalf("%+v", got)
		}
		// What an agent tells late counts, and turns no clock back.
		e.RecordEvent(registry.EventInput{Object: got[0].InvolvedObject, Type: "Normal", Reason: "Pulled", Message: "same", Component: "kubelet", Time: time.Now().Add(-time.Minute)})
		if again := e.eventList(); len(again) != 2 || again[0].Count != 4 || again[0].LastTimestamp != got[0].LastTimestamp {
			t.Errorf("told late: %+v", again[0])
		}
		time.Sleep(11 * time.Minute)
		record("same")
		if got := e.eventList(); len(got) != 3 {
			t.Errorf("after the fold: %d events", len(got))
		}
		// A folded event that somebody deleted begins anew.
		for _, ev := range e.eventList() {
			if _, _, err := e.Registry.Delete(e.ctx, res("events"), ev.Namespace, ev.Name, server.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
		}
		record("same")
		if got := e.eventList(); len(got) != 1 || got[0].Count != 1 {
			t.Errorf("%+v", got)
		}
		time.Sleep(50 * time.Minute)
		if len(e.eventList()) != 1 {
			t.Error("an event went too early")
		}
		time.Sleep(20 * time.Minute)
		if len(e.eventList()) != 0 {
			t.Error("an event stayed too long")
		}
	})
}

func TestEventsOfMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		node := mustCreate(e, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		e.Record(node, "Normal", "NodeReady", "ready", "nodelife")
		ns := mustCreate(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "old"}})
		p := pod("web")
		p.Namespace = "old"
		p = mustCreate(e, p)
		if _, err := e.delete(ns, server.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		e.Record(p, "Normal", "Killing", "to a namespace that is being emptied", "kubelet")
		got := e.eventList()
		if len(got) != 1 || got[0].Namespace != "default" || got[0].InvolvedObject.Kind != "Node" || got[0].InvolvedObject.Namespace != "" {
			t.Errorf("%+v", got)
		}
		began := time.Now()
		for i := range 5000 { // nobody waits; what is too much is dropped
			e.Record(node, "Normal", "Burst", fmt.Sprint(i), "test")
		}
		if got := len(e.eventList()); got < 1000 || time.Since(began) > 0 {
			t.Errorf("%d events of a burst, in %v", got, time.Since(began))
		}
	})
}
