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
// pods of the same owner; ready for a shorter time; restarted more often, sidecars counting after the others; younger. Times
// compare by order of magnitude; different ones of the same magnitude leave it to the UIDs, which makes the choice as good as
// random (and spreads it over nodes and zones).
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
		if c, differ := compareAge(now, a, b, readySince(a), readySince(b)); differ {
			return c
		}
	}
	appsA, sidecarsA := restarts(a)
	appsB, sidecarsB := restarts(b)
	if c := cmp.Or(cmp.Compare(appsB, appsA), cmp.Compare(sidecarsB, sidecarsA)); c != 0 {
		return c
	}
	if c, differ := compareAge(now, a, b, a.CreationTimestamp.Time, b.CreationTimestamp.Time); differ {
		return c
	}
	return cmp.Compare(a.UID, b.UID)
}

// compareAge is negative when a is younger by an order of magnitude; within one, the UIDs decide.
func compareAge(now time.Time, a, b *corev1.Pod, sinceA, sinceB time.Time) (c int, differ bool) {
	if sinceA.Equal(sinceB) {
		return 0, false
	}
	return cmp.Or(cmp.Compare(magnitude(now, sinceA), magnitude(now, sinceB)), cmp.Compare(a.UID, b.UID)), true
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

// deletionCost reads controller.kubernetes.io/pod-deletion-cost; what is no number, or one with a sign or zeros too many, counts
// as 0.
func deletionCost(p *corev1.Pod) int64 {
	text := p.Annotations[corev1.PodDeletionCost]
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil || strconv.FormatInt(n, 10) != text {
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

// restarts are the most of any container, and of any sidecar.
func restarts(p *corev1.Pod) (apps, sidecars int32) {
	for i := range p.Status.ContainerStatuses {
		apps = max(apps, p.Status.ContainerStatuses[i].RestartCount)
	}
	for i := range p.Status.InitContainerStatuses {
		s := &p.Status.InitContainerStatuses[i]
		for j := range p.Spec.InitContainers {
			c := &p.Spec.InitContainers[j]
			if c.Name == s.Name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
				sidecars = max(sidecars, s.RestartCount)
			}
		}
	}
	return apps, sidecars
}
