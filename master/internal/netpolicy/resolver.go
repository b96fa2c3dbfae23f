// Package netpolicy knows which addresses the peers of network policies stand for, and keeps that up to date with every pod that
// comes, changes or goes: a change costs what it touches, whatever there is. It is pure; sessions feeds it, and sends each node
// the sets that its pods' policies refer to.
//
// While no policy refers to any pods it holds nothing and does nothing.
package netpolicy

import (
	"cmp"
	"iter"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

// Source is where pods and namespaces are looked up that no event speaks of: those of a new set, or of a namespace with other labels.
// It may know more than the Resolver has been told.
type Source interface {
	Pods(namespace string) iter.Seq[*corev1.Pod]
	Namespaces() iter.Seq[*corev1.Namespace]
}

// Chunk names a part of a set: the members in one /24.
type Chunk struct{ Set, Name string }

// Resolver holds the sets. It is not safe for concurrent use.
type Resolver struct {
	dns      *corev1.Pod
	policies map[key]map[string]netpolicy.Set
	sets     map[string]*set
	// cover are, for each namespace, the sets whose members may be in it.
	cover map[string]*index
	// wide are the sets that select namespaces by labels.
	wide    map[string]*set
	changed map[Chunk]struct{}
	// revision counts changes of chunks. It never starts anew, so that no revision stands for two contents.
	revision uint64
}

type key struct{ namespace, name string }

// member is what a set holds: an address, or one with what listens there.
type member struct {
	addr netip.Addr
	port uint32 // protocol << 16 | port, or 0
}

type set struct {
	id     string
	spec   netpolicy.Set
	users  int                    // policies that refer to it
	covers map[string]struct{}    // namespaces
	placed map[key][]member       // by pod
	chunks map[string]*chunkOfSet // by name
}

// DNSNamespace and DNSLabels are what every cluster's name server can be selected by, and so what people allow.
const DNSNamespace = "kube-system"

// DNSLabels of the name server.
var DNSLabels = map[string]string{"k8s-app": "kube-dns"}

// New makes a Resolver of a cluster whose name server has this address. Ours is not a pod, but the policy of every tutorial allows
// port 53 of the pods k8s-app=kube-dns in kube-system: so the address counts as that of such a pod.
func New(dns netip.Addr) *Resolver {
	r := &Resolver{
		policies: map[key]map[string]netpolicy.Set{}, sets: map[string]*set{}, cover: map[string]*index{}, wide: map[string]*set{},
		changed: map[Chunk]struct{}{},
	}
	if dns.Is4() {
		r.dns = &corev1.Pod{}
		r.dns.Namespace, r.dns.Name, r.dns.Labels = DNSNamespace, "\x00dns", DNSLabels // no pod can be called so
		r.dns.Status.PodIP = dns.String()
		r.dns.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", ContainerPort: 53, Protocol: corev1.ProtocolTCP},
		}}}
	}
	return r
}

// Reset forgets all but the count of revisions.
func (r *Resolver) Reset() {
	clear(r.policies)
	clear(r.sets)
	clear(r.cover)
	clear(r.wide)
	clear(r.changed)
}

// SetPolicy adds a policy or replaces it.
func (r *Resolver) SetPolicy(p *networkingv1.NetworkPolicy, from Source) {
	k := key{p.Namespace, p.Name}
	had, has := r.policies[k], netpolicy.Of(p)
	for id, spec := range has {
		if _, ok := had[id]; !ok {
			r.use(id, spec, from)
		}
	}
	for id := range had {
		if _, ok := has[id]; !ok {
			r.unuse(id)
		}
	}
	if len(has) == 0 {
		delete(r.policies, k)
		return
	}
	r.policies[k] = has
}

// DeletePolicy removes a policy.
func (r *Resolver) DeletePolicy(namespace, name string) {
	k := key{namespace, name}
	for id := range r.policies[k] {
		r.unuse(id)
	}
	delete(r.policies, k)
}

func (r *Resolver) use(id string, spec netpolicy.Set, from Source) {
	if s := r.sets[id]; s != nil {
		s.users++
		return
	}
	s := &set{id: id, spec: spec, users: 1, covers: map[string]struct{}{}, placed: map[key][]member{}, chunks: map[string]*chunkOfSet{}}
	r.sets[id] = s
	if spec.Namespace != "" {
		r.coverNamespace(s, spec.Namespace, from)
		return
	}
	r.wide[id] = s
	for ns := range from.Namespaces() {
		if netpolicy.Matches(spec.Namespaces, ns.Labels) {
			r.coverNamespace(s, ns.Name, from)
		}
	}
}

func (r *Resolver) unuse(id string) {
	s := r.sets[id]
	if s == nil {
		return
	}
	if s.users--; s.users > 0 {
		return
	}
	for ns := range s.covers {
		r.cover[ns].remove(s)
		r.tidy(ns)
	}
	for name := range s.chunks {
		r.changed[Chunk{id, name}] = struct{}{}
	}
	delete(r.wide, id)
	delete(r.sets, id)
}

// coverNamespace makes the pods of a namespace members that are to be.
func (r *Resolver) coverNamespace(s *set, ns string, from Source) {
	if _, ok := s.covers[ns]; ok {
		return
	}
	s.covers[ns] = struct{}{}
	if r.cover[ns] == nil {
		r.cover[ns] = &index{byLabel: map[[2]string]map[*set]struct{}{}, rest: map[*set]struct{}{}}
	}
	r.cover[ns].add(s)
	for pod := range from.Pods(ns) {
		r.place(s, pod)
	}
	if ns == DNSNamespace && r.dns != nil {
		r.place(s, r.dns)
	}
}

func (r *Resolver) uncoverNamespace(s *set, ns string) {
	if _, ok := s.covers[ns]; !ok {
		return
	}
	delete(s.covers, ns)
	r.cover[ns].remove(s)
	r.tidy(ns)
	for k := range s.placed {
		if k.namespace == ns {
			r.move(s, k, nil)
		}
	}
}

func (r *Resolver) tidy(ns string) {
	if x := r.cover[ns]; len(x.byLabel) == 0 && len(x.rest) == 0 {
		delete(r.cover, ns)
	}
}

// SetNamespace notes a namespace's labels; nil says that there is no such namespace any more.
func (r *Resolver) SetNamespace(name string, ns *corev1.Namespace, from Source) {
	for _, s := range r.wide {
		if ns != nil && netpolicy.Matches(s.spec.Namespaces, ns.Labels) {
			r.coverNamespace(s, name, from)
		} else {
			r.uncoverNamespace(s, name)
		}
	}
}

// SetPod notes what became of a pod: before and after its change; nil where it was not or is not any more.
func (r *Resolver) SetPod(before, after *corev1.Pod) {
	some := cmp.Or(after, before)
	if some == nil || r.cover[some.Namespace] == nil {
		return
	}
	x, k := r.cover[some.Namespace], key{some.Namespace, some.Name}
	if before != nil && (after == nil || !sameLabels(before.Labels, after.Labels)) {
		for s := range x.find(before.Labels) {
			if _, ok := s.placed[k]; ok && (after == nil || !netpolicy.Matches(s.spec.Pods, after.Labels)) {
				r.move(s, k, nil)
			}
		}
	}
	if after != nil {
		for s := range x.find(after.Labels) {
			r.place(s, after)
		}
	}
}

func sameLabels(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if has, ok := b[k]; !ok || has != v {
			return false
		}
	}
	return true
}
