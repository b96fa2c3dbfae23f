package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// effectiveTaints are the node's taints, and node.kubernetes.io/not-ready while the Ready condition says so (or is
// missing) and no taint has followed yet: a node that does not report is not a place for pods.
func effectiveTaints(obj *corev1.Node) []corev1.Taint {
	if nodeReady(obj) {
		return obj.Spec.Taints
	}
	for i := range obj.Spec.Taints {
		if key := obj.Spec.Taints[i].Key; key == corev1.TaintNodeNotReady || key == corev1.TaintNodeUnreachable {
			return obj.Spec.Taints
		}
	}
	return append(slices.Clone(obj.Spec.Taints), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule})
}

func nodeReady(obj *corev1.Node) bool {
	for i := range obj.Status.Conditions {
		if c := &obj.Status.Conditions[i]; c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// Tolerates says whether one of the tolerations covers the taint.
func Tolerates(tolerations []corev1.Toleration, taint *corev1.Taint) bool {
	for i := range tolerations {
		t := &tolerations[i]
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			continue
		}
		switch t.Operator {
		case corev1.TolerationOpExists:
			return true
		case "", corev1.TolerationOpEqual:
			if t.Value == taint.Value {
				return true
			}
		}
	}
	return false
}

// taintFilter refuses nodes with a taint that forbids scheduling and that the pod does not tolerate.
type taintFilter struct{ tolerations []corev1.Toleration }

func (f taintFilter) fits(n *Node) bool {
	for i := range n.taints {
		t := &n.taints[i]
		if t.Effect != corev1.TaintEffectNoSchedule && t.Effect != corev1.TaintEffectNoExecute {
			continue
		}
		if !Tolerates(f.tolerations, t) {
			return false
		}
	}
	return true
}

func (taintFilter) blocks() Blocks { return byNode }

func (taintFilter) explain(*Node) refusal { return refuse("node(s) had untolerated taint(s)") }

// unschedulableFilter refuses cordoned nodes.
type unschedulableFilter struct{ tolerated bool }

func newUnschedulableFilter(pod *corev1.Pod) unschedulableFilter {
	taint := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return unschedulableFilter{Tolerates(pod.Spec.Tolerations, &taint)}
}

func (f unschedulableFilter) fits(n *Node) bool { return !n.obj.Spec.Unschedulable || f.tolerated }

func (unschedulableFilter) blocks() Blocks { return byNode }

func (unschedulableFilter) explain(*Node) refusal { return refuse("node(s) were unschedulable") }
