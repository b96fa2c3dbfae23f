package bolt

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/whalepod/whalepod/master/internal/store"
)

// history is the recent events of one resource in revision order. It is immutable: readers load it without a lock, and a
// reader that is slow keeps no writer waiting. Events with a revision of floor or less are gone.
type history struct {
	floor  int64
	events []store.Event
}

// since returns the events behind a revision up to another, or ErrCompacted when some of them may be gone.
func (h *history) since(after, upTo int64) ([]store.Event, error) {
	if after < h.floor {
		return nil, store.ErrCompacted
	}
	return h.events[h.search(after):h.search(upTo)], nil
}

// search returns the place of the first event behind a revision.
func (h *history) search(revision int64) int {
	n := len(h.events)
	if n == 0 || h.events[n-1].Revision <= revision { // nearly always: a watcher that keeps up
		return n
	}
	i, _ := slices.BinarySearchFunc(h.events, revision+1, func(e store.Event, r int64) int {
		switch {
		case e.Revision < r:
			return -1
		case e.Revision > r:
			return 1
		}
		return 0
	})
	return i
}

// topic is what watchers of one resource, or of all, share.
type topic struct {
	recent atomic.Pointer[history]
	weight []int // of the events kept, the same order; the publisher's own
	total  int   // sum of weight

	mu   sync.Mutex
	wake chan struct{} // closed at the next event; nil while nobody waits, so that idle resources cost nothing
}

func newTopic(floor int64) *topic {
	t := new(topic)
	t.recent.Store(&history{floor: floor})
	return t
}

// append adds events in revision order and drops the oldest beyond the bounds. A quarter is dropped at a time, into a new
// array: readers may still hold the old one, and dropped events must not stay alive through it. Only the publisher, under
// Store.mu, calls it.
func (t *topic) append(events []store.Event, weight []int, maxEvents, maxBytes int) {
	h := t.recent.Load()
	next := &history{floor: h.floor, events: append(h.events, events...)}
	t.weight = append(t.weight, weight...)
	for _, w := range weight {
		t.total += w
	}
	if drop := t.surplus(maxEvents, maxBytes); drop > 0 {
		next.floor = next.events[drop-1].Revision
		next.events = slices.Clone(next.events[drop:])
		for _, w := range t.weight[:drop] {
			t.total -= w
		}
		t.weight = slices.Clone(t.weight[drop:])
	}
	t.recent.Store(next)
}

// surplus is how many of the oldest events have to go.
func (t *topic) surplus(maxEvents, maxBytes int) int {
	n := len(t.weight)
	if n <= maxEvents && t.total <= maxBytes {
		return 0
	}
	drop := max(n-maxEvents, 0)
	if n > maxEvents {
		drop = n - maxEvents*3/4
	}
	left := t.total
	for _, w := range t.weight[:drop] {
		left -= w
	}
	for target := maxBytes * 3 / 4; drop < n && t.total > maxBytes && left > target; drop++ {
		left -= t.weight[drop]
	}
	return drop
}

// waiter returns the channel that the next event closes.
func (t *topic) waiter() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake == nil {
		t.wake = make(chan struct{})
	}
	return t.wake
}

func (t *topic) notify() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.wake != nil {
		close(t.wake)
		t.wake = nil
	}
}
