package binding

import (
	"cmp"
	"container/heap"
	"container/list"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/scheduler"
)

const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 10 * time.Second
	// flushAfter is when a pod is tried again though nothing seems to have changed for it, as in kube-scheduler: a net below
	// the hints.
	flushAfter = 5 * time.Minute
)

// item is a pod that waits for a node.
type item struct {
	pod      *corev1.Pod
	seq      int64
	attempts int
	// notBefore is when it may be tried again.
	notBefore time.Time
	index     int // in the heap; -1 while it is not there
	// waiting is what it is parked for, shared by pods that are alike; place is where in the order of parking, and since when.
	waiting *scheduler.Waiting
	place   *list.Element
	since   time.Time
	// nominated is the node that we have written down for it while the watch has not told us so yet.
	nominated string
}

// queue holds the pods that wait: ready ones in the order in which they are to be tried, parked ones until something
// changes.
type queue struct {
	ready order
	items map[types.UID]*item
	// parked has items, those that wait the longest first.
	parked *list.List
	// social are the parked ones for which it matters where pods come to.
	social map[types.UID]*item
	// stale are the parked ones for which something has changed since their last try; they wait for notBefore.
	stale map[types.UID]*item
	seq   int64
}

func newQueue() *queue {
	return &queue{items: map[types.UID]*item{}, parked: list.New(), social: map[types.UID]*item{}, stale: map[types.UID]*item{}}
}

// set adds a pod or takes over its new state. A parked pod becomes ready when its spec or its labels have changed.
func (q *queue) set(pod *corev1.Pod) *item {
	it := q.items[pod.UID]
	if it == nil {
		q.seq++
		it = &item{pod: pod, seq: q.seq, index: -1}
		q.items[pod.UID] = it
		heap.Push(&q.ready, it)
		return it
	}
	changed := it.pod.Generation != pod.Generation || !maps.Equal(it.pod.Labels, pod.Labels)
	it.pod = pod
	if it.index >= 0 {
		heap.Fix(&q.ready, it.index)
	} else if changed {
		it.attempts = 0
		q.activate(it)
	}
	return it
}

func (q *queue) activate(it *item) {
	q.unpark(it)
	if it.index < 0 {
		heap.Push(&q.ready, it)
	}
}

func (q *queue) unpark(it *item) {
	if it.place != nil {
		q.parked.Remove(it.place)
		it.place = nil
	}
	delete(q.social, it.pod.UID)
	delete(q.stale, it.pod.UID)
}

// remove forgets a pod.
func (q *queue) remove(uid types.UID) {
	it := q.items[uid]
	if it == nil {
		return
	}
	delete(q.items, uid)
	q.unpark(it)
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

// park puts a popped pod aside until something changes that concerns it.
func (q *queue) park(it *item, waiting *scheduler.Waiting, now time.Time) {
	if q.items[it.pod.UID] != it {
		return
	}
	delay := lastRetry
	if it.attempts < 10 {
		delay = min(firstRetry<<it.attempts, lastRetry)
	}
	it.attempts++
	it.notBefore, it.since, it.waiting = now.Add(delay), now, waiting
	it.place = q.parked.PushBack(it)
	if waiting != nil && waiting.Social() {
		q.social[it.pod.UID] = it
	}
}

// hear marks the parked pods that news concern: they are tried again, each after its delay.
func (q *queue) hear(s *scheduler.Snapshot, news *scheduler.News) {
	asked := map[*scheduler.Waiting]bool{}
	ask := func(it *item) {
		if q.stale[it.pod.UID] != nil || it.waiting == nil {
			return
		}
		concerns, known := asked[it.waiting]
		if !known {
			concerns = s.Concerns(news, it.waiting)
			asked[it.waiting] = concerns
		}
		if concerns {
			q.stale[it.pod.UID] = it
		}
	}
	if news.OnlyCame() {
		for _, it := range q.social {
			ask(it)
		}
		return
	}
	for e := q.parked.Front(); e != nil; e = e.Next() {
		ask(e.Value.(*item))
	}
}

// retry has a parked pod tried again after its delay, whatever it waits for.
func (q *queue) retry(it *item) {
	if it.place != nil {
		q.stale[it.pod.UID] = it
	}
}

// wake makes those ready whose delay has passed, and says when to look again; zero when nobody waits.
func (q *queue) wake(now time.Time) (next time.Time) {
	for _, it := range q.stale {
		if !it.notBefore.After(now) {
			q.activate(it)
		} else if next.IsZero() || it.notBefore.Before(next) {
			next = it.notBefore
		}
	}
	for e := q.parked.Front(); e != nil; e = q.parked.Front() {
		it := e.Value.(*item)
		if at := it.since.Add(flushAfter); at.After(now) {
			if next.IsZero() || at.Before(next) {
				next = at
			}
			break
		}
		q.activate(it)
	}
	return next
}

// order is a heap: higher priority first, then who came first.
type order []*item

func (o order) Len() int { return len(o) }

func (o order) Less(i, j int) bool {
	if c := cmp.Compare(scheduler.Priority(o[j].pod), scheduler.Priority(o[i].pod)); c != 0 {
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
