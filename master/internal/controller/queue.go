package controller

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// queue hands out keys: each at most once at a time; one that is added while it is being worked on comes again afterwards.
// (The contract of client-go's workqueue.)
type queue[K comparable] struct {
	mu      sync.Mutex
	ready   []K
	dirty   map[K]bool // in ready, or added while active
	active  map[K]bool // handed out and not done
	delayed delays[K]
	due     map[K]*delay[K]
	wake    chan struct{} // one token: ready is not empty
	rearm   chan struct{} // one token: the earliest delay has changed
}

func newQueue[K comparable]() *queue[K] {
	return &queue[K]{
		dirty: map[K]bool{}, active: map[K]bool{}, due: map[K]*delay[K]{},
		wake: make(chan struct{}, 1), rearm: make(chan struct{}, 1),
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// add makes a key ready.
func (q *queue[K]) add(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.addLocked(key)
}

func (q *queue[K]) addLocked(key K) {
	if q.dirty[key] {
		return
	}
	q.dirty[key] = true
	if !q.active[key] {
		q.ready = append(q.ready, key)
		poke(q.wake)
	}
}

// addAfter makes a key ready after a while, or earlier if it waits for an earlier time already.
func (q *queue[K]) addAfter(key K, d time.Duration) {
	if d <= 0 {
		q.add(key)
		return
	}
	at := time.Now().Add(d)
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := q.due[key]; w != nil {
		if at.Before(w.at) {
			w.at = at
			heap.Fix(&q.delayed, w.index)
			poke(q.rearm)
		}
		return
	}
	w := &delay[K]{key: key, at: at}
	q.due[key] = w
	heap.Push(&q.delayed, w)
	if w.index == 0 {
		poke(q.rearm)
	}
}

// get waits for a key; ok is false when ctx has ended. done must be called for it.
func (q *queue[K]) get(ctx context.Context) (key K, ok bool) {
	for {
		q.mu.Lock()
		if len(q.ready) > 0 && ctx.Err() == nil {
			key = q.ready[0]
			var none K
			q.ready[0] = none
			if q.ready = q.ready[1:]; len(q.ready) == 0 {
				q.ready = nil // gives a large backlog's memory back
			} else {
				poke(q.wake) // for the next worker
			}
			delete(q.dirty, key)
			q.active[key] = true
			q.mu.Unlock()
			return key, true
		}
		q.mu.Unlock()
		select {
		case <-ctx.Done():
			return key, false
		case <-q.wake:
		}
	}
}

// done says that the work on a key has ended.
func (q *queue[K]) done(key K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.active, key)
	if q.dirty[key] {
		q.ready = append(q.ready, key)
		poke(q.wake)
	}
}

// runDelays moves keys whose time has come until ctx ends.
func (q *queue[K]) runDelays(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if next, some := q.moveDue(time.Now()); some {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-q.rearm:
		}
	}
}

func (q *queue[K]) moveDue(now time.Time) (next time.Time, some bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.delayed) > 0 {
		if w := q.delayed[0]; w.at.After(now) {
			return w.at, true
		}
		w := heap.Pop(&q.delayed).(*delay[K])
		delete(q.due, w.key)
		q.addLocked(w.key)
	}
	return time.Time{}, false
}

// delay is a key that waits for its time.
type delay[K comparable] struct {
	key   K
	at    time.Time
	index int
}

// delays is a heap by time.
type delays[K comparable] []*delay[K]

func (d delays[K]) Len() int           { return len(d) }
func (d delays[K]) Less(i, j int) bool { return d[i].at.Before(d[j].at) }
func (d delays[K]) Swap(i, j int) {
	d[i], d[j] = d[j], d[i]
	d[i].index, d[j].index = i, j
}

func (d *delays[K]) Push(x any) {
	w := x.(*delay[K])
	w.index = len(*d)
	*d = append(*d, w)
}

func (d *delays[K]) Pop() any {
	old := *d
	w := old[len(old)-1]
	old[len(old)-1] = nil
	*d = old[:len(old)-1]
	return w
}
