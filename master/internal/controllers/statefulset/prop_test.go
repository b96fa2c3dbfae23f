package statefulset

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// cluster is a StatefulSet with its pods; versions of its template are revisions "r0", "r1", ...
type cluster struct {
	set     *appsv1.StatefulSet
	version int
	pods    map[string]*corev1.Pod
	now     time.Time
	uid     int
}

func newCluster(t *rapid.T) *cluster {
	n := int32(rapid.IntRange(0, 5).Draw(t, "replicas"))
	c := &cluster{now: time.Unix(1_700_000_000, 0), pods: map[string]*corev1.Pod{}, set: manifest(n, rolling(0, "1"))}
	c.set.UID = "set"
	c.set.Spec.MinReadySeconds = int32(rapid.SampledFrom([]int{0, 0, 10}).Draw(t, "minReadySeconds"))
	if rapid.Bool().Draw(t, "parallel") {
		parallel(c.set)
	}
	return c
}

func (c *cluster) template(version int) *corev1.PodTemplateSpec {
	t := c.set.Spec.Template.DeepCopy()
	t.Spec.Containers[0].Image = fmt.Sprint("web:", version)
	return t
}

// world is the plan's view of the state; what current means is told by the status, as for the controller.
func (c *cluster) world() *world {
	w := &world{now: c.now, set: c.set, claim: func(string) *corev1.PersistentVolumeClaim { return nil }}
	for _, name := range slices.Sorted(maps.Keys(c.pods)) {
		w.pods = append(w.pods, c.pods[name])
	}
	w.update = revision{fmt.Sprint("r", c.version), c.template(c.version)}
	w.current = w.update
	if name := c.set.Status.CurrentRevision; name != "" {
		var version int
		_, _ = fmt.Sscanf(name, "r%d", &version)
		w.current = revision{name, c.template(version)}
	}
	return w
}

func (c *cluster) available(p *corev1.Pod) bool {
	return p != nil && p.DeletionTimestamp == nil && !podstate.Ended(p) &&
		podstate.AvailableIn(p, podstate.Seconds(c.set.Spec.MinReadySeconds), c.now) == 0
}

// away is how many of the wanted ordinals have no available pod.
func (c *cluster) away() (n int) {
	for i := range replicasOf(c.set) {
		if !c.available(c.pods[nameOf(c.set, startOf(c.set)+i)]) {
			n++
		}
	}
	return n
}

// plan runs one turn and checks each step against the promises. It is committed up to a step that fails, or lost whole.
func (c *cluster) plan(t *rapid.T, lost bool, upTo int) (busy bool) {
	w := c.world()
	steps := w.run()
	if lost {
		return true
	}
	creates, deletes := 0, 0
	for i, s := range steps {
		if i >= upTo {
			break
		}
		_, n, _ := split(s.pod.Name)
		switch s.verb {
		case create:
			creates++
			c.checkCreate(t, s.pod, n)
			c.create(s.pod)
		case remove:
			deletes++
			c.checkRemove(t, s.pod, n)
			c.remove(s.pod.Name)
		case update:
			t.Fatalf("step %+v for a pod of our own", s)
		}
	}
	ordered := c.set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	if ordered && creates > 0 && (creates > 1 || deletes > 0) {
		t.Fatalf("%d pods made and %d deleted in one turn of an ordered set", creates, deletes)
	}
	c.observe(t, w)
	return len(steps) > 0 || w.wait > 0
}

func (c *cluster) checkCreate(t *rapid.T, pod *corev1.Pod, n int) {
	if c.pods[pod.Name] != nil {
		t.Fatalf("%s is made while there is one", pod.Name)
	}
	if !inRange(c.set, n) {
		t.Fatalf("%s is made beyond the range", pod.Name)
	}
	want := fmt.Sprint("r", c.version)
	if index := n - startOf(c.set); index < partition(c.set) && c.set.Status.CurrentRevision != "" {
		want = c.set.Status.CurrentRevision
	}
	if got := pod.Labels[appsv1.StatefulSetRevisionLabel]; got != want || "r"+pod.Spec.Containers[0].Image[len("web:"):] != want {
		t.Fatalf("%s is made from %s with %s, want %s", pod.Name, got, pod.Spec.Containers[0].Image, want)
	}
	if c.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
		return
	}
	for i := startOf(c.set); i < n; i++ {
		if before := c.pods[nameOf(c.set, i)]; !c.available(before) || before.Status.Phase != corev1.PodRunning {
			t.Fatalf("%s is made before %s is available", pod.Name, nameOf(c.set, i))
		}
	}
}

func (c *cluster) checkRemove(t *rapid.T, pod *corev1.Pod, n int) {
	switch {
	case pod.DeletionTimestamp != nil:
		t.Fatalf("%s is deleted twice", pod.Name)
	case podstate.Ended(pod) && inRange(c.set, n):
		return
	case !inRange(c.set, n):
		if c.set.Spec.PodManagementPolicy == appsv1.ParallelPodManagement {
			return
		}
		for _, other := range c.pods {
			if _, m, _ := split(other.Name); !inRange(c.set, m) && m > n {
				t.Fatalf("%s goes before %s", pod.Name, other.Name)
			}
		}
		return
	}
	// For an update.
	if pod.Labels[appsv1.StatefulSetRevisionLabel] == fmt.Sprint("r", c.version) {
		t.Fatalf("%s is deleted though it is up to date", pod.Name)
	}
	if n-startOf(c.set) < partition(c.set) || c.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		t.Fatalf("%s is deleted for an update that is not for it", pod.Name)
	}
	r := c.set.Spec.UpdateStrategy.RollingUpdate
	if limited := r != nil && r.MaxUnavailable != nil; limited && c.available(pod) && c.away() >= maxUnavailable(c.set) {
		t.Fatalf("%s is deleted while %d are away, %d may be", pod.Name, c.away(), maxUnavailable(c.set))
	}
	above := 0
	for i := n + 1; inRange(c.set, i); i++ {
		if !c.available(c.pods[nameOf(c.set, i)]) {
			above++
		}
	}
	if above >= maxUnavailable(c.set) {
		t.Fatalf("%s is deleted before %d higher ones are back", pod.Name, above)
	}
}

func (c *cluster) create(pod *corev1.Pod) {
	c.uid++
	pod.UID, pod.Status.Phase, pod.CreationTimestamp = types.UID(fmt.Sprint(c.uid)), corev1.PodPending, metav1.NewTime(c.now)
	c.pods[pod.Name] = pod
}

// remove marks a pod; its node takes it away later. Pods that ended go at once, as in the registry.
func (c *cluster) remove(name string) {
	pod := c.pods[name].DeepCopy()
	if podstate.Ended(pod) {
		delete(c.pods, name)
		return
	}
	at := metav1.NewTime(c.now)
	pod.DeletionTimestamp = &at
	c.pods[name] = pod
}

func (c *cluster) setReady(name string, ready bool) {
	pod := c.pods[name].DeepCopy()
	pod.Status.Phase = corev1.PodRunning
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	podstate.SetCondition(pod, c.now, corev1.PodCondition{Type: corev1.PodReady, Status: status})
	c.pods[name] = pod
}

// observe writes the status, and checks its counts against a count of its own.
func (c *cluster) observe(t *rapid.T, w *world) {
	status, _ := makeStatus(c.now, c.set, slices.Collect(maps.Values(c.pods)), w.current.name, w.update.name, 0)
	var ready, available, updated int32
	for _, p := range c.pods {
		if podstate.Ready(p) && p.Status.Phase == corev1.PodRunning {
			ready++
			if podstate.AvailableIn(p, podstate.Seconds(c.set.Spec.MinReadySeconds), c.now) == 0 {
				available++
			}
		}
		if p.DeletionTimestamp == nil && p.Labels[appsv1.StatefulSetRevisionLabel] == w.update.name {
			updated++
		}
	}
	if status.Replicas != int32(len(c.pods)) || status.ReadyReplicas != ready || status.AvailableReplicas != available || status.UpdatedReplicas != updated {
		t.Fatalf("status %+v; counted %d, %d ready, %d available, %d updated", status, len(c.pods), ready, available, updated)
	}
	c.set = c.set.DeepCopy()
	c.set.Status = status
}

func (c *cluster) change(fn func(*appsv1.StatefulSet)) {
	c.set = c.set.DeepCopy()
	fn(c.set)
	c.set.Generation++
}

func (c *cluster) pick(t *rapid.T) string {
	if len(c.pods) == 0 {
		return ""
	}
	return rapid.SampledFrom(slices.Sorted(maps.Keys(c.pods))).Draw(t, "pod")
}

// TestSetKeepsItsPromises: whatever order of changes, of pods that start, fail, are deleted and end, and of turns that are
// lost or fail half way, there is one pod of an ordinal at most, ordinals come and go in order, an update takes no more
// away than maxUnavailable, and in quiet the set is exactly what was asked for.
func TestSetKeepsItsPromises(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newCluster(t)
		t.Repeat(map[string]func(*rapid.T){
			"template": func(t *rapid.T) {
				c.version = rapid.IntRange(0, 4).Draw(t, "version")
				c.set.Generation++
			},
			"scale": func(t *rapid.T) {
				n := int32(rapid.IntRange(0, 5).Draw(t, "replicas"))
				c.change(func(s *appsv1.StatefulSet) { s.Spec.Replicas = &n })
			},
			"start": func(t *rapid.T) {
				from := int32(rapid.IntRange(0, 2).Draw(t, "start"))
				c.change(func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: from} })
			},
			"strategy": func(t *rapid.T) {
				p := int32(rapid.IntRange(0, 5).Draw(t, "partition"))
				var most *intstr.IntOrString
				if said := rapid.SampledFrom([]string{"", "1", "2", "3", "10%", "50%", "100%"}).Draw(t, "maxUnavailable"); said != "" {
					most = new(intstr.Parse(said))
				}
				onDelete := rapid.IntRange(0, 4).Draw(t, "onDelete") == 0
				c.change(func(s *appsv1.StatefulSet) {
					s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
					if !onDelete {
						s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
							RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &p, MaxUnavailable: most}}
					}
				})
			},
			"pod": func(t *rapid.T) {
				if name := c.pick(t); name != "" && !podstate.Ended(c.pods[name]) {
					c.setReady(name, rapid.IntRange(0, 3).Draw(t, "fails") > 0)
				}
			},
			"ends": func(t *rapid.T) {
				if name := c.pick(t); name != "" {
					pod := c.pods[name].DeepCopy()
					pod.Status.Phase = rapid.SampledFrom([]corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded}).Draw(t, "phase")
					c.pods[name] = pod
				}
			},
			"delete": func(t *rapid.T) {
				if name := c.pick(t); name != "" && c.pods[name].DeletionTimestamp == nil {
					c.remove(name)
				}
			},
			"gone": func(t *rapid.T) {
				if name := c.pick(t); name != "" && c.pods[name].DeletionTimestamp != nil {
					delete(c.pods, name)
				}
			},
			"calm": func(t *rapid.T) {
				for range 4 {
					c.plan(t, false, 1000)
					c.rest()
				}
			},
			"time": func(t *rapid.T) {
				c.now = c.now.Add(time.Duration(rapid.IntRange(1, 20).Draw(t, "seconds")) * time.Second)
			},
			"plan": func(t *rapid.T) {
				upTo := 1000
				if rapid.IntRange(0, 4).Draw(t, "fails") == 0 {
					upTo = rapid.IntRange(0, 3).Draw(t, "upTo")
				}
				c.plan(t, rapid.IntRange(0, 4).Draw(t, "lost") == 0, upTo)
			},
		})
		c.settle(t)
	})
}

// rest has every pod do what it is told, and a minute pass; busy when one had anything to do.
func (c *cluster) rest() (busy bool) {
	for name, pod := range c.pods {
		switch {
		case pod.DeletionTimestamp != nil:
			delete(c.pods, name)
			busy = true
		case !podstate.Ended(pod) && !podstate.Ready(pod):
			c.setReady(name, true)
			busy = true
		}
	}
	c.now = c.now.Add(time.Minute)
	return busy
}

// settle goes on in quiet until nothing is left to do.
func (c *cluster) settle(t *rapid.T) {
	c.change(func(*appsv1.StatefulSet) {})
	for turn := 0; ; turn++ {
		busy := c.plan(t, false, 1000)
		if !c.rest() && !busy && c.away() == 0 {
			break
		}
		if turn > 200 {
			t.Fatal("the set does not come to rest")
		}
	}
	c.plan(t, false, 1000)
	if len(c.pods) != replicasOf(c.set) || c.away() > 0 {
		t.Fatalf("pods %v, want %d from %d", slices.Sorted(maps.Keys(c.pods)), replicasOf(c.set), startOf(c.set))
	}
	s := c.set.Status
	if int(s.Replicas) != replicasOf(c.set) || s.AvailableReplicas != s.Replicas || s.ObservedGeneration != c.set.Generation {
		t.Fatalf("status %+v", s)
	}
	if c.set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return
	}
	for i := partition(c.set); i < replicasOf(c.set); i++ {
		if got := c.pods[nameOf(c.set, startOf(c.set)+i)].Labels[appsv1.StatefulSetRevisionLabel]; got != fmt.Sprint("r", c.version) {
			t.Fatalf("ordinal %d has %s, want r%d", startOf(c.set)+i, got, c.version)
		}
	}
	if partition(c.set) == 0 && (s.CurrentRevision != s.UpdateRevision || s.UpdatedReplicas != s.Replicas) {
		t.Fatalf("the update did not end: %+v", s)
	}
}
