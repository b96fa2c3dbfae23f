package daemonset

import (
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

const (
	hashLabel = appsv1.DefaultDaemonSetUniqueLabelKey
	// generationLabel is what clients of apps/v1beta2 and older find a pod's template by.
	generationLabel = "pod-template-generation"
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

// tolerated are the taints that no daemon minds: it belongs to the machine and has nowhere else to go.
var tolerated = []corev1.Toleration{
	{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
}

// toleratedByHost is one more, for pods that use the node's own network.
var toleratedByHost = corev1.Toleration{
	Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule,
}

// withTolerations adds those of every daemon to a template's own. One of the template's that is the same but for its
// tolerationSeconds is replaced: a daemon is not evicted after a time.
func withTolerations(spec *corev1.PodSpec) []corev1.Toleration {
	add := tolerated
	if spec.HostNetwork {
		add = append(slices.Clip(add), toleratedByHost)
	}
	out := slices.Clone(spec.Tolerations)
	for _, t := range add {
		if i := slices.IndexFunc(out, func(o corev1.Toleration) bool { return o.MatchToleration(&t) }); i >= 0 {
			out[i] = t
		} else {
			out = append(out, t)
		}
	}
	return out
}

// newPod makes the pod of a node from the DaemonSet's template.
func newPod(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	pod := podstate.FromTemplate(&ds.Spec.Template, ds, kind)
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	if generation, ok := templateGeneration(ds); ok {
		pod.Labels[generationLabel] = generation
	}
	pod.Labels[hashLabel] = hash
	pod.Spec.Tolerations = withTolerations(&pod.Spec)
	pod.Spec.Affinity = boundTo(pod.Spec.Affinity, node)
	return pod
}

// boundTo has the scheduler choose this node: of the template's own node affinity, which the node has passed, only what is
// preferred stays.
func boundTo(a *corev1.Affinity, node string) *corev1.Affinity {
	if a == nil {
		a = &corev1.Affinity{}
	}
	if a.NodeAffinity == nil {
		a.NodeAffinity = &corev1.NodeAffinity{}
	}
	a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}},
		}}},
	}
	return a
}

// targetOf is the node that a pod runs on, or is to run on; "" when nothing says it.
func targetOf(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, r := range term.MatchFields {
			if r.Key == metav1.ObjectNameField && r.Operator == corev1.NodeSelectorOpIn {
				if len(r.Values) != 1 {
					return ""
				}
				return r.Values[0]
			}
		}
	}
	return ""
}

// templateGeneration counts the changes of the template, for pods that older releases made.
func templateGeneration(ds *appsv1.DaemonSet) (string, bool) {
	n, err := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return strconv.FormatInt(n, 10), err == nil
}

// updated says whether a pod was made from the present template.
func updated(ds *appsv1.DaemonSet, pod *corev1.Pod, hash string) bool {
	if hash != "" && pod.Labels[hashLabel] == hash {
		return true
	}
	generation, ok := templateGeneration(ds)
	return ok && pod.Labels[generationLabel] == generation
}
