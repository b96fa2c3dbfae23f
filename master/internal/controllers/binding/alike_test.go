package binding

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// of is a pod of a Job, as its controller makes them.
func of(job string, p *corev1.Pod) *corev1.Pod {
	yes := true
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job, UID: "uid-of-job", Controller: &yes}}
	return p
}

func selecting(name, disk string) *corev1.Pod {
	p := ct.Pod(name, nil)
	if disk != "" {
		p.Spec.NodeSelector = map[string]string{"disk": disk}
	}
	return p
}

// What was found for one pod of an owner holds for another only if it asks for the same: the owner's template may have
// changed, and so may a pod behind its gates.
func TestSiblingsThatAskForOtherThings(t *testing.T) {
	gated := func(p *corev1.Pod) *corev1.Pod {
		p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "a"}}
		return p
	}
	ungate := func(e *ct.Env, name, disk string) {
		ct.Change(e, "default", name, func(p *corev1.Pod) {
			p.Spec.SchedulingGates, p.Spec.NodeSelector = nil, map[string]string{"disk": disk}
		})
	}
	for name, test := range map[string]struct {
		first, second *corev1.Pod
		after         func(e *ct.Env)
	}{
		"selector":  {first: selecting("first", "tape"), second: selecting("second", "")},
		"resources": {first: requesting("first", "100"), second: requesting("second", "100m")},
		"toleration": {first: ct.Pod("first", nil), second: func() *corev1.Pod {
			p := ct.Pod("second", nil)
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
			return p
		}()},
		"labels": {first: ct.Pod("first", map[string]string{"app": "web"}), second: ct.Pod("second", map[string]string{"app": "db"})},
		"gates": {first: gated(selecting("first", "")), second: gated(selecting("second", "")), after: func(e *ct.Env) {
			ungate(e, "first", "tape")
			ct.Settle(time.Second)
			ungate(e, "second", "ssd")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := start(t)
				ct.Node(e, "node1")
				ct.Change(e, "", "node1", func(n *corev1.Node) {
					n.Labels = map[string]string{"disk": "ssd", "kubernetes.io/hostname": "node1"}
					if name == "toleration" {
						n.Spec.Taints = []corev1.Taint{{Key: "mine", Effect: corev1.TaintEffectNoSchedule}}
					}
				})
				loner := ct.Pod("loner", map[string]string{"app": "loner"})
				if name == "labels" {
					loner.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
						TopologyKey: "kubernetes.io/hostname", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}}
				}
				ct.Create(e, loner)
				ct.Settle(time.Second)
				ct.Create(e, of("job", test.first))
				ct.Settle(time.Second)
				ct.Create(e, of("job", test.second))
				ct.Settle(time.Second)
				if test.after != nil {
					test.after(e)
				}
				ct.Settle(20 * time.Second)
				if p := ct.Get[*corev1.Pod](e, "default", "first"); p.Spec.NodeName != "" {
					t.Error("the first fits")
				}
				if p := ct.Get[*corev1.Pod](e, "default", "second"); p.Spec.NodeName != "node1" {
					t.Errorf("the second, which fits: %+v", p.Status.Conditions)
				}
			})
		})
	}
}

// Of pods that ask for the same one is looked at, whatever the number in their names and labels.
func TestAlikeAreLookedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		c := New(Config{Registry: e.Registry, Logger: e.Logger})
		ct.Node(e, "node1")
		for i := range 20 {
			p := requesting(fmt.Sprintf("p%d", i), "100")
			p.Labels = map[string]string{"batch.kubernetes.io/job-completion-index": fmt.Sprint(i)}
			p.Spec.Hostname = fmt.Sprintf("job-%d", i)
			ct.Create(e, of("job", p))
		}
		e.Start(c.Run)
		ct.Settle(time.Second)
		if n := c.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		for _, p := range ct.List[*corev1.Pod](e, "default") {
			if len(p.Status.Conditions) == 0 {
				t.Errorf("%s has not been told", p.Name)
			}
		}
	})
}

// Owners that are gone leave nothing behind that grows.
func TestHopelessIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		c := New(Config{Registry: e.Registry, Logger: e.Logger})
		ct.Node(e, "node1")
		e.Update(func(tx *registry.Tx) error {
			for i := range maxHopeless + 50 {
				p := of("job", requesting(fmt.Sprintf("p%d", i), "100"))
				p.OwnerReferences[0].UID = types.UID(fmt.Sprint(i))
				if _, err := registry.Create(tx, p); err != nil {
					return err
				}
			}
			return nil
		})
		e.Start(c.Run)
		ct.Settle(time.Second)
		synctest.Wait()
		if n := len(c.hopeless); n == 0 || n > maxHopeless {
			t.Errorf("%d are remembered", n)
		}
	})
}
