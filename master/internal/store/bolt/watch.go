package bolt

import (
	"context"
	"reflect"
	"slices"

	"github.com/whalepod/whalepod/master/internal/store"
)

// defaultPage is what Next returns at most when its caller names no bound.
const defaultPage = 1024

func (s *Store) Watch(opts store.WatchOptions) (store.Watcher, error) {
	upTo := s.committed.Load().revision
	if opts.After > upTo {
		return nil, store.ErrFuture
	}
	w := s.watcher(opts, opts.After)
	if _, err := w.logs(upTo); err != nil {
		return nil, err
	}
	return w, nil
}

func (s *Store) ViewAndWatch(opts store.WatchOptions, fn func(store.Reader) error) (store.Watcher, error) {
	current := s.committed.Load()
	if err := fn(current); err != nil {
		return nil, err
	}
	return s.watcher(opts, current.revision), nil
}

// watcher is a cursor over the histories. It holds no events and no lock, so that one which nobody reads costs nothing.
type watcher struct {
	store     *Store
	topics    []*topic // of opts.Resources; nil means all, also those that have no object yet
	namespace string
	cursor    int64
}

func (s *Store) watcher(opts store.WatchOptions, cursor int64) *watcher {
	w := &watcher{store: s, namespace: opts.Namespace, cursor: cursor}
	resources := slices.Clone(opts.Resources)
	slices.Sort(resources)
	for _, resource := range slices.Compact(resources) {
		w.topics = append(w.topics, s.topic(resource))
	}
	return w
}

func (w *watcher) Revision() int64 { return w.cursor }

// Close has nothing to free: the cursor is in no list.
func (w *watcher) Close() {}

func (w *watcher) Next(ctx context.Context, max int) ([]store.Event, error) {
	if max <= 0 {
		max = defaultPage
	}
	for {
		// The channels come first: an event after this line closes them.
		wake := w.waiters()
		upTo := w.store.committed.Load().revision
		logs, err := w.logs(upTo)
		if err != nil {
			return nil, err
		}
		if events := w.take(logs, upTo, max); len(events) > 0 {
			return events, nil
		}
		if !wait(ctx, wake) {
			return nil, w.idle(ctx.Err())
		}
	}
}

// idle moves the cursor of a watcher that stops waiting over everything it need not see, for its bookmark.
func (w *watcher) idle(reason error) error {
	upTo := w.store.committed.Load().revision
	logs, err := w.logs(upTo)
	if err != nil {
		return err
	}
	before := w.cursor
	if events := w.take(logs, upTo, 1); len(events) > 0 {
		w.cursor = before
	}
	return reason
}

// logs returns, for each resource, the events between the cursor and upTo. upTo must have been read before: events are
// put into the histories before their revision becomes the committed one, so none up to it can be missing.
func (w *watcher) logs(upTo int64) ([][]store.Event, error) {
	topics := w.topics
	if topics == nil {
		topics = w.store.allTopics()
	}
	logs := make([][]store.Event, 0, len(topics))
	for _, t := range topics {
		events, err := t.recent.Load().since(w.cursor, upTo)
		if err != nil {
			return nil, err
		}
		if len(events) > 0 {
			logs = append(logs, events)
		}
	}
	return logs, nil
}

// take merges the logs by revision, returns at most max events of the watcher's namespace and moves the cursor behind
// the last one looked at, or to upTo when there are no more.
func (w *watcher) take(logs [][]store.Event, upTo int64, max int) []store.Event {
	var out []store.Event
	for len(out) < max {
		first := -1
		for i, log := range logs {
			if len(log) > 0 && (first < 0 || log[0].Revision < logs[first][0].Revision) {
				first = i
			}
		}
		if first < 0 {
			w.cursor = upTo
			return out
		}
		event := logs[first][0]
		logs[first] = logs[first][1:]
		w.cursor = event.Revision
		if w.namespace == "" || w.namespace == event.Key.Namespace {
			out = append(out, event)
		}
	}
	return out
}

func (w *watcher) waiters() []<-chan struct{} {
	if w.topics == nil {
		return []<-chan struct{}{w.store.any.waiter()}
	}
	out := make([]<-chan struct{}, len(w.topics))
	for i, t := range w.topics {
		out[i] = t.waiter()
	}
	return out
}

// wait returns true when one of the channels is closed, false when ctx ends.
func wait(ctx context.Context, wake []<-chan struct{}) bool {
	if len(wake) == 1 {
		select {
		case <-wake[0]:
			return true
		case <-ctx.Done():
			return false
		}
	}
	cases := make([]reflect.SelectCase, 0, len(wake)+1)
	for _, ch := range wake {
		cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ch)})
	}
	cases = append(cases, reflect.SelectCase{Dir: reflect.SelectRecv, Chan: reflect.ValueOf(ctx.Done())})
	chosen, _, _ := reflect.Select(cases)
	return chosen < len(wake)
}
