package scheduler

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What a container without requests is taken to use when nodes are compared (never when it is asked whether a pod
// fits), so that pods without requests still spread. The values are kube-scheduler's (pkg/scheduler/util).
const (
	defaultMilliCPU = 100
	defaultMemory   = 200 << 20
)

// resources are amounts in base units: millicores, bytes, pieces.
type resources struct {
	milliCPU, memory, ephemeral int64
	// pods is 1 for a pod and the allowed number for a node.
	pods int64
	// other are extended resources and huge pages; nil when there are none.
	other map[corev1.ResourceName]int64
}

func (r *resources) add(o *resources, sign int64) {
	r.milliCPU += sign * o.milliCPU
	r.memory += sign * o.memory
	r.ephemeral += sign * o.ephemeral
	r.pods += sign * o.pods
	for name, q := range o.other {
		if r.other == nil {
			r.other = make(map[corev1.ResourceName]int64, len(o.other))
		}
		r.other[name] += sign * q
	}
}

func (r *resources) equal(o *resources) bool {
	return r.milliCPU == o.milliCPU && r.memory == o.memory && r.ephemeral == o.ephemeral && r.pods == o.pods && maps.Equal(r.other, o.other)
}

// exceeds says that there is more of something in r than in o.
func (r *resources) exceeds(o *resources) bool {
	for name, q := range r.other {
		if q > o.other[name] {
			return true
		}
	}
	return r.milliCPU > o.milliCPU || r.memory > o.memory || r.ephemeral > o.ephemeral || r.pods > o.pods
}

func newResources(list corev1.ResourceList) resources {
	var r resources
	for name, q := range list {
		switch name {
		case corev1.ResourceCPU:
			r.milliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.ephemeral = q.Value()
		case corev1.ResourcePods:
			r.pods = q.Value()
		default:
			if r.other == nil {
				r.other = make(map[corev1.ResourceName]int64)
			}
			r.other[name] = q.Value()
		}
	}
	return r
}

// hostPort is a port that a pod takes on its node.
type hostPort struct {
	ip       string
	protocol corev1.Protocol
	port     int32
}

const anyIP = "0.0.0.0"

func (p hostPort) conflicts(o hostPort) bool {
	return p.port == o.port && p.protocol == o.protocol && (p.ip == o.ip || p.ip == anyIP || o.ip == anyIP)
}

// podInfo is what the snapshot keeps of a pod.
type podInfo struct {
	uid types.UID
	// pod is its last known state, for those that ask about its labels.
	pod        *corev1.Pod
	generation int64
	// node is where its amounts are counted.
	node *Node
	// requests are what it is promised; the non-zero ones are what it is taken to use, see defaultMilliCPU.
	requests               resources
	nonZeroCPU, nonZeroMem int64
	ports                  []hostPort
	// owner is the UID of the controller, "" for a bare pod.
	owner types.UID
	// anti are the terms that keep others away, wishes those that attract or repel them when they look for a node.
	anti, wishes []podTerm
	priority     int32
	// at is the place in the node's list.
	at int
}

// Priority of a pod is 0 when nothing is said, as for those of before there were priorities.
func Priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

// newPodInfo computes what a pod asks for: the larger of the sum of its containers and any init step, plus sidecars
// and overhead, resizes in flight included (KEP 753 and 1287).
func newPodInfo(pod *corev1.Pod) *podInfo {
	options := resourcehelper.PodResourcesOptions{UseStatusResources: hasStatusResources(pod)}
	info := &podInfo{
		uid:        pod.UID,
		pod:        pod,
		anti:       requiredPodAntiAffinity(pod),
		wishes:     wishesOf(pod),
		priority:   Priority(pod),
		generation: pod.Generation,
		requests:   newResources(resourcehelper.PodRequests(pod, options)),
		ports:      hostPorts(pod),
	}
	info.requests.pods = 1
	info.nonZeroCPU, info.nonZeroMem = info.requests.milliCPU, info.requests.memory
	for i := range pod.Spec.Containers {
		requests := pod.Spec.Containers[i].Resources.Requests
		if _, set := requests[corev1.ResourceCPU]; !set {
			info.nonZeroCPU += defaultMilliCPU
		}
		if _, set := requests[corev1.ResourceMemory]; !set {
			info.nonZeroMem += defaultMemory
		}
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		info.owner = ref.UID
	}
	return info
}

// hasStatusResources says that the status carries resources that a resize in place may have made differ from the spec.
func hasStatusResources(pod *corev1.Pod) bool {
	for i := range pod.Status.ContainerStatuses {
		if pod.Status.ContainerStatuses[i].Resources != nil {
			return true
		}
	}
	return false
}

func hostPorts(pod *corev1.Pod) []hostPort {
	var ports []hostPort
	add := func(c *corev1.Container) {
		for i := range c.Ports {
			p := &c.Ports[i]
			if p.HostPort <= 0 {
				continue
			}
			port := hostPort{ip: p.HostIP, protocol: p.Protocol, port: p.HostPort}
			if port.ip == "" {
				port.ip = anyIP
			}
			if port.protocol == "" {
				port.protocol = corev1.ProtocolTCP
			}
			ports = append(ports, port)
		}
	}
	for i := range pod.Spec.InitContainers {
		// Only init containers that stay (sidecars) keep their ports.
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}
