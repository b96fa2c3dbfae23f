package nodelife

import (
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// fake is a witness that says what the test lets it say.
type fake struct {
	mu      sync.Mutex
	words   map[string]bool
	changed chan struct{}
}

func newFake(names ...string) *fake {
	f := &fake{words: map[string]bool{}, changed: make(chan struct{}, 1)}
	for _, n := range names {
		f.words[n] = true
	}
	return f
}

func (f *fake) say(name string, alive bool) {
	f.mu.Lock()
	f.words[name] = alive
	f.mu.Unlock()
	f.changed <- struct{}{}
}

func (f *fake) States() map[string]bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.words)
}

func (f *fake) Alive() map[string]bool   { return f.States() }
func (f *fake) Heard(string) time.Time   { return time.Time{} }
func (f *fake) Changed() <-chan struct{} { return f.changed }

type bench struct {
	*ct.Env
	sessions, gossip *fake
}

func start(t *testing.T) bench {
	b := bench{ct.New(t), newFake("node1", "node2"), newFake("node1", "node2")}
	ct.Node(b.Env, "node1")
	ct.Node(b.Env, "node2")
	b.Start(New(Config{Registry: b.Registry, Logger: b.Logger, Sessions: b.sessions, Gossip: b.gossip}).Run)
	synctest.Wait()
	return b
}

func (b bench) pod(name string, change ...func(*corev1.Pod)) {
	p := ct.Pod(name, nil)
	p.Spec.NodeName = "node1"
	for _, f := range change {
		f(p)
	}
	ct.Create(b.Env, p)
	ct.SetReady(b.Env, "default", name, "10.244.0.2", true)
	ct.ChangeStatus(b.Env, "default", name, func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionTrue})
	})
	synctest.Wait()
}

func (b bench) taints() (out []string) {
	for _, t := range ct.Get[*corev1.Node](b.Env, "", "node1").Spec.Taints {
		out = append(out, t.Key+":"+string(t.Effect))
	}
	return out
}

func (b bench) ready() corev1.ConditionStatus {
	return nodeCondition(ct.Get[*corev1.Node](b.Env, "", "node1"), corev1.NodeReady).Status
}

func (b bench) podReady(name string) bool {
	return podstate.Ready(ct.Get[*corev1.Pod](b.Env, "default", name))
}

func TestGossipAloneTakesOutOfService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("web")
		b.gossip.say("node1", false)
		synctest.Wait() // at once: no time passes
		n := ct.Get[*corev1.Node](b.Env, "", "node1")
		if c := nodeCondition(n, corev1.NodeReady); c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." {
			t.Errorf("condition %+v", c)
		}
		if b.podReady("web") {
			t.Error("its pod is still ready")
		}
		if got := b.taints(); len(got) != 1 || got[0] != "node.kubernetes.io/unreachable:NoSchedule" {
			t.Errorf("taints %v", got)
		}
		ct.Settle(time.Hour)
		if p := ct.Get[*corev1.Pod](b.Env, "default", "web"); p.DeletionTimestamp != nil {
			t.Error("the pod was moved although the session is alive")
		}
		b.gossip.say("node1", true)
		synctest.Wait()
		if b.ready() != corev1.ConditionTrue || !b.podReady("web") || len(b.taints()) != 0 {
			t.Errorf("not restored: node %s, pod %v, taints %v", b.ready(), b.podReady("web"), b.taints())
		}
	})
}

// A master that has just started knows neither of a session nor of what gossip said before.
func TestRestartedMasterKeepsADeadNodeDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bench{ct.New(t), newFake("node2"), newFake("node2")}
		ct.Node(b.Env, "node1")
		b.pod("web")
		ct.ChangeStatus(b.Env, "default", "web", func(p *corev1.Pod) { *p = *withdraw(time.Now(), p) })
		ct.ChangeStatus(b.Env, "", "node1", func(n *corev1.Node) { setConditions(time.Now(), n, true, false, nil) })
		b.Start(New(Config{Registry: b.Registry, Logger: b.Logger, Sessions: b.sessions, Gossip: b.gossip}).Run)
		synctest.Wait()
		if b.ready() != corev1.ConditionUnknown || b.podReady("web") {
			t.Errorf("taken for alive: node %s, pod ready %v", b.ready(), b.podReady("web"))
		}
		ct.Settle(DefaultSilentAfter / 2)
		if b.ready() != corev1.ConditionUnknown || b.podReady("web") || len(ct.List[*corev1.Pod](b.Env, "default")) != 1 {
			t.Errorf("decided too early: node %s, pod ready %v", b.ready(), b.podReady("web"))
		}
		b.sessions.say("node1", true)
		synctest.Wait()
		if b.ready() != corev1.ConditionTrue || !b.podReady("web") || len(b.taints()) != 0 {
			t.Errorf("not restored: node %s, pod %v, taints %v", b.ready(), b.podReady("web"), b.taints())
		}
	})
}

func TestDeadNodeLosesItsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("web")
		b.pod("bare", func(p *corev1.Pod) { p.Finalizers = nil })
		b.pod("db-0", func(p *corev1.Pod) {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "db", Controller: &yes}}
		})
		b.pod("daemon", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}}
		})
		b.sessions.say("node1", false)
		b.gossip.say("node1", false)
		synctest.Wait()
		if b.ready() != corev1.ConditionUnknown || b.podReady("web") {
			t.Error("still in service")
		}
		ct.Settle(8 * time.Second)
		if n := len(ct.List[*corev1.Pod](b.Env, "default")); n != 4 {
			t.Errorf("%d pods left before the grace period has passed", n)
		}
		ct.Settle(3 * time.Second)
		left := map[string]bool{}
		for _, p := range ct.List[*corev1.Pod](b.Env, "default") {
			left[p.Name] = p.DeletionTimestamp != nil
		}
		if !maps.Equal(left, map[string]bool{"db-0": true, "daemon": false}) {
			t.Errorf("left (and ending): %v", left)
		}
	})
}

func TestSilentSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("web")
		b.sessions.say("node1", false)
		ct.Settle(39 * time.Second)
		if b.ready() != corev1.ConditionTrue {
			t.Error("out of service too early: gossip calls it alive")
		}
		ct.Settle(2 * time.Second)
		if b.ready() != corev1.ConditionUnknown || b.podReady("web") {
			t.Error("in service although its session has been gone for 40 s")
		}
		ct.Settle(time.Hour)
		if p := ct.Get[*corev1.Pod](b.Env, "default", "web"); p.DeletionTimestamp != nil {
			t.Error("the pod was moved although gossip calls the machine alive")
		}
	})
}

func TestMissingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("web", func(p *corev1.Pod) { p.Spec.NodeName = "nowhere" })
		ct.Settle(39 * time.Second)
		ct.Get[*corev1.Pod](b.Env, "default", "web")
		ct.Settle(2 * time.Second)
		if n := len(ct.List[*corev1.Pod](b.Env, "default")); n != 0 {
			t.Error("a pod on a node that does not exist was kept")
		}
	})
}

// A pod that somebody's finalizer holds says how it ended: nobody else could.
func TestHeldPodOfALostNodeHasFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		held := func(p *corev1.Pod) { p.Finalizers = []string{"example.com/counted"} }
		b.pod("lost", held)
		b.pod("nowhere", held, func(p *corev1.Pod) { p.Spec.NodeName = "nowhere" })
		b.sessions.say("node1", false)
		b.gossip.say("node1", false)
		ct.Settle(time.Minute)
		for _, name := range []string{"lost", "nowhere"} {
			p := ct.Get[*corev1.Pod](b.Env, "default", name)
			c := podstate.Condition(p, corev1.DisruptionTarget)
			if p.Status.Phase != corev1.PodFailed || p.DeletionTimestamp == nil || c == nil || c.Status != corev1.ConditionTrue {
				t.Errorf("%s: %s, deleted %v, %v", name, p.Status.Phase, p.DeletionTimestamp, c)
			}
		}
	})
}

func TestTaintsOfTheUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		seconds := int64(60)
		b.pod("strict")
		b.pod("patient", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "repair", Operator: corev1.TolerationOpExists, TolerationSeconds: &seconds, Effect: corev1.TaintEffectNoExecute}}
		})
		ct.Change(b.Env, "", "node1", func(n *corev1.Node) {
			n.Spec.Unschedulable = true
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "repair", Effect: corev1.TaintEffectNoExecute})
		})
		ct.Settle(time.Second)
		if got := b.taints(); len(got) != 2 || got[1] != "node.kubernetes.io/unschedulable:NoSchedule" {
			t.Errorf("taints %v", got)
		}
		deleting := func(name string) bool {
			return ct.Get[*corev1.Pod](b.Env, "default", name).DeletionTimestamp != nil
		}
		if !deleting("strict") || deleting("patient") {
			t.Errorf("deleted: strict %v, patient %v", deleting("strict"), deleting("patient"))
		}
		ct.Settle(time.Minute)
		if !deleting("patient") {
			t.Error("tolerationSeconds have passed")
		}
		if c := podstate.Condition(ct.Get[*corev1.Pod](b.Env, "default", "patient"), corev1.DisruptionTarget); c == nil || c.Reason != "DeletionByTaintManager" {
			t.Errorf("condition %v", c)
		}
	})
}
