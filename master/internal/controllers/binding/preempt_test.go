package binding

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func important(name, cpu string, priority int32) *corev1.Pod {
	p := requesting(name, cpu)
	p.Spec.PriorityClassName = fmt.Sprintf("p%d", priority)
	return p
}

// classes are p1 to p9.
func classes(e *ct.Env) {
	for i := range int32(9) {
		ct.Create(e, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("p%d", i+1)}, Value: i + 1})
	}
}

func end(e *ct.Env, names ...string) {
	zero := int64(0)
	for _, name := range names {
		ct.Delete[*corev1.Pod](e, "default", name, registry.DeleteOptions{GracePeriodSeconds: &zero})
	}
	ct.Settle(time.Second)
}

// TestPreemption follows one preemption: victims are told and end in their own time; the place is kept for the pod that they
// left it for, and written on it until it is there.
func TestPreemption(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		classes(e)
		ct.Node(e, "node1")
		ct.Create(e, important("low", "2", 1))
		ct.Create(e, important("middle", "2", 5))
		ct.Settle(time.Second)
		ct.Create(e, important("high", "2", 9))
		ct.Settle(time.Second)
		low, high := ct.Get[*corev1.Pod](e, "default", "low"), ct.Get[*corev1.Pod](e, "default", "high")
		c := podstate.Condition(low, corev1.DisruptionTarget)
		if low.DeletionTimestamp == nil || *low.DeletionGracePeriodSeconds != 30 || c == nil || c.Status != corev1.ConditionTrue ||
			c.Reason != "PreemptionByScheduler" || c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
			t.Errorf("victim: %+v, %+v", low.ObjectMeta, low.Status)
		}
		if ev := ct.Events(e, "low"); len(ev) != 2 || ev[1] != fmt.Sprintf("Preempted: Preempted by pod %s on node node1", high.UID) {
			t.Errorf("its events: %q", ev)
		}
		if ct.Get[*corev1.Pod](e, "default", "middle").DeletionTimestamp != nil {
			t.Error("more victims than needed")
		}
		c = podstate.Condition(high, corev1.PodScheduled)
		if high.Status.NominatedNodeName != "node1" || c == nil || c.Reason != "Unschedulable" || c.Message != "0/1 nodes are available: 1 Insufficient cpu." {
			t.Errorf("preemptor: %+v", high.Status)
		}
		ct.Create(e, important("greedy", "2", 4)) // would like the same place
		ct.Settle(20 * time.Second)
		end(e, "low")
		high = ct.Get[*corev1.Pod](e, "default", "high")
		if high.Spec.NodeName != "node1" || high.Status.NominatedNodeName != "" {
			t.Errorf("not where its victim was: %q, nominated to %q", high.Spec.NodeName, high.Status.NominatedNodeName)
		}
		greedy := ct.Get[*corev1.Pod](e, "default", "greedy")
		if c := podstate.Condition(greedy, corev1.PodScheduled); greedy.Spec.NodeName != "" || !strings.HasSuffix(c.Message,
			"preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.") {
			t.Errorf("greedy: %q, %+v", greedy.Spec.NodeName, c)
		}
	})
}

// TestReplacementsDoNotChase: what a ReplicaSet makes in the place of a victim neither takes the victim's place nor drives
// others away, and who waits for victims asks for no more of them.
func TestReplacementsDoNotChase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		classes(e)
		ct.Node(e, "node1")
		for name, cpu := range map[string]string{"one": "800m", "two": "1200m", "three": "1800m"} {
			ct.Create(e, important(name, cpu, map[string]int32{"one": 1, "two": 2, "three": 3}[name]))
		}
		ct.Settle(time.Second)
		ct.Create(e, important("four", "2", 4))
		ct.Settle(time.Second)
		ct.Create(e, important("one-again", "800m", 1))
		ct.Create(e, important("two-again", "1200m", 2))
		ct.Settle(time.Second)
		end(e, "one")
		if p := ct.Get[*corev1.Pod](e, "default", "four"); p.Spec.NodeName != "" || p.Status.NominatedNodeName != "node1" {
			t.Errorf("with one of two victims gone: %+v", p.Status)
		}
		end(e, "two")
		ct.Settle(time.Minute)
		for name, want := range map[string]string{"four": "node1", "three": "node1", "one-again": "", "two-again": ""} {
			if p := ct.Get[*corev1.Pod](e, "default", name); p.Spec.NodeName != want || p.DeletionTimestamp != nil || p.Status.NominatedNodeName != "" {
				t.Errorf("%s: on %q, nominated to %q, ending %v", name, p.Spec.NodeName, p.Status.NominatedNodeName, p.DeletionTimestamp != nil)
			}
		}
	})
}

// TestMoreImportantTakesNomination: a place that is kept for a pod goes to one that is more important; the other loses it,
// and looks for victims elsewhere.
func TestMoreImportantTakesNomination(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		classes(e)
		ct.Node(e, "node1")
		ct.Create(e, important("low", "4", 1))
		ct.Settle(time.Second)
		ct.Create(e, important("medium", "4", 5))
		ct.Settle(time.Second)
		if p := ct.Get[*corev1.Pod](e, "default", "medium"); p.Status.NominatedNodeName != "node1" {
			t.Fatalf("medium: %+v", p.Status)
		}
		ct.Create(e, important("high", "4", 9))
		ct.Settle(10 * time.Second)
		high, medium := ct.Get[*corev1.Pod](e, "default", "high"), ct.Get[*corev1.Pod](e, "default", "medium")
		if high.Status.NominatedNodeName != "node1" || medium.Status.NominatedNodeName != "" {
			t.Errorf("nominated: high to %q, medium to %q", high.Status.NominatedNodeName, medium.Status.NominatedNodeName)
		}
		end(e, "low")
		ct.Settle(time.Minute)
		high, medium = ct.Get[*corev1.Pod](e, "default", "high"), ct.Get[*corev1.Pod](e, "default", "medium")
		if high.Spec.NodeName != "node1" || medium.Spec.NodeName != "" {
			t.Errorf("high on %q, medium on %q", high.Spec.NodeName, medium.Spec.NodeName)
		}
	})
}

// A master that has just started knows nominations from the pods.
func TestNominationOutlivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		classes(e)
		stop := e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		ct.Node(e, "node1")
		ct.Create(e, important("low", "4", 1))
		ct.Settle(time.Second)
		ct.Create(e, important("high", "4", 9))
		ct.Settle(time.Second)
		stop()
		end(e, "low")
		ct.Create(e, important("quick", "4", 5))
		c := New(Config{Registry: e.Registry, Logger: e.Logger})
		e.Start(c.Run)
		ct.Settle(time.Second)
		if p := ct.Get[*corev1.Pod](e, "default", "high"); p.Spec.NodeName != "node1" {
			t.Errorf("high: %q, %+v", p.Spec.NodeName, p.Status)
		}
	})
}

// TestRetriedOnlyForAReason counts the questions to the scheduler: what happens elsewhere costs nothing, and what a pod waits
// for wakes it.
func TestRetriedOnlyForAReason(t *testing.T) {
	company := func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: "kubernetes.io/hostname", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}}}}
	}
	abroad := func(p *corev1.Pod) {
		company(p)
		p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[0].NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "a"}}
	}
	port := func(p *corev1.Pod) {
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: "TCP"}}
	}
	ssd := func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
	claim := func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}
	relabel := func(value string) func(*ct.Env) {
		return func(e *ct.Env) {
			ct.Change(e, "default", "big", func(p *corev1.Pod) { p.Labels = map[string]string{"app": value} })
		}
	}
	node := func(change func(*corev1.Node)) func(*ct.Env) {
		return func(e *ct.Env) { ct.Change(e, "", "node1", change) }
	}
	labelNode := func(k, v string) func(*ct.Env) {
		return node(func(n *corev1.Node) { metav1.SetMetaDataLabel(&n.ObjectMeta, k, v) })
	}
	heartbeat := func(e *ct.Env) {
		ct.ChangeStatus(e, "", "node1", func(n *corev1.Node) { n.Status.Conditions[0].LastHeartbeatTime = metav1.Now() })
	}
	remove := func(name string) func(*ct.Env) { return func(e *ct.Env) { end(e, name) } }
	otherClaim := func(e *ct.Env) {
		ct.Create(e, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}})
	}
	dataClaim := func(e *ct.Env) {
		ct.Create(e, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"}})
	}
	team := func(e *ct.Env) {
		ct.Change(e, "", "default", func(ns *corev1.Namespace) { ns.Labels = map[string]string{"team": "b"} })
	}
	smaller := func(e *ct.Env) {
		ct.ChangeStatus(e, "", "node1", func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = *n.Status.Allocatable.Cpu() })
	}
	for name, test := range map[string]struct {
		pod          func(*corev1.Pod)
		cpu          string
		idle, wakeup []func(*ct.Env)
	}{
		"resources": {cpu: "2", idle: []func(*ct.Env){heartbeat, labelNode("disk", "hdd"), relabel("db"), team, dataClaim, remove("small"), smaller}, wakeup: []func(*ct.Env){remove("big")}},
		"label":     {pod: ssd, idle: []func(*ct.Env){heartbeat, labelNode("disk", "hdd"), relabel("db"), dataClaim, remove("big")}, wakeup: []func(*ct.Env){labelNode("disk", "ssd")}},
		"company":   {pod: company, idle: []func(*ct.Env){heartbeat, remove("small"), relabel("web"), team, dataClaim}, wakeup: []func(*ct.Env){relabel("db")}},
		"host port": {pod: port, idle: []func(*ct.Env){heartbeat, remove("small"), labelNode("disk", "hdd")}, wakeup: []func(*ct.Env){remove("big")}},
		"claim":     {pod: claim, idle: []func(*ct.Env){heartbeat, otherClaim, remove("big"), labelNode("disk", "hdd")}, wakeup: []func(*ct.Env){dataClaim}},
		"namespace": {pod: abroad, idle: []func(*ct.Env){heartbeat, remove("small")}, wakeup: []func(*ct.Env){team}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ct.New(t)
				c := New(Config{Registry: e.Registry, Logger: e.Logger})
				e.Start(c.Run)
				ct.Node(e, "node1")
				labelNode("kubernetes.io/hostname", "node1")(e)
				big := requesting("big", "3")
				port(big)
				ct.Create(e, big)
				ct.Create(e, requesting("small", "100m"))
				ct.Settle(time.Second)
				p := requesting("waits", "100m")
				if test.cpu != "" {
					p = requesting("waits", test.cpu)
				}
				if test.pod != nil {
					test.pod(p)
				}
				ct.Create(e, p)
				ct.Settle(time.Minute)
				asked := c.asked.Load()
				for i, do := range test.idle {
					do(e)
					ct.Settle(20 * time.Second)
					if n := c.asked.Load(); n != asked {
						t.Errorf("asked %d times for what does not concern it (%d)", n-asked, i)
						asked = n
					}
				}
				for i, do := range test.wakeup {
					do(e)
					ct.Settle(20 * time.Second)
					if c.asked.Load() == asked {
						t.Errorf("not asked for what it waits for (%d)", i)
					}
				}
			})
		})
	}
}

// Nothing happens for a long time: the net below the hints asks once in five minutes, for pods of one owner together.
func TestFlush(t *testing.T) {
	for name, of := range map[string]func(*corev1.Pod) *corev1.Pod{
		"alone": func(p *corev1.Pod) *corev1.Pod { return p },
		"owned": func(p *corev1.Pod) *corev1.Pod { return of("job", p) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ct.New(t)
				c := New(Config{Registry: e.Registry, Logger: e.Logger})
				e.Start(c.Run)
				ct.Node(e, "node1")
				ct.Create(e, of(requesting("waits", "100")))
				if name == "owned" {
					ct.Create(e, of(requesting("waits-too", "100")))
				}
				ct.Settle(29 * time.Minute)
				if n := c.asked.Load(); n < 5 || n > 6 {
					t.Errorf("asked %d times in 29 minutes", n)
				}
			})
		})
	}
}

// A pod whose last gate goes is placed at once; one of another scheduler is left alone.
func TestGatesAndOtherSchedulers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Node(e, "node1")
		p := ct.Pod("gated", nil)
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}, {Name: "b"}}
		ct.Create(e, p)
		other := ct.Pod("other", nil)
		other.Spec.SchedulerName = "mine"
		ct.Create(e, other)
		ct.Settle(time.Second)
		p = ct.Get[*corev1.Pod](e, "default", "gated")
		if c := podstate.Condition(p, corev1.PodScheduled); p.Spec.NodeName != "" || c == nil || c.Reason != "SchedulingGated" {
			t.Errorf("gated: %+v", p.Status)
		}
		ct.Change(e, "default", "gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = p.Spec.SchedulingGates[1:] })
		ct.Settle(time.Second)
		if ct.Get[*corev1.Pod](e, "default", "gated").Spec.NodeName != "" {
			t.Error("bound behind its gate")
		}
		ct.Change(e, "default", "gated", func(p *corev1.Pod) { p.Spec.SchedulingGates = nil })
		synctest.Wait()
		if ct.Get[*corev1.Pod](e, "default", "gated").Spec.NodeName != "node1" {
			t.Error("not bound although its gates are gone")
		}
		if p := ct.Get[*corev1.Pod](e, "default", "other"); p.Spec.NodeName != "" || podstate.Condition(p, corev1.PodScheduled) != nil {
			t.Errorf("another scheduler's pod was touched: %+v", p)
		}
	})
}

// A pod takes the last place and is gone before that is written; who was refused in the same batch hears of it.
func TestNewsWithinABatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		c := New(Config{Registry: e.Registry, Logger: e.Logger})
		ct.Node(e, "node1")
		first, second := ct.Create(e, requesting("first", "3")), ct.Create(e, requesting("second", "3"))
		if err := e.Registry.View(func(v *registry.View) error { c.reset(v); return nil }); err != nil {
			t.Fatal(err)
		}
		end(e, "first") // which the watch has not told
		c.scheduleBatch(e.Ctx)
		if c.queue.items[first.UID] != nil || c.queue.stale[second.UID] == nil {
			t.Errorf("first waits: %v, second is to be tried again: %v", c.queue.items[first.UID] != nil, c.queue.stale[second.UID] != nil)
		}
	})
}
