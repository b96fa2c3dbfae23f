package desired

import (
	"slices"
	"sync"
)

// Subscription collects the names of what changed until its reader takes them; it never makes the State wait.
type Subscription struct {
	state     *State
	resources []Resource // empty: all
	wake      chan struct{}

	mu      sync.Mutex
	pending map[Ref]struct{}
}

// Subscribe tells of changes from now on to the resources named, or to all. A Ref with an empty key means: look at all.
func (s *State) Subscribe(resources ...Resource) *Subscription {
	sub := &Subscription{state: s, resources: resources, wake: make(chan struct{}, 1), pending: map[Ref]struct{}{}}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.subs = append(s.subs, sub)
	return sub
}

// C is readable when there is something to Take, or a new mark.
func (sub *Subscription) C() <-chan struct{} { return sub.wake }

// Take returns what changed since the last Take, each once.
func (sub *Subscription) Take() []Ref {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	out := make([]Ref, 0, len(sub.pending))
	for ref := range sub.pending {
		out = append(out, ref)
	}
	clear(sub.pending)
	return out
}

// Close ends the subscription.
func (sub *Subscription) Close() {
	sub.state.mu.Lock()
	defer sub.state.mu.Unlock()
	sub.state.subs = slices.DeleteFunc(sub.state.subs, func(s *Subscription) bool { return s == sub })
}

func (sub *Subscription) add(refs []Ref) {
	sub.mu.Lock()
	defer sub.mu.Unlock()
	before := len(sub.pending)
	for _, ref := range refs {
		if len(sub.resources) == 0 || slices.Contains(sub.resources, ref.Resource) {
			sub.pending[ref] = struct{}{}
		}
	}
	if len(sub.pending) == 0 || len(sub.pending) == before {
		return
	}
	sub.poke()
}

func (sub *Subscription) poke() {
	select {
	case sub.wake <- struct{}{}:
	default:
	}
}

// poke tells all subscribers. Call with mu held.
func (s *State) poke(refs []Ref) {
	if len(refs) == 0 {
		return
	}
	for _, sub := range s.subs {
		sub.add(refs)
	}
}
