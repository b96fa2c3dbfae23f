package deployment

import (
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// cluster is a Deployment with its ReplicaSets and, for each, which of its pods are ready. ReplicaSets are brought up to
// date whenever the test likes, so that plans see statuses from the past.
type cluster struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	pods map[string][]bool
	now  time.Time
	n    int
}

func newCluster(n int32, surge, unavailable int) *cluster {
	deadline, limit := int32(600), int32(2)
	s, u := intstr.FromInt(surge), intstr.FromInt(unavailable)
	labels := map[string]string{"app": "web"}
	return &cluster{
		now: time.Unix(1_700_000_000, 0), pods: map[string][]bool{},
		d: &appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Generation: 1, UID: "web"},
			Spec: appsv1.DeploymentSpec{
				Replicas: &n, Selector: &metav1.LabelSelector{MatchLabels: labels}, ProgressDeadlineSeconds: &deadline, RevisionHistoryLimit: &limit,
				Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType,
					RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
				Template: template(0),
			},
		},
	}
}

func template(version int) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: fmt.Sprintf("web:%d", version)}}},
	}
}

// plan runs the controller's plan; a crash loses it before it is committed.
func (c *cluster) plan(t *rapid.T, crash bool) *world {
	var sets []*appsv1.ReplicaSet
	for _, rs := range c.sets {
		sets = append(sets, rs.DeepCopy())
	}
	w := newWorld(c.now, c.d.DeepCopy(), sets)
	w.taken = func(name string) bool {
		return slices.ContainsFunc(c.sets, func(rs *appsv1.ReplicaSet) bool { return rs.Name == name })
	}
	w.running = func(rs *appsv1.ReplicaSet) bool { return len(c.pods[rs.Name]) > 0 }
	if err := w.run(); err != nil {
		t.Fatal(err)
	}
	if crash {
		return w
	}
	c.d = w.d
	c.sets = slices.DeleteFunc(w.sets, func(rs *appsv1.ReplicaSet) bool {
		return slices.ContainsFunc(w.remove, func(r *appsv1.ReplicaSet) bool { return r.Name == rs.Name })
	})
	if w.created != nil {
		c.n++
		w.created.UID = types.UID(fmt.Sprint(c.n))
		w.created.CreationTimestamp = metav1.NewTime(c.now.Add(time.Duration(c.n) * time.Second))
	}
	return w
}

// sync is what the ReplicaSet controller does: exact counts, pods that are not ready go first.
func (c *cluster) sync(rs *appsv1.ReplicaSet) {
	pods := c.pods[rs.Name]
	slices.SortFunc(pods, func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	})
	for len(pods) < int(size(rs)) {
		pods = append(pods, false)
	}
	c.pods[rs.Name] = pods[:size(rs)]
	c.observe(rs)
}

func (c *cluster) observe(rs *appsv1.ReplicaSet) {
	rs.Status.Replicas = int32(len(c.pods[rs.Name]))
	rs.Status.ReadyReplicas, rs.Status.AvailableReplicas = 0, 0
	for _, ready := range c.pods[rs.Name] {
		if ready {
			rs.Status.ReadyReplicas++
			rs.Status.AvailableReplicas++
		}
	}
}

// staying is how many ready pods there are once every ReplicaSet has followed its size.
func (c *cluster) staying() (all int32) {
	for _, rs := range c.sets {
		n := int32(0)
		for _, r := range c.pods[rs.Name] {
			if r {
				n++
			}
		}
		all += min(n, size(rs))
	}
	return all
}

func (c *cluster) syncAll() {
	for _, rs := range c.sets {
		c.sync(rs)
	}
}

// TestRolloutKeepsItsPromises: whatever order of changes, syncs, crashes and failing pods, a plan never raises the number of
// pods above what maxSurge allows, never takes availability below what maxUnavailable allows, and in quiet ends with
// exactly the replicas asked for, all of the last template.
func TestRolloutKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		surge := rapid.IntRange(0, 3).Draw(t, "surge")
		unavailable := rapid.IntRange(0, 3).Draw(t, "unavailable")
		c := newCluster(int32(rapid.IntRange(0, 8).Draw(t, "replicas")), surge, unavailable)
		t.Repeat(map[string]func(*rapid.T){
			"template": func(t *rapid.T) {
				c.d.Spec.Template = template(rapid.IntRange(0, 4).Draw(t, "version"))
				c.d.Generation++
			},
			"scale": func(t *rapid.T) {
				n := int32(rapid.IntRange(0, 8).Draw(t, "replicas"))
				c.d.Spec.Replicas = &n
				c.d.Generation++
			},
			"pause": func(t *rapid.T) { c.d.Spec.Paused = !c.d.Spec.Paused },
			"sync": func(t *rapid.T) {
				if len(c.sets) > 0 {
					c.sync(c.sets[rapid.IntRange(0, len(c.sets)-1).Draw(t, "set")])
				}
			},
			"pod": func(t *rapid.T) {
				if len(c.sets) == 0 {
					return
				}
				rs := c.sets[rapid.IntRange(0, len(c.sets)-1).Draw(t, "set")]
				if pods := c.pods[rs.Name]; len(pods) > 0 {
					pods[rapid.IntRange(0, len(pods)-1).Draw(t, "pod")] = rapid.IntRange(0, 3).Draw(t, "fails") > 0
					c.observe(rs)
				}
			},
			"plan": func(t *rapid.T) {
				// Sizing for a changed Deployment is the user's own wish and promises no availability.
				before, scaled := total(c.sets, size), c.d.Spec.Paused || newWorld(c.now, c.d, slices.Clone(c.sets)).scaled()
				staying := c.staying()
				w := c.plan(t, rapid.IntRange(0, 4).Draw(t, "crash") == 0)
				if most := max(before, replicas(c.d)+w.surge); total(c.sets, size) > most {
					t.Fatalf("%d pods wanted, at most %d allowed", total(c.sets, size), most)
				}
				if least := min(staying, replicas(c.d)-w.unavailable); !scaled && c.staying() < least {
					t.Fatalf("%d stay ready, at least %d promised", c.staying(), least)
				}
			},
		})
		c.d.Spec.Paused = false
		for range 60 {
			c.plan(t, false)
			c.syncAll()
			for _, pods := range c.pods {
				for i := range pods {
					pods[i] = true
				}
			}
			for _, rs := range c.sets {
				c.observe(rs)
			}
		}
		w := c.plan(t, false)
		if !w.complete(&w.d.Status) || size(w.current) != replicas(c.d) || total(c.sets, size) != replicas(c.d) {
			t.Fatalf("not complete: status %+v, current %d, all %d, want %d", w.d.Status, size(w.current), total(c.sets, size), replicas(c.d))
		}
		if c := condition(&w.d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonAvailable {
			t.Fatalf("condition %+v", c)
		}
		if len(w.old()) > 2+1 {
			t.Fatalf("%d old ReplicaSets kept, limit 2", len(w.old()))
		}
	})
}
