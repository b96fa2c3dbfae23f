package sessions

import (
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
	shared "github.com/whalepod/whalepod/proto/netpolicy"
)

// What nodes are told of, in the order of a snapshot: what pods refer to comes before them.
var feedResources = []string{
	"nodes", "services", "endpointslices.discovery.k8s.io", "configmaps", "secrets", runtimeClasses, claims, volumes, shared.Policies, "pods",
}

const (
	runtimeClasses = "runtimeclasses.node.k8s.io"
	claims         = "persistentvolumeclaims"
	volumes        = "persistentvolumes"
)

// dnsConfig is told to all nodes although no pod refers to it: it is for their DNS servers.
var dnsConfig = registry.Key{Resource: "configmaps", Namespace: "kube-system", Name: "kube-dns"}

// A message holds at most this many bytes of objects, unless a single one is larger.
const feedChunk = 1 << 20

const endpointSlices = "endpointslices.discovery.k8s.io"

// feed is what one session has been told. It belongs to the session's sending goroutine.
type feed struct {
	s    *Server
	node string
	// sent remembers the revision of each object sent, and so what to take back; nodes have a way of their own.
	sent map[registry.Key]string
	// peers are the generations of other nodes that were sent, by their slots in peers; own is what the node was told of itself.
	peers []uint32
	own   []byte
	// refs are the ConfigMaps, Secrets, RuntimeClasses and claims that each pod refers to, and the volume of each claim; also the
	// policies that select the pod, and their sets. users counts who refers to each.
	refs  map[registry.Key][]registry.Key
	users map[registry.Key]int
	// chunks are the revisions of the parts of sets that were sent, by set and name.
	chunks map[string]map[string]uint64

	batch []*agentv1.Change
	size  int
	// begin marks the next message as the first of a snapshot.
	begin bool
	// rules: what is told in this turn changes the node's rules.
	rules bool
}

func newFeed(s *Server, node string) *feed {
	return &feed{
		s: s, node: node, sent: map[registry.Key]string{}, refs: map[registry.Key][]registry.Key{}, users: map[registry.Key]int{dnsConfig: 1},
		chunks: map[string]map[string]uint64{},
	}
}

// send tells the agent about the keys, or everything. If that changes the node's rules, it asks the agent to say when they are
// in force, by the mark.
func (f *feed) send(keys map[registry.Key]struct{}, all bool, mark uint64, send func(*agentv1.FromMaster) error) (asked bool, err error) {
	var fail error
	flush := func(last bool, rev int64) {
		asked = last && (f.rules || all)
		if fail != nil || (len(f.batch) == 0 && !asked) {
			return
		}
		m := &agentv1.Changes{Changes: f.batch, Begin: f.begin, Complete: last && all, Revision: rev}
		if asked {
			m.Mark = mark
		}
		f.batch, f.size, f.begin = nil, 0, false
		fail = send(&agentv1.FromMaster{Message: &agentv1.FromMaster_Changes{Changes: m}})
	}
	if all {
		*f = *newFeed(f.s, f.node)
		f.begin = true
	}
	f.rules = false
	// Sending under a View is fine: a View is a pointer to a state that does not change and holds up nobody.
	err = f.s.cfg.Registry.View(func(v *registry.View) error {
		if all {
			f.snapshot(v, func() { flush(false, v.Revision()) })
		} else {
			for k := range keys {
				f.tell(v, k)
				if f.size > feedChunk {
					flush(false, v.Revision())
				}
			}
		}
		flush(true, v.Revision())
		return nil
	})
	if err != nil {
		return false, err
	}
	return asked, fail
}

// rules: objects of this resource become rules of the nodes.
func rules(k registry.Key) bool {
	return k.Resource == "services" || k.Resource == endpointSlices
}

func (f *feed) snapshot(v *registry.View, flush func()) {
	each := func(k registry.Key) {
		f.tell(v, k)
		if f.size > feedChunk {
			flush()
		}
	}
	for n := range registry.List[*corev1.Node](v, "") {
		each(registry.Key{Resource: "nodes", Name: n.Name})
	}
	for o := range registry.List[*corev1.Service](v, "") {
		each(registry.Key{Resource: "services", Namespace: o.Namespace, Name: o.Name})
	}
	for o := range registry.List[*discoveryv1.EndpointSlice](v, "") {
		each(registry.Key{Resource: endpointSlices, Namespace: o.Namespace, Name: o.Name})
	}
	each(dnsConfig)
	for o := range registry.ByIndex[*corev1.Pod](v, registry.IndexNode, f.node) {
		each(registry.Key{Resource: "pods", Namespace: o.Namespace, Name: o.Name})
	}
}

// tell adds what there is to say about one key.
func (f *feed) tell(v *registry.View, k registry.Key) {
	if k.Resource == shared.Sets {
		f.tellSet(k)
		return
	}
	o, err := v.Get(k)
	if err != nil {
		o = nil
	}
	switch k.Resource {
	case "pods":
		pod, _ := o.(*corev1.Pod)
		if pod == nil || pod.Spec.NodeName != f.node {
			f.take(k)
			f.refer(v, k, nil)
			return
		}
		f.refer(v, k, append(podRefs(pod), policyRefs(v, pod)...))
	case "configmaps", "secrets", runtimeClasses, volumes:
		if f.users[k] == 0 {
			f.take(k)
			return
		}
	case claims:
		if f.users[k] == 0 {
			f.take(k)
			return
		}
		f.refer(v, k, claimRefs(o))
	case shared.Policies:
		if f.users[k] == 0 {
			f.take(k)
			return
		}
		f.refer(v, k, setRefs(o))
	case "nodes":
		n, _ := o.(*corev1.Node)
		f.tellNode(k, n)
		return
	}
	if o == nil {
		f.take(k)
		return
	}
	f.put(k, o)
}

func (f *feed) put(k registry.Key, o registry.Object) {
	if f.sent[k] == o.GetResourceVersion() {
		return
	}
	data, err := f.s.enc.encode(k, o)
	if err != nil {
		f.s.log.Error("object not sent to node", "node", f.node, "resource", k.Resource, "namespace", k.Namespace, "name", k.Name, "err", err)
		return
	}
	f.sent[k] = o.GetResourceVersion()
	f.add(&agentv1.Change{Resource: k.Resource, Namespace: k.Namespace, Name: k.Name, Object: data})
}

func (f *feed) take(k registry.Key) {
	if _, ok := f.sent[k]; !ok {
		return
	}
	delete(f.sent, k)
	f.add(&agentv1.Change{Resource: k.Resource, Namespace: k.Namespace, Name: k.Name, Deleted: true})
}

func (f *feed) add(c *agentv1.Change) {
	f.batch = append(f.batch, c)
	f.rules = f.rules || rules(registry.Key{Resource: c.Resource})
	f.size += len(c.Object)
}

// refer notes what a pod, or a claim, refers to, sends what is new to this node and takes back what nobody refers to any more.
func (f *feed) refer(v *registry.View, pod registry.Key, refs []registry.Key) {
	old := f.refs[pod]
	for _, k := range refs {
		f.users[k]++
	}
	for _, k := range old {
		f.users[k]--
		if f.users[k] == 0 {
			delete(f.users, k)
			if k.Resource == shared.Sets {
				f.takeSet(k)
				continue
			}
			f.take(k)
			if k.Resource == claims || k.Resource == shared.Policies {
				f.refer(v, k, nil)
			}
		}
	}
	if len(refs) == 0 {
		delete(f.refs, pod)
	} else {
		f.refs[pod] = refs
	}
	for _, k := range refs {
		if _, ok := f.sent[k]; !ok {
			f.tell(v, k)
		}
	}
}

// encodings keeps the bytes of objects that go to many nodes, so that each is encoded once and not once a node.
type encodings struct {
	mu    sync.Mutex
	cache map[registry.Key]encoded
	bytes int
}

type encoded struct {
	revision string
	data     []byte
}

// Enough for a burst of changes to reach all sessions; a snapshot of more encodes again. A ConfigMap may have 1 MiB.
const encodingCache, encodingBytes = 512, 4 << 20

func (e *encodings) encode(k registry.Key, o registry.Object) ([]byte, error) {
	rev := o.GetResourceVersion()
	if k.Resource == "pods" {
		return marshal(o)
	}
	e.mu.Lock()
	c, ok := e.cache[k]
	e.mu.Unlock()
	if ok && c.revision == rev {
		return c.data, nil
	}
	data, err := marshal(o)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.cache == nil || len(e.cache) >= encodingCache || e.bytes+len(data) > encodingBytes {
		e.cache, e.bytes = map[registry.Key]encoded{}, 0
	}
	e.bytes += len(data) - len(e.cache[k].data)
	e.cache[k] = encoded{rev, data}
	return data, nil
}

func marshal(o registry.Object) ([]byte, error) {
	return o.(interface{ Marshal() ([]byte, error) }).Marshal()
}
