package replicaset

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func replication(name string, replicas int32) *corev1.ReplicationController {
	l := map[string]string{"app": name}
	return &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ReplicationControllerSpec{
			Replicas: &replicas, Selector: l,
			Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: ct.PodSpec()},
		},
	}
}

// startBoth runs the controllers of both kinds, which must not meddle with each other's pods.
func startBoth(t *testing.T) *ct.Env {
	e, _ := start(t)
	e.Start(NewReplication(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

func TestReplicationKeepsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := startBoth(t)
		ct.Create(e, replication("web", 3))
		synctest.Wait()
		pods := ct.List[*corev1.Pod](e, "default")
		if len(pods) != 3 {
			t.Fatalf("%d pods, want 3", len(pods))
		}
		for _, p := range pods {
			ref := metav1.GetControllerOf(p)
			if ref == nil || ref.APIVersion != "v1" || ref.Kind != "ReplicationController" || ref.Name != "web" {
				t.Errorf("pod %s: owner %+v", p.Name, ref)
			}
		}
		ct.Delete[*corev1.Pod](e, "default", pods[0].Name, registry.DeleteOptions{})
		ct.SetReady(e, "default", pods[1].Name, "10.244.0.2", true)
		synctest.Wait()
		rc := ct.Get[*corev1.ReplicationController](e, "default", "web")
		if s := rc.Status; s.Replicas != 3 || s.ReadyReplicas != 1 || s.AvailableReplicas != 1 || s.FullyLabeledReplicas != 3 || s.ObservedGeneration != rc.Generation {
			t.Errorf("status %+v", s)
		}
		ct.Change(e, "default", "web", func(rc *corev1.ReplicationController) { one := int32(1); rc.Spec.Replicas = &one })
		synctest.Wait()
		if left := ct.List[*corev1.Pod](e, "default"); len(left) != 1 || left[0].Name != pods[1].Name {
			t.Errorf("left %d pods; want the ready one", len(left))
		}
		if ev := ct.Events(e, "web"); !slices.Contains(ev, "SuccessfulCreate: Created pod: "+pods[0].Name) || len(ev) != 6 {
			t.Errorf("events %q", ev)
		}
		// Settled, it writes nothing: a status that is always different would be written for ever.
		before := ct.Get[*corev1.ReplicationController](e, "default", "web").ResourceVersion
		ct.Settle(20 * time.Minute)
		if after := ct.Get[*corev1.ReplicationController](e, "default", "web").ResourceVersion; after != before {
			t.Errorf("written again at revision %s, settled at %s", after, before)
		}
	})
}

func TestReplicationAdoptsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := startBoth(t)
		ct.Create(e, ct.Pod("early", map[string]string{"app": "web"}))
		ct.Create(e, ct.Pod("other", map[string]string{"app": "other"}))
		ct.Create(e, replication("web", 1))
		synctest.Wait()
		early := ct.Get[*corev1.Pod](e, "default", "early")
		if ref := metav1.GetControllerOf(early); ref == nil || ref.Kind != "ReplicationController" || ref.Name != "web" {
			t.Errorf("the matching pod was not adopted: %v", ref)
		}
		if n := len(ct.List[*corev1.Pod](e, "default")); n != 2 {
			t.Errorf("%d pods, want 2", n)
		}
		ct.Change(e, "default", "early", func(p *corev1.Pod) { p.Labels["app"] = "debug" })
		synctest.Wait()
		if ref := metav1.GetControllerOf(ct.Get[*corev1.Pod](e, "default", "early")); ref != nil {
			t.Errorf("the pod taken out by its label was not released: %v", ref)
		}
		if n := len(ct.List[*corev1.Pod](e, "default")); n != 3 {
			t.Errorf("%d pods, want 3", n)
		}
	})
}

func TestReplicationFailureIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := startBoth(t)
		rc := replication("web", 2)
		rc.Spec.Template.Spec.ServiceAccountName = "missing"
		ct.Create(e, rc)
		ct.Settle(100 * time.Millisecond)
		s := ct.Get[*corev1.ReplicationController](e, "default", "web").Status
		if len(s.Conditions) != 1 || s.Conditions[0].Type != corev1.ReplicationControllerReplicaFailure || s.Conditions[0].Reason != "FailedCreate" {
			t.Fatalf("conditions %+v", s.Conditions)
		}
		if ev := ct.Events(e, "web"); len(ev) != 1 || !strings.HasPrefix(ev[0], `FailedCreate: Error creating: pods "web-" is forbidden: `) {
			t.Errorf("events %q", ev)
		}
		ct.Create(e, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "missing"}})
		ct.Settle(2 * time.Minute)
		s = ct.Get[*corev1.ReplicationController](e, "default", "web").Status
		if len(s.Conditions) != 0 || s.Replicas != 2 {
			t.Errorf("not recovered: %+v", s)
		}
	})
}
