package podautoscaler

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// world has a Deployment "web" whose pods all use as much, in thousandths of a processor.
type world struct {
	*controllertest.Env
	milli atomic.Int64
}

func newWorld(t *testing.T, replicas int32) *world {
	w := &world{Env: controllertest.New(t)}
	labels := map[string]string{"app": "web"}
	controllertest.Create(w.Env, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: controllertest.PodSpec(),
		}},
	})
	w.follow()
	w.Start(New(Config{Registry: w.Registry, Logger: w.Logger, Usage: func(p *corev1.Pod) (Usage, bool) {
		return Usage{Time: time.Now(), Window: 15 * time.Second, Containers: []ContainerUsage{{Name: "c", CPU: w.milli.Load() * 1e6}}}, true
	}}).Run)
	return w
}

func (w *world) replicas() int32 {
	return *controllertest.Get[*appsv1.Deployment](w.Env, "default", "web").Spec.Replicas
}

// follow makes as many pods as are wanted, all ready for long.
func (w *world) follow() {
	pods := controllertest.List[*corev1.Pod](w.Env, "default")
	n := int(w.replicas())
	for i := len(pods); i < n; i++ {
		name := fmt.Sprintf("web-%d", i)
		controllertest.Create(w.Env, controllertest.Pod(name, map[string]string{"app": "web"}))
		controllertest.ChangeStatus(w.Env, "default", name, func(p *corev1.Pod) {
			long := metav1.NewTime(time.Now().Add(-time.Hour))
			p.Status.Phase, p.Status.StartTime = corev1.PodRunning, &long
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: long}}
		})
	}
	none := int64(0)
	for i := n; i < len(pods); i++ {
		controllertest.Delete[*corev1.Pod](w.Env, "default", pods[i].Name, registry.DeleteOptions{GracePeriodSeconds: &none})
	}
}

// pass lets time pass; the pods follow what is wanted.
func (w *world) pass(d time.Duration) {
	for ; d > 0; d -= 5 * time.Second {
		controllertest.Settle(5 * time.Second)
		w.follow()
	}
}

func (w *world) hpa() *autoscalingv2.HorizontalPodAutoscaler {
	return controllertest.Get[*autoscalingv2.HorizontalPodAutoscaler](w.Env, "default", "web")
}

func (w *world) autoscale(name string, change func(*autoscalingv2.HorizontalPodAutoscalerSpec)) {
	one, half := int32(1), int32(50)
	hpa := &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, MinReplicas: &one, MaxReplicas: 6,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &half},
			}}},
		},
	}
	if change != nil {
		change(&hpa.Spec)
	}
	controllertest.Create(w.Env, hpa)
	synctest.Wait()
}

// conditions as "Type=Status Reason".
func (w *world) conditions() string {
	var out []string
	for _, c := range w.hpa().Status.Conditions {
		out = append(out, fmt.Sprintf("%s=%s %s", c.Type, c.Status, c.Reason))
	}
	return strings.Join(out, ", ")
}

func (w *world) expect(what string, replicas int32, conditions string) {
	w.T.Helper()
	if got := w.replicas(); got != replicas || w.conditions() != conditions {
		w.T.Errorf("%s: %d replicas, want %d: %s", what, got, replicas, w.conditions())
	}
}

// Three idle pods that ask for nothing, and the command of many posts: autoscale --cpu-percent=50 --min=1 --max=6.
func TestIdlePodsGoDownToOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		w.milli.Store(1)
		w.autoscale("web", nil)
		w.expect("at once", 3, "AbleToScale=True ScaleDownStabilized, ScalingActive=True ValidMetricFound, ScalingLimited=False DesiredWithinRange")
		s := w.hpa().Status
		if s.CurrentReplicas != 3 || s.DesiredReplicas != 3 || len(s.CurrentMetrics) != 1 || *s.CurrentMetrics[0].Resource.Current.AverageUtilization != 1 ||
			s.CurrentMetrics[0].Resource.Current.AverageValue.String() != "1m" || s.LastScaleTime != nil {
			t.Errorf("%+v", s)
		}
		w.pass(290 * time.Second)
		w.expect("not within five minutes", 3, "AbleToScale=True ScaleDownStabilized, ScalingActive=True ValidMetricFound, ScalingLimited=False DesiredWithinRange")
		w.pass(45 * time.Second)
		w.expect("then", 1, "AbleToScale=True ReadyForNewScale, ScalingActive=True ValidMetricFound, ScalingLimited=False DesiredWithinRange")
		if s := w.hpa().Status; s.LastScaleTime == nil || s.DesiredReplicas != 1 {
			t.Errorf("%+v", s)
		}
		events := controllertest.Events(w.Env, "web")
		for _, want := range []string{"SuccessfulRescale: New size: 1; reason: All metrics below target", "DefaultCPURequest: containers without a cpu request count as asking for 100m: c"} {
			if !slices.Contains(events, want) {
				t.Errorf("no %q in %q", want, events)
			}
		}
		// What does not change is not written.
		before := w.hpa().ResourceVersion
		w.pass(5 * time.Minute)
		if after := w.hpa().ResourceVersion; after != before {
			t.Errorf("written without need: %s", w.conditions())
		}
	})
}

func TestLoadGoesUpAndDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1)
		w.milli.Store(500)
		w.autoscale("web", func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			ten := int32(10)
			s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &ten}}
		})
		w.expect("at once", 5, "AbleToScale=True SucceededRescale, ScalingActive=True ValidMetricFound, ScalingLimited=True ScaleUpLimit")
		w.pass(15 * time.Second)
		w.expect("and up to the maximum", 6, "AbleToScale=True SucceededRescale, ScalingActive=True ValidMetricFound, ScalingLimited=True TooManyReplicas")
		w.milli.Store(0)
		w.pass(35 * time.Second)
		w.expect("and down", 1, "AbleToScale=True ReadyForNewScale, ScalingActive=True ValidMetricFound, ScalingLimited=True TooFewReplicas")
		if events := controllertest.Events(w.Env, "web"); !slices.Contains(events, "SuccessfulRescale: New size: 5; reason: cpu resource utilization (percentage of request) above target") {
			t.Errorf("%q", events)
		}
		// Bounds are kept at once when they change, and no replicas means hands off.
		controllertest.Change(w.Env, "default", "web", func(h *autoscalingv2.HorizontalPodAutoscaler) { two := int32(2); h.Spec.MinReplicas = &two })
		synctest.Wait()
		w.expect("a higher minimum", 2, "AbleToScale=True SucceededRescale, ScalingActive=True ValidMetricFound, ScalingLimited=True TooFewReplicas")
		controllertest.Change(w.Env, "default", "web", func(d *appsv1.Deployment) { none := int32(0); d.Spec.Replicas = &none })
		w.pass(30 * time.Second)
		w.expect("none", 0, "AbleToScale=True SucceededGetScale, ScalingActive=False ScalingDisabled, ScalingLimited=True TooFewReplicas")
		controllertest.Change(w.Env, "default", "web", func(d *appsv1.Deployment) { many := int32(9); d.Spec.Replicas = &many })
		w.pass(15 * time.Second)
		if got := w.replicas(); got > 6 {
			t.Errorf("%d replicas", got)
		}
	})
}

func TestTargets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		for name, ref := range map[string]struct{ version, kind, name, want string }{
			"none":    {"apps/v1", "Deployment", "nothing", `deployments.apps "nothing" not found`},
			"kind":    {"example.com/v1", "Widget", "web", `no matches for kind "Widget" in group "example.com"`},
			"scale":   {"v1", "ConfigMap", "web", "the server could not find the requested resource"},
			"version": {"a/b/c", "Deployment", "web", "unexpected GroupVersion string: a/b/c"},
			"old":     {"extensions/v1beta1", "Deployment", "web", ""},
		} {
			w.autoscale(name, func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
				s.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: ref.version, Kind: ref.kind, Name: ref.name}
			})
			c := controllertest.Get[*autoscalingv2.HorizontalPodAutoscaler](w.Env, "default", name).Status.Conditions
			switch {
			case ref.want == "":
				if len(c) != 3 {
					t.Errorf("%s: %+v", name, c)
				}
			case len(c) != 1 || c[0].Reason != "FailedGetScale" || c[0].Status != corev1.ConditionFalse || !strings.HasPrefix(c[0].Message, "the HPA controller was unable to get the target's current scale: "+ref.want):
				t.Errorf("%s: %+v", name, c)
			}
		}
		// Two for the same pods do nothing.
		w.autoscale("web", nil)
		if want := "AbleToScale=True SucceededGetScale, ScalingActive=False AmbiguousSelector"; w.conditions() != want {
			t.Error(w.conditions())
		}
		if m := w.hpa().Status.Conditions[1].Message; m != "pods by selector app=web are controlled by multiple HPAs: [default/old default/web]" {
			t.Error(m)
		}
		controllertest.Delete[*autoscalingv2.HorizontalPodAutoscaler](w.Env, "default", "old", registry.DeleteOptions{})
		w.pass(20 * time.Second)
		if !strings.Contains(w.conditions(), "ScalingActive=True") {
			t.Error(w.conditions())
		}
		// One that comes later is found.
		controllertest.Create(w.Env, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "rc"}, Spec: corev1.ReplicationControllerSpec{
			Selector: map[string]string{"app": "rc"}, Template: &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "rc"}}, Spec: controllertest.PodSpec()},
		}})
		w.autoscale("rc", func(s *autoscalingv2.HorizontalPodAutoscalerSpec) {
			three := int32(3)
			s.ScaleTargetRef, s.MinReplicas = autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "ReplicationController", Name: "rc"}, &three
		})
		if rc := controllertest.Get[*corev1.ReplicationController](w.Env, "default", "rc"); *rc.Spec.Replicas != 3 {
			t.Errorf("%d replicas", *rc.Spec.Replicas)
		}
	})
}
