package admit

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod(cpu string, ports ...corev1.ContainerPort) *corev1.Pod {
	c := corev1.Container{Ports: ports}
	if cpu != "" {
		c.Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse(cpu)}
	}
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{c}}}
}

func TestCheck(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"disk": "ssd"}}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("1"), "pods": resource.MustParse("2")}}}
	tainted := node.DeepCopy()
	tainted.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: "NoExecute"}, {Key: "other", Effect: "NoSchedule"}}
	selects := func(v string) *corev1.Pod {
		p := pod("")
		p.Spec.NodeSelector = map[string]string{"disk": v}
		return p
	}
	tolerant := pod("")
	tolerant.Spec.Tolerations = []corev1.Toleration{{Key: "k", Operator: "Exists"}}
	hostNet := pod("", corev1.ContainerPort{ContainerPort: 80})
	hostNet.Spec.HostNetwork = true
	windows := pod("")
	windows.Spec.OS = &corev1.PodOS{Name: "windows"}
	policy := func(p corev1.SupplementalGroupsPolicy) *corev1.Pod {
		return &corev1.Pod{Spec: corev1.PodSpec{SecurityContext: &corev1.PodSecurityContext{SupplementalGroupsPolicy: &p}}}
	}
	tests := []struct {
		name   string
		pod    *corev1.Pod
		others []*corev1.Pod
		node   *corev1.Node
		want   Refusal
	}{
		{"fits", pod("400m"), []*corev1.Pod{pod("600m")}, node, Refusal{}},
		{"no node known", pod("40"), nil, nil, Refusal{}},
		{"cpu", pod("500m"), []*corev1.Pod{pod("600m")}, node, Refusal{"OutOfcpu", "Node didn't have enough resource: cpu, requested: 500, used: 600, capacity: 1000"}},
		{"pods", pod(""), []*corev1.Pod{pod(""), pod("")}, node, Refusal{"OutOfpods", "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"}},
		{"selector", selects("hdd"), nil, node, Refusal{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}},
		{"selector fits", selects("ssd"), nil, node, Refusal{}},
		{"port", pod("", corev1.ContainerPort{HostPort: 80}), []*corev1.Pod{hostNet}, node, Refusal{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}},
		{"other address", pod("", corev1.ContainerPort{HostPort: 80, HostIP: "192.0.2.1"}), []*corev1.Pod{pod("", corev1.ContainerPort{HostPort: 80, HostIP: "192.0.2.2"})}, node, Refusal{}},
		{"other protocol", pod("", corev1.ContainerPort{HostPort: 80, Protocol: "UDP"}), []*corev1.Pod{hostNet}, node, Refusal{}},
		{"taint", pod(""), nil, tainted, Refusal{"TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}},
		{"tolerated", tolerant, nil, tainted, Refusal{}},
		{"groups of the image too", policy("Merge"), nil, node, Refusal{}},
		{"groups of the manifest only", policy("Strict"), nil, node, Refusal{"SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"}},
		{"os", windows, nil, node, Refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Check(tt.pod, tt.others, tt.node)
			if got == nil {
				got = &Refusal{}
			}
			if *got != tt.want {
				t.Errorf("got %+v, want %+v", *got, tt.want)
			}
		})
	}
}
