package scheduler

import corev1 "k8s.io/api/core/v1"

// filter answers for one pod whether a node can take it.
type filter interface {
	fits(*Node) bool
	// explain says why not; it is asked only after fits said no.
	explain(*Node) refusal
	// blocks names what has to change before the pod can be let in where this filter refuses it.
	blocks() Blocks
}

// counter is a filter that has counted pods, on other nodes than the one asked about, too. It can be told of one that is
// (1) or is not (-1) there after all, and later be told the opposite.
type counter interface {
	adjust(p *podInfo, n *Node, sign int)
}

// Blocks is a set of what keeps a pod waiting.
type Blocks uint16

// What filters look at.
const (
	byNode Blocks = 1 << iota // what is said of the node itself: its name, labels, taints
	byPorts
	byResources
	byVolumes
	bySpread
	byAffinity
	byAntiAffinity
	byLoners // the anti-affinity of pods that are there
	byUsers  // who has a claim for one pod only
)

// refusal is why a node cannot take a pod, in kube-scheduler's words.
type refusal struct {
	reasons []string
	// preemptible: the pod might fit if others on the node went.
	preemptible bool
}

func refuse(reason string) refusal { return refusal{reasons: []string{reason}} }

// newFilters are made for each pod anew. Those that look at pods on other nodes, or at volumes, need the snapshot; without
// one (nil) they are left out. Their order is kube-scheduler's: the first that refuses is the one counted.
func newFilters(s *Snapshot, pod *corev1.Pod, info *podInfo) []filter {
	filters := make([]filter, 0, 8)
	if names := requiredNodeNames(pod); names != nil {
		filters = append(filters, fieldFilter{names})
	}
	filters = append(filters, newUnschedulableFilter(pod))
	if pod.Spec.NodeName != "" {
		filters = append(filters, nameFilter{pod.Spec.NodeName})
	}
	filters = append(filters, taintFilter{pod.Spec.Tolerations})
	if required := requiredTerms(pod); required != nil || len(pod.Spec.NodeSelector) > 0 {
		filters = append(filters, affinityFilter{pod.Spec.NodeSelector, required})
	}
	if len(info.ports) > 0 {
		filters = append(filters, portFilter{info.ports})
	}
	filters = append(filters, resourceFilter{&info.requests})
	if s != nil {
		if f := s.exclusive(pod, info); f != nil {
			filters = append(filters, f)
		}
		if _, f := s.claims(pod); f != nil {
			filters = append(filters, f)
		}
		filters = append(filters, s.spreadFilters(pod)...)
		filters = append(filters, s.interPodFilters(pod)...)
	}
	return filters
}

// nameFilter: the pod names its node itself.
type nameFilter struct{ name string }

func (f nameFilter) fits(n *Node) bool { return n.name == f.name }

func (nameFilter) blocks() Blocks { return byNode }

func (nameFilter) explain(*Node) refusal {
	return refuse("node(s) didn't match the requested node name")
}

// portFilter refuses nodes on which another pod holds one of the host ports.
type portFilter struct{ ports []hostPort }

func (f portFilter) fits(n *Node) bool {
	for _, want := range f.ports {
		for _, used := range n.ports {
			if want.conflicts(used) {
				return false
			}
		}
	}
	return true
}

func (portFilter) blocks() Blocks { return byPorts }

func (portFilter) explain(*Node) refusal {
	return refusal{[]string{"node(s) didn't have free ports for the requested pod ports"}, true}
}

// resourceFilter refuses nodes that have not enough left.
type resourceFilter struct{ want *resources }

func (f resourceFilter) fits(n *Node) bool {
	free := func(want, have, used int64) bool { return want == 0 || want <= have-used }
	if n.requested.pods+1 > n.allocatable.pods ||
		!free(f.want.milliCPU, n.allocatable.milliCPU, n.requested.milliCPU) ||
		!free(f.want.memory, n.allocatable.memory, n.requested.memory) ||
		!free(f.want.ephemeral, n.allocatable.ephemeral, n.requested.ephemeral) {
		return false
	}
	for name, q := range f.want.other {
		if !free(q, n.allocatable.other[name], n.requested.other[name]) {
			return false
		}
	}
	return true
}

func (resourceFilter) blocks() Blocks { return byResources }

func (f resourceFilter) explain(n *Node) refusal {
	r := refusal{preemptible: true}
	check := func(reason string, want, have, used int64) {
		if want == 0 || want <= have-used {
			return
		}
		r.reasons = append(r.reasons, reason)
		if want > have {
			r.preemptible = false
		}
	}
	if n.requested.pods+1 > n.allocatable.pods {
		r.reasons = append(r.reasons, "Too many pods")
	}
	check("Insufficient cpu", f.want.milliCPU, n.allocatable.milliCPU, n.requested.milliCPU)
	check("Insufficient memory", f.want.memory, n.allocatable.memory, n.requested.memory)
	check("Insufficient ephemeral-storage", f.want.ephemeral, n.allocatable.ephemeral, n.requested.ephemeral)
	for name, q := range f.want.other {
		check("Insufficient "+string(name), q, n.allocatable.other[name], n.requested.other[name])
	}
	return r
}
