package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

// Alike says that what Schedule finds now for one of two pods without claims, while it finds no node, holds for the other:
// both ask for the same. Pods of one template share the parts of their specs in memory, so that thousands of them are
// compared by a few pointers; what no filter reads (names, images' secrets, ends) is not compared.
func (s *Snapshot) Alike(a, b *corev1.Pod) bool {
	x, y := &a.Spec, &b.Spec
	return a.Namespace == b.Namespace && Priority(a) == Priority(b) && x.NodeName == y.NodeName &&
		deref(x.PreemptionPolicy) == deref(y.PreemptionPolicy) &&
		sameList(x.Containers, y.Containers) && sameList(x.InitContainers, y.InitContainers) &&
		sameList(x.Tolerations, y.Tolerations) && sameList(x.TopologySpreadConstraints, y.TopologySpreadConstraints) &&
		sameList(x.ResourceClaims, y.ResourceClaims) && maps.Equal(x.NodeSelector, y.NodeSelector) &&
		samePart(x.Affinity, y.Affinity) && samePart(x.Resources, y.Resources) && sameAmounts(x.Overhead, y.Overhead) &&
		!hasStatusResources(a) && !hasStatusResources(b) && (maps.Equal(a.Labels, b.Labels) || s.blindToLabels(a))
}

// blindToLabels says that no filter looks at the labels of the pod: it has no terms that could mean itself, and there is
// nobody who keeps others away. The pods of an Indexed Job differ in a label.
func (s *Snapshot) blindToLabels(pod *corev1.Pod) bool {
	if len(pod.Spec.TopologySpreadConstraints) > 0 || len(s.loners) > 0 || s.lonersNominated() {
		return false
	}
	a := pod.Spec.Affinity
	return a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil
}

func deref[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

// The pointers go first: walking equal parts costs as much as a small cluster's nodes.

func sameList[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || equality.Semantic.DeepEqual(a, b))
}

func samePart[T any](a, b *T) bool {
	return a == b || a != nil && b != nil && equality.Semantic.DeepEqual(a, b)
}

func sameAmounts(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		if p, ok := b[name]; !ok || p.Cmp(q) != 0 {
			return false
		}
	}
	return true
}
