package cronjob

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/controllers/gc"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// A bubble's clock begins at 2000-01-01 00:00:00 UTC.

func manifest(schedule string, change ...func(*batchv1.CronJob)) *batchv1.CronJob {
	pod := ct.PodSpec()
	pod.RestartPolicy = corev1.RestartPolicyNever
	cron := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "tick"},
		Spec: batchv1.CronJobSpec{
			Schedule: schedule, TimeZone: ptr.To("Etc/UTC"),
			JobTemplate: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "tick"}, Annotations: map[string]string{"a": "b"}},
				Spec:       batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: pod}},
			},
		},
	}
	for _, c := range change {
		c(cron)
	}
	return cron
}

func start(t *testing.T) (*ct.Env, func()) {
	e := ct.New(t)
	e.Start(gc.New(gc.Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e, e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
}

func names(e *ct.Env) (out []string) {
	for _, job := range ct.List[*batchv1.Job](e, "default") {
		out = append(out, job.Name)
	}
	slices.Sort(out)
	return out
}

func active(e *ct.Env) (out []string) {
	for _, ref := range get(e).Status.Active {
		out = append(out, ref.Name)
	}
	return out
}

func get(e *ct.Env) *batchv1.CronJob { return ct.Get[*batchv1.CronJob](e, "default", "tick") }

// at is the name of the Job of a minute of the bubble's first day.
func at(minutes int) string {
	return fmt.Sprintf("tick-%d", time.Date(2000, 1, 1, 0, minutes, 0, 0, time.UTC).Unix()/60)
}

func end(e *ct.Env, name string, how batchv1.JobConditionType) {
	e.T.Helper()
	ct.ChangeStatus(e, "default", name, func(job *batchv1.Job) {
		job.Status.StartTime = ptr.To(metav1.Now())
		if how == batchv1.JobComplete {
			job.Status.CompletionTime = ptr.To(metav1.Now())
		}
		job.Status.Conditions = append(job.Status.Conditions, batchv1.JobCondition{Type: how, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()})
	})
	synctest.Wait()
}

func want(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestMakesJobsByTheClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, manifest("*/2 * * * *"))
		ct.Settle(2*time.Minute - time.Second)
		want(t, "jobs too early", names(e), nil)
		ct.Settle(time.Second)
		want(t, "jobs", names(e), []string{at(2)})
		want(t, "active", active(e), []string{at(2)})
		job := ct.Get[*batchv1.Job](e, "default", at(2))
		if !metav1.IsControlledBy(job, get(e)) || job.Labels["app"] != "tick" || job.Annotations["a"] != "b" ||
			job.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2000-01-01T00:02:00Z" || job.Spec.Selector == nil {
			t.Errorf("%+v", job.ObjectMeta)
		}
		if last := get(e).Status.LastScheduleTime; last == nil || !last.Equal(ptr.To(metav1.Date(2000, 1, 1, 0, 2, 0, 0, time.UTC))) {
			t.Errorf("last schedule time %v", last)
		}
		time.Sleep(10 * time.Second)
		end(e, at(2), batchv1.JobComplete)
		want(t, "active after its end", active(e), nil)
		if last := get(e).Status.LastSuccessfulTime; last == nil || last.Second() != 10 {
			t.Errorf("last success %v", last)
		}
		ct.Settle(2 * time.Minute)
		want(t, "jobs later", names(e), []string{at(2), at(4)})
		events := ct.Events(e, "tick")
		for _, text := range []string{"SuccessfulCreate: Created job " + at(2), "SawCompletedJob: Saw completed job: " + at(2) + ", condition: Complete", "SuccessfulCreate: Created job " + at(4)} {
			if !slices.Contains(events, text) {
				t.Errorf("no event %q in %q", text, events)
			}
		}
		if len(events) != 3 {
			t.Errorf("events %q", events)
		}
	})
}

func TestConcurrencyPolicies(t *testing.T) {
	for policy, c := range map[batchv1.ConcurrencyPolicy]struct {
		jobs  []string
		event string
	}{
		batchv1.AllowConcurrent:   {[]string{at(1), at(2), at(3)}, ""},
		batchv1.ForbidConcurrent:  {[]string{at(1)}, "JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid x2"},
		batchv1.ReplaceConcurrent: {[]string{at(3)}, "SuccessfulDelete: Deleted job " + at(2)},
	} {
		t.Run(string(policy), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := start(t)
				ct.Create(e, manifest("* * * * *", func(c *batchv1.CronJob) { c.Spec.ConcurrencyPolicy = policy }))
				ct.Settle(3*time.Minute + time.Second)
				want(t, "jobs", names(e), c.jobs)
				want(t, "active", active(e), c.jobs)
				if events := ct.Events(e, "tick"); c.event != "" && !slices.Contains(events, c.event) {
					t.Errorf("events %q", events)
				}
				if policy != batchv1.ForbidConcurrent {
					return
				}
				// The time that was skipped is caught up with when there is room.
				end(e, at(1), batchv1.JobComplete)
				want(t, "jobs after the first", names(e), []string{at(1), at(3)})
			})
		})
	}
}

func TestDowntime(t *testing.T) {
	for name, c := range map[string]struct {
		down     time.Duration
		deadline *int64
		job      string
		event    string
	}{
		"the last missed time is served":      {30 * time.Minute, nil, at(30), ""},
		"of very many the user hears":         {2 * time.Hour, nil, at(120), "TooManyMissedTimes: too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"},
		"a deadline bounds what is looked at": {2 * time.Hour, ptr.To[int64](200), at(120), ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := ct.New(t)
				e.Start(gc.New(gc.Config{Registry: e.Registry, Logger: e.Logger}).Run)
				ct.Create(e, manifest("* * * * *", func(cron *batchv1.CronJob) { cron.Spec.StartingDeadlineSeconds = c.deadline }))
				ct.ChangeStatus(e, "default", "tick", func(cron *batchv1.CronJob) { cron.Status.LastScheduleTime = ptr.To(metav1.Now()) })
				time.Sleep(c.down + time.Second)
				e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
				synctest.Wait()
				want(t, "jobs", names(e), []string{c.job})
				events := ct.Events(e, "tick")
				if c.event != "" && !slices.Contains(events, c.event) || c.event == "" && len(events) != 1 {
					t.Errorf("events %q", events)
				}
			})
		})
	}
}

func TestMissedDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		ct.Create(e, manifest("0 * * * *", func(c *batchv1.CronJob) { c.Spec.StartingDeadlineSeconds = ptr.To[int64](60) }))
		time.Sleep(time.Hour + 90*time.Second)
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		ct.Settle(5 * time.Minute)
		want(t, "jobs", names(e), nil)
		ct.Settle(time.Hour)
		want(t, "jobs of the next hour", names(e), []string{at(120)})
	})
}

func TestHistory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, manifest("* * * * *", func(c *batchv1.CronJob) {
			c.Spec.SuccessfulJobsHistoryLimit, c.Spec.FailedJobsHistoryLimit = ptr.To[int32](2), ptr.To[int32](1)
		}))
		for i := 1; i <= 6; i++ {
			ct.Settle(time.Minute)
			how := batchv1.JobComplete
			if i%3 == 0 {
				how = batchv1.JobFailed
			}
			end(e, at(i), how)
		}
		want(t, "jobs", names(e), []string{at(4), at(5), at(6)})
		want(t, "active", active(e), nil)
	})
}

func TestSuspendedAndResumed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, manifest("*/5 * * * *", func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(true) }))
		ct.Settle(22 * time.Minute)
		want(t, "jobs of a suspended one", names(e), nil)
		ct.Change(e, "default", "tick", func(c *batchv1.CronJob) { c.Spec.Suspend = ptr.To(false) })
		synctest.Wait()
		want(t, "what was missed", names(e), []string{at(20)})
	})
}

// A new schedule does not catch up with times that were none when they passed.
func TestNewSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		ct.Create(e, manifest("0 12 * * *"))
		ct.Settle(30 * time.Minute)
		ct.Change(e, "default", "tick", func(c *batchv1.CronJob) { c.Spec.Schedule = "*/20 * * * *" })
		ct.Settle(time.Minute)
		want(t, "jobs", names(e), nil)
		ct.Settle(9 * time.Minute)
		want(t, "jobs at the next time", names(e), []string{at(40)})
	})
}

func TestJobsOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, _ := start(t)
		cron := ct.Create(e, manifest("*/10 * * * *"))
		manual := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "by-hand",
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cron, kind)}}, Spec: *cron.Spec.JobTemplate.Spec.DeepCopy()}
		ct.Create(e, manual)
		ct.Settle(10 * time.Minute)
		if events := ct.Events(e, "tick"); !slices.Contains(events, "UnexpectedJob: Saw a job that the controller did not create or forgot: by-hand") {
			t.Errorf("events %q", events)
		}
		want(t, "active", active(e), []string{at(10)})
		ct.Delete[*batchv1.Job](e, "default", at(10), registry.DeleteOptions{})
		synctest.Wait()
		want(t, "active without it", active(e), nil)
		if events := ct.Events(e, "tick"); !slices.Contains(events, "MissingJob: Active job went missing: "+at(10)) {
			t.Errorf("events %q", events)
		}
		end(e, "by-hand", batchv1.JobComplete)
		if get(e).Status.LastSuccessfulTime == nil {
			t.Error("a success by hand is none")
		}
	})
}

func TestSchedulesThatAreNone(t *testing.T) {
	for schedule, event := range map[string]string{
		"nonsense":     `UnparseableSchedule: unparseable schedule: "nonsense"`,
		"TZ=0":         `UnsupportedSchedule: CRON_TZ or TZ used in schedule "TZ=0"`,
		"59 23 31 2 *": "",
	} {
		t.Run(schedule, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e, _ := start(t)
				ct.Create(e, manifest(schedule))
				ct.Settle(10 * time.Minute)
				want(t, "jobs", names(e), nil)
				events := ct.Events(e, "tick")
				if event == "" && len(events) > 0 || event != "" && !slices.ContainsFunc(events, func(s string) bool { return strings.HasPrefix(s, event) }) {
					t.Errorf("events %q", events)
				}
			})
		})
	}
}
