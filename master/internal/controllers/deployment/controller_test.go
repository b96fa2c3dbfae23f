package deployment_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/deployment"
	"github.com/whalepod/whalepod/master/internal/controllers/replicaset"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func manifest(image string, n int32) *appsv1.Deployment {
	l := map[string]string{"app": "web"}
	spec := ct.PodSpec()
	spec.Containers[0].Image = image
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Labels: l},
		Spec: appsv1.DeploymentSpec{
			Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: spec},
		},
	}
}

func start(t *testing.T) *ct.Env {
	e := ct.New(t)
	e.Start(deployment.New(deployment.Config{Registry: e.Registry, Logger: e.Logger}).Run)
	e.Start(replicaset.New(replicaset.Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

// agents has new pods ready after a second, and ends those that are to be deleted after another.
func agents(e *ct.Env) {
	e.Start(func(ctx context.Context) error {
		for i := 0; ctx.Err() == nil; {
			for _, p := range ct.List[*corev1.Pod](e, "default") {
				if p.DeletionTimestamp != nil {
					zero := int64(0)
					ct.Delete[*corev1.Pod](e, "default", p.Name, registry.DeleteOptions{GracePeriodSeconds: &zero})
				} else if p.Status.PodIP == "" && !strings.Contains(p.Spec.Containers[0].Image, "broken") {
					i++
					ct.SetReady(e, "default", p.Name, fmt.Sprintf("10.244.0.%d", i), true)
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
		return nil
	})
}

func sizes(e *ct.Env) map[string]int32 {
	out := map[string]int32{}
	for _, rs := range ct.List[*appsv1.ReplicaSet](e, "default") {
		out[rs.Spec.Template.Spec.Containers[0].Image] = *rs.Spec.Replicas
	}
	return out
}

func setImage(e *ct.Env, image string) {
	ct.Change(e, "default", "web", func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
}

func condition(d *appsv1.Deployment, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range d.Status.Conditions {
		if d.Status.Conditions[i].Type == t {
			return &d.Status.Conditions[i]
		}
	}
	return &appsv1.DeploymentCondition{}
}

// TestRollOutAndBack is the article's way: create, update, and the old template again, which brings the OLD ReplicaSet back.
func TestRollOutAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		agents(e)
		ct.Create(e, manifest("wordpress", 2))
		ct.Settle(10 * time.Second)
		d := ct.Get[*appsv1.Deployment](e, "default", "web")
		if s := d.Status; s.AvailableReplicas != 2 || s.UpdatedReplicas != 2 || s.ObservedGeneration != d.Generation {
			t.Fatalf("status %+v", s)
		}
		first := ct.List[*appsv1.ReplicaSet](e, "default")[0]
		if c := condition(d, appsv1.DeploymentProgressing); c.Reason != "NewReplicaSetAvailable" || c.Message != fmt.Sprintf("ReplicaSet %q has successfully progressed.", first.Name) {
			t.Errorf("condition %+v", c)
		}
		setImage(e, "wordpress:fpm")
		ct.Settle(20 * time.Second)
		if got := sizes(e); got["wordpress"] != 0 || got["wordpress:fpm"] != 2 || len(got) != 2 {
			t.Fatalf("sizes %v", got)
		}
		setImage(e, "wordpress")
		ct.Settle(20 * time.Second)
		if got := sizes(e); got["wordpress"] != 2 || got["wordpress:fpm"] != 0 || len(got) != 2 {
			t.Fatalf("sizes %v", got)
		}
		back := ct.Get[*appsv1.ReplicaSet](e, "default", first.Name)
		if back.UID != first.UID || back.Annotations["deployment.kubernetes.io/revision"] != "3" || back.Annotations["deployment.kubernetes.io/revision-history"] != "1" {
			t.Errorf("annotations %v", back.Annotations)
		}
		d = ct.Get[*appsv1.Deployment](e, "default", "web")
		if d.Annotations["deployment.kubernetes.io/revision"] != "3" {
			t.Errorf("annotations %v", d.Annotations)
		}
		events := ct.Events(e, "web")
		if !slices.Contains(events, "ScalingReplicaSet: Scaled up replica set "+first.Name+" from 0 to 2") {
			t.Errorf("events %q", events)
		}
	})
}

func TestBrokenImageTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		agents(e)
		m := manifest("good", 4)
		deadline := int32(30)
		m.Spec.ProgressDeadlineSeconds = &deadline
		ct.Create(e, m)
		ct.Settle(10 * time.Second)
		setImage(e, "broken")
		ct.Settle(25 * time.Second)
		d := ct.Get[*appsv1.Deployment](e, "default", "web")
		if c := condition(d, appsv1.DeploymentProgressing); c.Reason != "ReplicaSetUpdated" {
			t.Errorf("before the deadline: %+v", c)
		}
		if d.Status.AvailableReplicas < 3 {
			t.Errorf("%d available, maxUnavailable is 25%%", d.Status.AvailableReplicas)
		}
		ct.Settle(15 * time.Second)
		d = ct.Get[*appsv1.Deployment](e, "default", "web")
		if c := condition(d, appsv1.DeploymentProgressing); c.Status != corev1.ConditionFalse || c.Reason != "ProgressDeadlineExceeded" || !strings.HasSuffix(c.Message, "has timed out progressing.") {
			t.Errorf("after the deadline: %+v", c)
		}
	})
}

func TestRecreateWaitsForOldPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		m := manifest("one", 2)
		m.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
		ct.Create(e, m)
		synctest.Wait()
		for i, p := range ct.List[*corev1.Pod](e, "default") {
			ct.Change(e, "default", p.Name, func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
			ct.SetReady(e, "default", p.Name, fmt.Sprintf("10.244.0.%d", i+2), true)
		}
		setImage(e, "two")
		ct.Settle(5 * time.Second)
		if got := sizes(e); got["one"] != 0 || len(got) != 1 {
			t.Fatalf("sizes %v while old pods end", got)
		}
		for _, p := range ct.List[*corev1.Pod](e, "default") {
			ct.Change(e, "default", p.Name, func(p *corev1.Pod) { p.Finalizers = nil })
		}
		ct.Settle(5 * time.Second)
		if got := sizes(e); got["two"] != 2 {
			t.Fatalf("sizes %v after old pods have ended", got)
		}
	})
}

func TestProportionalScalingWhilePaused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		agents(e)
		m := manifest("good", 10)
		surge, unavailable := intstr.FromInt32(3), intstr.FromInt32(2)
		m.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable}}
		ct.Create(e, m)
		ct.Settle(10 * time.Second)
		setImage(e, "broken")
		ct.Settle(10 * time.Second)
		if got := sizes(e); got["good"] != 8 || got["broken"] != 5 {
			t.Fatalf("sizes %v, want 8 and 5", got)
		}
		// The example of Kubernetes' documentation: 10 to 15 gives three to the larger and two to the smaller.
		ct.Change(e, "default", "web", func(d *appsv1.Deployment) { n := int32(15); d.Spec.Replicas = &n })
		ct.Settle(5 * time.Second)
		if got := sizes(e); got["good"] != 11 || got["broken"] != 7 {
			t.Errorf("sizes %v, want 11 and 7", got)
		}
	})
}

func TestOldRollbackAnnotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		agents(e)
		ct.Create(e, manifest("one", 1))
		ct.Settle(10 * time.Second)
		setImage(e, "two")
		ct.Settle(10 * time.Second)
		ct.Change(e, "default", "web", func(d *appsv1.Deployment) { d.Annotations[appsv1.DeprecatedRollbackTo] = "0" })
		ct.Settle(10 * time.Second)
		d := ct.Get[*appsv1.Deployment](e, "default", "web")
		if d.Spec.Template.Spec.Containers[0].Image != "one" || d.Annotations[appsv1.DeprecatedRollbackTo] != "" {
			t.Errorf("image %s, annotations %v", d.Spec.Template.Spec.Containers[0].Image, d.Annotations)
		}
		if got := sizes(e); got["one"] != 1 || got["two"] != 0 {
			t.Errorf("sizes %v", got)
		}
		if ev := ct.Events(e, "web"); !slices.Contains(ev, `DeploymentRollback: Rolled back deployment "web" to revision 1`) {
			t.Errorf("events %q", ev)
		}
	})
}

func TestHistoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		agents(e)
		m := manifest("v0", 1)
		limit := int32(2)
		m.Spec.RevisionHistoryLimit = &limit
		ct.Create(e, m)
		for i := range 5 {
			ct.Settle(10 * time.Second)
			setImage(e, fmt.Sprintf("v%d", i+1))
		}
		ct.Settle(10 * time.Second)
		if got := sizes(e); len(got) != 3 || got["v5"] != 1 {
			t.Errorf("ReplicaSets %v, want v3, v4 and v5", got)
		}
	})
}

// TestReplicaSetIsRefused: a quota on ReplicaSets is told as Kubernetes tells it, and the rollout goes on when there is room.
func TestReplicaSetIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		agents(e)
		ct.Create(e, manifest("one", 2))
		ct.Settle(10 * time.Second)
		ct.Create(e, &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "few"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/replicasets.apps": resource.MustParse("1")}},
		})
		setImage(e, "two")
		ct.Settle(10 * time.Second)
		c := condition(ct.Get[*appsv1.Deployment](e, "default", "web"), appsv1.DeploymentProgressing)
		if c.Status != corev1.ConditionFalse || c.Reason != "ReplicaSetCreateError" ||
			!strings.HasPrefix(c.Message, `Failed to create new replica set "web-`) || !strings.Contains(c.Message, "exceeded quota: few") {
			t.Fatalf("condition %+v", c)
		}
		if ev := ct.Events(e, "web"); len(ev) != 2 || !strings.HasPrefix(ev[1], "ReplicaSetCreateError: "+c.Message) {
			t.Errorf("events %q", ev)
		}
		if got := sizes(e); got["one"] != 2 || len(got) != 1 {
			t.Errorf("sizes %v", got)
		}
		ct.Delete[*corev1.ResourceQuota](e, "default", "few", registry.DeleteOptions{})
		ct.Settle(2 * time.Minute)
		if got := sizes(e); got["two"] != 2 || got["one"] != 0 {
			t.Errorf("sizes %v", got)
		}
		if c := condition(ct.Get[*appsv1.Deployment](e, "default", "web"), appsv1.DeploymentProgressing); c.Reason != "NewReplicaSetAvailable" {
			t.Errorf("condition %+v", c)
		}
	})
}

// TestLongName: a Deployment whose name is as long as names can be has ReplicaSets, too.
func TestLongName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		m := manifest("one", 1)
		m.Name = strings.Repeat("x", 253)
		ct.Create(e, m)
		ct.Settle(time.Second)
		if got := sizes(e); got["one"] != 1 {
			t.Errorf("sizes %v", got)
		}
	})
}
