package admit

import (
	"fmt"
	"runtime"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Refusal in the kubelet's words.
type Refusal struct {
	Reason, Message string
}

// Check tells why the pod cannot run on this node beside the others; nil when it can. node may be nil: then only what
// does not need it is checked.
func Check(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) *Refusal {
	if pod.Spec.OS != nil && string(pod.Spec.OS.Name) != runtime.GOOS {
		return &Refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	// Docker gives a user the groups that the image's /etc/group names: it knows Merge only.
	if sc := pod.Spec.SecurityContext; sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict {
		return &Refusal{"SupplementalGroupsPolicyNotSupported", fmt.Sprintf("SupplementalGroupsPolicy=%s is not supported in this node", corev1.SupplementalGroupsPolicyStrict)}
	}
	if node != nil {
		if r := resources(pod, others, node); r != nil {
			return r
		}
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
			return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
		}
	}
	if conflict(pod, others) {
		return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
	}
	if node != nil && !tolerates(pod, node) {
		return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
	}
	return nil
}

func failed(predicate, why string) *Refusal {
	return &Refusal{predicate, fmt.Sprintf("Predicate %s failed: %s", predicate, why)}
}

func resources(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) *Refusal {
	capacity := node.Status.Allocatable
	if n, ok := capacity[corev1.ResourcePods]; ok && int64(len(others))+1 > n.Value() {
		return short(corev1.ResourcePods, 1, int64(len(others)), n.Value())
	}
	want := helper.PodRequests(pod, helper.PodResourcesOptions{})
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		asked := amount(want, name)
		limit, known := capacity[name]
		if asked == 0 || !known {
			continue
		}
		var used int64
		for _, o := range others {
			used += amount(helper.PodRequests(o, helper.PodResourcesOptions{}), name)
		}
		have := amount(corev1.ResourceList{name: limit}, name)
		if asked+used > have {
			return short(name, asked, used, have)
		}
	}
	return nil
}

// amount in the unit of messages: thousandths of a CPU, bytes.
func amount(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q := list[name]
	if name == corev1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func short(name corev1.ResourceName, asked, used, have int64) *Refusal {
	return &Refusal{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, asked, used, have)}
}

type hostPort struct {
	ip, protocol string
	port         int32
}

func hostPorts(pod *corev1.Pod) []hostPort {
	var out []hostPort
	add := func(list []corev1.Container) {
		for _, c := range list {
			for _, p := range c.Ports {
				port := p.HostPort
				if port == 0 && pod.Spec.HostNetwork {
					port = p.ContainerPort
				}
				if port == 0 {
					continue
				}
				h := hostPort{p.HostIP, string(p.Protocol), port}
				if h.ip == "" {
					h.ip = "0.0.0.0"
				}
				if h.protocol == "" {
					h.protocol = string(corev1.ProtocolTCP)
				}
				out = append(out, h)
			}
		}
	}
	add(pod.Spec.Containers)
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add([]corev1.Container{c})
		}
	}
	return out
}

func conflict(pod *corev1.Pod, others []*corev1.Pod) bool {
	mine := hostPorts(pod)
	if len(mine) == 0 {
		return false
	}
	for _, o := range others {
		for _, a := range hostPorts(o) {
			for _, b := range mine {
				if a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == "0.0.0.0" || b.ip == "0.0.0.0") {
					return true
				}
			}
		}
	}
	return false
}

// tolerates looks at NoExecute taints only: the others keep pods from coming, and this one has come.
func tolerates(pod *corev1.Pod, node *corev1.Node) bool {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectNoExecute && !tolerated(pod.Spec.Tolerations, taint) {
			return false
		}
	}
	return true
}

func tolerated(list []corev1.Toleration, taint *corev1.Taint) bool {
	for _, t := range list {
		if t.Effect != "" && t.Effect != taint.Effect || t.Key != "" && t.Key != taint.Key {
			continue
		}
		switch t.Operator {
		case corev1.TolerationOpExists:
			return true
		case "", corev1.TolerationOpEqual:
			if t.Key == taint.Key && t.Value == taint.Value {
				return true
			}
		}
	}
	return false
}
