package job

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// A failed pod is replaced after 10 s, the next one in a row after 20 s, … as in kube-controller-manager.
const firstBackoff, lastBackoff = 10 * time.Second, 10 * time.Minute

// streak is the failures since the last success. It is kept in memory, since pods that were deleted tell nothing any more;
// after a restart it is what the pods that are left say.
type streak struct {
	failures int
	last     time.Time
}

// after adds pods that ended.
func (s streak) after(succeeded, failed []*corev1.Pod) streak {
	var success time.Time
	for _, p := range succeeded {
		if t := endOf(p); t.After(success) {
			success = t
		}
	}
	if len(succeeded) > 0 {
		s = streak{}
	}
	for _, p := range failed {
		t := endOf(p)
		if len(succeeded) > 0 && !t.After(success) {
			continue
		}
		s.failures++
		if t.After(s.last) {
			s.last = t
		}
	}
	return s
}

// wait is for how long yet no pod may be made.
func (s streak) wait(now time.Time) time.Duration {
	if s.failures == 0 {
		return 0
	}
	d := firstBackoff
	for i := 1; i < s.failures && d < lastBackoff; i++ {
		d *= 2
	}
	return max(0, s.last.Add(min(d, lastBackoff)).Sub(now))
}

// waitFor is wait for the next pod of an index whose last one failed.
func waitFor(now time.Time, failed *corev1.Pod) time.Duration {
	if failed == nil {
		return 0
	}
	counted, ignored := failuresBefore(failed)
	return streak{int(min(int64(counted)+int64(ignored)+1, 100)), endOf(failed)}.wait(now)
}

// endOf is when a pod ended: its last container; else when it ceased to be ready; else when its deletion began; else, which
// should not happen, when it was made.
func endOf(p *corev1.Pod) time.Time {
	if t, ok := endOfContainers(p); ok {
		return t
	}
	if c := podstate.Condition(p, corev1.PodReady); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if p.DeletionTimestamp != nil {
		grace := int64(0)
		if p.DeletionGracePeriodSeconds != nil {
			grace = *p.DeletionGracePeriodSeconds
		}
		return p.DeletionTimestamp.Add(-time.Duration(grace) * time.Second)
	}
	return p.CreationTimestamp.Time
}

// endOfContainers needs all of them, sidecars included, to have ended.
func endOfContainers(p *corev1.Pod) (end time.Time, ok bool) {
	sidecar := func(name string) bool {
		return slices.ContainsFunc(p.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		})
	}
	look := func(list []corev1.ContainerStatus, relevant func(string) bool) bool {
		for i := range list {
			if relevant != nil && !relevant(list[i].Name) {
				continue
			}
			t := list[i].State.Terminated
			if t == nil || t.FinishedAt.IsZero() {
				return false
			}
			if t.FinishedAt.After(end) {
				end = t.FinishedAt.Time
			}
		}
		return true
	}
	ok = look(p.Status.ContainerStatuses, nil) && look(p.Status.InitContainerStatuses, sidecar)
	return end, ok && !end.IsZero()
}
