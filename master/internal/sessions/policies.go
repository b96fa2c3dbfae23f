package sessions

import (
	"context"
	"iter"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/whalepod/whalepod/master/internal/netpolicy"
	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
	shared "github.com/whalepod/whalepod/proto/netpolicy"
)

// A node is told of a NetworkPolicy when it selects one of its pods, before it is told of the pod, and of the addresses that the
// policy's peers stand for. For the feed that is one more thing that a pod refers to: pod → policies → sets. Whom a policy selects
// is read from the View that is sent, so that no pod comes without its policies; the sets' addresses come from a Resolver that
// follows the events, and is corrected by the next ones where it is behind: an address that is not yet in a set is not yet let in.

const namespaces = "namespaces"

// policies keeps the sets, for all sessions.
type policies struct {
	mu       sync.Mutex
	resolver *netpolicy.Resolver
	// ready is closed when the sets are there for the first time: a snapshot without them would take from nodes what they have.
	ready     chan struct{}
	readyOnce sync.Once
}

func newPolicies(cluster *agentv1.ClusterConfig) *policies {
	dns, _ := netip.ParseAddr(cluster.GetDnsIp()) // a cluster without DNS has nobody to count as its server
	return &policies{resolver: netpolicy.New(dns), ready: make(chan struct{})}
}

// source is a state of the store, as the resolver reads it.
type source struct{ v *registry.View }

func (s source) Pods(namespace string) iter.Seq[*corev1.Pod] {
	return registry.List[*corev1.Pod](s.v, namespace)
}

func (s source) Namespaces() iter.Seq[*corev1.Namespace] {
	return registry.List[*corev1.Namespace](s.v, "")
}

// reset begins with a state.
func (p *policies) reset(v *registry.View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.resolver.Reset()
	for np := range registry.List[*networkingv1.NetworkPolicy](v, "") {
		p.resolver.SetPolicy(np, source{v})
	}
	p.resolver.Changed()
}

// isReady is for when reset has seen what there is.
func (p *policies) isReady() { p.readyOnce.Do(func() { close(p.ready) }) }

// wait until a snapshot can be sent.
func (p *policies) wait(ctx context.Context) {
	select {
	case <-p.ready:
	case <-ctx.Done():
	}
}

// follow takes what happened, and says which chunks of sets are others now, and which pods of which nodes have other policies.
func (p *policies) follow(reg *registry.Registry, events []registry.Event) (chunks []registry.Key, pods map[string][]registry.Key, err error) {
	view := func(fn func(*registry.View)) error {
		return reg.View(func(v *registry.View) error { fn(v); return nil })
	}
	pods = map[string][]registry.Key{}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events {
		switch o := e.Object.(type) {
		case *corev1.Pod:
			before, _ := e.Prev.(*corev1.Pod)
			if e.Deleted {
				o = nil
			}
			p.resolver.SetPod(before, o)
		case *corev1.Namespace:
			if e.Deleted {
				o = nil
			}
			err = view(func(v *registry.View) { p.resolver.SetNamespace(e.Key.Name, o, source{v}) })
		case *networkingv1.NetworkPolicy:
			before, _ := e.Prev.(*networkingv1.NetworkPolicy)
			err = view(func(v *registry.View) {
				if e.Deleted {
					p.resolver.DeletePolicy(o.Namespace, o.Name)
				} else {
					p.resolver.SetPolicy(o, source{v})
				}
				selectedBy(v, o, before, pods)
			})
		}
		if err != nil {
			return nil, nil, err
		}
	}
	for c := range p.resolver.Changed() {
		chunks = append(chunks, registry.Key{Resource: shared.Sets, Namespace: c.Set, Name: c.Name})
	}
	return chunks, pods, nil
}

// selectedBy adds the pods, by node, that a policy selects or has selected.
func selectedBy(v *registry.View, now, before *networkingv1.NetworkPolicy, pods map[string][]registry.Key) {
	for pod := range registry.List[*corev1.Pod](v, now.Namespace) {
		node := pod.Spec.NodeName
		if node != "" && (shared.Selects(now, pod.Namespace, pod.Labels) || before != nil && shared.Selects(before, pod.Namespace, pod.Labels)) {
			pods[node] = append(pods[node], registry.Key{Resource: "pods", Namespace: pod.Namespace, Name: pod.Name})
		}
	}
}

// policyRefs are the policies that select a pod; also one that has ended: its node may not have taken it off the network yet.
func policyRefs(v *registry.View, pod *corev1.Pod) (keys []registry.Key) {
	if pod.Spec.HostNetwork {
		return nil
	}
	for np := range registry.List[*networkingv1.NetworkPolicy](v, pod.Namespace) {
		if shared.Selects(np, pod.Namespace, pod.Labels) {
			keys = append(keys, registry.Key{Resource: shared.Policies, Namespace: np.Namespace, Name: np.Name})
		}
	}
	return keys
}

// setRefs are the sets that a policy's peers stand for; a set as a whole is a key without a name of a chunk.
func setRefs(o registry.Object) (keys []registry.Key) {
	if np, ok := o.(*networkingv1.NetworkPolicy); ok {
		for id := range shared.Of(np) {
			keys = append(keys, registry.Key{Resource: shared.Sets, Namespace: id})
		}
	}
	return keys
}

// tellSet says what there is to say about a set, or about one chunk of it.
func (f *feed) tellSet(k registry.Key) {
	whole := registry.Key{Resource: k.Resource, Namespace: k.Namespace}
	if f.users[whole] == 0 {
		f.takeSet(whole)
		return
	}
	p := f.s.policies
	p.mu.Lock()
	defer p.mu.Unlock()
	if k != whole {
		f.putChunk(k)
		return
	}
	there := map[string]bool{}
	for _, c := range p.resolver.Chunks(k.Namespace) {
		there[c.Name] = true
		f.putChunk(registry.Key{Resource: k.Resource, Namespace: k.Namespace, Name: c.Name})
	}
	for name := range f.chunks[k.Namespace] {
		if !there[name] {
			f.putChunk(registry.Key{Resource: k.Resource, Namespace: k.Namespace, Name: name})
		}
	}
}

// putChunk sends a chunk as it is now. Call with the sets locked.
func (f *feed) putChunk(k registry.Key) {
	data, revision := f.s.policies.resolver.Encoded(netpolicy.Chunk{Set: k.Namespace, Name: k.Name})
	had, ok := f.chunks[k.Namespace][k.Name]
	switch {
	case ok && had == revision:
	case revision != 0:
		if f.chunks[k.Namespace] == nil {
			f.chunks[k.Namespace] = map[string]uint64{}
		}
		f.chunks[k.Namespace][k.Name] = revision
		f.add(&agentv1.Change{Resource: k.Resource, Namespace: k.Namespace, Name: k.Name, Object: data})
	case ok:
		delete(f.chunks[k.Namespace], k.Name)
		f.add(&agentv1.Change{Resource: k.Resource, Namespace: k.Namespace, Name: k.Name, Deleted: true})
	}
}

// takeSet takes all chunks back.
func (f *feed) takeSet(k registry.Key) {
	for name := range f.chunks[k.Namespace] {
		f.add(&agentv1.Change{Resource: k.Resource, Namespace: k.Namespace, Name: name, Deleted: true})
	}
	delete(f.chunks, k.Namespace)
}
