package pressure

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	v1helper "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/whalepod/whalepod/node/pods/status"
)

// TransitionPeriod is how long a condition stays after it was observed last (--eviction-pressure-transition-period), so that a
// node on the edge does not take pods in and throw them out by turns.
const TransitionPeriod = 5 * time.Minute

// wording of a condition, yes and no.
type wording struct {
	kind       corev1.NodeConditionType
	yes, no    [2]string // reason, message
	came, went string    // reasons of events
}

var wordings = []wording{
	{
		corev1.NodeMemoryPressure,
		[2]string{"KubeletHasInsufficientMemory", "kubelet has insufficient memory available"},
		[2]string{"KubeletHasSufficientMemory", "kubelet has sufficient memory available"},
		"NodeHasInsufficientMemory", "NodeHasSufficientMemory",
	},
	{
		corev1.NodeDiskPressure,
		[2]string{"KubeletHasDiskPressure", "kubelet has disk pressure"},
		[2]string{"KubeletHasNoDiskPressure", "kubelet has no disk pressure"},
		"NodeHasDiskPressure", "NodeHasNoDiskPressure",
	},
	{
		corev1.NodePIDPressure,
		[2]string{"KubeletHasInsufficientPID", "kubelet has insufficient PID available"},
		[2]string{"KubeletHasSufficientPID", "kubelet has sufficient PID available"},
		"NodeHasInsufficientPID", "NodeHasSufficientPID",
	},
}

// Conditions of the node over time. The zero value has none.
type Conditions struct {
	// seen is when a condition was observed last, for those that hold.
	seen map[corev1.NodeConditionType]time.Time
}

// Observe takes the thresholds that are met now, and returns the reasons of the events that tell what changed. period is
// TransitionPeriod but for tests.
func (c *Conditions) Observe(now time.Time, met []Threshold, period time.Duration) (events []string) {
	if c.seen == nil {
		c.seen = map[corev1.NodeConditionType]time.Time{}
	}
	before := map[corev1.NodeConditionType]bool{}
	for kind := range c.seen {
		before[kind] = true
	}
	for _, t := range met {
		c.seen[meanings[t.Signal].condition] = now
	}
	for kind, at := range c.seen {
		if now.Sub(at) >= period {
			delete(c.seen, kind)
		}
	}
	for _, w := range wordings {
		_, is := c.seen[w.kind]
		switch {
		case is && !before[w.kind]:
			events = append(events, w.came)
		case !is && before[w.kind]:
			events = append(events, w.went)
		}
	}
	return events
}

// Active are those that hold.
func (c *Conditions) Active() []corev1.NodeConditionType {
	var out []corev1.NodeConditionType
	for _, w := range wordings {
		if _, ok := c.seen[w.kind]; ok {
			out = append(out, w.kind)
		}
	}
	return out
}

// Node tells them as a Node's status does.
func (c *Conditions) Node(now time.Time) []corev1.NodeCondition {
	at := metav1.NewTime(now)
	out := make([]corev1.NodeCondition, 0, len(wordings)+2)
	for _, w := range wordings {
		n := corev1.NodeCondition{Type: w.kind, Status: corev1.ConditionFalse, Reason: w.no[0], Message: w.no[1], LastHeartbeatTime: at, LastTransitionTime: at}
		if _, ok := c.seen[w.kind]; ok {
			n.Status, n.Reason, n.Message = corev1.ConditionTrue, w.yes[0], w.yes[1]
		}
		out = append(out, n)
	}
	return out
}

// systemCritical is the priority of system-cluster-critical.
const systemCritical = 2_000_000_000

// Critical pods are those that the node cannot do without: static ones, which nobody would make again, and those of a system
// priority.
func Critical(pod *corev1.Pod) bool {
	source := pod.Annotations["kubernetes.io/config.source"]
	_, mirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return mirror || source != "" && source != "api" || pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCritical
}

// Refuse tells why a pod may not come while these conditions hold; empty when it may. When only memory is short, those that
// said how much they need are let in: they were counted.
func Refuse(pod *corev1.Pod, active []corev1.NodeConditionType) (reason, message string) {
	if len(active) == 0 || Critical(pod) {
		return "", ""
	}
	if len(active) == 1 && active[0] == corev1.NodeMemoryPressure {
		taint := corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}
		if status.QOS(pod) != corev1.PodQOSBestEffort || v1helper.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &taint, false) {
			return "", ""
		}
	}
	return Evicted, fmt.Sprintf("The node had condition: %v. ", active)
}
