package disruption

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

var web = map[string]string{"app": "web"}

func start(t *testing.T) *controllertest.Env {
	e := controllertest.New(t)
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

func makeBudget(e *controllertest.Env, least, most *intstr.IntOrString) {
	controllertest.Create(e, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: least, MaxUnavailable: most, Selector: &metav1.LabelSelector{MatchLabels: web}},
	})
}

func makePod(e *controllertest.Env, name string, owner *metav1.OwnerReference) {
	pod := controllertest.Pod(name, web)
	if owner != nil {
		pod.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	controllertest.Create(e, pod)
	controllertest.SetReady(e, "default", name, "10.244.0.2", true)
}

func ref(apiVersion, kind, name string, uid types.UID) *metav1.OwnerReference {
	yes := true
	return &metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: name, UID: uid, Controller: &yes}
}

// want checks the counts: allowed, current, desired, expected.
func want(e *controllertest.Env, allowed, current, desired, expected int32) *policyv1.PodDisruptionBudget {
	e.T.Helper()
	synctest.Wait()
	b := controllertest.Get[*policyv1.PodDisruptionBudget](e, "default", "web")
	s := b.Status
	if s.DisruptionsAllowed != allowed || s.CurrentHealthy != current || s.DesiredHealthy != desired || s.ExpectedPods != expected || s.ObservedGeneration != b.Generation {
		e.T.Errorf("allowed %d, current %d, desired %d, expected %d, observed %d; want %d %d %d %d", s.DisruptionsAllowed, s.CurrentHealthy, s.DesiredHealthy, s.ExpectedPods, s.ObservedGeneration, allowed, current, desired, expected)
	}
	return b
}

func number(n int) *intstr.IntOrString   { v := intstr.FromInt(n); return &v }
func share(s string) *intstr.IntOrString { v := intstr.FromString(s); return &v }

func TestBudgetFollowsPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		makeBudget(e, number(2), nil)
		want(e, 0, 0, 2, 0)
		if ev := controllertest.Events(e, "web"); !slices.Contains(ev, "NoPods: No matching pods found") {
			t.Errorf("events %q", ev)
		}
		for i := range 3 {
			makePod(e, "web-"+strconv.Itoa(i), nil)
		}
		b := want(e, 1, 3, 2, 3)
		if c := b.Status.Conditions[0]; c.Type != policyv1.DisruptionAllowedCondition || c.Status != metav1.ConditionTrue {
			t.Errorf("%+v", c)
		}
		controllertest.SetReady(e, "default", "web-0", "10.244.0.2", false)
		want(e, 0, 2, 2, 3)
		controllertest.SetReady(e, "default", "web-0", "10.244.0.2", true)
		controllertest.Change(e, "default", "web-0", func(p *corev1.Pod) { p.Labels = nil })
		want(e, 0, 2, 2, 2)
		controllertest.Change(e, "default", "web", func(b *policyv1.PodDisruptionBudget) { b.Spec.MinAvailable = number(1) })
		want(e, 1, 2, 1, 2)
		controllertest.Delete[*corev1.Pod](e, "default", "web-1", registry.DeleteOptions{})
		want(e, 0, 1, 1, 1)
	})
}

func TestBudgetAsksForScales(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		makeBudget(e, nil, share("30%"))
		replicas := func(n int32) *int32 { return &n }
		template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: web}, Spec: controllertest.PodSpec()}
		selector := &metav1.LabelSelector{MatchLabels: web}
		meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "default", Name: name} }

		d := controllertest.Create(e, &appsv1.Deployment{ObjectMeta: meta("d"), Spec: appsv1.DeploymentSpec{Replicas: replicas(4), Selector: selector, Template: template}})
		for _, name := range []string{"d-old", "d-new"} {
			rs := &appsv1.ReplicaSet{ObjectMeta: meta(name), Spec: appsv1.ReplicaSetSpec{Replicas: replicas(2), Selector: selector, Template: template}}
			rs.OwnerReferences = []metav1.OwnerReference{*ref("apps/v1", "Deployment", "d", d.UID)}
			rs = controllertest.Create(e, rs)
			makePod(e, name+"-a", ref("apps/v1", "ReplicaSet", name, rs.UID))
			makePod(e, name+"-b", ref("extensions/v1beta1", "ReplicaSet", name, rs.UID))
		}
		want(e, 2, 4, 2, 4) // both ReplicaSets are one Deployment of 4; 30 % are 2
		rc := controllertest.Create(e, &corev1.ReplicationController{ObjectMeta: meta("rc"), Spec: corev1.ReplicationControllerSpec{Replicas: replicas(3), Selector: web, Template: &template}})
		makePod(e, "rc-a", ref("v1", "ReplicationController", "rc", rc.UID))
		want(e, 1, 5, 4, 7)
		set := controllertest.Create(e, &appsv1.StatefulSet{ObjectMeta: meta("set"), Spec: appsv1.StatefulSetSpec{Replicas: replicas(3), Selector: selector, Template: template}})
		makePod(e, "set-0", ref("apps/v1", "StatefulSet", "set", set.UID))
		want(e, 0, 6, 7, 10)
		// A scale that changes counts before any pod follows.
		controllertest.Change(e, "default", "d", func(d *appsv1.Deployment) { d.Spec.Replicas = replicas(2) })
		want(e, 1, 6, 5, 8)

		makePod(e, "bare", nil)
		want(e, 2, 7, 5, 8)
		if ev := controllertest.Events(e, "web"); !slices.ContainsFunc(ev, func(s string) bool {
			return strings.HasPrefix(s, "UnmanagedPods: Pods selected by this PodDisruptionBudget (selector: &LabelSelector{MatchLabels:map[string]string{app: web,}")
		}) {
			t.Errorf("events %q", ev)
		}
		for _, c := range []struct {
			ref  *metav1.OwnerReference
			want string
		}{
			{ref("apps/v1", "ReplicaSet", "nosuch", "x"), `found no controllers for pod "odd"`},
			{ref("apps/v1", "StatefulSet", "set", "other"), `found no controllers for pod "odd"`},
			{ref("v1", "ConfigMap", "x", "x"), "configmaps does not implement the scale subresource"},
			{ref("example.com/v1", "Thing", "x", "x"), `no matches for kind "Thing" in version "example.com/v1"`},
		} {
			makePod(e, "odd", c.ref)
			synctest.Wait()
			b := controllertest.Get[*policyv1.PodDisruptionBudget](e, "default", "web")
			if s := b.Status; s.DisruptionsAllowed != 0 || s.Conditions[0].Reason != policyv1.SyncFailedReason || s.Conditions[0].Message != c.want {
				t.Errorf("%s: %+v", c.want, s)
			}
			controllertest.Delete[*corev1.Pod](e, "default", "odd", registry.DeleteOptions{})
			want(e, 2, 7, 5, 8)
		}
		if ev := controllertest.Events(e, "web"); !slices.ContainsFunc(ev, func(s string) bool {
			return strings.HasPrefix(s, `CalculateExpectedPodCountFailed: Failed to calculate the number of expected pods: found no controllers for pod "odd"`)
		}) {
			t.Errorf("events %q", ev)
		}
	})
}

func TestEvictionsAreConfirmedOrForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		makeBudget(e, number(1), nil)
		for i := range 3 {
			makePod(e, "web-"+strconv.Itoa(i), nil)
		}
		want(e, 2, 3, 1, 3)
		controllertest.ChangeStatus(e, "default", "web", func(b *policyv1.PodDisruptionBudget) {
			b.Status.DisruptedPods = map[string]metav1.Time{"web-0": metav1.Now(), "nosuch": metav1.Now()}
			b.Status.DisruptionsAllowed = 1
		})
		b := want(e, 1, 2, 1, 3)
		if _, ok := b.Status.DisruptedPods["web-0"]; !ok || len(b.Status.DisruptedPods) != 1 {
			t.Errorf("disrupted %v", b.Status.DisruptedPods)
		}
		controllertest.Settle(deletionTimeout + 2*time.Second)
		if b := want(e, 2, 3, 1, 3); len(b.Status.DisruptedPods) != 0 {
			t.Errorf("disrupted %v", b.Status.DisruptedPods)
		}
		if ev := controllertest.Events(e, "web-0"); !slices.Contains(ev, "NotDeleted: Pod was expected by PDB default/web to be deleted but it wasn't") {
			t.Errorf("events %q", ev)
		}
	})
}

func TestStaleDisruptionTarget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		for _, c := range []struct{ name, reason string }{{"api", "EvictionByEvictionAPI"}, {"agent", corev1.PodReasonTerminationByKubelet}} {
			makePod(e, c.name, nil)
			controllertest.ChangeStatus(e, "default", c.name, func(p *corev1.Pod) {
				p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{
					Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: c.reason, LastTransitionTime: metav1.Now(),
				})
			})
		}
		status := func(name string) corev1.ConditionStatus {
			for _, c := range controllertest.Get[*corev1.Pod](e, "default", name).Status.Conditions {
				if c.Type == corev1.DisruptionTarget {
					return c.Status
				}
			}
			return ""
		}
		controllertest.Settle(staleAfter - 2*time.Second)
		if got := status("api"); got != corev1.ConditionTrue {
			t.Errorf("too early: %s", got)
		}
		controllertest.Settle(4 * time.Second)
		if got := status("api"); got != corev1.ConditionFalse {
			t.Errorf("stale: %s", got)
		}
		controllertest.Settle(time.Hour)
		if got := status("agent"); got != corev1.ConditionTrue {
			t.Errorf("an agent's own condition: %s", got)
		}
	})
}

func TestTwoBudgetsAreTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		for _, name := range []string{"a", "b"} {
			controllertest.Create(e, &policyv1.PodDisruptionBudget{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: number(1), Selector: &metav1.LabelSelector{}},
			})
		}
		makePod(e, "web-0", nil)
		if ev := controllertest.Events(e, "web-0"); !slices.Equal(ev, []string{`MultiplePodDisruptionBudgets: Pod "default"/"web-0" matches multiple PodDisruptionBudgets.  Chose "a" arbitrarily.`}) {
			t.Errorf("events %q", ev)
		}
		for _, name := range []string{"a", "b"} {
			if s := controllertest.Get[*policyv1.PodDisruptionBudget](e, "default", name).Status; s.CurrentHealthy != 1 {
				t.Errorf("%s: %+v", name, s)
			}
		}
	})
}
