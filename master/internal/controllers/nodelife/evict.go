package nodelife

import (
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

// evictions says which pods of a node have to go now, and after what time the next one will have to (0: never).
func evictions(now time.Time, taints []corev1.Taint, pods []*corev1.Pod, moved bool) (out []eviction, next time.Duration) {
	wait := func(d time.Duration) {
		if next == 0 || d < next {
			next = d
		}
	}
	for _, pod := range pods {
		force := moved && mayForce(pod)
		if pod.DeletionTimestamp != nil {
			if !force {
				continue
			}
			if left := pod.DeletionTimestamp.Sub(now); left > 0 {
				wait(left)
			} else {
				out = append(out, eviction{pod, true})
			}
			continue
		}
		left, ends := toleratedFor(now, taints, pod)
		switch {
		case !ends:
		case left > 0:
			wait(left)
		default:
			out = append(out, eviction{pod, force})
		}
	}
	return out, next
}

// mayForce: pods of a StatefulSet may write to what only one may write to; they go when their node is known to be gone,
// which a person says by deleting the Node or the pod.
func mayForce(pod *corev1.Pod) bool {
	ref := metav1.GetControllerOfNoCopy(pod)
	return ref == nil || ref.Kind != "StatefulSet"
}

// toleratedFor says for how long yet the pod may stay with the NoExecute taints; ends is false when for ever.
func toleratedFor(now time.Time, taints []corev1.Taint, pod *corev1.Pod) (left time.Duration, ends bool) {
	for i := range taints {
		if taints[i].Effect != corev1.TaintEffectNoExecute {
			continue
		}
		since := now
		if taints[i].TimeAdded != nil {
			since = taints[i].TimeAdded.Time
		}
		tolerated := false
		for j := range pod.Spec.Tolerations {
			t := &pod.Spec.Tolerations[j]
			if !covers(t, &taints[i]) {
				continue
			}
			tolerated = true
			if t.TolerationSeconds == nil {
				continue
			}
			seconds := time.Duration(min(max(*t.TolerationSeconds, 0), 1<<31)) * time.Second
			if d := since.Add(seconds).Sub(now); !ends || d < left {
				left, ends = d, true
			}
		}
		if !tolerated {
			return 0, true
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
