package podgc

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

const evicted = "Evicted"

// counts says that a pod has ended and is there for nothing but to be looked at.
func counts(pod *corev1.Pod) bool { return podstate.Ended(pod) && pod.DeletionTimestamp == nil }

// superfluous are the ended pods beyond the threshold, those first that should go first: evicted ones, of which all is told by
// their events and that come in great numbers, then the oldest (Kubernetes' pod garbage collector).
func superfluous(ended []*corev1.Pod, threshold int) []*corev1.Pod {
	if len(ended) <= threshold {
		return nil
	}
	slices.SortFunc(ended, func(a, b *corev1.Pod) int {
		if x, y := a.Status.Reason == evicted, b.Status.Reason == evicted; x != y {
			if x {
				return -1
			}
			return 1
		}
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return ended[:len(ended)-threshold]
}
