package replicaset

import (
	"cmp"
	"math/bits"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// chooseForDeletion picks the n pods that are missed least, in the order Kubernetes documents for ReplicaSets (pod-deletion-cost
// and pkg/controller's ActivePodsWithRanks): not on a node yet; pending; not ready; cheaper by annotation; on nodes with more
// pods of the same owner; ready for a shorter time; restarted more often; younger. Times compare by order of magnitude,
// equal ones by UID, which makes the choice as good as random (and spreads it over nodes and zones).
func chooseForDeletion(now time.Time, pods []*corev1.Pod, related func() []*corev1.Pod, n int) []*corev1.Pod {
	if n >= len(pods) {
		return slices.Clone(pods)
	}
	onNode := map[string]int{}
	for _, p := range related() {
		if podstate.Active(p) && p.Spec.NodeName != "" {
			onNode[p.Spec.NodeName]++
		}
	}
	sorted := slices.Clone(pods)
	slices.SortFunc(sorted, func(a, b *corev1.Pod) int { return compare(now, onNode, a, b) })
	return sorted[:n]
}

// compare is negative when a goes before b.
func compare(now time.Time, onNode map[string]int, a, b *corev1.Pod) int {
	if c := cmp.Compare(flag(a.Spec.NodeName != ""), flag(b.Spec.NodeName != "")); c != 0 {
		return c
	}
	if c := cmp.Compare(phaseRank(a), phaseRank(b)); c != 0 {
		return c
	}
	readyA, readyB := podstate.Ready(a), podstate.Ready(b)
	if c := cmp.Compare(flag(readyA), flag(readyB)); c != 0 {
		return c
	}
	if c := cmp.Compare(deletionCost(a), deletionCost(b)); c != 0 {
		return c
	}
	if c := cmp.Compare(onNode[b.Spec.NodeName], onNode[a.Spec.NodeName]); c != 0 {
		return c
	}
	if readyA && readyB {
		if c := cmp.Compare(magnitude(now, readySince(a)), magnitude(now, readySince(b))); c != 0 {
			return c
		}
	}
	if c := cmp.Compare(restarts(b), restarts(a)); c != 0 {
		return c
	}
	if c := cmp.Compare(magnitude(now, a.CreationTimestamp.Time), magnitude(now, b.CreationTimestamp.Time)); c != 0 {
		return c
	}
	return cmp.Compare(a.UID, b.UID)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func phaseRank(p *corev1.Pod) int {
	switch p.Status.Phase {
	case corev1.PodRunning:
		return 2
	case corev1.PodUnknown:
		return 1
	}
	return 0
}

// deletionCost reads controller.kubernetes.io/pod-deletion-cost; what is no number counts as 0.
func deletionCost(p *corev1.Pod) int64 {
	n, err := strconv.ParseInt(p.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return n
}

func readySince(p *corev1.Pod) time.Time {
	if c := podstate.Condition(p, corev1.PodReady); c != nil {
		return c.LastTransitionTime.Time
	}
	return time.Time{}
}

// magnitude is the order of magnitude, in powers of two of nanoseconds, of the time that has passed since t.
func magnitude(now, t time.Time) int {
	d := now.Sub(t)
	if t.IsZero() || d <= 0 {
		return 0
	}
	return bits.Len64(uint64(d))
}

func restarts(p *corev1.Pod) int32 {
	var most int32
	for i := range p.Status.ContainerStatuses {
		most = max(most, p.Status.ContainerStatuses[i].RestartCount)
	}
	return most
}
