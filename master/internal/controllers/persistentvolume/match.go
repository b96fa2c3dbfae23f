package persistentvolume

import (
	"iter"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/scheduler"
)

// best finds the volume for a claim: one that was promised to it, or else the smallest free one that will do and that the
// node, if one was selected, can reach. Of equally small ones the first by name.
func best(claim *corev1.PersistentVolumeClaim, volumes iter.Seq[*corev1.PersistentVolume], node *corev1.Node) *corev1.PersistentVolume {
	var found *corev1.PersistentVolume
	for v := range volumes {
		if !scheduler.Free(v, claim) || node != nil && !scheduler.Reachable(v, node) {
			continue
		}
		if found == nil || scheduler.BySize(v, found) < 0 {
			found = v
		}
	}
	return found
}
