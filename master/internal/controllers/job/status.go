package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion && job.Spec.Completions != nil
}

func completions(job *batchv1.Job) int { return int(*job.Spec.Completions) }

func suspended(job *batchv1.Job) bool { return job.Spec.Suspend != nil && *job.Spec.Suspend }

// onlyReplaceFailed says that a pod is replaced when it has ended, not already when its deletion begins.
func onlyReplaceFailed(job *batchv1.Job) bool {
	return job.Spec.PodFailurePolicy != nil || job.Spec.PodReplacementPolicy != nil && *job.Spec.PodReplacementPolicy == batchv1.Failed
}

// elsewhere says that another controller, not of ours, manages the Job.
func elsewhere(job *batchv1.Job) bool {
	return job.Spec.ManagedBy != nil && *job.Spec.ManagedBy != batchv1.JobControllerName
}

// at is a time as the API tells it.
func at(t time.Time) *metav1.Time { return &metav1.Time{Time: t.Truncate(time.Second)} }

func condition(now time.Time, kind batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	return &batchv1.JobCondition{
		Type: kind, Status: corev1.ConditionTrue, LastProbeTime: *at(now), LastTransitionTime: *at(now), Reason: reason, Message: message,
	}
}

// find returns a condition of a status, or nil.
func find(status *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

// holds returns a condition that is true, or nil.
func holds(status *batchv1.JobStatus, kind batchv1.JobConditionType) *batchv1.JobCondition {
	if c := find(status, kind); c != nil && c.Status == corev1.ConditionTrue {
		return c
	}
	return nil
}

// ended is the condition that says that a Job is over, or nil.
func ended(job *batchv1.Job) *batchv1.JobCondition {
	if c := holds(&job.Status, batchv1.JobComplete); c != nil {
		return c
	}
	return holds(&job.Status, batchv1.JobFailed)
}

// set writes a condition and says whether that changed anything. One that never was is not set to false.
func set(status *batchv1.JobStatus, c *batchv1.JobCondition) bool {
	switch old := find(status, c.Type); {
	case old == nil && c.Status == corev1.ConditionFalse:
		return false
	case old == nil:
		status.Conditions = append(status.Conditions, *c)
	case old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message:
		return false
	default:
		*old = *c
	}
	return true
}

// decide says whether the Job has come to its end other than by reaching its completions. What was decided stays; failures
// are looked for before successes, and policies before limits, in Kubernetes' order.
func (p *plan) decide() *batchv1.JobCondition {
	if c := holds(&p.status, batchv1.JobSuccessCriteriaMet); c != nil {
		return c
	}
	if c := holds(&p.status, batchv1.JobFailureTarget); c != nil {
		return c
	}
	fail := func(reason, message string) *batchv1.JobCondition {
		return condition(p.now, batchv1.JobFailureTarget, reason, message)
	}
	for _, m := range p.members {
		if p.job.Spec.PodFailurePolicy != nil && hasFailed(p.job, m.pod) {
			if r := rule(p.job.Spec.PodFailurePolicy, m.pod); r.action == batchv1.PodFailurePolicyActionFailJob {
				return fail(batchv1.JobReasonPodFailurePolicy, r.message)
			}
		}
	}
	limit := int64(6)
	if p.job.Spec.BackoffLimit != nil {
		limit = int64(*p.job.Spec.BackoffLimit)
	}
	switch left, has := p.deadline(); {
	case int64(p.failed) > limit || p.restartedTooOften(limit):
		return fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	case has && left <= 0:
		return fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	case has:
		p.wake(left)
	}
	if !indexed(p.job) {
		return nil
	}
	if p.job.Spec.BackoffLimitPerIndex != nil {
		n := p.failedSet.total()
		if limit := p.job.Spec.MaxFailedIndexes; limit != nil && n > int(*limit) {
			return fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		}
		if n > 0 && n+p.done.total() >= completions(p.job) {
			return fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	if message, ok := enough(p.job.Spec.SuccessPolicy, completions(p.job), p.done); ok {
		return condition(p.now, batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message)
	}
	return nil
}

// deadline is how long the Job may run yet.
func (p *plan) deadline() (left time.Duration, has bool) {
	if p.job.Spec.ActiveDeadlineSeconds == nil || p.status.StartTime == nil || suspended(p.job) {
		return 0, false
	}
	seconds := min(*p.job.Spec.ActiveDeadlineSeconds, int64(1<<32))
	return p.status.StartTime.Add(time.Duration(seconds) * time.Second).Sub(p.now), true
}

// restartedTooOften: with restartPolicy OnFailure, restarts of containers are what the limit is about.
func (p *plan) restartedTooOften(limit int64) bool {
	if p.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	var n int64
	for _, m := range p.members {
		if phase := m.pod.Status.Phase; phase != corev1.PodRunning && phase != corev1.PodPending {
			continue
		}
		for _, c := range slices.Concat(m.pod.Status.InitContainerStatuses, m.pod.Status.ContainerStatuses) {
			n += int64(c.RestartCount)
		}
	}
	return n > 0 && n >= limit
}

// wake asks for another turn after a while.
func (p *plan) wake(d time.Duration) {
	if p.after == 0 || d < p.after {
		p.after = d
	}
}

// noteSuspension keeps the condition Suspended. Time counts anew for a Job that goes on.
func (p *plan) noteSuspension() {
	c := condition(p.now, batchv1.JobSuspended, "JobSuspended", "Job suspended")
	if suspended(p.job) {
		if set(&p.status, c) {
			p.status.StartTime = nil
			p.notes = append(p.notes, note{corev1.EventTypeNormal, "Suspended", c.Message})
		}
		return
	}
	c.Status, c.Reason, c.Message = corev1.ConditionFalse, "JobResumed", "Job resumed"
	if set(&p.status, c) {
		p.status.StartTime = at(p.now)
		p.notes = append(p.notes, note{corev1.EventTypeNormal, "Resumed", c.Message})
	}
}

// conclude writes the interim condition down.
func (p *plan) conclude() {
	if p.verdict != nil {
		set(&p.status, p.verdict)
	}
}

// counts are the numbers of a status that are true of the pods there are, not of what happened.
type counts struct{ active, ready, terminating int32 }

func (c *counts) add(pod *corev1.Pod) {
	switch {
	case terminating(pod):
		c.terminating++
	case podstate.Active(pod):
		c.active++
		if podstate.Ready(pod) {
			c.ready++
		}
	}
}

// result is the status when there are so many pods. The Job is over when the interim condition says so and nothing of it is
// left that runs or waits to be counted.
func (p *plan) result(c counts) (status batchv1.JobStatus, notes []note) {
	status, notes = p.status, p.notes
	status.Active, status.Ready, status.Terminating = c.active, &c.ready, &c.terminating
	if p.verdict == nil || p.more || c.active+c.terminating > 0 {
		return status, notes
	}
	final := condition(p.now, batchv1.JobComplete, p.verdict.Reason, p.verdict.Message)
	if p.verdict.Type == batchv1.JobFailureTarget {
		final.Type = batchv1.JobFailed
		notes = append(notes, note{corev1.EventTypeWarning, final.Reason, final.Message})
	} else {
		status.CompletionTime = at(p.now)
		if p.job.Spec.Completions != nil && status.Succeeded > *p.job.Spec.Completions {
			notes = append(notes, note{corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached"})
		}
		notes = append(notes, note{corev1.EventTypeNormal, "Completed", "Job completed"})
	}
	status.Conditions = slices.Clone(status.Conditions)
	set(&status, final)
	return status, notes
}
