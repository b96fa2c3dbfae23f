package bolt

import (
	"context"
	"fmt"

	"github.com/whalepod/whalepod/master/internal/store"
)

// Update runs fn against the head: the committed state and everything queued before it. When fn fails or writes nothing,
// the answer still waits until what fn has read is committed, so that a caller told "conflict" finds the newer object in
// View, and nobody is told of a write that the disk then refused.
func (s *Store) Update(ctx context.Context, fn func(store.Tx) error) error {
	select {
	case <-s.running:
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		p, fnErr, err := s.accept(fn)
		if err != nil {
			return err
		}
		if p == nil {
			return fnErr
		}
		select {
		case err = <-p.done:
		case <-ctx.Done():
			if len(p.tx.events) == 0 {
				return ctx.Err()
			}
			return fmt.Errorf("store: gave up waiting for the disk, the write may still be kept: %w", ctx.Err())
		}
		if err == nil || len(p.tx.events) > 0 {
			if fnErr != nil {
				return fnErr
			}
			return err
		}
		// What fn has read was rolled back: ask again.
		if s.closedErr() != nil {
			return err
		}
	}
}

func (s *Store) closedErr() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// accept runs fn and queues what it wrote, or publishes it at once when it needs no disk. It returns the pending answer
// to wait for, if any, the error of fn, and the error of a store that takes no writes.
func (s *Store) accept(fn func(store.Tx) error) (p *pending, fnErr, err error) {
	s.mu.Lock()
	defer s.mu.Unlock() // also when fn panics
	if s.closed != nil {
		return nil, nil, s.closed
	}
	t := &tx{state: s.head.fork(), schema: s.schema}
	t.revision = s.assigned
	if fnErr = fn(t); fnErr != nil {
		t.events, t.writes = nil, nil
	}
	settled := len(s.queue) == 0 && !s.inflight
	if len(t.events) == 0 {
		if settled {
			return nil, fnErr, nil
		}
		t.state = s.head
		return s.enqueue(t), fnErr, nil
	}
	s.assigned = t.revision
	s.head = t.state
	if settled && t.volatile() && t.revision <= s.ceiling && len(s.dirty) < maxDirty {
		for _, w := range t.writes {
			s.dirty[w.key] = w
		}
		s.publish(t)
		s.poke()
		return nil, nil, nil
	}
	return s.enqueue(t), nil, nil
}

func (s *Store) enqueue(t *tx) *pending {
	p := &pending{tx: t, done: make(chan error, 1)}
	s.queue = append(s.queue, p)
	s.poke()
	return p
}

func (s *Store) poke() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// publish shows transactions to the readers: events first, then the state, so that whoever sees the revision finds its
// events; then the watchers. Callers hold mu.
func (s *Store) publish(txs ...*tx) {
	type batch struct {
		events []store.Event
		weight []int
	}
	batches := make(map[string]*batch, 4)
	for _, t := range txs {
		for i, e := range t.events {
			b := batches[e.Key.Resource]
			if b == nil {
				b = new(batch)
				batches[e.Key.Resource] = b
			}
			b.events = append(b.events, e)
			b.weight = append(b.weight, t.weight[i])
		}
	}
	if len(batches) == 0 {
		return
	}
	for resource, b := range batches {
		s.topic(resource).append(b.events, b.weight, s.cfg.History, s.cfg.HistoryBytes)
	}
	s.committed.Store(txs[len(txs)-1].state)
	for resource := range batches {
		s.topic(resource).notify()
	}
	s.any.notify()
}
