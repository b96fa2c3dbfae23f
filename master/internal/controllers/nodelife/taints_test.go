package nodelife

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

func (b bench) taint(key string, effect corev1.TaintEffect) {
	ct.Change(b.Env, "", "node1", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: effect})
	})
	synctest.Wait()
}

func (b bench) untaint(key string) {
	ct.Change(b.Env, "", "node1", func(n *corev1.Node) {
		n.Spec.Taints = slices.DeleteFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == key })
	})
	synctest.Wait()
}

func (b bench) left(name string) string {
	p, err := ct.Find[*corev1.Pod](b.Env, "default", name)
	switch {
	case err != nil:
		return "gone"
	case p.DeletionTimestamp != nil:
		return "ending"
	}
	return "there"
}

func (b bench) expect(want map[string]string) {
	b.T.Helper()
	for name, w := range want {
		if got := b.left(name); got != w {
			b.T.Errorf("%s is %s, want %s", name, got, w)
		}
	}
}

func tolerating(key string, seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
		if seconds >= 0 {
			t.TolerationSeconds = &seconds
		}
		p.Spec.Tolerations = append(p.Spec.Tolerations, t)
	}
}

func stateful(p *corev1.Pod) {
	p.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "StatefulSet", Name: "db", UID: "db", Controller: new(true)}}
}

// A taint that a person adds counts from that moment, however long the node has been as it is; and one that goes in time
// has changed nothing.
func TestTaintLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		ct.Settle(time.Hour)
		b.pod("none")
		b.pod("short", tolerating("repair", 10))
		b.pod("long", tolerating("repair", 100))
		b.pod("both", tolerating("repair", 20), tolerating("repair", 100))
		b.pod("ever", tolerating("repair", -1), tolerating("repair", 20))
		b.taint("repair", corev1.TaintEffectNoExecute)
		b.expect(map[string]string{"none": "ending", "short": "there"})
		ct.Settle(9 * time.Second)
		b.expect(map[string]string{"short": "there"})
		ct.Settle(3 * time.Second)
		b.expect(map[string]string{"short": "ending", "both": "there"})
		ct.Settle(10 * time.Second)
		b.expect(map[string]string{"both": "ending", "long": "there"})
		b.untaint("repair")
		ct.Settle(time.Hour)
		b.expect(map[string]string{"long": "there", "ever": "there"})
		if ev := ct.Events(b.Env, "short"); !slices.Contains(ev, "TaintManagerEviction: Marking for deletion Pod default/short") {
			t.Errorf("events of short: %q", ev)
		}
		if ev := ct.Events(b.Env, "long"); !slices.Contains(ev, "TaintManagerEviction: Cancelling deletion of Pod default/long") {
			t.Errorf("events of long: %q", ev)
		}
		for _, name := range []string{"short", "ever"} {
			if ev := ct.Events(b.Env, name); strings.Contains(strings.Join(ev, "\n"), "Cancelling") {
				t.Errorf("events of %s: %q", name, ev)
			}
		}
	})
}

// A node that says itself that it is not ready keeps its pods for a while, and then as long as they tolerate it; they end in
// order, since it can confirm it.
func TestNotReady(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("web")
		b.pod("patient", tolerating(corev1.TaintNodeNotReady, 300))
		say := func(s corev1.ConditionStatus) {
			ct.ChangeStatus(b.Env, "", "node1", func(n *corev1.Node) {
				c := nodeCondition(n, corev1.NodeReady)
				c.Status, c.Reason, c.LastTransitionTime = s, "KubeletNotReady", metav1.Now()
			})
		}
		say(corev1.ConditionFalse)
		ct.Settle(notReadyFor - 2*time.Second)
		if got := b.taints(); !slices.Equal(got, []string{"node.kubernetes.io/not-ready:NoSchedule"}) {
			t.Errorf("taints %v", got)
		}
		say(corev1.ConditionTrue) // an engine that was restarted
		ct.Settle(time.Minute)
		b.expect(map[string]string{"web": "there"})
		say(corev1.ConditionFalse)
		ct.Settle(notReadyFor + 5*time.Second)
		if got := b.taints(); !slices.Contains(got, "node.kubernetes.io/not-ready:NoExecute") {
			t.Errorf("taints %v", got)
		}
		b.expect(map[string]string{"web": "there"})
		ct.Settle(8 * time.Second)
		b.expect(map[string]string{"web": "ending", "patient": "there"})
		say(corev1.ConditionTrue)
		ct.Settle(time.Hour)
		b.expect(map[string]string{"patient": "there"})
		if got := b.taints(); len(got) != 0 {
			t.Errorf("taints %v", got)
		}
	})
}

// What a node said of itself before gossip called it dead for a moment is what it says afterwards.
func TestFlapTellsNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		ct.ChangeStatus(b.Env, "", "node1", func(n *corev1.Node) {
			c := nodeCondition(n, corev1.NodeReady)
			c.Status, c.Reason, c.Message = corev1.ConditionFalse, "KubeletNotReady", "container runtime is down"
		})
		synctest.Wait()
		b.gossip.say("node1", false)
		synctest.Wait()
		if b.ready() != corev1.ConditionUnknown {
			t.Errorf("Ready %s", b.ready())
		}
		b.gossip.say("node1", true)
		synctest.Wait()
		c := nodeCondition(ct.Get[*corev1.Node](b.Env, "", "node1"), corev1.NodeReady)
		if c.Status != corev1.ConditionFalse || c.Reason != "KubeletNotReady" || c.Message != "container runtime is down" {
			t.Errorf("Ready became %+v", c)
		}
	})
}

// As long as nobody can know that a lost node's containers have ended, a StatefulSet's pods keep their names; the manifest's
// own tolerations hold for all.
func TestSingleWritersAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("web")
		b.pod("db-0", stateful)
		b.pod("patient", tolerating(corev1.TaintNodeUnreachable, 300))
		b.pod("faithful", tolerating(corev1.TaintNodeUnreachable, -1))
		b.sessions.say("node1", false)
		b.gossip.say("node1", false)
		ct.Settle(11 * time.Second)
		b.expect(map[string]string{"web": "gone", "db-0": "ending", "patient": "there", "faithful": "there"})
		ct.Settle(24 * time.Hour)
		b.expect(map[string]string{"db-0": "ending", "patient": "gone", "faithful": "there"})
		b.taint(corev1.TaintNodeOutOfService, corev1.TaintEffectNoExecute)
		ct.Settle(time.Second)
		b.expect(map[string]string{"db-0": "gone", "faithful": "gone"})
	})
}

// The taint out-of-service of a node that is in service moves pods like any other, and forces nothing.
func TestOutOfServiceOfALivingNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("db-0", stateful)
		b.taint(corev1.TaintNodeOutOfService, corev1.TaintEffectNoExecute)
		ct.Settle(time.Minute)
		b.expect(map[string]string{"db-0": "ending"})
	})
}

// Deleting the Node says that it will not come back.
func TestDeletedNodeFreesSingleWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := start(t)
		b.pod("db-0", stateful)
		b.sessions.say("node1", false)
		b.gossip.say("node1", false)
		ct.Settle(time.Minute)
		ct.Delete[*corev1.Node](b.Env, "", "node1", registry.DeleteOptions{})
		ct.Settle(missingFor + time.Second)
		b.expect(map[string]string{"db-0": "gone"})
	})
}
