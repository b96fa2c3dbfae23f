package replicaset

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func manifest(name string, replicas int32) *appsv1.ReplicaSet {
	l := map[string]string{"app": name}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: l},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: ct.PodSpec()},
		},
	}
}

func start(t *testing.T) (*ct.Env, func()) {
	e := ct.New(t)
	return e, e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
}

func TestReplicasAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, manifest("web", 3))
		synctest.Wait()
		pods := ct.List[*corev1.Pod](e, "default")
		if len(pods) != 3 {
			t.Fatalf("%d pods, want 3", len(pods))
		}
		for _, p := range pods {
			if !strings.HasPrefix(p.Name, "web-") || p.Labels["app"] != "web" || metav1.GetControllerOf(p).Name != "web" {
				t.Errorf("pod %s, labels %v, owners %v", p.Name, p.Labels, p.OwnerReferences)
			}
		}
		ct.Delete[*corev1.Pod](e, "default", pods[0].Name, registry.DeleteOptions{})
		ct.SetReady(e, "default", pods[1].Name, "10.244.0.2", true)
		synctest.Wait()
		rs := ct.Get[*appsv1.ReplicaSet](e, "default", "web")
		if s := rs.Status; s.Replicas != 3 || s.ReadyReplicas != 1 || s.AvailableReplicas != 1 || s.FullyLabeledReplicas != 3 || s.ObservedGeneration != rs.Generation {
			t.Errorf("status %+v", s)
		}
		ct.Change(e, "default", "web", func(rs *appsv1.ReplicaSet) { one := int32(1); rs.Spec.Replicas = &one })
		synctest.Wait()
		left := ct.List[*corev1.Pod](e, "default")
		if len(left) != 1 || left[0].Name != pods[1].Name {
			t.Errorf("left %d pods; want the ready one", len(left))
		}
		events := ct.Events(e, "web")
		if !slices.Contains(events, "SuccessfulCreate: Created pod: "+pods[0].Name) || len(events) != 6 {
			t.Errorf("events %q", events)
		}
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, ct.Pod("early", map[string]string{"app": "web"}))
		ct.Create(e, ct.Pod("other", map[string]string{"app": "other"}))
		ct.Create(e, manifest("web", 2))
		synctest.Wait()
		if ref := metav1.GetControllerOf(ct.Get[*corev1.Pod](e, "default", "early")); ref == nil || ref.Name != "web" {
			t.Errorf("the matching pod was not adopted: %v", ref)
		}
		if ref := metav1.GetControllerOf(ct.Get[*corev1.Pod](e, "default", "other")); ref != nil {
			t.Errorf("a pod that does not match was adopted: %v", ref)
		}
		if n := len(ct.List[*corev1.Pod](e, "default")); n != 3 {
			t.Errorf("%d pods, want 3", n)
		}
		ct.Change(e, "default", "early", func(p *corev1.Pod) { p.Labels["app"] = "debug" })
		synctest.Wait()
		if ref := metav1.GetControllerOf(ct.Get[*corev1.Pod](e, "default", "early")); ref != nil {
			t.Errorf("the pod taken out by its label was not released: %v", ref)
		}
		if n := len(ct.List[*corev1.Pod](e, "default")); n != 4 {
			t.Errorf("%d pods, want 4", n)
		}
		// Put back, it makes one too many.
		ct.Change(e, "default", "early", func(p *corev1.Pod) { p.Labels["app"] = "web" })
		synctest.Wait()
		if n := len(ct.List[*corev1.Pod](e, "default")); n != 3 {
			t.Errorf("%d pods, want 3", n)
		}
	})
}

func TestMinReadySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		rs := manifest("web", 1)
		rs.Spec.MinReadySeconds = 10
		ct.Create(e, rs)
		synctest.Wait()
		ct.SetReady(e, "default", ct.List[*corev1.Pod](e, "default")[0].Name, "10.244.0.2", true)
		ct.Settle(9 * time.Second)
		if s := ct.Get[*appsv1.ReplicaSet](e, "default", "web").Status; s.ReadyReplicas != 1 || s.AvailableReplicas != 0 {
			t.Errorf("after 9 s: %+v", s)
		}
		ct.Settle(time.Second)
		if s := ct.Get[*appsv1.ReplicaSet](e, "default", "web").Status; s.AvailableReplicas != 1 {
			t.Errorf("after 10 s: %+v", s)
		}
	})
}

func TestFailureIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		rs := manifest("web", 2)
		rs.Spec.Template.Spec.ServiceAccountName = "missing"
		ct.Create(e, rs)
		ct.Settle(100 * time.Millisecond)
		s := ct.Get[*appsv1.ReplicaSet](e, "default", "web").Status
		if len(s.Conditions) != 1 || s.Conditions[0].Type != appsv1.ReplicaSetReplicaFailure || s.Conditions[0].Reason != "FailedCreate" {
			t.Fatalf("conditions %+v", s.Conditions)
		}
		// Generated names left out, all attempts are one event with a count.
		if ev := ct.Events(e, "web"); len(ev) != 1 || !strings.HasPrefix(ev[0], `FailedCreate: Error creating: pods "web-" is forbidden: `) {
			t.Errorf("events %q", ev)
		}
		ct.Create(e, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "missing"}})
		ct.Settle(2 * time.Minute)
		s = ct.Get[*appsv1.ReplicaSet](e, "default", "web").Status
		if len(s.Conditions) != 0 || s.Replicas != 2 {
			t.Errorf("not recovered: %+v", s)
		}
	})
}

// A namespace's default limit that is less than what the template asks for makes no pods that nobody could change any more.
func TestDefaultLimitBelowTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		amount := func(q string) corev1.ResourceList {
			return corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(q)}
		}
		ct.Create(e, &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "limits"}, Spec: corev1.LimitRangeSpec{
			Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer, Default: amount("512Mi"), DefaultRequest: amount("512Mi")}},
		}})
		rs := manifest("web", 2)
		rs.Spec.Template.Spec.Containers[0].Resources.Requests = amount("1Gi")
		ct.Create(e, rs)
		ct.Settle(100 * time.Millisecond)
		if s := ct.Get[*appsv1.ReplicaSet](e, "default", "web").Status; s.Replicas != 0 || len(s.Conditions) != 1 || s.Conditions[0].Reason != "FailedCreate" {
			t.Errorf("%+v", s)
		}
		const want = `FailedCreate: Error creating: Pod "web-" is invalid: spec.containers[0].resources.requests: Invalid value: "1Gi": must be less than or equal to memory limit of 512Mi`
		if ev := ct.Events(e, "web"); len(ev) != 1 || !strings.HasPrefix(ev[0], want) {
			t.Errorf("events %q", ev)
		}
	})
}

func TestManyReplicasInSteps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, manifest("web", 2*burst+50))
		ct.Settle(time.Second)
		if s := ct.Get[*appsv1.ReplicaSet](e, "default", "web").Status; s.Replicas != 2*burst+50 {
			t.Errorf("%d replicas, want %d", s.Replicas, 2*burst+50)
		}
	})
}
