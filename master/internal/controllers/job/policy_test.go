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
	"github.com/whalepod/whalepod/master/internal/registry"
)

func failurePolicy(rules ...batchv1.PodFailurePolicyRule) func(*batchv1.Job) {
	return func(j *batchv1.Job) { j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: rules} }
}

func onExit(action batchv1.PodFailurePolicyAction, op batchv1.PodFailurePolicyOnExitCodesOperator, codes ...int32) batchv1.PodFailurePolicyRule {
	return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: op, Values: codes}}
}

func TestRules(t *testing.T) {
	disrupted := batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
		{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}
	only := onExit(batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyOnExitCodesOpIn, 1)
	only.OnExitCodes.ContainerName = ptr.To("main")
	for name, c := range map[string]struct {
		rules []batchv1.PodFailurePolicyRule
		codes map[string]int32
		cond  corev1.PodConditionType
		want  ruling
	}{
		"none":               {nil, map[string]int32{"main": 1}, "", ruling{}},
		"in":                 {[]batchv1.PodFailurePolicyRule{onExit("Count", "In", 1, 2)}, map[string]int32{"main": 2}, "", ruling{action: "Count"}},
		"not in":             {[]batchv1.PodFailurePolicyRule{onExit("FailIndex", "NotIn", 1, 2)}, map[string]int32{"main": 3}, "", ruling{action: "FailIndex"}},
		"success is none":    {[]batchv1.PodFailurePolicyRule{onExit("FailIndex", "NotIn", 1, 2)}, map[string]int32{"main": 0}, "", ruling{}},
		"another container":  {[]batchv1.PodFailurePolicyRule{only}, map[string]int32{"side": 1}, "", ruling{}},
		"first rule":         {[]batchv1.PodFailurePolicyRule{disrupted, onExit("FailJob", "In", 137)}, map[string]int32{"main": 137}, corev1.DisruptionTarget, ruling{action: "Ignore"}},
		"FailJob says why":   {[]batchv1.PodFailurePolicyRule{disrupted, only}, map[string]int32{"main": 1}, "", ruling{"FailJob", "Container main for pod default/p failed with exit code 1 matching FailJob rule at index 1"}},
		"condition and fail": {[]batchv1.PodFailurePolicyRule{{Action: "FailJob", OnPodConditions: disrupted.OnPodConditions}}, nil, corev1.DisruptionTarget, ruling{"FailJob", "Pod default/p has condition DisruptionTarget matching FailJob rule at index 0"}},
	} {
		pod := ct.Pod("p", nil)
		for container, code := range c.codes {
			pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: container,
				State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}})
		}
		if c.cond != "" {
			pod.Status.Conditions = []corev1.PodCondition{{Type: c.cond, Status: corev1.ConditionTrue}}
		}
		if got := rule(&batchv1.PodFailurePolicy{Rules: c.rules}, pod); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestFailurePolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		policy := failurePolicy(onExit("FailJob", "In", 42), onExit("Ignore", "In", 7))
		ct.Create(e, manifest("bad", 2, 2, policy, func(j *batchv1.Job) { j.Spec.BackoffLimit = ptr.To[int32](0) }))
		synctest.Wait()
		end(e, running(e)[0], 7) // ignored: not even a limit of 0 is reached
		wantState(e, "bad", "active 1 ready 0 terminating 0 succeeded 0 failed 0")
		ct.Settle(11 * time.Second)
		wantState(e, "bad", "active 2 ready 0 terminating 0 succeeded 0 failed 0")
		for _, p := range running(e) {
			bind(e, p)
		}
		end(e, running(e)[0], 42)
		wantState(e, "bad", "active 0 ready 0 terminating 1 succeeded 0 failed 2 FailureTarget=True:PodFailurePolicy")
		gone(e)
		wantState(e, "bad", "active 0 ready 0 terminating 0 succeeded 0 failed 2 FailureTarget=True:PodFailurePolicy Failed=True:PodFailurePolicy")
	})
}

// gone: the nodes have removed what was deleted.
func gone(e *ct.Env) {
	for _, p := range pods(e) {
		if p.DeletionTimestamp != nil {
			ct.Delete[*corev1.Pod](e, "default", p.Name, registry.DeleteOptions{GracePeriodSeconds: new(int64)})
		}
	}
	synctest.Wait()
}

func TestLimitForEachIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("odd", 4, 4, byIndex, func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr.To[int32](1) }))
		tries := map[string]bool{}
		for range 4 {
			ct.Settle(15 * time.Second)
			for _, p := range running(e) {
				i := indexOf(p)
				tries[fmt.Sprintf("%d:%s", i, p.Annotations[batchv1.JobIndexFailureCountAnnotation])] = true
				end(e, p, int32(i%2))
			}
		}
		want := []string{"0:0", "1:0", "1:1", "2:0", "3:0", "3:1"}
		for _, w := range want {
			if !tries[w] {
				t.Errorf("no try %s in %v", w, tries)
			}
		}
		if len(tries) != len(want) {
			t.Errorf("tries %v", tries)
		}
		wantState(e, "odd", "active 0 ready 0 terminating 0 succeeded 2 failed 4 done 0,2 lost 1,3 FailureTarget=True:FailedIndexes Failed=True:FailedIndexes")
	})
}

func TestMaxFailedIndexes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("few", 1, 4, byIndex, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes = ptr.To[int32](0), ptr.To[int32](0)
		}))
		synctest.Wait()
		endAll(e, 1)
		wantState(e, "few", "active 0 ready 0 terminating 0 succeeded 0 failed 1 lost 0 FailureTarget=True:MaxFailedIndexesExceeded Failed=True:MaxFailedIndexesExceeded")
	})
}

func TestFailIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("odd", 2, 2, byIndex, failurePolicy(onExit("FailIndex", "In", 1)), func(j *batchv1.Job) { j.Spec.BackoffLimitPerIndex = ptr.To[int32](3) }))
		synctest.Wait()
		for _, p := range running(e) {
			end(e, p, int32(indexOf(p)))
		}
		wantState(e, "odd", "active 0 ready 0 terminating 0 succeeded 1 failed 1 done 0 lost 1 FailureTarget=True:FailedIndexes Failed=True:FailedIndexes")
	})
}

func TestSuccessPolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("lead", 4, 4, byIndex, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededCount: ptr.To[int32](3)}, {SucceededIndexes: ptr.To("0,2-3"), SucceededCount: ptr.To[int32](1)}}}
		}))
		synctest.Wait()
		for _, p := range pods(e) {
			bind(e, p)
		}
		end(e, pods(e)[1], 0)
		wantState(e, "lead", "active 3 ready 0 terminating 0 succeeded 1 failed 0 done 1")
		end(e, pods(e)[0], 0)
		wantState(e, "lead", "active 0 ready 0 terminating 2 succeeded 2 failed 0 done 0,1 SuccessCriteriaMet=True:SuccessPolicy")
		if c := find(&get(e, "lead").Status, batchv1.JobSuccessCriteriaMet); c.Message != "Matched rules at index 1" {
			t.Errorf("%q", c.Message)
		}
		gone(e)
		wantState(e, "lead", "active 0 ready 0 terminating 0 succeeded 2 failed 0 done 0,1 SuccessCriteriaMet=True:SuccessPolicy Complete=True:SuccessPolicy")
	})
}

func TestDeadlineAndTTL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("slow", 1, 1, func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds, j.Spec.TTLSecondsAfterFinished = ptr.To[int64](60), ptr.To[int32](100)
		}))
		ct.Settle(59 * time.Second)
		wantState(e, "slow", "active 1 ready 0 terminating 0 succeeded 0 failed 0")
		ct.Settle(time.Second)
		wantState(e, "slow", "active 0 ready 0 terminating 0 succeeded 0 failed 1 FailureTarget=True:DeadlineExceeded Failed=True:DeadlineExceeded")
		ct.Settle(99 * time.Second)
		if get(e, "slow").DeletionTimestamp != nil {
			t.Error("deleted too early")
		}
		ct.Settle(time.Second)
		if job := get(e, "slow"); job.DeletionTimestamp == nil || !slices.Contains(job.Finalizers, metav1.FinalizerDeleteDependents) {
			t.Errorf("deleted %v, finalizers %v", job.DeletionTimestamp, job.Finalizers)
		}
	})
}

func TestManagedElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("theirs", 1, 1, func(j *batchv1.Job) { j.Spec.ManagedBy = ptr.To("example.com/theirs") }))
		ct.Create(e, manifest("ours", 1, 1, func(j *batchv1.Job) { j.Spec.ManagedBy = ptr.To(batchv1.JobControllerName) }))
		ct.Settle(time.Minute)
		if all := pods(e); len(all) != 1 || !strings.HasPrefix(all[0].Name, "ours-") {
			t.Errorf("%d pods", len(all))
		}
	})
}

// Only a pod that has ended is replaced; one that no node has ever known ends with its deletion.
func TestOnlyReplaceFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("once", 1, 1, func(j *batchv1.Job) { j.Spec.PodReplacementPolicy = ptr.To(batchv1.Failed) }))
		synctest.Wait()
		bind(e, pods(e)[0])
		ct.Delete[*corev1.Pod](e, "default", pods(e)[0].Name, registry.DeleteOptions{})
		ct.Settle(20 * time.Second)
		wantState(e, "once", "active 0 ready 0 terminating 1 succeeded 0 failed 0")
		end(e, pods(e)[0], 1)
		wantState(e, "once", "active 0 ready 0 terminating 0 succeeded 0 failed 1")
		gone(e)
		ct.Settle(11 * time.Second)
		wantState(e, "once", "active 1 ready 0 terminating 0 succeeded 0 failed 1")
		ct.Delete[*corev1.Pod](e, "default", pods(e)[0].Name, registry.DeleteOptions{})
		ct.Settle(21 * time.Second)
		wantState(e, "once", "active 1 ready 0 terminating 0 succeeded 0 failed 2")
	})
}

// An elastic Job shrinks and grows: parallelism and completions together.
func TestElastic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, manifest("wide", 4, 4, byIndex))
		synctest.Wait()
		end(e, pods(e)[3], 0)
		wantState(e, "wide", "active 3 ready 0 terminating 0 succeeded 1 failed 0 done 3")
		resize := func(n int32) {
			ct.Change(e, "default", "wide", func(j *batchv1.Job) { j.Spec.Parallelism, j.Spec.Completions = &n, &n })
		}
		resize(2)
		wantState(e, "wide", "active 2 ready 0 terminating 0 succeeded 0 failed 0")
		resize(3)
		wantState(e, "wide", "active 3 ready 0 terminating 0 succeeded 0 failed 0")
		endAll(e, 0)
		wantState(e, "wide", "active 0 ready 0 terminating 0 succeeded 3 failed 0 done 0-2 SuccessCriteriaMet=True:CompletionsReached Complete=True:CompletionsReached")
	})
}
