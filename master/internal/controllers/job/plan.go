package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// burst is how many pods one transaction makes, deletes or counts at most, so that a large Job does not hold up other
// writers; the rest follows in the next turn.
const burst = 250

// member is a pod of the Job and what becomes of it in this turn.
type member struct {
	pod *corev1.Pod
	// tracked: it has the finalizer, or gets it on adoption, so it is not counted yet.
	tracked bool
	// counted is of those that a status from elsewhere (Kubernetes' own controller) has in uncountedTerminatedPods.
	counted bool

	adopt bool
	// untrack takes the finalizer away; the status that results has counted the pod if it counts.
	untrack bool
	remove  bool
}

// creation is a pod to make: for an index (noIndex otherwise), in place of the one that failed there.
type creation struct {
	index    int
	replaces *corev1.Pod
}

// note is an Event.
type note struct{ kind, reason, message string }

// plan is what a Job's turn does. Status is what results, but for what is counted when all is done: see counts.
type plan struct {
	now     time.Time
	job     *batchv1.Job
	members []*member
	release []*corev1.Pod
	create  []creation
	status  batchv1.JobStatus
	notes   []note
	streak  streak
	// more: burst has cut the work short.
	more bool
	// after is when the clock alone will change something; 0 for never.
	after time.Duration

	// verdict is the interim condition that ends the Job, or nil.
	verdict *batchv1.JobCondition
	// Pods that ended, those counted in this turn included; a failure that a policy ignores is none.
	succeeded, failed int
	done, failedSet   indexes
	// replaced are, by index, the failed pods whose replacement will carry their count of failures on.
	replaced map[int]*corev1.Pod
}

func (p *plan) idle() bool {
	return len(p.release) == 0 && len(p.create) == 0 && !slices.ContainsFunc(p.members, func(m *member) bool {
		return m.adopt || m.untrack || m.remove
	})
}

// makePlan decides over the pods that refer to the Job or to no controller. before is what is remembered of failures; nil
// when nothing is.
func makePlan(now time.Time, job *batchv1.Job, selector labels.Selector, pods []*corev1.Pod, before *streak) *plan {
	p := &plan{now: now, job: job, status: *job.Status.DeepCopy()}
	p.claim(selector, pods)
	p.settle()
	newSucceeded, newFailed := p.ended()
	p.succeeded = int(p.status.Succeeded) + len(newSucceeded)
	p.failed = int(p.status.Failed)
	for _, pod := range newFailed {
		if rule(job.Spec.PodFailurePolicy, pod).counts() {
			p.failed++
		}
	}
	p.remember(before, newSucceeded, newFailed)
	if p.status.StartTime == nil && !suspended(job) {
		p.status.StartTime = at(now)
	}
	if indexed(job) {
		p.judgeIndexes()
	}
	if p.verdict = p.decide(); p.verdict != nil {
		p.removeActive()
	} else {
		p.manage()
	}
	p.track()
	p.conclude()
	return p
}

func (p *plan) claim(selector labels.Selector, pods []*corev1.Pod) {
	for _, pod := range pods {
		m := &member{pod: pod, tracked: slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)}
		switch podstate.ClaimOf(p.job, pod, selector) {
		case podstate.Release:
			p.release = append(p.release, pod)
			continue
		case podstate.Ignore:
			continue
		case podstate.Adopt:
			m.adopt, m.tracked = true, true
		}
		p.members = append(p.members, m)
	}
}

// settle counts what a status from elsewhere has half counted.
func (p *plan) settle() {
	if half := p.status.UncountedTerminatedPods; half != nil {
		p.status.Failed += int32(len(half.Failed))
		if !indexed(p.job) {
			p.status.Succeeded += int32(len(half.Succeeded))
		}
		uids := map[types.UID]bool{}
		for _, uid := range slices.Concat(half.Succeeded, half.Failed) {
			uids[uid] = true
		}
		for _, m := range p.members {
			m.counted = uids[m.pod.UID]
		}
	}
	p.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
}

// ended are the pods that have ended and are not counted yet. Those of an index that is none do not count.
func (p *plan) ended() (succeeded, failed []*corev1.Pod) {
	for _, m := range p.members {
		switch {
		case !m.tracked || m.counted || !p.valid(m.pod):
		case m.pod.Status.Phase == corev1.PodSucceeded:
			succeeded = append(succeeded, m.pod)
		case hasFailed(p.job, m.pod):
			failed = append(failed, m.pod)
		}
	}
	return succeeded, failed
}

// remember brings the streak of failures up to date.
func (p *plan) remember(before *streak, succeeded, failed []*corev1.Pod) {
	if before != nil {
		p.streak = before.after(succeeded, failed)
		return
	}
	var oldSucceeded, oldFailed []*corev1.Pod
	for _, m := range p.members {
		switch {
		case m.tracked && !m.counted:
		case m.pod.Status.Phase == corev1.PodSucceeded:
			oldSucceeded = append(oldSucceeded, m.pod)
		case m.pod.Status.Phase == corev1.PodFailed:
			oldFailed = append(oldFailed, m.pod)
		}
	}
	p.streak = streak{}.after(slices.Concat(oldSucceeded, succeeded), slices.Concat(oldFailed, failed))
}

// valid says that a pod is one of those the Job counts.
func (p *plan) valid(pod *corev1.Pod) bool {
	if !indexed(p.job) {
		return true
	}
	i := indexOf(pod)
	return i != noIndex && i < completions(p.job)
}

// hasFailed says that a pod has failed. One that is being deleted counts as failed at once, since it may never say how it
// ended, unless the Job wants to know it: then only one that no node has ever known is taken for failed.
func hasFailed(job *batchv1.Job, pod *corev1.Pod) bool {
	switch {
	case pod.Status.Phase == corev1.PodFailed:
		return true
	case pod.Status.Phase == corev1.PodSucceeded || pod.DeletionTimestamp == nil:
		return false
	}
	return !onlyReplaceFailed(job) || pod.Spec.NodeName == ""
}

// judgeIndexes finds the indexes that have succeeded and, with a limit for each, those that have failed.
func (p *plan) judgeIndexes() {
	n := completions(p.job)
	var succeeded, failedNow []int
	for _, m := range p.members {
		if !m.tracked || !p.valid(m.pod) {
			continue
		}
		if m.pod.Status.Phase == corev1.PodSucceeded {
			succeeded = append(succeeded, indexOf(m.pod))
		} else if p.job.Spec.BackoffLimitPerIndex != nil && p.indexFailed(m.pod) {
			failedNow = append(failedNow, indexOf(m.pod))
		}
	}
	p.done = parseIndexes(p.status.CompletedIndexes, n).with(succeeded...)
	p.succeeded = p.done.total()
	p.status.Succeeded, p.status.CompletedIndexes = int32(p.succeeded), p.done.String()
	if p.job.Spec.BackoffLimitPerIndex == nil {
		return
	}
	if p.status.FailedIndexes != nil {
		p.failedSet = parseIndexes(*p.status.FailedIndexes, n)
	}
	p.failedSet = p.failedSet.with(failedNow...)
	text := p.failedSet.String()
	p.status.FailedIndexes = &text
	p.findReplaced()
}

// indexFailed says that a pod's failure is one too many for its index.
func (p *plan) indexFailed(pod *corev1.Pod) bool {
	if !hasFailed(p.job, pod) {
		return false
	}
	r := rule(p.job.Spec.PodFailurePolicy, pod)
	before, _ := failuresBefore(pod)
	return r.action == batchv1.PodFailurePolicyActionFailIndex || r.counts() && before >= *p.job.Spec.BackoffLimitPerIndex
}

// findReplaced: the last failed pod of an index keeps its finalizer until its replacement is there, for it alone knows how
// often the index has failed.
func (p *plan) findReplaced() {
	p.replaced = map[int]*corev1.Pod{}
	busy := p.indexesOf(podstate.Active)
	for _, m := range p.members {
		i := indexOf(m.pod)
		if !m.tracked || m.counted || !p.valid(m.pod) || !hasFailed(p.job, m.pod) || p.done.has(i) || p.failedSet.has(i) || busy.has(i) {
			continue
		}
		if last := p.replaced[i]; last == nil || absolute(last) <= absolute(m.pod) && !endOf(m.pod).Before(endOf(last)) {
			p.replaced[i] = m.pod
		}
	}
}

func absolute(pod *corev1.Pod) int64 {
	counted, ignored := failuresBefore(pod)
	return int64(counted) + int64(ignored)
}

// indexesOf the pods that a question is true of.
func (p *plan) indexesOf(is func(*corev1.Pod) bool) indexes {
	var some []int
	for _, m := range p.members {
		if i := indexOf(m.pod); i != noIndex && is(m.pod) {
			some = append(some, i)
		}
	}
	return indexes(nil).with(some...)
}

// track counts pods that have ended, and takes the finalizer of those that need it no longer.
func (p *plan) track() {
	n := 0
	for _, m := range p.members {
		if !m.tracked || !m.remove && !p.settled(m.pod) {
			continue
		}
		if n++; n > burst && !m.remove {
			p.more = true
			continue
		}
		m.untrack = true
		if p.countsAsFailed(m) && rule(p.job.Spec.PodFailurePolicy, m.pod).counts() {
			p.status.Failed++
		} else if m.pod.Status.Phase == corev1.PodSucceeded && !m.counted && !indexed(p.job) {
			p.status.Succeeded++
		}
	}
}

// settled says that nothing more is to be learnt of a pod.
func (p *plan) settled(pod *corev1.Pod) bool {
	if p.job.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if p.verdict != nil {
		return !podstate.Active(pod) // active ones that are not removed yet have their turn later
	}
	return hasFailed(p.job, pod) && (p.replaced[indexOf(pod)] != pod)
}

// countsAsFailed: when the Job has failed, so have all pods that had not ended.
func (p *plan) countsAsFailed(m *member) bool {
	if m.counted || m.pod.Status.Phase == corev1.PodSucceeded || !p.valid(m.pod) {
		return false
	}
	return hasFailed(p.job, m.pod) || p.verdict != nil && p.verdict.Type == batchv1.JobFailureTarget
}
