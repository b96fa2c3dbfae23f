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

// pod of a ReplicaSet: it becomes ready, and with minReadySeconds available later.
type pod int

const (
	started pod = iota
	ready
	inService // for minReadySeconds
)

// cluster is a Deployment with its ReplicaSets and, for each, how far its pods are. ReplicaSets are brought up to date whenever
// the test likes, so that plans see statuses from the past.
type cluster struct {
	d    *appsv1.Deployment
	sets []*appsv1.ReplicaSet
	pods map[string][]pod
	now  time.Time
	n    int
}

func newCluster(n int32, surge, unavailable int) *cluster {
	deadline, limit := int32(600), int32(2)
	s, u := intstr.FromInt(surge), intstr.FromInt(unavailable)
	labels := map[string]string{"app": "web"}
	return &cluster{
		now: time.Unix(1_700_000_000, 0), pods: map[string][]pod{},
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
	slices.SortFunc(pods, func(a, b pod) int { return int(b - a) })
	for len(pods) < int(size(rs)) {
		pods = append(pods, started)
	}
	c.pods[rs.Name] = pods[:size(rs)]
	c.observe(rs)
}

func (c *cluster) observe(rs *appsv1.ReplicaSet) {
	rs.Status.Replicas = int32(len(c.pods[rs.Name]))
	rs.Status.ReadyReplicas, rs.Status.AvailableReplicas = 0, 0
	for _, p := range c.pods[rs.Name] {
		if p >= ready {
			rs.Status.ReadyReplicas++
		}
		if p == inService {
			rs.Status.AvailableReplicas++
		}
	}
}

// staying is how many available pods there are once every ReplicaSet has followed its size.
func (c *cluster) staying() (all int32) {
	for _, rs := range c.sets {
		n := int32(0)
		for _, p := range c.pods[rs.Name] {
			if p == inService {
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
					pods[rapid.IntRange(0, len(pods)-1).Draw(t, "pod")] = pod(rapid.IntRange(0, 2).Draw(t, "state"))
					c.observe(rs)
				}
			},
			"plan": func(t *rapid.T) {
				// Sizing for a changed Deployment is the user's own wish and promises no availability.
				before, scaled := total(c.sets, size), c.d.Spec.Paused || newWorld(c.now, c.d, slices.Clone(c.sets)).scaled()
				staying := c.staying()
				// A plan that is lost by a crash, or refused because something it was made from has changed, changes nothing; and
				// one that is made twice from the same state is the same.
				again := rapid.Bool().Draw(t, "again")
				w := c.plan(t, rapid.IntRange(0, 4).Draw(t, "crash") == 0)
				if again {
					w = c.plan(t, false)
				}
				if most := max(before, replicas(c.d)+w.surge); total(c.sets, size) > most {
					t.Fatalf("%d pods wanted, at most %d allowed", total(c.sets, size), most)
				}
				if least := min(staying, replicas(c.d)-w.unavailable); !scaled && c.staying() < least {
					t.Fatalf("%d stay available, at least %d promised", c.staying(), least)
				}
			},
		})
		c.d.Spec.Paused = false
		for range 60 {
			c.plan(t, false)
			c.syncAll()
			for _, pods := range c.pods {
				for i := range pods {
					pods[i] = inService
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

// TestProportionalScaling: a Deployment that is scaled in the middle of a rollout grows or shrinks to what its size and
// maxSurge make of it, every ReplicaSet in the same direction, none below 0, and in proportion to within one pod beside the one
// that takes what rounding leaves.
func TestProportionalScaling(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		surge := int32(rapid.IntRange(0, 5).Draw(t, "surge"))
		c := newCluster(int32(rapid.IntRange(1, 60).Draw(t, "replicas")), int(surge), 1)
		most := replicas(c.d) + surge
		left := most
		n := rapid.IntRange(2, 4).Draw(t, "sets")
		for i := range n {
			part := left
			if i < n-1 {
				part = int32(rapid.IntRange(1, int(max(1, left-int32(n-1-i)))).Draw(t, "part"))
			}
			if left -= part; part < 1 || left < 0 {
				t.Skip("not enough pods for so many ReplicaSets")
			}
			rs := &appsv1.ReplicaSet{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(i)), CreationTimestamp: metav1.NewTime(c.now.Add(time.Duration(i) * time.Second))},
				Spec:       appsv1.ReplicaSetSpec{Replicas: &part, Template: template(i)},
			}
			noteShare(rs, replicas(c.d), most)
			c.sets = append(c.sets, rs)
		}
		c.d.Spec.Template = template(n - 1)
		wanted := int32(rapid.IntRange(0, 80).Draw(t, "wanted"))
		c.d.Spec.Replicas = &wanted
		before := map[string]int32{}
		for _, rs := range c.sets {
			before[rs.Name] = size(rs)
		}
		w := newWorld(c.now, c.d, c.sets)
		w.scale()
		allowed := int32(0)
		if wanted > 0 {
			allowed = wanted + surge
		}
		// What rounding leaves is taken from the largest ReplicaSet alone, and it may have too few: then the rollout takes the rest.
		emptied := slices.ContainsFunc(c.sets, func(rs *appsv1.ReplicaSet) bool { return size(rs) == 0 })
		if got := total(c.sets, size); got != allowed && !(got > allowed && got < most && emptied) {
			t.Fatalf("%d pods, want %d", got, allowed)
		}
		off := 0
		for _, rs := range c.sets {
			is, was := size(rs), before[rs.Name]
			if is < 0 || (allowed > most && is < was) || (allowed < most && is > was) {
				t.Fatalf("ReplicaSet %s goes from %d to %d while the Deployment goes from %d to %d", rs.Name, was, is, most, allowed)
			}
			if exact := float64(was) * float64(allowed) / float64(most); float64(is) < exact-1 || float64(is) > exact+1 {
				off++
			}
		}
		if off > 1+n/2 {
			t.Fatalf("%d of %d are out of proportion: %v", off, n, before)
		}
		if w = newWorld(c.now, c.d, c.sets); len(active(w.sets)) > 1 && total(c.sets, size) == allowed {
			if w.scale(); len(w.events) > 0 {
				t.Fatalf("scaled twice: %v", w.events)
			}
		}
	})
}
