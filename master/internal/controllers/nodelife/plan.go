package nodelife

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// witness is what is known of a node besides its object.
type witness struct {
	session bool
	// known says that gossip has an opinion, alive is that opinion.
	known, alive bool
	// goneSince is when something was last heard over the session that is gone.
	goneSince time.Time
}

// finding is what the witnesses amount to.
type finding struct {
	// lost: the node is not in service. moved: and its pods may be moved.
	lost, moved bool
	// undecided: nobody speaks for the node yet, nor long enough against it. What was found last stands: a master that has
	// just started must not take a node that was dead for a living one.
	undecided bool
	// again is when to look again though nothing happens; 0 for never.
	again time.Duration
}

func find(now time.Time, w witness, silentAfter time.Duration) finding {
	dead := w.known && !w.alive
	switch {
	case w.session:
		return finding{lost: dead}
	case dead:
		return finding{lost: true, moved: true}
	}
	if left := w.goneSince.Add(silentAfter).Sub(now); left > 0 {
		return finding{undecided: true, again: left}
	}
	return finding{lost: true, moved: !w.known}
}

const (
	reasonUnknown  = "NodeStatusUnknown"
	messageUnknown = "Kubelet stopped posting node status."
	reasonNotReady = "NodeNotReady"
)

// These become Unknown together when a node is lost, as in Kubernetes' node lifecycle controller.
var reported = []corev1.NodeConditionType{
	corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure,
}

func nodeCondition(n *corev1.Node, t corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range n.Status.Conditions {
		if n.Status.Conditions[i].Type == t {
			return &n.Status.Conditions[i]
		}
	}
	return nil
}

// setConditions makes the conditions of a lost node Unknown, and takes that back when the node turns out to have been
// there: its agent says again what it knows, but only when that changes, so until then it is what the agent said before. Of
// one whose session lives although gossip calls it dead, all but Ready is still known.
func setConditions(now time.Time, n *corev1.Node, lost, session bool, said []corev1.NodeCondition) {
	at := metav1.NewTime(now.Truncate(time.Second))
	for _, t := range reported {
		c := nodeCondition(n, t)
		switch {
		case lost && session && t != corev1.NodeReady:
		case lost && c == nil:
			n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{
				Type: t, Status: corev1.ConditionUnknown, Reason: reasonUnknown, Message: messageUnknown, LastTransitionTime: at,
			})
		case lost && c.Status != corev1.ConditionUnknown:
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionUnknown, reasonUnknown, messageUnknown, at
		case !lost && c != nil && c.Status == corev1.ConditionUnknown && c.Reason == reasonUnknown:
			c.Status, c.Reason, c.Message, c.LastTransitionTime = corev1.ConditionFalse, "KubeletHasNoPressure", "kubelet is posting status again", at
			if t == corev1.NodeReady {
				c.Status, c.Reason, c.Message = corev1.ConditionTrue, "KubeletReady", "kubelet is posting ready status"
			}
			if i := slices.IndexFunc(said, func(s corev1.NodeCondition) bool { return s.Type == t }); i >= 0 {
				c.Status, c.Reason, c.Message = said[i].Status, said[i].Reason, said[i].Message
			}
		}
	}
}

// isLost says that the node's state is what setConditions made it.
func isLost(n *corev1.Node) bool {
	c := nodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status == corev1.ConditionUnknown && c.Reason == reasonUnknown
}

// isOut says that a person has declared the node out of service: it will not run its pods again before they have been
// taken off it (Kubernetes' non-graceful node shutdown).
func isOut(n *corev1.Node) bool {
	c := nodeCondition(n, corev1.NodeReady)
	return c != nil && c.Status != corev1.ConditionTrue && slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeOutOfService
	})
}

// isMoving says whether the node has been found lost with its pods to be moved.
func isMoving(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == corev1.TaintNodeUnreachable && t.Effect == corev1.TaintEffectNoExecute
	})
}

// pressures are the conditions that keep new pods away while they hold.
var pressures = []struct {
	condition corev1.NodeConditionType
	taint     string
}{
	{corev1.NodeMemoryPressure, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.TaintNodeNetworkUnavailable},
}

// ours are the keys of the taints that this package keeps.
var ours = []string{
	corev1.TaintNodeUnschedulable, corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, corev1.TaintNodeMemoryPressure,
	corev1.TaintNodeDiskPressure, corev1.TaintNodePIDPressure, corev1.TaintNodeNetworkUnavailable,
}

// notReadyFor is how long a node that says itself that it is not ready keeps its pods: a container engine that is upgraded
// is away for some seconds, and what would have to run the pods' ends is the engine.
const notReadyFor = 30 * time.Second

// taints are those that the node should have: other people's as they are, ours by its conditions. Each NoExecute taint
// carries the time from which tolerationSeconds count: of a node that is not reachable that is when it was last heard of,
// although its pods are moved only when its session is known to be gone. again is when to look again though nothing happens.
func taints(now time.Time, n *corev1.Node, moved bool, heard time.Time) (want []corev1.Taint, again time.Duration) {
	for _, t := range n.Spec.Taints {
		if !slices.Contains(ours, t.Key) {
			want = append(want, t)
		}
	}
	add := func(key string, effect corev1.TaintEffect) {
		t := corev1.Taint{Key: key, Effect: effect}
		for _, old := range n.Spec.Taints {
			if old.Key == key && old.Effect == effect {
				t.TimeAdded = old.TimeAdded
			}
		}
		want = append(want, t)
	}
	if n.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	switch c := nodeCondition(n, corev1.NodeReady); {
	case c != nil && c.Status == corev1.ConditionUnknown:
		add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoSchedule)
		if moved {
			add(corev1.TaintNodeUnreachable, corev1.TaintEffectNoExecute)
		}
	case c == nil || c.Status == corev1.ConditionFalse:
		add(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule)
		if c == nil {
			break
		}
		if again = c.LastTransitionTime.Add(notReadyFor).Sub(now); again <= 0 {
			again = 0
			add(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)
		}
	}
	for _, p := range pressures {
		if c := nodeCondition(n, p.condition); c != nil && c.Status == corev1.ConditionTrue {
			add(p.taint, corev1.TaintEffectNoSchedule)
		}
	}
	for i := range want {
		if want[i].TimeAdded != nil || want[i].Effect != corev1.TaintEffectNoExecute {
			continue
		}
		at := metav1.NewTime(now.Add(time.Second - 1).Truncate(time.Second)) // nobody goes before the time is over
		if want[i].Key == corev1.TaintNodeUnreachable {
			at = metav1.NewTime(unreachableSince(n, heard, now).Truncate(time.Second))
		}
		want[i].TimeAdded = &at
	}
	return want, again
}

// unreachableSince is the last sign of life; without one, when the node was found lost.
func unreachableSince(n *corev1.Node, heard, now time.Time) time.Time {
	since := heard
	if c := nodeCondition(n, corev1.NodeReady); since.IsZero() && c != nil {
		since = c.LastTransitionTime.Time
	}
	if since.IsZero() || since.After(now) {
		return now
	}
	return since
}
