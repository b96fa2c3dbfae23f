package session

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

const (
	// Events kept while the master is away; older ones are dropped first.
	maxEvents = 1000
	// maxUsage reports wait to be sent; older ones are dropped.
	maxUsage = 2
	// maxNote is how long an event's message may be, as Kubernetes limits a note.
	maxNote = 1024
)

// Event is something worth telling the user about a pod, about the node when Kind is "Node", or when it is "Service" about
// what the node does for that.
type Event struct {
	Kind                            string
	Namespace, Name, UID, FieldPath string
	Type, Reason, Message           string
	Time                            time.Time
}

type podReport struct {
	namespace, name string
	status          *corev1.PodStatus
	gone            bool
	// sequence of the batch that carried it last; 0 while it waits.
	sequence uint64
}

// Outbox merges what is to be told to the master: of each pod and of the node only the last status. It remembers them after
// they were sent, and a new session begins with all of them.
type Outbox struct {
	wake chan struct{}
	// usage is told once or never: what is old says nothing.
	usage chan *agentv1.Usage
	// inForce holds the newest mark that was not told yet.
	inForce chan uint64

	mu       sync.Mutex
	pods     map[types.UID]*podReport
	node     *corev1.NodeStatus
	nodeSent bool
	events   []Event
	inFlight map[uint64][]Event
	sequence uint64
	stored   uint64 // acknowledged
}

// NewOutbox makes an empty one.
func NewOutbox() *Outbox {
	return &Outbox{wake: make(chan struct{}, 1), usage: make(chan *agentv1.Usage, maxUsage), inForce: make(chan uint64, 1), pods: map[types.UID]*podReport{}, inFlight: map[uint64][]Event{}}
}

// Pod tells a pod's status, which belongs to the outbox afterwards.
func (o *Outbox) Pod(namespace, name string, uid types.UID, status *corev1.PodStatus) {
	o.mu.Lock()
	o.pods[uid] = &podReport{namespace: namespace, name: name, status: status}
	o.mu.Unlock()
	o.poke()
}

// Gone tells that nothing of a pod is left on the node, beside the last status told.
func (o *Outbox) Gone(namespace, name string, uid types.UID) {
	o.mu.Lock()
	p := &podReport{namespace: namespace, name: name, gone: true}
	if last := o.pods[uid]; last != nil {
		p.status = last.status
	}
	o.pods[uid] = p
	o.mu.Unlock()
	o.poke()
}

// Node tells the node's status, which belongs to the outbox afterwards.
func (o *Outbox) Node(status *corev1.NodeStatus) {
	o.mu.Lock()
	o.node, o.nodeSent = status, false
	o.mu.Unlock()
	o.poke()
}

// Usage tells what is used, unless the session is away; u belongs to the outbox afterwards. For one caller.
func (o *Outbox) Usage(u *agentv1.Usage) {
	for {
		select {
		case o.usage <- u:
			return
		default:
		}
		select {
		case <-o.usage:
		default:
		}
	}
}

// InForce tells that this node's rules are what the desired state said at a mark; see desired.State.Mark. For one caller.
func (o *Outbox) InForce(mark uint64) {
	for {
		select {
		case o.inForce <- mark:
			return
		default:
		}
		select {
		case <-o.inForce: // the newer one stands for both
		default:
		}
	}
}

// Event tells an event.
func (o *Outbox) Event(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	e.Message = note(e.Message)
	o.mu.Lock()
	o.events = append(o.events, e)
	if n := len(o.events) - maxEvents; n > 0 {
		o.events = append([]Event(nil), o.events[n:]...)
	}
	o.mu.Unlock()
	o.poke()
}

// note makes a text fit to be sent. It may hold what a container wrote, in whatever encoding and cut off anywhere, and
// protobuf refuses a whole message for one string that is not UTF-8.
func note(text string) string {
	if len(text) > maxNote {
		text = text[:maxNote]
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

func (o *Outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// restart makes everything unsent: a new session knows nothing of the old one.
func (o *Outbox) restart() {
	for range maxUsage {
		select {
		case <-o.usage:
		default:
		}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.pods {
		p.sequence = 0
	}
	o.nodeSent = o.node == nil
	var lost []Event
	for _, sequence := range slices.Sorted(maps.Keys(o.inFlight)) {
		lost = append(lost, o.inFlight[sequence]...)
	}
	o.events = append(lost, o.events...)
	if n := len(o.events) - maxEvents; n > 0 {
		o.events = append([]Event(nil), o.events[n:]...)
	}
	clear(o.inFlight)
	o.poke()
}

// batch takes what waits, or nil.
func (o *Outbox) batch() (*agentv1.StatusBatch, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := &agentv1.StatusBatch{Sequence: o.sequence + 1}
	for uid, p := range o.pods {
		if p.sequence != 0 {
			continue
		}
		m := &agentv1.PodStatus{Namespace: p.namespace, Name: p.name, Uid: string(uid), Gone: p.gone}
		if p.status != nil {
			data, err := p.status.Marshal()
			if err != nil {
				return nil, err
			}
			m.Status = data
		}
		p.sequence = b.Sequence
		b.Pods = append(b.Pods, m)
	}
	if o.node != nil && !o.nodeSent {
		data, err := o.node.Marshal()
		if err != nil {
			return nil, err
		}
		b.Node, o.nodeSent = data, true
	}
	for _, e := range o.events {
		b.Events = append(b.Events, &agentv1.PodEvent{
			Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, Uid: e.UID, FieldPath: e.FieldPath,
			Type: e.Type, Reason: e.Reason, Message: e.Message, UnixNano: e.Time.UnixNano(),
		})
	}
	if len(b.Pods) == 0 && len(b.Node) == 0 && len(b.Events) == 0 {
		return nil, nil
	}
	o.sequence = b.Sequence
	if len(o.events) > 0 {
		o.inFlight[b.Sequence] = o.events
		o.events = nil
	}
	return b, nil
}

// Stored tells whether the master has stored all that was told of pods.
func (o *Outbox) Stored() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.pods {
		if p.sequence == 0 || p.sequence > o.stored {
			return false
		}
	}
	return true
}

// acknowledge notes that the master has stored everything up to a batch.
func (o *Outbox) acknowledge(sequence uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.stored = max(o.stored, sequence)
	for s := range o.inFlight {
		if s <= sequence {
			delete(o.inFlight, s)
		}
	}
	for uid, p := range o.pods {
		if p.gone && p.sequence != 0 && p.sequence <= sequence {
			delete(o.pods, uid)
		}
	}
}
