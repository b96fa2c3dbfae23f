package nodelife

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// eviction is a pod that has to go.
type eviction struct {
	pod *corev1.Pod
	// force: its node cannot confirm that it has ended, and it may run elsewhere at once.
	force bool
}

// verdict is what is to become of a node's pods.
type verdict struct {
	evict []eviction
	// pending are those that have to go later, unless something changes; next is when the first of them does (0: never).
	pending []*corev1.Pod
	next    time.Duration
}

// judge says which pods of a node have to go. moved: the node is lost, and they may run elsewhere though it cannot confirm
// that they have ended; out: a person says that they have.
func judge(now time.Time, taints []corev1.Taint, pods []*corev1.Pod, moved, out bool) (v verdict) {
	wait := func(d time.Duration) {
		if v.next == 0 || d < v.next {
			v.next = d
		}
	}
	for _, pod := range pods {
		force := out || moved && mayForce(pod)
		if pod.DeletionTimestamp != nil {
			left := pod.DeletionTimestamp.Sub(now)
			switch {
			case !force:
			case left > 0 && !out:
				wait(left)
			default:
				v.evict = append(v.evict, eviction{pod, true})
			}
			continue
		}
		left, ends := toleratedFor(now, taints, pod)
		switch {
		case !ends:
		case left > 0:
			wait(left)
			v.pending = append(v.pending, pod)
		default:
			v.evict = append(v.evict, eviction{pod, force})
		}
	}
	return v
}

// mayForce: pods of a StatefulSet have an identity that only one may have, and write to what only one may write to. Nobody
// can tell a machine without power from one whose agent has died or that was cut off, with its containers running on; so
// these pods go when their node confirms it, or when a person says that it will not run them again: by deleting the Node or
// the pod, or with the taint node.kubernetes.io/out-of-service.
func mayForce(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	return ref == nil || ref.Kind != "StatefulSet"
}

// toleratedFor says for how long yet the pod may stay with the NoExecute taints; ends is false when for ever. For each taint the
// first toleration that covers it counts, and of all taints the one that lets it stay least, as in Kubernetes.
func toleratedFor(now time.Time, taints []corev1.Taint, pod *corev1.Pod) (left time.Duration, ends bool) {
	for i := range taints {
		if taints[i].Effect != corev1.TaintEffectNoExecute {
			continue
		}
		since := now
		if taints[i].TimeAdded != nil {
			since = taints[i].TimeAdded.Time
		}
		j := slices.IndexFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return covers(&t, &taints[i]) })
		if j < 0 {
			return 0, true
		}
		t := &pod.Spec.Tolerations[j]
		if t.TolerationSeconds == nil {
			continue
		}
		seconds := time.Duration(min(max(*t.TolerationSeconds, 0), 1<<31)) * time.Second
		if d := since.Add(seconds).Sub(now); !ends || d < left {
			left, ends = d, true
		}
	}
	return left, ends
}

func covers(t *corev1.Toleration, taint *corev1.Taint) bool {
	if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
		return false
	}
	return t.Operator == corev1.TolerationOpExists || (t.Operator == "" || t.Operator == corev1.TolerationOpEqual) && t.Value == taint.Value
}

// withdraw makes a pod on a lost node not ready, so that nothing is sent to it any more.
func withdraw(now time.Time, pod *corev1.Pod) *corev1.Pod {
	if !podstate.Ready(pod) {
		return nil
	}
	pod = pod.DeepCopy()
	c := *podstate.Condition(pod, corev1.PodReady)
	c.Status, c.Reason, c.Message = corev1.ConditionFalse, reasonNotReady, "The node is not reachable."
	podstate.SetCondition(pod, now, c)
	return pod
}

// restore takes withdraw back for a pod whose containers were ready all the time.
func restore(now time.Time, pod *corev1.Pod) *corev1.Pod {
	ready, containers := podstate.Condition(pod, corev1.PodReady), podstate.Condition(pod, corev1.ContainersReady)
	if ready == nil || ready.Status != corev1.ConditionFalse || ready.Reason != reasonNotReady ||
		containers == nil || containers.Status != corev1.ConditionTrue {
		return nil
	}
	pod = pod.DeepCopy()
	c := *podstate.Condition(pod, corev1.PodReady)
	c.Status, c.Reason, c.Message = corev1.ConditionTrue, "", ""
	podstate.SetCondition(pod, now, c)
	return pod
}
