package policy

import (
	"maps"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

// key names a policy.
type key struct{ namespace, name string }

// entry is a policy and what became of it.
type entry struct {
	policy   *networkingv1.NetworkPolicy
	compiled [directions]*compiled
}

// pod of this node.
type pod struct {
	uid    string
	object *corev1.Pod // nil: nobody has spoken of it, or does any more
	addr   netip.Addr  // invalid: it is not on the network
	groups [directions]*group
	// isolated outlives the object: a pod that is going away does not get free by it.
	isolated [directions]bool
}

// group is the pods of one direction that the same policies select, whose ports of the policies' names have the same numbers. What
// its chain says never changes: a pod is in two groups for a moment when it moves, and must find in each what it had or is to have.
// So a policy that says something else makes other groups.
type group struct {
	id        string
	d         direction
	chain     string
	set       string
	namespace string
	policies  []string                    // names, in order
	rules     []*compiled                 // what each of them says
	ports     map[string][]netpolicy.Port // "TCP/http" → numbers
	pods      int                         // with an address
}

// set is what the kernel is to hold.
type set struct {
	typ     SetType
	entries map[Entry]int // by how many; more than one for a moment, when an address changes hands
}

// Member of a set that the master keeps: an address, or one with what listens there.
type Member struct {
	Addr     netip.Addr
	Protocol uint8
	Port     uint16
}

// model holds what the kernel should hold, and what changed since it was last flushed. It is not safe for concurrent use.
type model struct {
	policies map[string]map[string]*entry // by namespace and name
	parts    map[string]map[string][]Member
	pods     map[string]*pod
	podsOf   map[string]map[string]*pod // by namespace and UID
	groups   map[string]*group
	// plain: the kernel has no sets, and whoever is isolated gets nothing.
	plain bool
	// noSelf: the kernel cannot tell that a pod comes to itself.
	noSelf bool

	dirtyPods map[string]struct{}
	dirtyText map[*group]struct{}
	// reshape: groups came or went, or policies changed, so which sets there are has to be found out again.
	reshape bool

	sets    map[string]*set
	touched map[string]map[Entry]struct{}
	fresh   map[string]struct{} // sets that are there anew: what the kernel may have of them is another's
	want    map[string]string   // chain → rules
	changed map[string]struct{}
}

func newModel() *model {
	return &model{
		policies: map[string]map[string]*entry{},
		parts:    map[string]map[string][]Member{}, pods: map[string]*pod{}, podsOf: map[string]map[string]*pod{}, groups: map[string]*group{},
		dirtyPods: map[string]struct{}{}, dirtyText: map[*group]struct{}{},
		sets: map[string]*set{}, touched: map[string]map[Entry]struct{}{}, fresh: map[string]struct{}{}, want: map[string]string{}, changed: map[string]struct{}{},
	}
}

func (m *model) setPolicy(p *networkingv1.NetworkPolicy) {
	old := m.policies[p.Namespace][p.Name]
	if m.policies[p.Namespace] == nil {
		m.policies[p.Namespace] = map[string]*entry{}
	}
	m.policies[p.Namespace][p.Name] = &entry{p, [directions]*compiled{compile(p, ingress), compile(p, egress)}}
	m.policyChanged(p.Namespace, old, m.policies[p.Namespace][p.Name])
}

func (m *model) deletePolicy(k key) {
	old := m.policies[k.namespace][k.name]
	if old == nil {
		return
	}
	delete(m.policies[k.namespace], k.name)
	if len(m.policies[k.namespace]) == 0 {
		delete(m.policies, k.namespace)
	}
	m.policyChanged(k.namespace, old, nil)
}

// policyChanged notes whom it concerns.
func (m *model) policyChanged(namespace string, old, now *entry) {
	m.reshape = true
	for uid, p := range m.podsOf[namespace] {
		if old.selects(p) || now.selects(p) {
			m.dirtyPods[uid] = struct{}{}
		}
	}
}

func (e *entry) selects(p *pod) bool {
	return e != nil && netpolicy.Selects(e.policy, p.object.Namespace, p.object.Labels)
}

// setPod notes what a pod of this node is like.
func (m *model) setPod(o *corev1.Pod) {
	p := m.pod(string(o.UID))
	if p.object != nil && p.object.Namespace != o.Namespace {
		delete(m.podsOf[p.object.Namespace], p.uid)
	}
	if p.object == nil || !maps.Equal(p.object.Labels, o.Labels) {
		m.dirtyPods[p.uid] = struct{}{}
	}
	p.object = o
	if m.podsOf[o.Namespace] == nil {
		m.podsOf[o.Namespace] = map[string]*pod{}
	}
	m.podsOf[o.Namespace][p.uid] = p
}

func (m *model) pod(uid string) *pod {
	p := m.pods[uid]
	if p == nil {
		p = &pod{uid: uid}
		m.pods[uid] = p
	}
	return p
}

// deletePod notes that nobody speaks of the pod any more. If it is still on the network and was isolated, it gets nothing now: it
// is on its way out, and its policies may be gone.
func (m *model) deletePod(uid string) {
	p := m.pods[uid]
	if p == nil || p.object == nil {
		return
	}
	delete(m.podsOf[p.object.Namespace], uid)
	if len(m.podsOf[p.object.Namespace]) == 0 {
		delete(m.podsOf, p.object.Namespace)
	}
	p.object = nil
	m.dirtyPods[uid] = struct{}{}
}

// inherit what pods had before this agent of which nobody speaks: they are on their way out, and isolated until they are gone.
func (m *model) inherit(have *kernel) {
	for _, p := range m.pods {
		if p.object != nil || !p.addr.IsValid() {
			continue
		}
		for d := range directions {
			s := have.sets[dir[d].isolated]
			if s == nil {
				continue
			}
			if _, ok := s.entries[addrEntry(p.addr)]; ok && !p.isolated[d] {
				m.enter(p, -1)
				p.isolated[d], m.reshape = true, true
				m.enter(p, 1)
			}
		}
	}
}

// attach gives a pod its address; an invalid one takes it off the network.
func (m *model) attach(uid string, addr netip.Addr) {
	if !addr.IsValid() && m.pods[uid] == nil {
		return
	}
	p := m.pod(uid)
	if p.addr == addr {
		return
	}
	m.enter(p, -1)
	p.addr = addr
	m.enter(p, 1)
	m.dirtyPods[uid] = struct{}{}
	if m.plain {
		m.reshape = true
	}
}

// setPart replaces a part of a set; none removes it.
func (m *model) setPart(name, part string, members []Member) {
	had := m.parts[name][part]
	if len(members) == 0 {
		delete(m.parts[name], part)
		if len(m.parts[name]) == 0 {
			delete(m.parts, name)
		}
	} else {
		if m.parts[name] == nil {
			m.parts[name] = map[string][]Member{}
		}
		m.parts[name][part] = members
	}
	s := m.sets[peerSet(name)]
	if s == nil {
		return // no rule asks for it yet
	}
	m.countMembers(name, s, members, 1)
	m.countMembers(name, s, had, -1)
}

// countMembers leaves out what the kernel would not take; the master sends none of it.
func (m *model) countMembers(name string, s *set, members []Member, by int) {
	for _, x := range members {
		if !x.Addr.Is4() || x.Addr.IsUnspecified() || s.typ == Ports && (x.Port == 0 || x.Protocol == 0) {
			continue
		}
		e := addrEntry(x.Addr)
		if s.typ == Ports {
			e.Protocol, e.Port = x.Protocol, x.Port
		}
		m.count(peerSet(name), s, e, by)
	}
}

// count adds an entry to a set, or takes it out.
func (m *model) count(name string, s *set, e Entry, by int) {
	was := s.entries[e]
	if now := was + by; now > 0 {
		s.entries[e] = now
	} else {
		delete(s.entries, e)
	}
	if (was > 0) == (was+by > 0) {
		return
	}
	m.touch(name, e)
}

func (m *model) touch(name string, e Entry) {
	if m.touched[name] == nil {
		m.touched[name] = map[Entry]struct{}{}
	}
	m.touched[name][e] = struct{}{}
}
