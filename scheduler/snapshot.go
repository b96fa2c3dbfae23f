package scheduler

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Snapshot is the state of the cluster as scheduling sees it: nodes, and what the pods on them add up to. Each change
// costs the same however large the cluster is. It is not safe for concurrent use.
type Snapshot struct {
	// nodes has those with a Node object, ordered by name so that equal states decide equally.
	nodes []*Node
	// byName also has names that pods are bound to while no such Node exists (yet, or any more).
	byName map[string]*Node
	pods   map[types.UID]*podInfo
	// loners are the pods with required anti-affinity.
	loners map[types.UID]*podInfo
	// namespaces have the labels that namespaceSelectors look at.
	namespaces map[string]map[string]string
	volumes    volumes
	// images counts the nodes that have an image.
	images map[string]int
	// Seed turns the place where the search among the nodes begins.
	Seed uint64
}

// NewSnapshot returns an empty one.
func NewSnapshot() *Snapshot {
	return &Snapshot{
		byName: map[string]*Node{}, pods: map[types.UID]*podInfo{}, loners: map[types.UID]*podInfo{},
		namespaces: map[string]map[string]string{}, images: map[string]int{}, volumes: newVolumes(),
	}
}

// Node is one node with what its pods ask for.
type Node struct {
	name string
	// obj is nil while pods are bound to a name without a Node.
	obj         *corev1.Node
	taints      []corev1.Taint
	allocatable resources
	requested   resources
	// used is requested with the defaults for containers that request nothing.
	usedCPU, usedMem int64
	ports            []hostPort
	owners           map[types.UID]int32
	images           map[string]int64
}

// Name of the node.
func (n *Node) Name() string { return n.name }

// Nodes is the number of nodes.
func (s *Snapshot) Nodes() int { return len(s.nodes) }

// Node returns a node by name, or nil.
func (s *Snapshot) Node(name string) *Node {
	if n := s.byName[name]; n != nil && n.obj != nil {
		return n
	}
	return nil
}

// SetNode adds a node or takes over its new state. It reports whether anything changed that can make room for a pod:
// heartbeats do not.
func (s *Snapshot) SetNode(obj *corev1.Node) (relevant bool) {
	n := s.named(obj.Name)
	old := n.obj
	fresh := newNode(obj)
	relevant = old == nil || !sameForScheduling(old, obj) || !slices.Equal(n.taints, fresh.taints)
	if old == nil {
		at, _ := slices.BinarySearchFunc(s.nodes, obj.Name, func(n *Node, name string) int { return strings.Compare(n.name, name) })
		s.nodes = slices.Insert(s.nodes, at, n)
	}
	n.obj, n.taints, n.allocatable = fresh.obj, fresh.taints, fresh.allocatable
	if old == nil || !sameImages(old.Status.Images, obj.Status.Images) {
		s.setImages(n, fresh.images)
	}
	return relevant
}

// RemoveNode forgets a node. Pods that are still bound to it stay counted until they are removed themselves.
func (s *Snapshot) RemoveNode(name string) {
	n := s.byName[name]
	if n == nil || n.obj == nil {
		return
	}
	s.setImages(n, nil)
	n.obj, n.taints, n.allocatable = nil, nil, resources{}
	if at, found := slices.BinarySearchFunc(s.nodes, name, func(n *Node, name string) int { return strings.Compare(n.name, name) }); found {
		s.nodes = slices.Delete(s.nodes, at, at+1)
	}
	s.dropIfEmpty(n)
}

// SetPod takes over the state of a pod that is bound to a node; a pod that is unbound or has ended is counted nowhere.
// It reports whether that made room on a node.
func (s *Snapshot) SetPod(pod *corev1.Pod) (freed bool) {
	old := s.pods[pod.UID]
	if pod.Spec.NodeName == "" || Ended(pod) {
		return s.RemovePod(pod.UID)
	}
	same := old != nil && old.node.name == pod.Spec.NodeName && old.generation == pod.Generation
	if same && !hasStatusResources(pod) {
		old.pod = pod
		return false
	}
	info := newPodInfo(pod)
	if same && info.requests.equal(&old.requests) { // most news of a pod is not of a resize
		old.pod = pod
		return false
	}
	if old != nil {
		s.RemovePod(pod.UID)
		freed = true
	}
	s.place(info, pod.Spec.NodeName)
	return freed
}

// Assume counts a pod on a node before it is bound there, so that the next decision of the same batch knows of it.
func (s *Snapshot) Assume(pod *corev1.Pod, node string) {
	s.RemovePod(pod.UID)
	s.place(newPodInfo(pod), node)
}

func (s *Snapshot) place(info *podInfo, node string) {
	info.node = s.named(node)
	info.node.count(info, 1)
	s.pods[info.uid] = info
	if len(info.anti) > 0 {
		s.loners[info.uid] = info
	}
}

// SetNamespace takes over a namespace's labels.
func (s *Snapshot) SetNamespace(name string, labels map[string]string) { s.namespaces[name] = labels }

// RemoveNamespace forgets a namespace.
func (s *Snapshot) RemoveNamespace(name string) { delete(s.namespaces, name) }

// RemovePod forgets a pod and reports whether it was counted anywhere.
func (s *Snapshot) RemovePod(uid types.UID) bool {
	info := s.pods[uid]
	if info == nil {
		return false
	}
	delete(s.pods, uid)
	delete(s.loners, uid)
	info.node.count(info, -1)
	s.dropIfEmpty(info.node)
	return true
}

// Ended says that a pod's containers have all stopped for good: it holds no resources any more.
func Ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// Recount returns a node with exactly these pods on it, for the check at the moment of binding: the caller hands in what
// the store has, which may be ahead of the snapshot. What is already known of a pod is not computed again.
func (s *Snapshot) Recount(obj *corev1.Node, pods func(yield func(*corev1.Pod) bool)) *Node {
	n := newNode(obj)
	for pod := range pods {
		if Ended(pod) {
			continue
		}
		info := s.pods[pod.UID]
		if info == nil || info.generation != pod.Generation || hasStatusResources(pod) {
			info = newPodInfo(pod)
		}
		n.count(info, 1)
	}
	return n
}

func newNode(obj *corev1.Node) *Node {
	return &Node{
		name:        obj.Name,
		obj:         obj,
		taints:      effectiveTaints(obj),
		allocatable: newResources(obj.Status.Allocatable),
		images:      imagesOf(obj),
	}
}

func (s *Snapshot) named(name string) *Node {
	n := s.byName[name]
	if n == nil {
		n = &Node{name: name}
		s.byName[name] = n
	}
	return n
}

func (s *Snapshot) dropIfEmpty(n *Node) {
	if n.obj == nil && n.requested.pods == 0 {
		delete(s.byName, n.name)
	}
}

// count adds (sign 1) or takes away (-1) a pod.
func (n *Node) count(p *podInfo, sign int64) {
	n.requested.add(&p.requests, sign)
	n.usedCPU += sign * p.nonZeroCPU
	n.usedMem += sign * p.nonZeroMem
	if p.owner != "" {
		if n.owners == nil {
			n.owners = make(map[types.UID]int32)
		}
		if n.owners[p.owner] += int32(sign); n.owners[p.owner] == 0 {
			delete(n.owners, p.owner)
		}
	}
	for _, port := range p.ports {
		if sign > 0 {
			n.ports = append(n.ports, port)
		} else if at := slices.Index(n.ports, port); at >= 0 {
			n.ports = slices.Delete(n.ports, at, at+1)
		}
	}
}

// sameForScheduling compares what filters read of a node, cheaply: a heartbeat changes none of it.
func sameForScheduling(a, b *corev1.Node) bool {
	if a.Spec.Unschedulable != b.Spec.Unschedulable || len(a.Labels) != len(b.Labels) {
		return false
	}
	for k, v := range a.Labels {
		if w, ok := b.Labels[k]; !ok || v != w {
			return false
		}
	}
	if len(a.Status.Allocatable) != len(b.Status.Allocatable) {
		return false
	}
	for name, q := range a.Status.Allocatable {
		if p, ok := b.Status.Allocatable[name]; !ok || p.Cmp(q) != 0 {
			return false
		}
	}
	return true
}
