package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/whalepod/whalepod/api/resource"
	"github.com/whalepod/whalepod/api/server"
	"github.com/whalepod/whalepod/master/internal/store"
)

// Events handed to a client at a time; the rest follow at once.
const watchBatch = 100

// objectWatch sees the store's events through the selectors of one client.
type objectWatch struct {
	res     *resource.Resource
	w       store.Watcher
	match   func(Object) bool
	selects bool // match is not always true

	// pending are events that are still to be converted by a webhook, and handedOut is the revision before them.
	pending    []Event
	handedOut  int64
	initial    []resource.Object
	initialEnd bool
}

// Watch implements server.Backend. Without a resourceVersion, or with "0", the present objects come first as ADDED.
func (r *Registry) Watch(ctx context.Context, res *resource.Resource, q server.WatchQuery) (server.Watch, error) {
	lq := server.ListQuery{Namespace: q.Namespace, Labels: q.Labels, Fields: q.Fields}
	w := &objectWatch{res: res, match: matcher(res, q.Labels, q.Fields), selects: selective(lq)}
	opts := store.WatchOptions{Resources: []string{res.Key()}, Namespace: q.Namespace}
	wantInitial := q.SendInitialEvents != nil && *q.SendInitialEvents
	fromNow := q.ResourceVersion == "" || q.ResourceVersion == "0"
	if !wantInitial && !fromNow {
		return r.watchAfter(w, opts, q.ResourceVersion)
	}
	if err := r.checkReached(q.ResourceVersion); err != nil {
		return nil, err
	}
	var err error
	w.w, err = r.store.ViewAndWatch(opts, func(s store.Reader) error {
		if q.SendInitialEvents != nil && !wantInitial {
			return nil // sendInitialEvents=false from now on
		}
		w.initialEnd = wantInitial
		for o := range candidates(s, res, lq, Key{}) {
			if res.AsksWebhook() || w.match(o) {
				w.initial = append(w.initial, o)
			}
		}
		return nil
	})
	if err == nil && res.AsksWebhook() {
		if err = w.convertInitial(ctx); err != nil {
			w.w.Close()
			return nil, err
		}
	}
	return w, err
}

func (r *Registry) checkReached(resourceVersion string) error {
	return r.store.View(func(s store.Reader) error { return checkNotOlder(resourceVersion, s.Revision()) })
}

func (r *Registry) watchAfter(w *objectWatch, opts store.WatchOptions, resourceVersion string) (server.Watch, error) {
	rev, err := parseRevision(resourceVersion)
	if err != nil || rev < 0 {
		return nil, badRevision(resourceVersion)
	}
	if err := r.checkReached(resourceVersion); err != nil {
		return nil, err
	}
	opts.After = rev
	w.w, err = r.store.Watch(opts)
	if err != nil {
		return nil, statusError(err, w.res, "")
	}
	return w, nil
}

func (w *objectWatch) Initial() ([]resource.Object, bool) { return w.initial, w.initialEnd }

func (w *objectWatch) ResourceVersion() string {
	if len(w.pending) > 0 {
		return FormatRevision(w.handedOut)
	}
	return FormatRevision(w.w.Revision())
}

func (w *objectWatch) Close() { w.w.Close() }

func (w *objectWatch) Next(ctx context.Context) ([]server.WatchEvent, error) {
	w.initial = nil // sent by now: let them go
	for {
		events, err := w.next(ctx)
		if err != nil {
			return nil, statusError(err, w.res, "")
		}
		out := make([]server.WatchEvent, 0, len(events))
		for _, e := range events {
			if we, ok := w.see(e); ok {
				out = append(out, we)
			}
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

// see translates a write into what it means for this client: an object that begins to match is ADDED, one that
// ceases to match is DELETED in the state in which it last matched.
func (w *objectWatch) see(e Event) (server.WatchEvent, bool) {
	was := e.Prev != nil && w.match(e.Prev)
	is := !e.Deleted && w.match(e.Object)
	switch {
	case is && !was:
		return server.WatchEvent{Type: string(watch.Added), Object: e.Object}, true
	case is:
		return server.WatchEvent{Type: string(watch.Modified), Object: e.Object}, true
	case was && e.Deleted:
		return server.WatchEvent{Type: string(watch.Deleted), Object: e.Object}, true
	case was:
		last := e.Prev.DeepCopyObject().(metav1.Object)
		last.SetResourceVersion(FormatRevision(e.Revision))
		return server.WatchEvent{Type: string(watch.Deleted), Object: last.(Object)}, true
	default:
		return server.WatchEvent{}, false
	}
}
