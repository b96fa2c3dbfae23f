package bolt

import (
	"cmp"
	"iter"
	"slices"

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

// overlay is what differed at the earlier revision, in key order: items whose object is nil did not exist.
type overlay struct {
	old []item
}

func compareItems(a, b item) int {
	return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.name, b.name))
}

// overlay undoes a resource's newer events; the first one of a key behind the revision knows its state at the revision.
func (p *past) overlay(resource string) *overlay {
	if o := p.undone[resource]; o != nil {
		return o
	}
	o := new(overlay)
	p.undone[resource] = o
	events, err := p.store.topic(resource).recent.Load().since(p.revision, p.current.revision)
	if err != nil {
		p.err = err
		return o
	}
	o.old = make([]item, len(events))
	for i, e := range events {
		o.old[i] = item{namespace: e.Key.Namespace, name: e.Key.Name, object: e.Prev}
	}
	slices.SortStableFunc(o.old, compareItems)
	o.old = slices.CompactFunc(o.old, func(a, b item) bool { return compareItems(a, b) == 0 }) // keeps the first
	return o
}

func (o *overlay) get(key store.Key) (store.Object, bool) {
	i, ok := slices.BinarySearchFunc(o.old, item{namespace: key.Namespace, name: key.Name}, compareItems)
	if !ok {
		return nil, false
	}
	return o.old[i].object, true
}

// part is the items of a namespace ("" for all) behind a key.
func (o *overlay) part(namespace string, after store.Key) []item {
	part := o.old
	if (after != store.Key{}) {
		i, found := slices.BinarySearchFunc(part, item{namespace: after.Namespace, name: after.Name}, compareItems)
		if found {
			i++
		}
		part = part[i:]
	}
	if namespace != "" {
		begin, _ := slices.BinarySearchFunc(part, item{namespace: namespace}, compareItems)
		part = part[begin:]
		if end := slices.IndexFunc(part, func(it item) bool { return it.namespace != namespace }); end >= 0 {
			part = part[:end]
		}
	}
	return part
}

func (p *past) Revision() int64 { return p.revision }

func (p *past) Get(key store.Key) (store.Object, error) {
	o := p.overlay(key.Resource)
	if p.err != nil {
		return nil, p.err
	}
	if object, ok := o.get(key); ok {
		if object == nil {
			return nil, &keyError{key, store.ErrNotFound}
		}
		return object, nil
	}
	return p.current.Get(key)
}

func (p *past) Stamp(string) any { return nil }

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
		merge(func(yield func(item) bool) { now.walk(namespace, after, yield) }, o.part(namespace, after), yield)
	}
}

func (p *past) ByIndex(resource, index, value string) iter.Seq[store.Object] {
	return func(yield func(store.Object) bool) {
		o := p.overlay(resource)
		if p.err != nil {
			return
		}
		now, values := p.current.tables[resource], p.store.schema.IndexesOf(resource)[index]
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
		old := slices.Clone(o.old)
		for i := range old {
			if old[i].object != nil && !slices.Contains(values(old[i].object), value) {
				old[i].object = nil
			}
		}
		merge(indexed, old, yield)
	}
}

func (p *past) Count(resource, namespace string) int {
	n := 0
	for range p.List(resource, namespace, store.Key{}) {
		n++
	}
	return n
}

// merge yields two ordered walks as one. Where both have a key the second wins; its nil objects are left out.
func merge(now iter.Seq[item], old []item, yield func(store.Object) bool) {
	emit := func(it item) bool { return it.object == nil || yield(it.object) }
	for it := range now {
		for len(old) > 0 && itemLess(old[0], it) {
			if !emit(old[0]) {
				return
			}
			old = old[1:]
		}
		if len(old) > 0 && !itemLess(it, old[0]) { // the same key
			it, old = old[0], old[1:]
		}
		if !emit(it) {
			return
		}
	}
	for _, it := range old {
		if !emit(it) {
			return
		}
	}
}
