package server

import (
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/whalepod/whalepod/api/resource"
)

// The cache holds the last few events only: watchers of the same kind read them within milliseconds of each other.
const (
	eventCacheSize  = 256
	eventCacheBytes = 2 << 20
)

// eventForm is one representation of objects in events.
type eventForm struct {
	format    format
	gv        schema.GroupVersion
	as        schema.GroupVersionKind
	include   metav1.IncludeObjectPolicy
	noHeaders bool
}

// eventKey is an object, by identity (the backend never changes one), in a form.
type eventKey struct {
	obj  resource.Object
	form eventForm
}

type eventEntry struct {
	key  eventKey
	once sync.Once
	data []byte
	err  error
	done bool // data is counted; under the cache's lock
}

// eventCache encodes each event once for all watchers that want it in the same form. It is bounded by number and bytes,
// oldest out first.
type eventCache struct {
	mu    sync.Mutex
	byKey map[eventKey]*eventEntry
	ring  [eventCacheSize]*eventEntry
	next  int
	bytes int
}

func newEventCache() *eventCache { return &eventCache{byKey: map[eventKey]*eventEntry{}} }

// encoded returns the bytes of a key, made by one of those who ask at the same time.
func (c *eventCache) encoded(k eventKey, make func() ([]byte, error)) ([]byte, error) {
	c.mu.Lock()
	e := c.byKey[k]
	if e == nil {
		e = &eventEntry{key: k}
		c.drop(c.next)
		c.ring[c.next] = e
		c.next = (c.next + 1) % eventCacheSize
		c.byKey[k] = e
	}
	c.mu.Unlock()
	e.once.Do(func() {
		e.data, e.err = make()
		c.count(e)
	})
	return e.data, e.err
}

// count adds an entry's bytes and drops the oldest while there are too many.
func (c *eventCache) count(e *eventEntry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKey[e.key] != e {
		return // dropped meanwhile
	}
	e.done = true
	c.bytes += len(e.data)
	for i := 0; c.bytes > eventCacheBytes && i < eventCacheSize; i++ {
		c.drop((c.next + i) % eventCacheSize)
	}
}

func (c *eventCache) drop(i int) {
	e := c.ring[i]
	if e == nil {
		return
	}
	c.ring[i] = nil
	delete(c.byKey, e.key)
	if e.done {
		c.bytes -= len(e.data)
	}
}
