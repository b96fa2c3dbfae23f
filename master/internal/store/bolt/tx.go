package bolt

import (
	"errors"
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/whalepod/whalepod/master/internal/store"
)

// tx is one run of an Update's function: a fork of the head state, and what it changed. It is dropped whole on failure.
type tx struct {
	*state
	schema *store.Schema
	owned  map[string]bool // tables this transaction has cloned and may write
	events []store.Event
	weight []int // of each event: encoded bytes of the old states that only the history keeps alive
	writes []write
}

// write is one change on its way to the file: data nil deletes.
type write struct {
	key  store.Key
	data []byte
}

// table returns a table to write, cloned at the first call.
func (t *tx) table(resource string) *table {
	tb := t.tables[resource]
	if t.owned[resource] {
		return tb
	}
	if tb == nil {
		tb = newTable(t.schema.IndexesOf(resource))
	} else {
		tb = tb.clone()
	}
	if t.owned == nil {
		t.owned = make(map[string]bool, 2)
	}
	t.owned[resource] = true
	t.tables[resource] = tb
	return tb
}

// still gives a table that later writes of this same transaction will not touch: fn may write while it walks.
func (t *tx) still(resource string) *table {
	delete(t.owned, resource)
	return t.tables[resource]
}

func (t *tx) List(resource, namespace string, after store.Key) iter.Seq[store.Object] {
	return func(yield func(store.Object) bool) { t.still(resource).list(namespace, after)(yield) }
}

func (t *tx) ByIndex(resource, index, value string) iter.Seq[store.Object] {
	return func(yield func(store.Object) bool) { t.still(resource).byIndex(index, value)(yield) }
}

// Stamp is nil: this transaction may still change its tables.
func (t *tx) Stamp(string) any { return nil }

func (t *tx) Create(key store.Key, object store.Object) error {
	if err := checkKey(key); err != nil {
		return err
	}
	if rv := object.GetResourceVersion(); rv != "" {
		return &keyError{key, fmt.Errorf("resourceVersion must be empty to create, is %q", rv)}
	}
	if _, err := t.Get(key); err == nil {
		return &keyError{key, store.ErrExists}
	}
	return t.set(key, object)
}

func (t *tx) Put(key store.Key, object store.Object) error {
	current, err := t.Get(key)
	if err != nil {
		return err
	}
	if current.GetUID() != object.GetUID() || current.GetResourceVersion() != object.GetResourceVersion() {
		return &keyError{key, store.ErrConflict}
	}
	if current == object {
		return &keyError{key, errors.New("the stored object itself was changed and put back: DeepCopy it first")}
	}
	return t.set(key, object)
}

func (t *tx) set(key store.Key, object store.Object) error {
	key = ownStrings(key, object)
	revision := t.revision + 1
	object.SetResourceVersion(strconv.FormatInt(revision, 10))
	data, err := encodeRecord(t.schema.Codec, key, revision, object)
	if err != nil {
		return err
	}
	t.revision = revision
	old := t.table(key.Resource).put(t.schema.IndexesOf(key.Resource), key, object, len(data))
	t.schema.Shared(key.Resource, old.object, object)
	t.events = append(t.events, store.Event{Key: key, Revision: revision, Object: object, Prev: old.object})
	t.weight = append(t.weight, old.size)
	t.writes = append(t.writes, write{key, data})
	return nil
}

func (t *tx) Delete(key store.Key, uid, resourceVersion string) (store.Object, error) {
	current, err := t.Get(key)
	if err != nil {
		return nil, err
	}
	if uid != "" && uid != string(current.GetUID()) || resourceVersion != "" && resourceVersion != current.GetResourceVersion() {
		return nil, &keyError{key, store.ErrConflict}
	}
	last, ok := current.DeepCopyObject().(store.Object)
	if !ok {
		return nil, &keyError{key, fmt.Errorf("%T copies to a type without metadata", current)}
	}
	t.revision++
	last.SetResourceVersion(strconv.FormatInt(t.revision, 10))
	t.schema.Shared(key.Resource, current, last)
	old := t.table(key.Resource).delete(t.schema.IndexesOf(key.Resource), key)
	t.events = append(t.events, store.Event{Key: key, Revision: t.revision, Object: last, Prev: current, Deleted: true})
	t.weight = append(t.weight, 2*old.size) // the last state and its copy with the new revision
	t.writes = append(t.writes, write{key, nil})
	return last, nil
}

// ownStrings makes a key of the strings that the object has anyway, so that the tables keep no others alive.
func ownStrings(key store.Key, object store.Object) store.Key {
	if namespace, name := object.GetNamespace(), object.GetName(); namespace == key.Namespace && name == key.Name {
		key.Namespace, key.Name = namespace, name
	}
	return key
}

// volatile says that nothing written here needs the disk before it is acknowledged.
func (t *tx) volatile() bool {
	for _, e := range t.events {
		if !t.schema.Volatile[e.Key.Resource] {
			return false
		}
	}
	return true
}

// maxKey bounds namespace and name together; bbolt takes 32,768 bytes, Kubernetes' names have 253.
const maxKey = 1024

// checkKey keeps keys apart on the disk, where namespace and name are joined by a slash.
func checkKey(key store.Key) error {
	switch {
	case key.Resource == "" || key.Resource == metaBucket:
		return &keyError{key, errors.New("no such resource")}
	case key.Name == "":
		return &keyError{key, errors.New("the name is empty")}
	case strings.Contains(key.Namespace, "/"):
		return &keyError{key, errors.New("a namespace must not contain a slash")}
	case len(key.Resource) > maxKey || len(key.Namespace)+len(key.Name) > maxKey:
		return &keyError{key, fmt.Errorf("the key is longer than %d bytes", maxKey)}
	}
	return nil
}
