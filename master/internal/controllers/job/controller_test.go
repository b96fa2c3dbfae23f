package job

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

func manifest(name string, parallelism, completions int32, change ...func(*batchv1.Job)) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: batchv1.JobSpec{
			Parallelism: &parallelism, Completions: &completions,
			Template: corev1.PodTemplateSpec{Spec: ct.PodSpec()},
		},
	}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	for _, c := range change {
		c(job)
	}
	return job
}

func byIndex(job *batchv1.Job) { job.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

func start(t *testing.T) *ct.Env {
	e := ct.New(t)
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

// pods of the namespace that are not gone, in order of name.
func pods(e *ct.Env) []*corev1.Pod { return ct.List[*corev1.Pod](e, "default") }

func running(e *ct.Env) (out []*corev1.Pod) {
	for _, p := range pods(e) {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed && p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// end has a pod end with an exit code, now.
func end(e *ct.Env, pod *corev1.Pod, code int32) {
	e.T.Helper()
	endAt(e, time.Now(), pod, code)
}

func endAt(e *ct.Env, now time.Time, pod *corev1.Pod, code int32) {
	e.T.Helper()
	ct.ChangeStatus(e, pod.Namespace, pod.Name, func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodSucceeded
		if code != 0 {
			p.Status.Phase = corev1.PodFailed
		}
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now)},
		}}}
	})
}

func endAll(e *ct.Env, code int32) {
	for _, p := range running(e) {
		end(e, p, code)
	}
	synctest.Wait()
}

func get(e *ct.Env, name string) *batchv1.Job { return ct.Get[*batchv1.Job](e, "default", name) }

// state is a status in one line.
func state(job *batchv1.Job) string {
	s := job.Status
	var conditions []string
	for _, c := range s.Conditions {
		conditions = append(conditions, fmt.Sprintf("%s=%s:%s", c.Type, c.Status, c.Reason))
	}
	out := fmt.Sprintf("active %d ready %d terminating %d succeeded %d failed %d", s.Active, ptr.Deref(s.Ready, -1), ptr.Deref(s.Terminating, -1), s.Succeeded, s.Failed)
	if s.CompletedIndexes != "" {
		out += " done " + s.CompletedIndexes
	}
	if s.FailedIndexes != nil {
		out += " lost " + *s.FailedIndexes
	}
	if len(conditions) > 0 {
		out += " " + strings.Join(conditions, " ")
	}
	return out
}

func wantState(e *ct.Env, name, want string) {
	e.T.Helper()
	synctest.Wait()
	if got := state(get(e, name)); got != want {
		e.T.Errorf("%s:\n  is   %s\n  want %s", name, got, want)
	}
}

func TestRunsToCompletion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("pi", 2, 3))
		wantState(e, "pi", "active 2 ready 0 terminating 0 succeeded 0 failed 0")
		job := get(e, "pi")
		for _, p := range pods(e) {
			if !hasFinalizer(p) || !strings.HasPrefix(p.Name, "pi-") || p.Labels["job-name"] != "pi" || p.Labels[batchv1.JobNameLabel] != "pi" ||
				p.Labels["controller-uid"] != string(job.UID) || p.Labels[batchv1.ControllerUidLabel] != string(job.UID) || !metav1.IsControlledBy(p, job) {
				t.Errorf("pod %s: labels %v, finalizers %v, owners %v", p.Name, p.Labels, p.Finalizers, p.OwnerReferences)
			}
		}
		ct.SetReady(e, "default", pods(e)[0].Name, "10.244.0.2", true)
		wantState(e, "pi", "active 2 ready 1 terminating 0 succeeded 0 failed 0")
		time.Sleep(time.Minute)
		endAll(e, 0)
		wantState(e, "pi", "active 1 ready 0 terminating 0 succeeded 2 failed 0")
		endAll(e, 0)
		wantState(e, "pi", "active 0 ready 0 terminating 0 succeeded 3 failed 0 SuccessCriteriaMet=True:CompletionsReached Complete=True:CompletionsReached")
		job = get(e, "pi")
		if job.Status.CompletionTime == nil || job.Status.CompletionTime.Sub(job.Status.StartTime.Time) != time.Minute || job.Status.UncountedTerminatedPods == nil {
			t.Errorf("status %+v", job.Status)
		}
		for _, p := range pods(e) {
			if hasFinalizer(p) {
				t.Errorf("%s still has the finalizer", p.Name)
			}
		}
		events := ct.Events(e, "pi")
		if len(events) != 4 || !slices.Contains(events, "Completed: Job completed") {
			t.Errorf("events %q", events)
		}
	})
}

func TestIndexed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("pi", 3, 5, byIndex))
		synctest.Wait()
		for i, p := range pods(e) {
			env := p.Spec.Containers[0].Env
			if indexOf(p) != i || p.Labels[batchv1.JobCompletionIndexAnnotation] != fmt.Sprint(i) || p.Spec.Hostname != fmt.Sprintf("pi-%d", i) ||
				!strings.HasPrefix(p.Name, fmt.Sprintf("pi-%d-", i)) || len(env) != 1 || env[0].Name != "JOB_COMPLETION_INDEX" {
				t.Errorf("pod %d: %s, %v, host %s, env %v", i, p.Name, p.Annotations, p.Spec.Hostname, env)
			}
		}
		end(e, pods(e)[1], 0)
		wantState(e, "pi", "active 3 ready 0 terminating 0 succeeded 1 failed 0 done 1")
		endAll(e, 0)
		wantState(e, "pi", "active 1 ready 0 terminating 0 succeeded 4 failed 0 done 0-3")
		endAll(e, 0)
		wantState(e, "pi", "active 0 ready 0 terminating 0 succeeded 5 failed 0 done 0-4 SuccessCriteriaMet=True:CompletionsReached Complete=True:CompletionsReached")
	})
}

func TestBackoffLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("bad", 1, 1, func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr.To[int32](2) }))
		var gaps []time.Duration
		for range 3 {
			began := time.Now()
			for len(running(e)) == 0 {
				ct.Settle(time.Second)
			}
			gaps = append(gaps, time.Since(began).Truncate(time.Second))
			endAll(e, 1)
		}
		if !slices.Equal(gaps, []time.Duration{time.Second, 10 * time.Second, 20 * time.Second}) && !slices.Equal(gaps, []time.Duration{0, 10 * time.Second, 20 * time.Second}) {
			t.Errorf("waited %v", gaps)
		}
		wantState(e, "bad", "active 0 ready 0 terminating 0 succeeded 0 failed 3 FailureTarget=True:BackoffLimitExceeded Failed=True:BackoffLimitExceeded")
		if events := ct.Events(e, "bad"); !slices.Contains(events, "BackoffLimitExceeded: Job has reached the specified backoff limit") {
			t.Errorf("events %q", events)
		}
		if n := len(pods(e)); n != 3 {
			t.Errorf("%d pods kept", n)
		}
	})
}

func TestSuspendAndResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("pi", 2, 4, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }))
		wantState(e, "pi", "active 0 ready 0 terminating 0 succeeded 0 failed 0 Suspended=True:JobSuspended")
		if get(e, "pi").Status.StartTime != nil {
			t.Error("a suspended Job has started")
		}
		ct.Change(e, "default", "pi", func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(false) })
		wantState(e, "pi", "active 2 ready 0 terminating 0 succeeded 0 failed 0 Suspended=False:JobResumed")
		bind(e, pods(e)[0])
		ct.Change(e, "default", "pi", func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) })
		wantState(e, "pi", "active 0 ready 0 terminating 1 succeeded 0 failed 0 Suspended=True:JobSuspended")
		for _, p := range pods(e) {
			if hasFinalizer(p) || p.DeletionTimestamp == nil {
				t.Errorf("%s: finalizers %v, deleted %v", p.Name, p.Finalizers, p.DeletionTimestamp)
			}
		}
		events := ct.Events(e, "pi")
		if !slices.Contains(events, "Suspended: Job suspended x2") || !slices.Contains(events, "Resumed: Job resumed") {
			t.Errorf("events %q", events)
		}
	})
}

func bind(e *ct.Env, pod *corev1.Pod) {
	e.T.Helper()
	e.Update(func(tx *registry.Tx) error {
		cur, err := registry.Get[*corev1.Pod](tx, pod.Namespace, pod.Name)
		if err != nil {
			return err
		}
		return tx.Bind(cur, "n1")
	})
}

func TestDeletedJobLeavesNoFinalizer(t *testing.T) {
	for _, how := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground, metav1.DeletePropagationOrphan} {
		t.Run(string(how), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := start(t)
				e.Start(gc.New(gc.Config{Registry: e.Registry, Logger: e.Logger}).Run)
				ct.Create(e, manifest("pi", 2, 3))
				ct.Settle(time.Second)
				for _, p := range pods(e) {
					bind(e, p)
				}
				ct.Delete[*batchv1.Job](e, "default", "pi", registry.DeleteOptions{Propagation: &how})
				ct.Settle(time.Second)
				if n := len(pods(e)); n != 2 {
					t.Errorf("%d pods", n)
				}
				for _, p := range pods(e) {
					if hasFinalizer(p) || (p.DeletionTimestamp == nil) != (how == metav1.DeletePropagationOrphan) {
						t.Errorf("%s: finalizers %v, deleted %v", p.Name, p.Finalizers, p.DeletionTimestamp)
					}
				}
				_, err := ct.Find[*batchv1.Job](e, "default", "pi")
				if (err == nil) != (how == metav1.DeletePropagationForeground) {
					t.Errorf("the Job: %v", err)
				}
			})
		})
	}
}
