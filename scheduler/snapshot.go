package scheduler

import (
	"maps"
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
	// loners are the pods with required anti-affinity, social those with other terms that concern who comes.
	loners, social map[types.UID]*podInfo
	// nominated are the pods that wait for others to leave a node, which is theirs then.
	nominated map[types.UID]*podInfo
	// priorities counts the pods of each priority.
	priorities map[int32]int
	budgets    map[string]*budget
	// namespaces have the labels that namespaceSelectors look at.
	namespaces map[string]map[string]string
	volumes    volumes
	// images counts the nodes that have an image, zones those of each zone.
	images, zones map[string]int
	// Seed turns the place where the search among the nodes begins.
	Seed uint64
}

// NewSnapshot returns an empty one.
func NewSnapshot() *Snapshot {
	return &Snapshot{
		byName: map[string]*Node{}, pods: map[types.UID]*podInfo{}, loners: map[types.UID]*podInfo{},
		social: map[types.UID]*podInfo{}, nominated: map[types.UID]*podInfo{}, priorities: map[int32]int{}, budgets: map[string]*budget{},
		namespaces: map[string]map[string]string{}, images: map[string]int{}, zones: map[string]int{}, volumes: newVolumes(),
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
	// pods are those that are counted; nominated those for which it is reserved.
	pods, nominated []*podInfo
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

// SetNode adds a node or takes over its new state. Its news are none when nothing changed that filters read: heartbeats
// change nothing.
func (s *Snapshot) SetNode(obj *corev1.Node) News {
	n := s.named(obj.Name)
	old := n.obj
	fresh := newNode(obj)
	var news News
	tainted := old != nil && !slices.EqualFunc(n.taints, fresh.taints, sameTaint)
	if old == nil || tainted || !sameForScheduling(old, obj) {
		news = News{node: n, set: true, domains: old == nil || !maps.Equal(old.Labels, obj.Labels), taints: tainted}
		if old != nil {
			before := *n
			news.before = &before
		}
	}
	if old == nil {
		at, _ := slices.BinarySearchFunc(s.nodes, obj.Name, func(n *Node, name string) int { return strings.Compare(n.name, name) })
		s.nodes = slices.Insert(s.nodes, at, n)
	}
	s.setZone(zoneOf(old), zoneOf(obj))
	n.obj, n.taints, n.allocatable = fresh.obj, fresh.taints, fresh.allocatable
	if old == nil || !sameImages(old.Status.Images, obj.Status.Images) {
		s.setImages(n, fresh.images)
	}
	return news
}

// RemoveNode forgets a node. Pods that are still bound to it stay counted until they are removed themselves.
func (s *Snapshot) RemoveNode(name string) News {
	n := s.byName[name]
	if n == nil || n.obj == nil {
		return News{}
	}
	s.setImages(n, nil)
	s.setZone(zoneOf(n.obj), "")
	n.obj, n.taints, n.allocatable = nil, nil, resources{}
	if at, found := slices.BinarySearchFunc(s.nodes, name, func(n *Node, name string) int { return strings.Compare(n.name, name) }); found {
		s.nodes = slices.Delete(s.nodes, at, at+1)
	}
	s.dropIfEmpty(n)
	return News{domains: true}
}

// SetPod takes over the state of a pod that is bound to a node; a pod that is unbound or has ended is counted nowhere.
func (s *Snapshot) SetPod(pod *corev1.Pod) News {
	old := s.pods[pod.UID]
	if pod.Spec.NodeName == "" || Ended(pod) {
		return s.RemovePod(pod.UID)
	}
	reserved := s.Denominate(pod.UID)
	if reserved.node != nil && reserved.node.name == pod.Spec.NodeName {
		reserved = News{} // where it was expected
	}
	if old == nil {
		s.place(newPodInfo(pod), pod.Spec.NodeName)
		reserved.came = pod
		return reserved
	}
	same := old.node.name == pod.Spec.NodeName && old.generation == pod.Generation
	var info *podInfo
	if !same || hasStatusResources(pod) {
		if info = newPodInfo(pod); same && info.requests.equal(&old.requests) { // most news of a pod is not of a resize
			info = nil
		}
	}
	var news News
	if (old.pod.DeletionTimestamp == nil) != (pod.DeletionTimestamp == nil) || !maps.Equal(old.pod.Labels, pod.Labels) {
		news.left, news.came = old.pod, pod
	}
	if info == nil {
		old.pod = pod
		return news
	}
	if old.node.name != pod.Spec.NodeName || old.requests.exceeds(&info.requests) {
		news.node = old.node
	}
	s.unplace(old)
	s.place(info, pod.Spec.NodeName)
	return news
}

// Assume counts a pod on a node before it is bound there, so that the next decision of the same batch knows of it. The news
// is of another node that was reserved for it.
func (s *Snapshot) Assume(pod *corev1.Pod, node string) News {
	elsewhere := s.Nominated(pod.UID) != node
	news := s.RemovePod(pod.UID)
	s.place(newPodInfo(pod), node)
	if !elsewhere {
		return News{}
	}
	return news
}

func (s *Snapshot) place(info *podInfo, node string) {
	n := s.named(node)
	info.node, info.at = n, len(n.pods)
	n.pods = append(n.pods, info)
	n.count(info, 1)
	s.pods[info.uid] = info
	s.priorities[info.priority]++
	if len(info.anti) > 0 {
		s.loners[info.uid] = info
	}
	if len(info.wishes) > 0 {
		s.social[info.uid] = info
	}
}

func (s *Snapshot) unplace(info *podInfo) {
	delete(s.pods, info.uid)
	delete(s.loners, info.uid)
	delete(s.social, info.uid)
	if s.priorities[info.priority]--; s.priorities[info.priority] == 0 {
		delete(s.priorities, info.priority)
	}
	n, last := info.node, len(info.node.pods)-1
	n.pods[info.at] = n.pods[last]
	n.pods[info.at].at = info.at
	n.pods[last] = nil
	n.pods = n.pods[:last]
	n.count(info, -1)
	s.dropIfEmpty(n)
}

// SetNamespace takes over a namespace's labels.
func (s *Snapshot) SetNamespace(name string, labels map[string]string) News {
	old, had := s.namespaces[name]
	s.namespaces[name] = labels
	if had && maps.Equal(old, labels) {
		return News{}
	}
	return News{namespaces: true}
}

// RemoveNamespace forgets a namespace.
func (s *Snapshot) RemoveNamespace(name string) { delete(s.namespaces, name) }

// RemovePod forgets a pod.
func (s *Snapshot) RemovePod(uid types.UID) News {
	news := s.Denominate(uid)
	if info := s.pods[uid]; info != nil {
		news.node, news.left = info.node, info.pod
		s.unplace(info)
	}
	return news
}

// Counts says that a pod is counted on a node.
func (s *Snapshot) Counts(uid types.UID) bool { return s.pods[uid] != nil }

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
	if n.obj == nil && len(n.pods)+len(n.nominated) == 0 {
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

func sameTaint(a, b corev1.Taint) bool {
	return a.Key == b.Key && a.Value == b.Value && a.Effect == b.Effect
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
	return sameAmounts(a.Status.Allocatable, b.Status.Allocatable)
}
