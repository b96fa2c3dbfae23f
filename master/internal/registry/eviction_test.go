package registry_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// runningPod makes a pod that runs on a node, ready or not.
func runningPod(e *env, name string, ready corev1.ConditionStatus) *corev1.Pod {
	e.Helper()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
	}
	err := e.Transact(e.ctx, func(tx *registry.Tx) (err error) {
		if pod, err = registry.Create(tx, pod.DeepCopy()); err != nil {
			return err
		}
		pod = pod.DeepCopy()
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		pod, err = registry.PutStatus(tx, pod)
		return err
	})
	if err != nil {
		e.Fatal(err)
	}
	return pod
}

// budget makes one whose controller has counted as given.
func budget(e *env, name string, status policyv1.PodDisruptionBudgetStatus, policy policyv1.UnhealthyPodEvictionPolicyType) {
	e.Helper()
	one := intstr.FromInt32(1)
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}
	if policy != "" {
		b.Spec.UnhealthyPodEvictionPolicy = &policy
	}
	err := e.Transact(e.ctx, func(tx *registry.Tx) error {
		made, err := registry.Create(tx, b.DeepCopy())
		if err != nil {
			return err
		}
		made = made.DeepCopy()
		made.Status = status
		_, err = registry.PutStatus(tx, made)
		return err
	})
	if err != nil {
		e.Fatal(err)
	}
}

func (e *env) evict(name string, o *metav1.DeleteOptions) error {
	_, err := e.Act(e.ctx, res("pods"), "eviction", "default", name, &policyv1.Eviction{DeleteOptions: o}, server.WriteOptions{})
	return err
}

func (e *env) budget(name string) *policyv1.PodDisruptionBudget {
	e.Helper()
	return mustGet(e, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}})
}

// cause checks that an error is that of a budget which does not allow an eviction.
func cause(t *testing.T, err error, want string, retry int32) {
	t.Helper()
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		t.Fatalf("got %v, want a refusal", err)
	}
	s := status.Status()
	if s.Code != 429 || s.Reason != metav1.StatusReasonTooManyRequests || s.Details.RetryAfterSeconds != retry ||
		s.Message != "Cannot evict pod as it would violate the pod's disruption budget." ||
		len(s.Details.Causes) != 1 || s.Details.Causes[0].Type != policyv1.DisruptionBudgetCause || s.Details.Causes[0].Message != want {
		t.Errorf("got %+v %+v, want %q", s, s.Details, want)
	}
}

func TestEvictionSpendsTheBudget(t *testing.T) {
	e := open(t, options{})
	budget(e, "web", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 3, CurrentHealthy: 4, DesiredHealthy: 1, ExpectedPods: 10}, "")
	const pods = 10
	for i := range pods {
		runningPod(e, "web-"+string(rune('a'+i)), corev1.ConditionTrue)
	}
	if err := e.evict("web-a", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error("dry run:", err)
	}
	uid := metav1.NewPreconditionDeleteOptions("other")
	wantErr(t, e.evict("web-a", uid), metav1.StatusReasonConflict, "the UID in the precondition (other) does not match the UID in record")
	if b := e.budget("web"); b.Status.DisruptionsAllowed != 3 || len(b.Status.DisruptedPods) != 0 {
		t.Fatalf("evictions that did not happen were paid for: %+v", b.Status)
	}

	// All at once: exactly as many succeed as are allowed.
	var wg sync.WaitGroup
	var done atomic.Int32
	for i := range pods {
		wg.Go(func() {
			if err := e.evict("web-"+string(rune('a'+i)), nil); err == nil {
				done.Add(1)
			} else if !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b := e.budget("web")
	if done.Load() != 3 || b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 3 {
		t.Errorf("%d evicted, status %+v", done.Load(), b.Status)
	}
	if c := b.Status.Conditions; len(c) != 1 || c[0].Type != policyv1.DisruptionAllowedCondition || c[0].Status != metav1.ConditionFalse || c[0].Reason != policyv1.InsufficientPodsReason {
		t.Errorf("conditions %+v", c)
	}
	going := 0
	for i := range pods {
		pod := mustGet(e, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-" + string(rune('a'+i))}})
		if pod.DeletionTimestamp == nil {
			continue
		}
		going++
		if _, ok := b.Status.DisruptedPods[pod.Name]; !ok {
			t.Errorf("%s is evicted but not in %v", pod.Name, b.Status.DisruptedPods)
		}
		// Once more costs nothing.
		if err := e.evict(pod.Name, nil); err != nil {
			t.Error("second eviction:", err)
		}
	}
	if going != 3 {
		t.Errorf("%d pods are going", going)
	}
}

func TestBudgetsThatRefuse(t *testing.T) {
	failed := []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason, Message: "no scale"}}
	other := []metav1.Condition{{Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: "Paused", Message: "by hand"}}
	many := map[string]metav1.Time{}
	for i := range 2001 {
		many[strings.Repeat("p", 1+i)] = metav1.Now()
	}
	for name, c := range map[string]struct {
		status policyv1.PodDisruptionBudgetStatus
		cause  string
		retry  int32
		reason metav1.StatusReason // instead of cause
	}{
		"never counted": {policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1}, "The disruption budget web is still being processed by the server.", 10, ""},
		"too few":       {policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 2}, "The disruption budget web needs 2 healthy pods and has 1 currently", 0, ""},
		"failed":        {policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, Conditions: failed}, "The disruption budget web does not allow evicting pods currently because it failed sync: no scale", 0, ""},
		"other":         {policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 2, Conditions: other}, "The disruption budget web does not allow evicting pods currently (Paused): by hand", 0, ""},
		"plain":         {policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 2}, "The disruption budget web does not allow evicting pods currently", 0, ""},
		"negative":      {policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: -1}, "pdb disruptions allowed is negative", 0, metav1.StatusReasonForbidden},
		"unconfirmed":   {policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, DisruptedPods: many}, "DisruptedPods map too big", 0, metav1.StatusReasonForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, options{})
			budget(e, "web", c.status, "")
			runningPod(e, "web", corev1.ConditionTrue)
			err := e.evict("web", nil)
			if c.reason != "" {
				wantErr(t, err, c.reason, c.cause)
				return
			}
			cause(t, err, c.cause, c.retry)
		})
	}
}

func TestTwoBudgetsForOnePod(t *testing.T) {
	e := open(t, options{})
	budget(e, "a", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1}, "")
	budget(e, "b", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1}, "")
	runningPod(e, "web", corev1.ConditionTrue)
	var status apierrors.APIStatus
	if err := e.evict("web", nil); !errors.As(err, &status) || status.Status().Code != 500 ||
		status.Status().Message != "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support." {
		t.Errorf("got %v", err)
	}
}

func TestPodsThatNoBudgetHolds(t *testing.T) {
	none := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 2, ExpectedPods: 3}
	enough := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 2, DesiredHealthy: 2, ExpectedPods: 3}
	for name, c := range map[string]struct {
		phase   corev1.PodPhase
		ready   corev1.ConditionStatus
		status  policyv1.PodDisruptionBudgetStatus
		policy  policyv1.UnhealthyPodEvictionPolicyType
		allowed bool
	}{
		"ready":                         {corev1.PodRunning, corev1.ConditionTrue, none, "", false},
		"ready, always":                 {corev1.PodRunning, corev1.ConditionTrue, none, policyv1.AlwaysAllow, false},
		"pending":                       {corev1.PodPending, corev1.ConditionFalse, none, "", true},
		"failed":                        {corev1.PodFailed, corev1.ConditionFalse, none, "", true},
		"succeeded":                     {corev1.PodSucceeded, corev1.ConditionFalse, none, "", true},
		"not ready":                     {corev1.PodRunning, corev1.ConditionFalse, none, "", false},
		"not ready, budget healthy":     {corev1.PodRunning, corev1.ConditionFalse, enough, policyv1.IfHealthyBudget, true},
		"not ready, always":             {corev1.PodRunning, corev1.ConditionFalse, none, policyv1.AlwaysAllow, true},
		"not ready, nothing to protect": {corev1.PodRunning, corev1.ConditionFalse, policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, options{})
			budget(e, "web", c.status, c.policy)
			for i := range c.status.CurrentHealthy {
				runningPod(e, fmt.Sprint("healthy-", i), corev1.ConditionTrue)
			}
			pod := runningPod(e, "web", c.ready)
			err := e.Transact(e.ctx, func(tx *registry.Tx) error {
				pod = pod.DeepCopy()
				pod.Status.Phase = c.phase
				_, err := registry.PutStatus(tx, pod)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := e.evict("web", nil); (err == nil) != c.allowed {
				t.Errorf("evicted: %v", err)
			}
			if b := e.budget("web"); len(b.Status.DisruptedPods) != 0 {
				t.Errorf("a free eviction was paid for: %+v", b.Status)
			}
		})
	}
}

// What the controller counted a moment ago allows nothing that the pods as they are now forbid: with a node, several pods
// become unready at once.
func TestBudgetsAreCountedAnew(t *testing.T) {
	e := open(t, options{})
	budget(e, "web", policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 3, DesiredHealthy: 2, ExpectedPods: 3}, "")
	for _, name := range []string{"lost-1", "lost-2"} {
		runningPod(e, name, corev1.ConditionFalse)
	}
	runningPod(e, "ready", corev1.ConditionTrue)
	other := runningPod(e, "other", corev1.ConditionTrue)
	if err := e.Transact(e.ctx, func(tx *registry.Tx) error {
		other = other.DeepCopy()
		other.Labels = nil
		_, err := registry.Put(tx, other)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	const few = "The disruption budget web needs 2 healthy pods and has 1 currently"
	cause(t, e.evict("lost-1", nil), few, 0)
	cause(t, e.evict("ready", nil), few, 0)
	runningPod(e, "second", corev1.ConditionTrue)
	if err := e.evict("lost-1", nil); err != nil {
		t.Error("one that is not ready, while enough are:", err)
	}
	cause(t, e.evict("ready", nil), "The disruption budget web needs 2 healthy pods and has 2 currently", 0)
	runningPod(e, "third", corev1.ConditionTrue)
	if err := e.evict("ready", nil); err != nil {
		t.Error("one of three:", err)
	}
	cause(t, e.evict("second", nil), "The disruption budget web needs 2 healthy pods and has 2 currently", 0)
}

func TestEvictionOptionsThatMakeNoSense(t *testing.T) {
	e := open(t, options{})
	runningPod(e, "web", corev1.ConditionTrue)
	yes := true
	wantErr(t, e.evict("web", &metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: &yes}), metav1.StatusReasonInvalid, "can not be set for pod eviction, try after removing the option")
	stale := "1"
	wantErr(t, e.evict("web", &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &stale}}), metav1.StatusReasonConflict, "the ResourceVersion in the precondition (1) does not match the ResourceVersion in record")
}
