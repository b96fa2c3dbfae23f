package trace

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// What is broken of what the objects say.
func TestServiceBroken(t *testing.T) {
	isBroken(t, map[string]fault{
		"no Service":        {func(w *world) { w.service.Name = "web2" }, Options{}, "Service", []string{`there is none called "web" in namespace default`, "did you mean web2?"}},
		"Service elsewhere": {func(w *world) { w.service.Namespace = "prod" }, Options{}, "Service", []string{"there is one in namespace prod", "its name is web.prod"}},
		"no such port":      {func(*world) {}, Options{Port: "443"}, "Service", []string{"the Service has no port 443"}},
		"typo in selector": {func(w *world) { w.service.Spec.Selector["app"] = "wbe"; w.slice.Endpoints = nil }, Options{}, "selector",
			[]string{"app=wbe matches 0 pods", "pod web-1 has app=web", `{"app": "web"}`}},
		"no pods": {func(w *world) { w.pods = nil; w.slice.Endpoints = nil }, Options{}, "selector", []string{"there are no pods in namespace default"}},
		"pods crash": {func(w *world) {
			for _, p := range w.pods {
				notReady(p, corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"}},
					LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 3}}})
			}
			w.slice.Endpoints = nil
			w.events = []*corev1.Event{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, Type: "Warning", Reason: "BackOff", Message: "Back-off restarting failed container"}}
		}, Options{}, "pods", []string{"0 of 2 ready", "pod web-1 on n1: container web: CrashLoopBackOff, back-off 10s (its last run ended with exit code 3)\n", "wpctl describe pod web-1 -n default; wpctl logs web-1 -n default -c web --previous"}},
		"pods not ready": {func(w *world) {
			w.pods = w.pods[:1]
			notReady(w.pods[0], corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}})
			w.slice.Endpoints = w.slice.Endpoints[:1]
			w.slice.Endpoints[0].Conditions.Ready = ref(false)
			w.events = []*corev1.Event{{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "e"}, Type: "Warning", Reason: "Unhealthy", Message: "Readiness probe failed: 404"}}
		}, Options{}, "pods", []string{"running, but not ready", "Unhealthy: Readiness probe failed: 404"}},
		"named targetPort": {func(w *world) {
			w.service.Spec.Ports[0].TargetPort = intstr.FromString("web")
			w.slice.Endpoints = nil
		}, Options{}, "targetPort", []string{`no container of pod web-2 has a TCP port called "web"`, "it has http 8080/TCP", "name: web"}},
		"slices late":               {func(w *world) { w.slice.Endpoints = w.slice.Endpoints[:1] }, Options{}, "endpoints", []string{"ready, but not among them: web-2"}},
		"no selector, no endpoints": {func(w *world) { w.service.Spec.Selector = nil; w.slice.Endpoints = nil }, Options{}, "endpoints", []string{"nobody has given it endpoints"}},
	})
}

func TestServiceNoFault(t *testing.T) {
	isNoFault(t, map[string]noFault{
		"one of two not ready": {func(w *world) {
			notReady(w.pods[1], corev1.ContainerStatus{Name: "web", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull"}}})
			w.slice.Endpoints[1].Conditions.Ready = ref(false)
		}, Options{}, "! pods        1 of 2 ready"},
	})
}
