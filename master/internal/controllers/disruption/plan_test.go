package disruption

import (
	"errors"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func TestDemand(t *testing.T) {
	for _, c := range []struct {
		least, most       string
		pods, scale       int
		expected, healthy int32
		err               bool
	}{
		{least: "2", pods: 3, scale: 10, expected: 3, healthy: 2}, // a number asks nobody about scales
		{least: "50%", pods: 3, scale: 5, expected: 5, healthy: 3},
		{least: "0%", pods: 3, scale: 5, expected: 5, healthy: 0},
		{least: "100%", pods: 0, scale: 0},
		{most: "1", pods: 3, scale: 5, expected: 5, healthy: 4},
		{most: "30%", pods: 3, scale: 10, expected: 10, healthy: 7},
		{most: "1%", pods: 3, scale: 10, expected: 10, healthy: 9}, // rounded up: at least one may go
		{most: "7", pods: 3, scale: 5, expected: 5, healthy: 0},
		{pods: 3, scale: 5},
		{most: "30%", scale: -1, err: true},
		{least: "30%", scale: -1, err: true},
		{least: "x", scale: 1, err: true},
	} {
		b := &policyv1.PodDisruptionBudget{}
		value := func(s string) *intstr.IntOrString {
			if s == "" {
				return nil
			}
			v := intstr.FromString(s)
			if n, err := strconv.Atoi(s); err == nil {
				v = intstr.FromInt(n)
			}
			return &v
		}
		b.Spec.MinAvailable, b.Spec.MaxUnavailable = value(c.least), value(c.most)
		d, err := demandOf(b, c.pods, func() (int32, bool, error) {
			if c.scale < 0 {
				return 0, false, errors.New("no scale")
			}
			return int32(c.scale), true, nil
		})
		if (err != nil) != c.err || err == nil && (d.expected != c.expected || d.healthy != c.healthy) {
			t.Errorf("%+v: got %+v, %v", c, d, err)
		}
	}
}

func TestCountPods(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	pod := func(name string, ready, going bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if ready {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		}
		if going {
			p.DeletionTimestamp = &metav1.Time{Time: now}
		}
		return p
	}
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	b := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptedPods: map[string]metav1.Time{
		"fresh": ago(time.Second), "older": ago(time.Minute), "forgotten": ago(time.Hour), "going": ago(0), "gone": ago(0),
	}}}
	c := countPods(now, b, []*corev1.Pod{
		pod("a", true, false), pod("b", false, false), pod("fresh", true, false), pod("older", true, false),
		pod("forgotten", true, false), pod("going", true, true),
	})
	if c.healthy != 2 || len(c.disrupted) != 2 || c.disrupted["fresh"] != ago(time.Second) || c.next != time.Minute ||
		len(c.overdue) != 1 || c.overdue[0].Name != "forgotten" {
		t.Errorf("%+v", c)
	}
}

func TestStatus(t *testing.T) {
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Generation: 3}}
	for _, c := range []struct {
		d       demand
		healthy int32
		allowed int32
	}{
		{demand{expected: 3, healthy: 2}, 3, 1}, {demand{expected: 3, healthy: 2}, 2, 0}, {demand{expected: 3, healthy: 2}, 1, 0},
		{demand{expected: 0, healthy: 0}, 2, 0},
	} {
		s := makeStatus(b, c.d, count{healthy: c.healthy})
		reason, status := policyv1.InsufficientPodsReason, metav1.ConditionFalse
		if c.allowed > 0 {
			reason, status = policyv1.SufficientPodsReason, metav1.ConditionTrue
		}
		if s.DisruptionsAllowed != c.allowed || s.ObservedGeneration != 3 || s.CurrentHealthy != c.healthy ||
			len(s.Conditions) != 1 || s.Conditions[0].Reason != reason || s.Conditions[0].Status != status || s.Conditions[0].ObservedGeneration != 3 {
			t.Errorf("%+v: got %+v", c, s)
		}
	}
	failed := failedStatus(&policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 2}}, errors.New("why"))
	if c := failed.Conditions; failed.DisruptionsAllowed != 0 || len(c) != 1 || c[0].Reason != policyv1.SyncFailedReason || c[0].Message != "why" {
		t.Errorf("%+v", failed)
	}
	// Once it can be computed again, nothing is left of the failure.
	b.Status = failed
	if s := makeStatus(b, demand{expected: 1}, count{healthy: 1}); s.Conditions[0].Message != "" || s.Conditions[0].Reason != policyv1.SufficientPodsReason {
		t.Errorf("%+v", s)
	}
}
