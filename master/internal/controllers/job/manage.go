package job

import (
	"cmp"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// removeActive deletes all pods that run: the Job has come to its end.
func (p *plan) removeActive() {
	p.remove(p.active(), len(p.members))
}

// active are the members that run or will.
func (p *plan) active() (out []*member) {
	for _, m := range p.members {
		if podstate.Active(m.pod) {
			out = append(out, m)
		}
	}
	return out
}

func (p *plan) remove(members []*member, n int) {
	n = min(n, len(members))
	if n > burst {
		n, p.more = burst, true
	}
	for _, m := range members[:n] {
		m.remove = true
	}
}

// manage brings the number of running pods to what is wanted, and finds out whether the Job is complete.
func (p *plan) manage() {
	left := len(p.active())
	if p.job.DeletionTimestamp == nil {
		left = p.scale()
	}
	if want := p.job.Spec.Completions; want == nil && p.succeeded > 0 && left == 0 || want != nil && p.succeeded >= int(*want) && left == 0 {
		p.verdict = condition(p.now, batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	} else if p.job.DeletionTimestamp == nil {
		p.noteSuspension()
	}
}

// scale removes pods, or makes some, never both in one turn; it returns how many run afterwards.
func (p *plan) scale() int {
	active := p.active()
	have, want := len(active), p.wanted(len(active))
	if surplus := p.surplus(active, have-want); len(surplus) > 0 {
		p.remove(surplus, len(surplus))
		return have - min(len(surplus), burst)
	}
	if suspended(p.job) {
		return have
	}
	ending := 0
	if onlyReplaceFailed(p.job) {
		ending = p.count(terminating)
	}
	n := want - ending - have
	if n <= 0 {
		return have
	}
	if p.job.Spec.BackoffLimitPerIndex == nil {
		if wait := p.streak.wait(p.now); wait > 0 {
			p.wake(wait)
			return have
		}
	}
	if n > burst {
		n, p.more = burst, true
	}
	p.assign(n)
	return have + len(p.create)
}

// wanted is how many pods should run.
func (p *plan) wanted(have int) int {
	parallelism := 1
	if p.job.Spec.Parallelism != nil {
		parallelism = int(*p.job.Spec.Parallelism)
	}
	switch {
	case suspended(p.job):
		return 0
	case p.job.Spec.Completions != nil:
		return max(0, min(int(*p.job.Spec.Completions)-p.succeeded, parallelism))
	case p.succeeded > 0:
		return have // those that run know that they are the last
	}
	return parallelism
}

// assign chooses what the next n pods are made for.
func (p *plan) assign(n int) {
	if !indexed(p.job) {
		p.create = make([]creation, n)
		for i := range p.create {
			p.create[i].index = noIndex
		}
		return
	}
	taken := p.done.union(p.failedSet).union(p.indexesOf(podstate.Active))
	if onlyReplaceFailed(p.job) {
		taken = taken.union(p.indexesOf(terminating))
	}
	for _, i := range taken.missing(n, completions(p.job)) {
		if wait := waitFor(p.now, p.replaced[i]); wait > 0 {
			p.wake(wait)
			continue
		}
		p.create = append(p.create, creation{i, p.replaced[i]})
	}
}

// surplus are the pods to remove: at least n, and whatever has no index of its own.
func (p *plan) surplus(active []*member, n int) []*member {
	if !indexed(p.job) {
		if n <= 0 {
			return nil
		}
		sorted := slices.Clone(active)
		slices.SortStableFunc(sorted, missedLess)
		return sorted[:n]
	}
	sorted := slices.Clone(active)
	slices.SortStableFunc(sorted, func(a, b *member) int { return -missedLess(a, b) })
	var out, keep []*member
	seen := map[int]bool{}
	for _, m := range sorted {
		if i := indexOf(m.pod); !p.valid(m.pod) || seen[i] {
			out = append(out, m)
		} else {
			seen[i] = true
			keep = append(keep, m)
		}
	}
	slices.Reverse(keep)
	if more := n - len(out); more > 0 {
		out = append(out, keep[:more]...)
	}
	return out
}

// missedLess puts those first whose loss costs least: not on a node yet, pending, not ready, younger.
func missedLess(a, b *member) int {
	return cmp.Or(
		cmp.Compare(flag(a.pod.Spec.NodeName != ""), flag(b.pod.Spec.NodeName != "")),
		cmp.Compare(flag(a.pod.Status.Phase == corev1.PodRunning), flag(b.pod.Status.Phase == corev1.PodRunning)),
		cmp.Compare(flag(podstate.Ready(a.pod)), flag(podstate.Ready(b.pod))),
		b.pod.CreationTimestamp.Compare(a.pod.CreationTimestamp.Time),
	)
}

func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (p *plan) count(is func(*corev1.Pod) bool) (n int) {
	for _, m := range p.members {
		if is(m.pod) {
			n++
		}
	}
	return n
}

// terminating says that a pod is being deleted and has not ended yet.
func terminating(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil && !podstate.Ended(pod) }
