package podautoscaler

import (
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

// onePod is a pod and what it uses: its letter says what is special about it.
//
//	r ready for long   n ready now, figures from before   s starting   u not ready any more   p pending   d being deleted
//	f failed           m running without figures
func onePod(state byte, milli int64, request string) (*corev1.Pod, *Usage) {
	old := metav1.NewTime(now.Add(-time.Hour))
	p := &corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &old}}
	ready := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-59 * time.Minute))}
	c := corev1.Container{Name: "web"}
	if request != "" {
		c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(request)}
	}
	p.Spec.Containers = []corev1.Container{c}
	u := &Usage{Time: now.Add(-5 * time.Second), Window: 15 * time.Second, Containers: []ContainerUsage{{Name: "web", CPU: milli * 1e6, Memory: milli << 20}}}
	young := metav1.NewTime(now.Add(-time.Minute))
	switch state {
	case 'n':
		p.Status.StartTime = &young
		ready.LastTransitionTime = metav1.NewTime(now.Add(-10 * time.Second))
	case 's':
		p.Status.StartTime = &young
		ready.Status = corev1.ConditionFalse
	case 'u':
		ready.Status = corev1.ConditionFalse
	case 'p':
		p.Status.Phase = corev1.PodPending
		u = nil
	case 'd':
		p.DeletionTimestamp = &young
	case 'f':
		p.Status.Phase = corev1.PodFailed
	case 'm':
		u = nil
	}
	p.Status.Conditions = []corev1.PodCondition{ready}
	return p, u
}

// situationOf pods by their letters, each using as much.
func situationOf(letters string, milli int64, request string) situation {
	usages := map[string]*Usage{}
	s := situation{now: now, memory: &memory{}, scale: scale{selector: "app=web"}, hpa: &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec:       autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 100},
	}}
	for i := range len(letters) {
		p, u := onePod(letters[i], milli, request)
		p.Name = string(rune('A' + i))
		usages[p.Name] = u
		s.pods = append(s.pods, p)
	}
	s.scale.spec = int32(len(letters))
	s.usage = func(p *corev1.Pod) (Usage, bool) {
		if u := usages[p.Name]; u != nil {
			return *u, true
		}
		return Usage{}, false
	}
	return s
}

func TestUtilization(t *testing.T) {
	for _, tt := range []struct {
		name, pods string
		milli      int64
		request    string
		target     int32
		want       int32
		percent    int32
		err        string
	}{
		{"idle", "rrr", 1, "100m", 50, 1, 1, ""},
		{"nothing at all", "rrr", 0, "100m", 50, 0, 0, ""},
		{"without requests", "rrr", 1, "", 50, 1, 1, ""},
		{"busy", "rrr", 100, "100m", 50, 6, 100, ""},
		{"a little more than wanted", "rrr", 55, "100m", 50, 3, 55, ""},
		{"a little less", "rrr", 45, "100m", 50, 3, 45, ""},
		{"more than a little", "rrr", 56, "100m", 50, 4, 56, ""},
		{"on the way up, starting pods use nothing", "rrs", 100, "100m", 50, 4, 100, ""},
		{"figures from before it was ready do not count", "rrn", 100, "100m", 50, 4, 100, ""},
		{"pending pods neither", "rrp", 100, "100m", 50, 4, 100, ""},
		{"on the way down, starting pods are left out", "rrs", 10, "100m", 50, 1, 10, ""},
		{"starting pods turn nothing around", "rss", 120, "100m", 50, 3, 120, ""},
		{"on the way up, missing ones use nothing", "rrm", 100, "100m", 50, 4, 100, ""},
		{"on the way down, missing ones use all", "rrm", 10, "100m", 50, 3, 10, ""},
		{"enough others go down all the same", "rrrrrrrrrm", 1, "100m", 50, 2, 1, ""},
		{"a target above all of it", "rrrm", 10, "100m", 200, 2, 10, ""},
		{"not ready after it was: it counts", "uu", 100, "100m", 50, 4, 100, ""},
		{"deleted and failed pods do not count", "rrdf", 100, "100m", 50, 4, 100, ""},
		{"none is ready", "ss", 100, "100m", 50, 0, 0, "did not receive metrics for targeted pods (pods might be unready)"},
		{"no figures", "mm", 100, "100m", 50, 0, 0, "unable to get metrics for resource cpu: no metrics returned from resource metrics API"},
		{"a request of nothing", "r", 1, "0", 50, 0, 0, "no metrics returned matched known pods"},
	} {
		s := situationOf(tt.pods, tt.milli, tt.request)
		d := &decision{situation: s}
		r, err := d.calculator(corev1.ResourceCPU, "").utilization(tt.target)
		switch {
		case tt.err != "":
			if err == nil || err.Error() != tt.err {
				t.Errorf("%s: %v", tt.name, err)
			}
		case err != nil || r.replicas != tt.want || r.percent != tt.percent || r.average != tt.milli:
			t.Errorf("%s: %+v %v, want %d at %d %%", tt.name, r, err, tt.want, tt.percent)
		}
	}
}

func TestRaw(t *testing.T) {
	for _, tt := range []struct {
		pods        string
		used        int64
		target      string
		want        int32
		wantAverage string
	}{
		{"rr", 100, "50Mi", 4, "100Mi"}, {"rr", 50, "50Mi", 2, "50Mi"}, {"rrrr", 10, "50Mi", 1, "10Mi"}, {"rm", 100, "50Mi", 2, "100Mi"}, {"rrm", 100, "50Mi", 4, "100Mi"}, {"rrm", 10, "50Mi", 2, "10Mi"}, {"rrs", 100, "50Mi", 6, "100Mi"},
	} {
		d := &decision{situation: situationOf(tt.pods, tt.used, "")}
		target := apiresource.MustParse(tt.target)
		r, err := d.calculator(corev1.ResourceMemory, "").raw(target.MilliValue())
		if average := quantity(corev1.ResourceMemory, r.average); err != nil || r.replicas != tt.want || average.String() != tt.wantAverage {
			t.Errorf("%+v: %+v %s %v", tt, r, average, err)
		}
	}
}

func TestRequests(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	list := func(cpu string) corev1.ResourceRequirements {
		return corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: apiresource.MustParse(cpu)}}
	}
	pod := func() *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "once", Resources: list("7")}, {Name: "side", RestartPolicy: &always, Resources: list("20m")}},
			Containers:     []corev1.Container{{Name: "a", Resources: list("200m")}, {Name: "b"}},
		}}
	}
	whole := pod()
	limits := list("1")
	whole.Spec.Resources = &limits
	for _, tt := range []struct {
		pod       *corev1.Pod
		resource  corev1.ResourceName
		container string
		want      int64
		err       string
	}{
		{pod(), corev1.ResourceCPU, "", 320, ""}, {pod(), corev1.ResourceCPU, "a", 200, ""}, {pod(), corev1.ResourceCPU, "b", 100, ""}, {pod(), corev1.ResourceCPU, "side", 20, ""},
		{whole, corev1.ResourceCPU, "", 1000, ""}, {whole, corev1.ResourceCPU, "a", 200, ""},
		{pod(), corev1.ResourceMemory, "", 0, "missing request for memory in container a of Pod p"},
		{pod(), corev1.ResourceCPU, "c", 0, "container c not found in Pod p"},
		{pod(), corev1.ResourceCPU, "once", 0, "container once not found in Pod p"},
		{whole, corev1.ResourceMemory, "", 0, "missing pod-level request for memory in Pod p"},
	} {
		c := &calculator{decision: &decision{}, resource: tt.resource, container: tt.container}
		got, err := c.request(tt.pod)
		if got != tt.want || tt.err == "" && err != nil || tt.err != "" && (err == nil || err.Error() != tt.err) {
			t.Errorf("%s of %q: %d %v", tt.resource, tt.container, got, err)
		}
	}
}

// What is said of metrics that nobody has.
func TestOtherMetrics(t *testing.T) {
	name := autoscalingv2.MetricIdentifier{Name: "queue"}
	one := apiresource.MustParse("1")
	for reason, spec := range map[string]autoscalingv2.MetricSpec{
		"FailedGetPodsMetric|unable to get metric queue: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered": {
			Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: name},
		},
		"FailedGetObjectMetric|unable to get metric queue: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered on Service default/s": {
			Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: name, DescribedObject: autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "s"}},
		},
		"FailedGetExternalMetric|unable to get external metric default/queue/nil: unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)": {
			Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: name, Target: autoscalingv2.MetricTarget{Value: &one}},
		},
		`InvalidMetricSourceType|unknown metric source type "Resource"`: {Type: autoscalingv2.ResourceMetricSourceType},
	} {
		s := situationOf("rr", 100, "100m")
		s.hpa.Spec.Metrics = []autoscalingv2.MetricSpec{spec}
		d := decide(s)
		wantReason, want, _ := strings.Cut(reason, "|")
		if d.rescale || len(d.status.Conditions) != 2 || d.status.Conditions[1].Reason != wantReason || d.status.Conditions[1].Status != corev1.ConditionFalse ||
			d.status.Conditions[1].Message != "the HPA was unable to compute the replica count: "+want || len(d.events) != 2 || d.events[0] != (event{"Warning", wantReason, want}) ||
			!strings.HasPrefix(d.events[1].message, "invalid metrics (1 invalid out of 1), first error is: ") {
			t.Errorf("%s: %+v %+v", wantReason, d.status.Conditions, d.events)
		}
	}
}
