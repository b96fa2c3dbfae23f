package fake

import (
	"context"
	"sync"

	"github.com/whalepod/whalepod/node/runtime"
)

// subscriber holds events until its reader takes them; the engine never waits for it.
type subscriber struct {
	node string
	mu   sync.Mutex
	list []runtime.Event
	err  error
	wake chan struct{}
}

func (s *subscriber) add(e runtime.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = append(s.list, e)
	s.poke()
}

func (s *subscriber) break_(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
	s.poke()
}

func (s *subscriber) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *subscriber) take() ([]runtime.Event, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.list
	s.list = nil
	return list, s.err
}

func (w *world) emit(c *ctr, action string) {
	for s := range w.subs {
		if s.node == c.node {
			s.add(runtime.Event{PodUID: c.Pod.UID, Container: c.ID, Action: action})
		}
	}
}

// Events implements runtime.Runtime; it returns nil when ctx ends.
func (e *Engine) Events(ctx context.Context, ready chan<- struct{}, fn func(runtime.Event)) error {
	if err := e.enter(ctx, "Events"); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	s := &subscriber{node: e.node, wake: make(chan struct{}, 1)}
	e.mu.Lock()
	e.subs[s] = true
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.subs, s)
	}()
	if ready != nil {
		close(ready)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		}
		list, err := s.take()
		for _, event := range list {
			fn(event)
		}
		if err != nil {
			return err
		}
	}
}
