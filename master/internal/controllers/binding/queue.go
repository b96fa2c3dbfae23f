package binding

import (
	"cmp"
	"container/heap"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
)

// item is a pod that waits for a node.
type item struct {
	pod      *corev1.Pod
	seq      int64
	attempts int
	// notBefore is when it may be tried again.
	notBefore time.Time
	index     int // in the heap; -1 while parked
	// stale: something relevant has changed since its last try, which waits for notBefore.
	stale bool
}

// queue holds the pods that wait: ready ones in the order in which they are to be tried, parked ones until something
// changes.
type queue struct {
	ready  order
	items  map[types.UID]*item
	parked map[types.UID]*item
	// social are the parked ones for which it matters where other pods are.
	social map[types.UID]*item
	seq    int64
}

func newQueue() *queue {
	return &queue{items: map[types.UID]*item{}, parked: map[types.UID]*item{}, social: map[types.UID]*item{}}
}

// set adds a pod or takes over its new state. A parked pod becomes ready when its spec has changed.
func (q *queue) set(pod *corev1.Pod) {
	it := q.items[pod.UID]
	if it == nil {
		q.seq++
		it = &item{pod: pod, seq: q.seq, index: -1}
		q.items[pod.UID] = it
		heap.Push(&q.ready, it)
		return
	}
	changed := it.pod.Generation != pod.Generation
	it.pod = pod
	if it.index >= 0 {
		heap.Fix(&q.ready, it.index)
	} else if changed {
		it.attempts = 0
		q.activate(it)
	}
}

func (q *queue) activate(it *item) {
	delete(q.parked, it.pod.UID)
	delete(q.social, it.pod.UID)
	it.stale = false
	if it.index < 0 {
		heap.Push(&q.ready, it)
	}
}

// remove forgets a pod.
func (q *queue) remove(uid types.UID) {
	it := q.items[uid]
	if it == nil {
		return
	}
	delete(q.items, uid)
	delete(q.parked, uid)
	delete(q.social, uid)
	if it.index >= 0 {
		heap.Remove(&q.ready, it.index)
	}
}

// pop takes the next ready pods, at most n.
func (q *queue) pop(n int) []*item {
	var batch []*item
	for len(batch) < n && len(q.ready) > 0 {
		batch = append(batch, heap.Pop(&q.ready).(*item))
	}
	return batch
}

// park puts a popped pod aside until something changes.
func (q *queue) park(it *item, now time.Time) {
	if q.items[it.pod.UID] != it {
		return
	}
	delay := lastRetry
	if it.attempts < 10 {
		delay = min(firstRetry<<it.attempts, lastRetry)
	}
	it.attempts++
	it.notBefore = now.Add(delay)
	it.stale = false
	q.parked[it.pod.UID] = it
	if a := it.pod.Spec.Affinity; a != nil && a.PodAffinity != nil || len(it.pod.Spec.TopologySpreadConstraints) > 0 {
		q.social[it.pod.UID] = it
	}
}

// changed tells that something relevant has: parked pods may be tried again, each after its delay.
func (q *queue) changed() {
	for _, it := range q.parked {
		it.stale = true
	}
}

// placed tells that a pod has come to a node, which may be the company that a parked pod waits for. It reports whether one
// does.
func (q *queue) placed() (matters bool) {
	for _, it := range q.social {
		it.stale, matters = true, true
	}
	return matters
}

// wake makes those ready whose delay has passed, and says when the next one's will have; zero when none waits.
func (q *queue) wake(now time.Time) (next time.Time) {
	for _, it := range q.parked {
		if !it.stale {
			continue
		}
		if !it.notBefore.After(now) {
			q.activate(it)
		} else if next.IsZero() || it.notBefore.Before(next) {
			next = it.notBefore
		}
	}
	return next
}

// order is a heap: higher priority first, then who came first.
type order []*item

func (o order) Len() int { return len(o) }

func (o order) Less(i, j int) bool {
	if c := cmp.Compare(priority(o[j].pod), priority(o[i].pod)); c != 0 {
		return c < 0
	}
	return o[i].seq < o[j].seq
}

func (o order) Swap(i, j int) {
	o[i], o[j] = o[j], o[i]
	o[i].index, o[j].index = i, j
}

func (o *order) Push(x any) {
	it := x.(*item)
	it.index = len(*o)
	*o = append(*o, it)
}

func (o *order) Pop() any {
	old := *o
	it := old[len(old)-1]
	old[len(old)-1] = nil
	*o = old[:len(old)-1]
	it.index = -1
	return it
}

func priority(p *corev1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}
