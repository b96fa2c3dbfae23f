package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func manifest(replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	l := map[string]string{"app": "db"}
	set := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "redis", Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: ct.PodSpec()},
		},
	}
	for _, f := range change {
		f(set)
	}
	return set
}

func parallel(set *appsv1.StatefulSet) { set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }

func rolling(partition int32, max string) func(*appsv1.StatefulSet) {
	return func(set *appsv1.StatefulSet) {
		r := &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition}
		if max != "" {
			r.MaxUnavailable = new(intstr.Parse(max))
		}
		set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: r}
	}
}

func start(t *testing.T) *ct.Env {
	e := ct.New(t)
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

// settle lets everything happen that needs no time, and back-off of a few turns.
func settle() { ct.Settle(time.Second) }

// serve has a pod run on a node and be ready.
func serve(e *ct.Env, name string) {
	e.T.Helper()
	bind(e, name)
	ct.SetReady(e, "default", name, "10.244.0.9", true)
	settle()
}

func bind(e *ct.Env, name string) {
	e.T.Helper()
	e.Update(func(tx *registry.Tx) error {
		pod, err := registry.Get[*corev1.Pod](tx, "default", name)
		if err != nil || pod.Spec.NodeName != "" {
			return err
		}
		return tx.Bind(pod, "n1")
	})
}

// finish is what the agent does when a pod that is being deleted has ended.
func finish(e *ct.Env, name string) {
	e.T.Helper()
	if ct.Get[*corev1.Pod](e, "default", name).DeletionTimestamp == nil {
		e.T.Fatalf("%s is not being deleted", name)
	}
	now := int64(0)
	ct.Delete[*corev1.Pod](e, "default", name, registry.DeleteOptions{GracePeriodSeconds: &now})
	settle()
}

// state shows the pods as in "db-0* db-1- db-2~": ready, not ready, being deleted.
func state(e *ct.Env) string {
	var out []string
	for _, p := range ct.List[*corev1.Pod](e, "default") {
		mark := "-"
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
				mark = "*"
			}
		}
		if p.DeletionTimestamp != nil {
			mark = "~"
		}
		out = append(out, p.Name+mark)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func expect(e *ct.Env, want string) {
	e.T.Helper()
	settle()
	if got := state(e); got != want {
		e.T.Fatalf("pods %q, want %q", got, want)
	}
}

func counts(e *ct.Env) string {
	s := ct.Get[*appsv1.StatefulSet](e, "default", "db").Status
	return fmt.Sprintf("%d pods, %d ready, %d available, %d current, %d updated", s.Replicas, s.ReadyReplicas, s.AvailableReplicas, s.CurrentReplicas, s.UpdatedReplicas)
}

func expectCounts(e *ct.Env, want string) {
	e.T.Helper()
	settle()
	if got := counts(e); got != want {
		e.T.Errorf("status %q, want %q", got, want)
	}
}

func revisionOf(e *ct.Env, pod string) string {
	return ct.Get[*corev1.Pod](e, "default", pod).Labels[appsv1.StatefulSetRevisionLabel]
}

func scale(e *ct.Env, n int32) {
	ct.Change(e, "default", "db", func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
}

func setImage(e *ct.Env, image string) {
	ct.Change(e, "default", "db", func(s *appsv1.StatefulSet) { s.Spec.Template.Spec.Containers[0].Image = image })
}

func TestPodsAreMadeInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(3))
		expect(e, "db-0-")
		expectCounts(e, "1 pods, 0 ready, 0 available, 1 current, 1 updated")
		bind(e, "db-0")
		expect(e, "db-0-")
		serve(e, "db-0")
		expect(e, "db-0* db-1-")
		serve(e, "db-1")
		serve(e, "db-2")
		expect(e, "db-0* db-1* db-2*")
		expectCounts(e, "3 pods, 3 ready, 3 available, 3 current, 3 updated")

		pod := ct.Get[*corev1.Pod](e, "default", "db-2")
		set := ct.Get[*appsv1.StatefulSet](e, "default", "db")
		if pod.Spec.Hostname != "db-2" || pod.Spec.Subdomain != "redis" || pod.Labels["statefulset.kubernetes.io/pod-name"] != "db-2" ||
			pod.Labels["apps.kubernetes.io/pod-index"] != "2" || pod.Labels["controller-revision-hash"] != set.Status.UpdateRevision || !metav1.IsControlledBy(pod, set) {
			t.Errorf("identity: %+v %+v", pod.ObjectMeta, pod.Spec)
		}
		if set.Status.ObservedGeneration != set.Generation || set.Status.CurrentRevision != set.Status.UpdateRevision || *set.Status.CollisionCount != 0 {
			t.Errorf("status %+v", set.Status)
		}
		if got := ct.Events(e, "db"); len(got) != 3 || got[0] != "SuccessfulCreate: Create Pod db-0 in StatefulSet db successful" {
			t.Errorf("events %q", got)
		}
	})
}

func TestScaleDownGoesBackwardsAndWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(3, parallel))
		settle()
		for _, name := range []string{"db-0", "db-1", "db-2"} {
			serve(e, name)
		}
		ct.Change(e, "default", "db", func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement })
		ct.SetReady(e, "default", "db-0", "10.244.0.9", false)
		scale(e, 1)
		expect(e, "db-0- db-1* db-2*") // halted
		ct.SetReady(e, "default", "db-0", "10.244.0.9", true)
		expect(e, "db-0* db-1* db-2~")
		expectCounts(e, "3 pods, 3 ready, 3 available, 2 current, 2 updated")
		ct.SetReady(e, "default", "db-1", "10.244.0.9", false)
		finish(e, "db-2")
		expect(e, "db-0* db-1~") // the first that is not well may go
		finish(e, "db-1")
		expect(e, "db-0*")
		scale(e, 0)
		settle()
		finish(e, "db-0")
		expectCounts(e, "0 pods, 0 ready, 0 available, 0 current, 0 updated")
		if got := ct.Events(e, "db"); !slices.Contains(got, "SuccessfulDelete: Delete Pod db-2 in StatefulSet db successful") {
			t.Errorf("events %q", got)
		}
	})
}

func TestParallelWaitsForNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(3, parallel, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 4} }))
		expect(e, "db-4- db-5- db-6-")
		serve(e, "db-4")
		bind(e, "db-5")
		bind(e, "db-6")
		scale(e, 1)
		expect(e, "db-4* db-5~ db-6~")
		scale(e, 3)
		expect(e, "db-4* db-5~ db-6~")
		finish(e, "db-6")
		expect(e, "db-4* db-5~ db-6-")
	})
}

// An ordinal's name is free only when its pod is gone for good: two may never write to the same storage.
func TestTerminatingPodHoldsItsOrdinal(t *testing.T) {
	for _, policy := range []appsv1.PodManagementPolicyType{appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement} {
		synctest.Test(t, func(t *testing.T) {
			e := start(t)
			ct.Create(e, manifest(2, func(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = policy }))
			settle()
			serve(e, "db-0")
			serve(e, "db-1")
			uid := ct.Get[*corev1.Pod](e, "default", "db-0").UID
			ct.Delete[*corev1.Pod](e, "default", "db-0", registry.DeleteOptions{}) // its node does not answer
			ct.Settle(3 * time.Hour)
			if pod := ct.Get[*corev1.Pod](e, "default", "db-0"); pod.UID != uid {
				t.Fatal("a pod that may still run was replaced")
			}
			expect(e, "db-0~ db-1*")
			finish(e, "db-0")
			expect(e, "db-0- db-1*")
		})
	}
}

func TestEndedPodsAreMadeAgain(t *testing.T) {
	for _, phase := range []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded} {
		synctest.Test(t, func(t *testing.T) {
			e := start(t)
			ct.Create(e, manifest(2))
			settle()
			serve(e, "db-0")
			serve(e, "db-1")
			uid := ct.Get[*corev1.Pod](e, "default", "db-0").UID
			ct.ChangeStatus(e, "default", "db-0", func(p *corev1.Pod) {
				p.Status.Phase, p.Status.Reason = phase, "Evicted"
				p.Status.Conditions = nil
			})
			settle()
			if pod := ct.Get[*corev1.Pod](e, "default", "db-0"); pod.UID == uid || pod.Status.Phase != corev1.PodPending {
				t.Errorf("%s: not made again: %+v", phase, pod.Status)
			}
		})
	}
}

func TestRollingUpdateGoesBackwards(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(3, rolling(0, "1")))
		settle()
		for _, name := range []string{"db-0", "db-1", "db-2"} {
			serve(e, name)
		}
		first := ct.Get[*appsv1.StatefulSet](e, "default", "db").Status.CurrentRevision
		setImage(e, "nginx:2")
		for _, name := range []string{"db-2", "db-1", "db-0"} {
			settle()
			if got := state(e); strings.Count(got, "~") != 1 || !strings.Contains(got, name+"~") {
				t.Fatalf("pods %q, want only %s to go", got, name)
			}
			finish(e, name)
			if s := ct.Get[*appsv1.StatefulSet](e, "default", "db").Status; s.CurrentRevision != first || s.UpdateRevision == first || revisionOf(e, name) != s.UpdateRevision {
				t.Errorf("status while %s is made: %+v", name, s)
			}
			serve(e, name)
		}
		expectCounts(e, "3 pods, 3 ready, 3 available, 3 current, 3 updated")
		s := ct.Get[*appsv1.StatefulSet](e, "default", "db").Status
		if s.CurrentRevision != s.UpdateRevision {
			t.Errorf("the update did not end: %+v", s)
		}
		// Back again: the old revision with a new number.
		setImage(e, "nginx")
		settle()
		if s := ct.Get[*appsv1.StatefulSet](e, "default", "db").Status; s.UpdateRevision != first {
			t.Errorf("update revision %s, want the first one, %s", s.UpdateRevision, first)
		}
		if r := ct.Get[*appsv1.ControllerRevision](e, "default", first); r.Revision != 3 {
			t.Errorf("number %d", r.Revision)
		}
	})
}

func TestPartitionKeepsLowOrdinalsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(3, rolling(2, "1")))
		settle()
		for _, name := range []string{"db-0", "db-1", "db-2"} {
			serve(e, name)
		}
		setImage(e, "nginx:2")
		settle()
		finish(e, "db-2")
		serve(e, "db-2")
		expect(e, "db-0* db-1* db-2*")
		expectCounts(e, "3 pods, 3 ready, 3 available, 2 current, 1 updated")
		s := ct.Get[*appsv1.StatefulSet](e, "default", "db").Status
		if revisionOf(e, "db-2") != s.UpdateRevision || revisionOf(e, "db-1") != s.CurrentRevision || s.CurrentRevision == s.UpdateRevision {
			t.Errorf("status %+v", s)
		}
		// One below the partition comes back as it was, one above as it shall be.
		for _, name := range []string{"db-0", "db-2"} {
			ct.Delete[*corev1.Pod](e, "default", name, registry.DeleteOptions{})
			settle()
			finish(e, name)
			serve(e, name)
		}
		if pod := ct.Get[*corev1.Pod](e, "default", "db-0"); pod.Spec.Containers[0].Image != "nginx" || revisionOf(e, "db-0") != s.CurrentRevision {
			t.Errorf("db-0 came back with %s", pod.Spec.Containers[0].Image)
		}
		if pod := ct.Get[*corev1.Pod](e, "default", "db-2"); pod.Spec.Containers[0].Image != "nginx:2" {
			t.Errorf("db-2 came back with %s", pod.Spec.Containers[0].Image)
		}
		ct.Change(e, "default", "db", rolling(1, "1"))
		expect(e, "db-0* db-1~ db-2*")
	})
}

func TestOnDeleteLeavesPodsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(2, func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType }))
		settle()
		serve(e, "db-0")
		serve(e, "db-1")
		setImage(e, "nginx:2")
		expect(e, "db-0* db-1*")
		ct.Delete[*corev1.Pod](e, "default", "db-0", registry.DeleteOptions{})
		finish(e, "db-0")
		serve(e, "db-0")
		expect(e, "db-0* db-1*")
		if image := ct.Get[*corev1.Pod](e, "default", "db-0").Spec.Containers[0].Image; image != "nginx:2" {
			t.Errorf("image %s", image)
		}
		expectCounts(e, "2 pods, 2 ready, 2 available, 1 current, 1 updated")
	})
}

func TestMaxUnavailableInParallel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(5, parallel, rolling(0, "50%"))) // 2.5, rounded down
		settle()
		for i := range 5 {
			serve(e, fmt.Sprint("db-", i))
		}
		setImage(e, "nginx:2")
		expect(e, "db-0* db-1* db-2* db-3~ db-4~")
		finish(e, "db-3")
		expect(e, "db-0* db-1* db-2* db-3- db-4~")
		serve(e, "db-3")
		expect(e, "db-0* db-1* db-2~ db-3* db-4~")
	})
}

// A pod that cannot come back, as on a lost node, holds up no pod above it; neither does one that a canary leaves alone.
func TestUpdateAboveABrokenPod(t *testing.T) {
	for name, partition := range map[string]int32{"all": 0, "canary": 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := start(t)
				ct.Create(e, manifest(3, parallel, rolling(partition, "")))
				settle()
				for i := range 3 {
					serve(e, fmt.Sprint("db-", i))
				}
				ct.SetReady(e, "default", "db-0", "10.244.0.9", false)
				setImage(e, "nginx:2")
				expect(e, "db-0- db-1* db-2~")
				finish(e, "db-2")
				serve(e, "db-2")
				if partition > 0 {
					expect(e, "db-0- db-1* db-2*")
					return
				}
				expect(e, "db-0- db-1~ db-2*")
			})
		})
	}
}

// The broken update of an ordered set stands until somebody deletes the pod; kubernetes.io documents it as forced rollback.
func TestBrokenUpdate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(2, rolling(0, "1")))
		settle()
		serve(e, "db-0")
		serve(e, "db-1")
		setImage(e, "nosuch")
		settle()
		finish(e, "db-1")
		bind(e, "db-1") // and it never becomes ready
		setImage(e, "nginx")
		ct.Settle(time.Hour)
		if image := ct.Get[*corev1.Pod](e, "default", "db-1").Spec.Containers[0].Image; image != "nosuch" {
			t.Errorf("db-1 was replaced: %s", image)
		}
		ct.Delete[*corev1.Pod](e, "default", "db-1", registry.DeleteOptions{})
		settle()
		finish(e, "db-1")
		if image := ct.Get[*corev1.Pod](e, "default", "db-1").Spec.Containers[0].Image; image != "nginx" {
			t.Errorf("db-1 came back with %s", image)
		}
	})
}

func TestBrokenUpdateInParallelMends(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(2, parallel, rolling(0, "1")))
		settle()
		serve(e, "db-0")
		serve(e, "db-1")
		setImage(e, "nosuch")
		settle()
		finish(e, "db-1")
		bind(e, "db-1")
		expect(e, "db-0* db-1-")
		setImage(e, "nginx:3")
		expect(e, "db-0* db-1~")
		finish(e, "db-1")
		serve(e, "db-1")
		expect(e, "db-0~ db-1*")
	})
}

func TestMinReadySeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(2, func(s *appsv1.StatefulSet) { s.Spec.MinReadySeconds = 30 }))
		settle()
		serve(e, "db-0")
		expect(e, "db-0*")
		expectCounts(e, "1 pods, 1 ready, 0 available, 1 current, 1 updated")
		ct.Settle(30 * time.Second)
		expect(e, "db-0* db-1-")
		expectCounts(e, "2 pods, 1 ready, 1 available, 2 current, 2 updated")
	})
}

func TestAdoptsAndReleases(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		ct.Create(e, ct.Pod("db-0", map[string]string{"app": "db"}))
		ct.Create(e, ct.Pod("db-00", map[string]string{"app": "db"}))
		ct.Create(e, ct.Pod("other-1", map[string]string{"app": "db"}))
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		set := ct.Create(e, manifest(1))
		settle()
		if pod := ct.Get[*corev1.Pod](e, "default", "db-0"); !metav1.IsControlledBy(pod, set) || pod.Labels[appsv1.StatefulSetPodNameLabel] != "db-0" {
			t.Errorf("not adopted: %+v", pod.ObjectMeta)
		}
		for _, name := range []string{"db-00", "other-1"} {
			if pod := ct.Get[*corev1.Pod](e, "default", name); len(pod.OwnerReferences) > 0 {
				t.Errorf("%s was adopted, though no ordinal has that name", name)
			}
		}
		ct.Change(e, "default", "db-0", func(p *corev1.Pod) { p.Labels["app"] = "no" })
		settle()
		if pod := ct.Get[*corev1.Pod](e, "default", "db-0"); len(pod.OwnerReferences) > 0 {
			t.Error("not released")
		}
		expectCounts(e, "0 pods, 0 ready, 0 available, 0 current, 0 updated")
		// The name is taken; when it is free the set goes on at once.
		ct.Delete[*corev1.Pod](e, "default", "db-0", registry.DeleteOptions{})
		synctest.Wait()
		if pod := ct.Get[*corev1.Pod](e, "default", "db-0"); !metav1.IsControlledBy(pod, set) {
			t.Error("not made when the name was free")
		}
		for _, e := range ct.Events(e, "db") {
			if strings.HasPrefix(e, "Failed") {
				t.Errorf("event %q", e)
			}
		}
	})
}

func TestNameTooLongForItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		name := strings.Repeat("d", 60)
		ct.Create(e, manifest(1, func(s *appsv1.StatefulSet) { s.Name = name }))
		settle()
		if got := state(e); got != "" {
			t.Errorf("pods %q", got)
		}
		if got := ct.Events(e, name); len(got) != 1 || !strings.Contains(got[0], "FailedCreate: Create Pod "+name+"-0 in StatefulSet") || !strings.Contains(got[0], "must be no more than 63") {
			t.Errorf("events %q", got)
		}
	})
}

func TestDeletedSetMakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest(2))
		settle()
		foreground := metav1.DeletePropagationForeground
		ct.Delete[*appsv1.StatefulSet](e, "default", "db", registry.DeleteOptions{Propagation: &foreground})
		ct.Delete[*corev1.Pod](e, "default", "db-0", registry.DeleteOptions{})
		expect(e, "")
		expectCounts(e, "0 pods, 0 ready, 0 available, 0 current, 0 updated")
	})
}
