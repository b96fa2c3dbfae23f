package bolt

import (
	"iter"

	"github.com/google/btree"

	"github.com/whalepod/whalepod/master/internal/store"
)

// ViewAt lays the old states of what changed since over the current state, resource by resource and only when fn reads
// them: it costs the number of events since, not the number of objects. A resource whose history is too short makes the
// whole call ErrCompacted, whatever fn made of it.
func (s *Store) ViewAt(revision int64, fn func(store.Reader) error) error {
	current := s.committed.Load()
	switch {
	case revision > current.revision:
		return store.ErrFuture
	case revision < s.start:
		return store.ErrCompacted
	case revision == current.revision:
		return fn(current)
	}
	past := &past{store: s, current: current, revision: revision, undone: make(map[string]*overlay)}
	err := fn(past)
	if past.err != nil {
		return past.err
	}
	return err
}

// past implements store.Reader for an earlier revision. Like every Reader it serves one goroutine.
type past struct {
	store    *Store
	current  *state
	revision int64
	undone   map[string]*overlay
	err      error
}

// overlay is what differed at the earlier revision: items whose object is nil did not exist.
type overlay struct {
	old *btree.BTreeG[item]
}

// overlay undoes a resource's newer events; the first one behind the revision knows the state at the revision.
func (p *past) overlay(resource string) *overlay {
	if o := p.undone[resource]; o != nil {
		return o
	}
	o := &overlay{old: btree.NewG(degree, itemLess)}
	p.undone[resource] = o
	events, err := p.store.topic(resource).recent.Load().since(p.revision, p.current.revision)
	if err != nil {
		p.err = err
		return o
	}
	for _, e := range events {
		it := item{namespace: e.Key.Namespace, name: e.Key.Name, object: e.Prev}
		if !o.old.Has(it) {
			o.old.ReplaceOrInsert(it)
		}
	}
	return o
}

func (p *past) Revision() int64 { return p.revision }

func (p *past) Get(key store.Key) (store.Object, error) {
	o := p.overlay(key.Resource)
	if p.err != nil {
		return nil, p.err
	}
	if it, ok := o.old.Get(item{namespace: key.Namespace, name: key.Name}); ok {
		if it.object == nil {
			return nil, &keyError{key, store.ErrNotFound}
		}
		return it.object, nil
	}
	return p.current.Get(key)
}

func (p *past) List(resource, namespace string, after store.Key) iter.Seq[store.Object] {
	return func(yield func(store.Object) bool) {
		o := p.overlay(resource)
		if p.err != nil {
			return
		}
		now := p.current.tables[resource]
		if now == nil {
			now = newTable(nil)
		}
		old := &table{objects: o.old}
		merge(
			func(yield func(item) bool) { now.walk(namespace, after, yield) },
			func(yield func(item) bool) { old.walk(namespace, after, yield) },
			yield)
	}
}

func (p *past) ByIndex(resource, index, value string) iter.Seq[store.Object] {
	return func(yield func(store.Object) bool) {
		o := p.overlay(resource)
		if p.err != nil {
			return
		}
		now, values := p.current.tables[resource], p.store.schema.Indexes[resource][index]
		if now == nil || values == nil {
			return
		}
		indexed := func(yield func(item) bool) {
			now.walkIndex(index, value, func(r ref) bool {
				object, ok := now.get(r.namespace, r.name)
				return !ok || yield(item{namespace: r.namespace, name: r.name, object: object})
			})
		}
		// Every overlaid object takes part, so that it hides its current self; those without the value yield nothing.
		old := func(yield func(item) bool) {
			o.old.Ascend(func(it item) bool {
				if it.object != nil && !contains(values(it.object), value) {
					it.object = nil
				}
				return yield(it)
			})
		}
		merge(indexed, old, yield)
	}
}

func contains(values []string, value string) bool {
	for _, v := range values {
		if v == value {
			return true
		}
	}
	return false
}

func (p *past) Count(resource, namespace string) int {
	n := 0
	for range p.List(resource, namespace, store.Key{}) {
		n++
	}
	return n
}

// merge yields two ordered walks as one. Where both have a key the second wins; its nil objects are left out.
func merge(now, old iter.Seq[item], yield func(store.Object) bool) {
	next, stop := iter.Pull(old)
	defer stop()
	over, more := next()
	emit := func(it item) bool { return it.object == nil || yield(it.object) }
	done := false
	now(func(it item) bool {
		for more && itemLess(over, it) {
			if !emit(over) {
				done = true
				return false
			}
			over, more = next()
		}
		if more && !itemLess(it, over) { // the same key
			it = over
			over, more = next()
		}
		done = !emit(it)
		return !done
	})
	for ; more && !done; over, more = next() {
		done = !emit(over)
	}
}
