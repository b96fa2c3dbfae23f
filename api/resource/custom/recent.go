package custom

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What recent keeps of one version: an event is asked for by all who watch within milliseconds, and so is what somebody wrote.
const (
	recentObjects = 128
	recentBytes   = 256 << 10
	// recentAge: who has mended a webhook wants to see that.
	recentAge = 5 * time.Second
)

// recent are the last objects that a webhook converted to a version, by the identity of those that they were made from, which
// nobody changes. Who asks for one that is just being converted waits for it, instead of asking the webhook too.
type recent struct {
	mu       sync.Mutex
	byObject map[*unstructured.Unstructured]*conversion
	// done, oldest first, and their size as JSON.
	done  []*conversion
	bytes int
}

// conversion of one object. over is closed when it has ended; out stays nil if it failed.
type conversion struct {
	of, out *unstructured.Unstructured
	size    int
	at      time.Time
	over    chan struct{}
}

type asking func([]*unstructured.Unstructured) (out []*unstructured.Unstructured, sizes []int, err error)

// convert gives objects converted, of which it asks for those that nobody else asks for.
func (r *recent) convert(ctx context.Context, objs []*unstructured.Unstructured, ask asking) ([]*unstructured.Unstructured, error) {
	all, mine := r.claim(objs)
	if err := r.fulfil(mine, ask); err != nil {
		return nil, err
	}
	out := make([]*unstructured.Unstructured, len(objs))
	var failed []*unstructured.Unstructured // for others, perhaps because of other objects or because they have gone
	for i, c := range all {
		select {
		case <-c.over:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if out[i] = c.out; c.out == nil {
			failed = append(failed, objs[i])
		}
	}
	if len(failed) == 0 {
		return out, nil
	}
	own, _, err := ask(failed)
	if err != nil {
		return nil, err
	}
	for i := range out {
		if out[i] == nil {
			out[i], own = own[0], own[1:]
		}
	}
	return out, nil
}

// claim finds the conversions of objects; mine are those that there were not.
func (r *recent) claim(objs []*unstructured.Unstructured) (all, mine []*conversion) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byObject == nil {
		r.byObject = map[*unstructured.Unstructured]*conversion{}
	}
	r.forget()
	for _, u := range objs {
		c := r.byObject[u]
		if c == nil {
			c = &conversion{of: u, over: make(chan struct{})}
			r.byObject[u] = c
			mine = append(mine, c)
		}
		all = append(all, c)
	}
	return all, mine
}

// forget what is too old or too much; the lock is held.
func (r *recent) forget() {
	for len(r.done) > 0 && (len(r.done) > recentObjects || r.bytes > recentBytes || time.Since(r.done[0].at) > recentAge) {
		delete(r.byObject, r.done[0].of)
		r.bytes -= r.done[0].size
		r.done[0] = nil
		r.done = r.done[1:]
	}
}

// fulfil ends conversions, whatever happens.
func (r *recent) fulfil(mine []*conversion, ask asking) error {
	if len(mine) == 0 {
		return nil
	}
	var out []*unstructured.Unstructured
	var sizes []int
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for i, c := range mine {
			if i < len(out) {
				c.out, c.size, c.at = out[i], sizes[i], time.Now()
				r.done = append(r.done, c)
				r.bytes += c.size
			} else {
				delete(r.byObject, c.of)
			}
			close(c.over)
		}
		r.forget()
	}()
	objs := make([]*unstructured.Unstructured, len(mine))
	for i, c := range mine {
		objs[i] = c.of
	}
	got, n, err := ask(objs)
	if err == nil {
		out, sizes = got, n
	}
	return err
}
