package sessions

import (
	"bytes"
	"sync"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// peers is what nodes are told of each other, kept once for all sessions: with a thousand nodes there are a million pairs, and
// a session remembers four bytes of each. Slots of nodes that are gone are kept: their names mostly come back.
type peers struct {
	mu    sync.Mutex
	slots map[string]int
	known []told // by slot
	last  uint32
}

type told struct {
	// generation numbers contents: of any two that differ, in all slots.
	generation uint32
	uid        string
	revision   string // of the Node that data was made from
	data       []byte
}

// of a Node: its slot, and what others are told of it with the generation that stands for exactly that.
func (p *peers) of(n *corev1.Node) (slot int, now told, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot, ok := p.slots[n.Name]
	if !ok {
		if p.slots == nil {
			p.slots = map[string]int{}
		}
		slot = len(p.known)
		p.slots[n.Name], p.known = slot, append(p.known, told{})
	}
	k := &p.known[slot]
	if k.generation != 0 && k.revision == n.ResourceVersion && k.uid == string(n.UID) {
		return slot, *k, nil
	}
	data, err := peerOf(n, false).Marshal()
	if err != nil {
		return slot, told{}, err
	}
	k.revision, k.uid = n.ResourceVersion, string(n.UID)
	if k.generation == 0 || !bytes.Equal(data, k.data) {
		p.last++
		k.generation, k.data = p.last, data
	}
	return slot, *k, nil
}

// slot of a node by name, if it ever had one.
func (p *peers) slot(name string) (int, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	slot, ok := p.slots[name]
	return slot, ok
}

// tellNode adds what there is to say about a node: to itself more than to others.
func (f *feed) tellNode(k registry.Key, n *corev1.Node) {
	if k.Name == f.node {
		f.tellItself(k, n)
		return
	}
	if n == nil {
		if slot, ok := f.s.peers.slot(k.Name); ok && slot < len(f.peers) && f.peers[slot] != 0 {
			f.peers[slot] = 0
			f.add(&agentv1.Change{Resource: k.Resource, Name: k.Name, Deleted: true})
		}
		return
	}
	slot, now, err := f.s.peers.of(n)
	if err != nil {
		f.s.log.Error("node not told to others", "node", k.Name, "err", err)
		return
	}
	for len(f.peers) <= slot {
		f.peers = append(f.peers, 0)
	}
	if f.peers[slot] != now.generation {
		f.peers[slot] = now.generation
		f.add(&agentv1.Change{Resource: k.Resource, Name: k.Name, Object: now.data})
	}
}

func (f *feed) tellItself(k registry.Key, n *corev1.Node) {
	if n == nil {
		if f.own != nil {
			f.own = nil
			f.add(&agentv1.Change{Resource: k.Resource, Name: k.Name, Deleted: true})
		}
		return
	}
	data, err := peerOf(n, true).Marshal()
	if err != nil {
		f.s.log.Error("node not told of itself", "node", k.Name, "err", err)
		return
	}
	if !bytes.Equal(data, f.own) {
		f.own = data
		f.add(&agentv1.Change{Resource: k.Resource, Name: k.Name, Object: data})
	}
}

// peerOf is what nodes need to know of a node: the others how to reach it and whether it is ready, and it itself also what it
// lets pods in by. Heartbeats and image lists do not travel to everybody.
func peerOf(n *corev1.Node, own bool) *corev1.Node {
	p := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: n.Name, UID: n.UID, Labels: n.Labels},
		Spec:       corev1.NodeSpec{PodCIDR: n.Spec.PodCIDR, PodCIDRs: n.Spec.PodCIDRs, Unschedulable: n.Spec.Unschedulable},
		Status:     corev1.NodeStatus{Addresses: n.Status.Addresses},
	}
	if link, ok := n.Annotations[linkAnnotation]; ok {
		p.Annotations = map[string]string{linkAnnotation: link}
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			p.Status.Conditions = []corev1.NodeCondition{{Type: c.Type, Status: c.Status}}
		}
	}
	if own {
		p.Spec.Taints = n.Spec.Taints
		p.Status.Capacity, p.Status.Allocatable = n.Status.Capacity, n.Status.Allocatable
	}
	return p
}

// concernsOthers says of a change to a Node that more than itself is to be told of it.
func concernsOthers(e registry.Event) bool {
	now, ok := e.Object.(*corev1.Node)
	before, had := e.Prev.(*corev1.Node)
	if !ok || !had || before == nil || e.Deleted {
		return true
	}
	a, err := peerOf(now, false).Marshal()
	b, err2 := peerOf(before, false).Marshal()
	return err != nil || err2 != nil || !bytes.Equal(a, b)
}
