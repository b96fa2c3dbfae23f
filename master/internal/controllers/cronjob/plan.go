package cronjob

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// longestSleep bounds what a clock that is set can make late.
const longestSleep = time.Minute

// note is an Event. Of two in a row that are equal the user hears once: at tells those of different due times apart.
type note struct {
	kind, reason, message string
	at                    int64
}

// plan is what a CronJob's turn does.
type plan struct {
	now    time.Time
	cron   *batchv1.CronJob
	jobs   []*batchv1.Job
	status batchv1.CronJobStatus
	remove []*batchv1.Job
	// create is the Job to make for the time due, or nil.
	create *batchv1.Job
	due    time.Time
	notes  []note
	// after is when to look again; 0 for when something changes.
	after time.Duration
}

func (p *plan) note(kind, reason, format string, args ...any) {
	n := note{kind: kind, reason: reason, message: fmt.Sprintf(format, args...)}
	if !p.due.IsZero() {
		n.at = p.due.Unix()
	}
	p.notes = append(p.notes, n)
}

func (p *plan) warn(reason, format string, args ...any) {
	p.note(corev1.EventTypeWarning, reason, format, args...)
}

// makePlan decides over a CronJob and the Jobs that it owns. since is when its schedule was changed, as far as that is known:
// times that were due before are not caught up with. exists says whether an active Job is still there.
func makePlan(now, since time.Time, cron *batchv1.CronJob, jobs []*batchv1.Job, exists func(corev1.ObjectReference) bool) *plan {
	p := &plan{now: now, cron: cron, jobs: jobs, status: *cron.Status.DeepCopy()}
	p.trimHistory()
	p.review(exists)
	if cron.DeletionTimestamp == nil {
		p.schedule(since)
	}
	return p
}

// finished is how a Job ended, "" while it has not.
func finished(job *batchv1.Job) batchv1.JobConditionType {
	for _, c := range job.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// trimHistory deletes the oldest of the finished Jobs beyond the limits.
func (p *plan) trimHistory() {
	trim := func(how batchv1.JobConditionType, limit *int32) {
		if limit == nil {
			return
		}
		var all []*batchv1.Job
		for _, job := range p.jobs {
			if finished(job) == how && job.DeletionTimestamp == nil {
				all = append(all, job)
			}
		}
		slices.SortFunc(all, func(a, b *batchv1.Job) int {
			return cmp.Or(startOf(a).Compare(startOf(b)), cmp.Compare(a.Name, b.Name))
		})
		for _, job := range all[:max(0, len(all)-int(*limit))] {
			p.discard(job)
		}
	}
	trim(batchv1.JobComplete, p.cron.Spec.SuccessfulJobsHistoryLimit)
	trim(batchv1.JobFailed, p.cron.Spec.FailedJobsHistoryLimit)
}

func startOf(job *batchv1.Job) time.Time {
	if job.Status.StartTime == nil {
		return job.CreationTimestamp.Time
	}
	return job.Status.StartTime.Time
}

func (p *plan) discard(job *batchv1.Job) {
	p.remove = append(p.remove, job)
	p.deactivate(job.UID)
	p.note(corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", job.Name)
}

func (p *plan) deactivate(uid types.UID) {
	p.status.Active = slices.DeleteFunc(p.status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

func (p *plan) isActive(uid types.UID) bool {
	return slices.ContainsFunc(p.status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

// review brings the status in line with what has become of the Jobs.
func (p *plan) review(exists func(corev1.ObjectReference) bool) {
	owned := map[types.UID]bool{}
	for _, job := range p.jobs {
		owned[job.UID] = true
		switch how, active := finished(job), p.isActive(job.UID); {
		case how == "" && !active && !slices.Contains(p.remove, job):
			p.warn("UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", job.Name)
		case how == "":
		default:
			if active {
				p.deactivate(job.UID)
				p.note(corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", job.Name, how)
			}
			if last := p.status.LastSuccessfulTime; how == batchv1.JobComplete && job.Status.CompletionTime != nil &&
				(last == nil || job.Status.CompletionTime.After(last.Time)) {
				p.status.LastSuccessfulTime = job.Status.CompletionTime
			}
		}
	}
	for _, ref := range slices.Clone(p.status.Active) {
		if !owned[ref.UID] && !exists(ref) {
			p.deactivate(ref.UID)
			p.note(corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
		}
	}
}

// schedule makes the Job that is due.
func (p *plan) schedule(since time.Time) {
	spec := &p.cron.Spec
	if spec.TimeZone != nil {
		if _, err := time.LoadLocation(*spec.TimeZone); err != nil {
			p.warn("UnknownTimeZone", "invalid timeZone: %q: %s", *spec.TimeZone, err)
			return
		}
	}
	if spec.Suspend != nil && *spec.Suspend {
		return
	}
	if namesZone(spec) {
		p.warn("UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", spec.Schedule)
	}
	times, err := parse(spec)
	if err != nil {
		p.warn("UnparseableSchedule", "unparseable schedule: %q : %s", spec.Schedule, err)
		return
	}
	due, tooMany, err := lastDue(times, p.horizon(since), p.now)
	if err != nil {
		p.warn("InvalidSchedule", "invalid schedule: %s : %s", spec.Schedule, err)
		return
	}
	if p.due = due; !due.IsZero() {
		if tooMany {
			p.warn("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
		}
		p.start()
	}
	// From the last time on and not from now: @every counts from there.
	from := p.now
	if !due.IsZero() {
		from = due
	} else if earliest := p.horizon(since); earliest.Before(p.now) {
		from = earliest
	}
	next := times.Next(from)
	if !next.After(p.now) {
		next = times.Next(p.now)
	}
	if !next.IsZero() {
		p.after = min(max(next.Sub(p.now), 10*time.Millisecond), longestSleep)
	}
}

// horizon is the time after which what was due and not served is started: the last time served, or the CronJob's creation,
// but not further back than its deadline.
func (p *plan) horizon(since time.Time) time.Time {
	earliest := p.cron.CreationTimestamp.Time
	if last := p.status.LastScheduleTime; last != nil {
		earliest = last.Time
	}
	if since.After(earliest) {
		earliest = since
	}
	if d := p.cron.Spec.StartingDeadlineSeconds; d != nil {
		if deadline := p.now.Add(-time.Duration(min(max(*d, 0), 1<<32)) * time.Second); deadline.After(earliest) {
			earliest = deadline
		}
	}
	return earliest
}

// start makes the Job for the time that is due, if the policies let it.
func (p *plan) start() {
	name := fmt.Sprintf("%s-%d", p.cron.Name, p.due.Unix()/60)
	named := func(ref corev1.ObjectReference) bool { return ref.Name == name }
	d := p.cron.Spec.StartingDeadlineSeconds
	switch {
	case d != nil && p.due.Add(time.Duration(min(*d, 1<<32))*time.Second).Before(p.now):
		p.warn("MissSchedule", "Missed scheduled time to start a job: %s", p.due.UTC().Format(time.RFC1123Z))
		return
	case slices.ContainsFunc(p.status.Active, named), p.status.LastScheduleTime.Equal(&metav1.Time{Time: p.due}):
		return
	case p.cron.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(p.status.Active) > 0:
		p.note(corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return
	case p.cron.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, job := range p.jobs {
			if p.isActive(job.UID) {
				p.discard(job)
			}
		}
	}
	p.create = p.jobFor(name)
}

// jobFor makes the Job from the template. Its name says its time, so that no time has two.
func (p *plan) jobFor(name string) *batchv1.Job {
	template := p.cron.Spec.JobTemplate.DeepCopy()
	zone := ""
	if p.cron.Spec.TimeZone != nil {
		zone = *p.cron.Spec.TimeZone
	}
	at := p.due.UTC()
	if location, err := time.LoadLocation(zone); err == nil {
		at = p.due.In(location)
	}
	annotations := map[string]string{}
	maps.Copy(annotations, template.Annotations)
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: p.cron.Namespace, Name: name, Labels: template.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(p.cron, kind)},
		},
		Spec: template.Spec,
	}
}

// started notes in the status that the time due is served.
func (p *plan) started(job *batchv1.Job) {
	p.status.Active = append(p.status.Active, corev1.ObjectReference{
		Kind: "Job", APIVersion: batchv1.SchemeGroupVersion.String(), Namespace: job.Namespace, Name: job.Name,
		UID: job.UID, ResourceVersion: job.ResourceVersion,
	})
	p.status.LastScheduleTime = &metav1.Time{Time: p.due}
}

// sameSchedule says that two specs name the same times.
func sameSchedule(a, b *batchv1.CronJobSpec) bool {
	zone := func(s *batchv1.CronJobSpec) string {
		if s.TimeZone == nil {
			return ""
		}
		return *s.TimeZone
	}
	return strings.TrimSpace(a.Schedule) == strings.TrimSpace(b.Schedule) && zone(a) == zone(b)
}
