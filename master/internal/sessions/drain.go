package sessions

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// drainer finds out when no node sends new connections to a pod that is being deleted any more, and tells the pod's node, which
// until then lets the containers serve. First every EndpointSlice must have stopped offering the pod; then every connected
// agent must have put in force what it was told up to that moment. An agent that is away is not waited for, and the pod's
// own agent does not wait for ever.
type drainer struct {
	s *Server

	// mu is taken before the mutexes of the server and of sessions.
	mu   sync.Mutex
	pods map[types.UID]*drain
	// Which of them an EndpointSlice still offers and an agent keeps waiting, so that neither costs more the more pods end.
	offering map[registry.Key]map[*drain]struct{}
	waiting  map[*session]map[*drain]struct{}
}

// drain is one pod that is being deleted.
type drain struct {
	node string
	uid  types.UID
	// offered are the EndpointSlices that still offer the pod.
	offered map[registry.Key]struct{}
	// waits are the agents that have not put everything in force, and the mark up to which they must; nil before it is known.
	waits map[*session]uint64
	told  bool
}

func newDrainer(s *Server) *drainer {
	return &drainer{s: s, pods: map[types.UID]*drain{}, offering: map[registry.Key]map[*drain]struct{}{}, waiting: map[*session]map[*drain]struct{}{}}
}

// link p to k in one of the drainer's indexes.
func link[K comparable](index map[K]map[*drain]struct{}, k K, p *drain) {
	if index[k] == nil {
		index[k] = map[*drain]struct{}{}
	}
	index[k][p] = struct{}{}
}

// unlink p from k.
func unlink[K comparable](index map[K]map[*drain]struct{}, k K, p *drain) {
	delete(index[k], p)
	if len(index[k]) == 0 {
		delete(index, k)
	}
}

// drains tells whether a pod is being deleted and its node has to know when nobody sends to it any more.
func drains(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp != nil && pod.Spec.NodeName != "" && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// begin anew with these pods: events may have been missed.
func (d *drainer) begin(ending []*corev1.Pod) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.pods)
	clear(d.offering)
	clear(d.waiting)
	for _, pod := range ending {
		d.add(pod)
	}
}

// follow takes events that all sessions have been marked for.
func (d *drainer) follow(events []registry.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range events {
		switch o := e.Object.(type) {
		case *corev1.Pod:
			switch {
			case e.Deleted || !drains(o):
				d.forget(o.UID)
			case d.pods[o.UID] == nil:
				d.add(o)
			}
		case *discoveryv1.EndpointSlice:
			d.look(e.Key, o, e.Deleted)
		}
	}
}

// forget a pod that has ended. With mu held.
func (d *drainer) forget(uid types.UID) {
	p := d.pods[uid]
	if p == nil {
		return
	}
	delete(d.pods, uid)
	for k := range p.offered {
		unlink(d.offering, k, p)
	}
	for n := range p.waits {
		unlink(d.waiting, n, p)
	}
}

// add a pod. With mu held.
func (d *drainer) add(pod *corev1.Pod) {
	p := &drain{node: pod.Spec.NodeName, uid: pod.UID, offered: map[registry.Key]struct{}{}}
	d.pods[pod.UID] = p
	var naming []registry.Key
	_ = d.s.cfg.Registry.View(func(v *registry.View) error {
		for slice := range registry.List[*discoveryv1.EndpointSlice](v, pod.Namespace) {
			if names, offers := mentions(slice, pod.UID); names {
				k := registry.Key{Resource: endpointSlices, Namespace: slice.Namespace, Name: slice.Name}
				naming = append(naming, k)
				if offers {
					d.offer(k, p)
				}
			}
		}
		return nil
	})
	if len(naming) > 0 {
		// The view may be newer than what was routed: these must be told before anybody is believed to know them.
		number := d.s.marks.Add(1)
		for _, n := range d.s.all() {
			n.mark(number, naming...)
		}
	}
	d.step(p)
}

// offer notes that a slice offers a pod. With mu held.
func (d *drainer) offer(k registry.Key, p *drain) {
	p.offered[k] = struct{}{}
	link(d.offering, k, p)
}

// mentions tells whether a slice names a pod, and whether it offers it.
func mentions(slice *discoveryv1.EndpointSlice, uid types.UID) (names, offers bool) {
	for i := range slice.Endpoints {
		if e := &slice.Endpoints[i]; e.TargetRef != nil && e.TargetRef.UID == uid {
			names = true
			offers = offers || isOffered(e)
		}
	}
	return names, offers
}

// isOffered tells whether an endpoint is there for new connections. What ends is offered only where there is nothing else, or
// where unready addresses are published, which is asked for and never ends.
func isOffered(e *discoveryv1.Endpoint) bool {
	return e.Conditions.Terminating == nil || !*e.Conditions.Terminating
}

// look what a slice's change means to the pods that it offers and offered. With mu held.
func (d *drainer) look(k registry.Key, slice *discoveryv1.EndpointSlice, deleted bool) {
	now := map[*drain]struct{}{}
	for i := 0; i < len(slice.Endpoints) && !deleted && len(d.pods) > 0; i++ {
		e := &slice.Endpoints[i]
		if e.TargetRef == nil || !isOffered(e) {
			continue
		}
		if p := d.pods[e.TargetRef.UID]; p != nil && !p.told {
			now[p] = struct{}{}
			d.offer(k, p)
		}
	}
	for p := range d.offering[k] {
		if _, still := now[p]; !still {
			unlink(d.offering, k, p)
			delete(p.offered, k)
			d.step(p)
		}
	}
}

// step goes on with a pod as far as it can. With mu held.
func (d *drainer) step(p *drain) {
	if p.told || len(p.offered) > 0 {
		return
	}
	if p.waits == nil {
		p.waits = map[*session]uint64{}
		for _, n := range d.s.all() {
			if mark, behind := n.behind(); behind {
				p.waits[n] = mark
				link(d.waiting, n, p)
			}
		}
	}
	if len(p.waits) > 0 {
		return
	}
	if n := d.s.session(p.node); n != nil {
		p.told = true
		n.tellWithdrawn(string(p.uid))
	}
}

// heard that an agent has put something in force.
func (d *drainer) heard(n *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range d.waiting[n] {
		if n.has(p.waits[n]) {
			d.noLonger(n, p)
		}
	}
}

// left: an agent's session has ended; its node may be gone, and no pod waits for it.
func (d *drainer) left(n *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for p := range d.waiting[n] {
		d.noLonger(n, p)
	}
}

// noLonger does a pod wait for an agent. With mu held.
func (d *drainer) noLonger(n *session, p *drain) {
	delete(p.waits, n)
	unlink(d.waiting, n, p)
	d.step(p)
}

// joined: an agent has a new session, and may not have heard what the last one was told.
func (d *drainer) joined(n *session) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range d.pods {
		if p.node == n.node {
			p.told = false
			d.step(p)
		}
	}
}

// behind is the mark up to which an agent has to put things in force, if it has not.
func (n *session) behind() (uint64, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.marked, n.reports && n.inForce < n.marked
}

// has tells whether everything up to the mark is in force.
func (n *session) has(mark uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.inForce >= mark
}

// hasSent notes how far the sender has come, and whether it has asked the agent to answer the mark. Without a question there
// was nothing new: then what was in force is in force up to here. It tells whether that is so.
func (n *session) hasSent(mark uint64, asked bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	idle := n.asked == 0 || n.inForce >= n.asked
	n.taken = mark
	if asked {
		n.asked = mark
		return false
	}
	if idle {
		n.inForce = mark
	}
	return idle
}

// isInForce notes what an agent has said, and tells whether it is news.
func (n *session) isInForce(mark uint64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if mark >= n.asked {
		mark = max(mark, n.taken) // nothing was asked for since
	}
	if mark <= n.inForce {
		return false
	}
	n.inForce = mark
	return true
}

func (n *session) tellWithdrawn(uid string) {
	n.mu.Lock()
	n.withdrawn = append(n.withdrawn, uid)
	n.mu.Unlock()
	n.poke()
}
