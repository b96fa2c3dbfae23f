package scheduler

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Nominate reserves a node for a pod: what others leave there is not given to pods of a lower priority, while those of a
// higher one, and the pod itself, may still go elsewhere.
func (s *Snapshot) Nominate(pod *corev1.Pod, node string) News {
	old := s.nominated[pod.UID]
	if old != nil && old.node.name == node && old.generation == pod.Generation {
		old.pod = pod
		return News{}
	}
	news := s.Denominate(pod.UID)
	info := newPodInfo(pod)
	info.node = s.named(node)
	info.node.nominated = append(info.node.nominated, info)
	s.nominated[pod.UID] = info
	return news
}

// Denominate takes a reservation back. Who was to come to the node kept others away like one that is there.
func (s *Snapshot) Denominate(uid types.UID) News {
	info := s.nominated[uid]
	if info == nil {
		return News{}
	}
	delete(s.nominated, uid)
	n := info.node
	n.nominated = slices.DeleteFunc(n.nominated, func(p *podInfo) bool { return p == info })
	s.dropIfEmpty(n)
	return News{node: n, left: info.pod}
}

// Nominated is where the pod has a reservation; empty without one.
func (s *Snapshot) Nominated(uid types.UID) string {
	if info := s.nominated[uid]; info != nil {
		return info.node.name
	}
	return ""
}

// NominatedBelow are the pods of a lower priority for which a node is reserved.
func (s *Snapshot) NominatedBelow(pod *corev1.Pod, node string) (out []*corev1.Pod) {
	if n := s.byName[node]; n != nil {
		for _, p := range n.nominated {
			if p.uid != pod.UID && p.priority < Priority(pod) {
				out = append(out, p.pod)
			}
		}
	}
	return out
}

func (s *Snapshot) lonersNominated() bool {
	for _, p := range s.nominated {
		if len(p.anti) > 0 {
			return true
		}
	}
	return false
}

// reservedBefore are the pods nominated to a node that come before the asking one.
func (n *Node) reservedBefore(asking *podInfo) (out []*podInfo) {
	for _, p := range n.nominated {
		if p.uid != asking.uid && p.priority >= asking.priority {
			out = append(out, p)
		}
	}
	return out
}

// scratch is a copy of a node on which pods can be counted as if they came or went.
func (n *Node) scratch() *Node {
	c := *n
	c.requested.other, c.ports, c.owners = maps.Clone(n.requested.other), slices.Clone(n.ports), nil
	return &c
}

// query asks about one pod.
type query struct {
	s       *Snapshot
	pod     *corev1.Pod
	info    *podInfo
	filters []filter
}

func newQuery(s *Snapshot, pod *corev1.Pod) *query {
	q := &query{s: s, pod: pod, info: newPodInfo(pod)}
	q.filters = newFilters(s, pod, q.info)
	return q
}

// fits says whether a node can take the pod as things are and also when those for whom it is reserved have come, since a
// pod may need the company of one of those.
func (q *query) fits(n *Node) bool { return q.refusing(n, nil) == nil }

// refusing is the first filter that refuses a node; nil when none does. why, when it is not nil, is set to its reasons.
func (q *query) refusing(n *Node, why *refusal) filter {
	if len(n.nominated) > 0 {
		if reserved := n.reservedBefore(q.info); len(reserved) > 0 {
			full := n.scratch()
			q.count(full, reserved, 1)
			f := first(q.filters, full, why)
			q.count(full, reserved, -1)
			if f != nil {
				return f
			}
		}
	}
	return first(q.filters, n, why)
}

func first(filters []filter, n *Node, why *refusal) filter {
	for _, f := range filters {
		if !f.fits(n) {
			if why != nil {
				*why = f.explain(n)
			}
			return f
		}
	}
	return nil
}

// count tells a scratch node and the filters of pods that come (1) or go (-1).
func (q *query) count(n *Node, pods []*podInfo, sign int) {
	for _, p := range pods {
		n.count(p, int64(sign))
		for _, f := range q.filters {
			if c, ok := f.(counter); ok {
				c.adjust(p, n, sign)
			}
		}
	}
}
