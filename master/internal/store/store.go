// Package store keeps every object of the cluster under one revision counter.
//
// It knows keys, revisions and objects with Kubernetes metadata; it knows nothing of kinds, defaults or rules: those are
// the registry's. Nobody but the registry writes here. Implementations (bolt, later etcd) pass the suite in storetest.
package store

import (
	"context"
	"errors"
	"io"
	"iter"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// Errors of a store; test them with errors.Is only.
var (
	// ErrNotFound: no object has this key.
	ErrNotFound = errors.New("not found")
	// ErrExists: an object with this key is there already.
	ErrExists = errors.New("already exists")
	// ErrConflict: the object's UID or resourceVersion is not the stored one.
	ErrConflict = errors.New("conflict: the object has been modified")
	// ErrCompacted: the revision asked for is older than the history kept.
	ErrCompacted = errors.New("revision compacted")
	// ErrFuture: the revision asked for has not been reached.
	ErrFuture = errors.New("revision is in the future")
	// ErrClosed: the store takes no more writes, Run has ended.
	ErrClosed = errors.New("the store is closed")
)

// Object is any API object with metadata. Objects that come out of a store are shared by all its readers and must
// never be changed: DeepCopy first. An object given to a store belongs to the store from then on.
type Object interface {
	runtime.Object
	metav1.Object
}

// Key names one object. Resource is the plural with its group, as in "pods" or "deployments.apps"; Namespace is empty
// for objects of the cluster. Keys order by resource, namespace, name.
type Key struct {
	Resource, Namespace, Name string
}

// Event is one committed write. Prev is nil when the object was created, Object is nil never: for a deletion it is the
// last state with the revision of the deletion as its resourceVersion.
type Event struct {
	Key      Key
	Revision int64
	Object   Object
	Prev     Object
	Deleted  bool
}

// Reader reads one consistent state.
type Reader interface {
	// Revision is that of the last write this state includes.
	Revision() int64
	// Get returns the object or ErrNotFound.
	Get(Key) (Object, error)
	// List walks the objects of a resource in key order, of one namespace or of all (""). after, when not zero, is the
	// key behind which to begin (paging).
	List(resource, namespace string, after Key) iter.Seq[Object]
	// ByIndex walks, in key order, the objects that the index has under value. See Index.
	ByIndex(resource, index, value string) iter.Seq[Object]
	// Count is the number of objects of a resource, in one namespace or all (""); it may walk the keys.
	Count(resource, namespace string) int
	// Stamp of a resource is equal (==) in two committed states only if both hold the same objects of it: who computed
	// something from them need not do it again. nil, in a transaction and for a state of the past, says nothing.
	Stamp(resource string) any
}

// Tx is a state with the writes made so far in an Update. Each write takes a revision of its own and sets it as the
// object's resourceVersion before it returns.
type Tx interface {
	Reader
	// Create adds an object or returns ErrExists. Its resourceVersion must be empty.
	Create(Key, Object) error
	// Put replaces an object: ErrNotFound without one, ErrConflict when UID or resourceVersion differ from the stored.
	Put(Key, Object) error
	// Delete removes an object: ErrNotFound; ErrConflict when uid or resourceVersion, where not empty, differ. It
	// returns the last state, carrying the revision of the deletion.
	Delete(key Key, uid, resourceVersion string) (Object, error)
}

// WatchOptions say what a watcher sees.
type WatchOptions struct {
	// Resources to see; empty means all.
	Resources []string
	// Namespace to see; empty means all.
	Namespace string
	// After is the revision behind which events begin.
	After int64
}

// Watcher hands out committed events in revision order, none twice, none left out. It is a cursor, not a goroutine:
// one caller at a time.
type Watcher interface {
	// Next waits until there is an event to see and returns all that are there, at most max. ErrCompacted when the
	// history has overtaken the cursor; the context's error when it ends first, in which case Revision may have moved.
	Next(ctx context.Context, max int) ([]Event, error)
	// Revision is that up to which this watcher has seen everything: what a bookmark may say.
	Revision() int64
	// Close frees the cursor. Next must not run at the same time.
	Close()
}

// Store is the desired and observed state of the cluster.
type Store interface {
	// View calls fn with the last committed state.
	View(fn func(Reader) error) error
	// ViewAt calls fn with the state at a revision: ErrCompacted when it is too old, ErrFuture when not reached. Whether a
	// resource's history reaches back is known only when fn reads it: after an error, what fn has gathered is void.
	ViewAt(revision int64, fn func(Reader) error) error
	// Update calls fn alone among writers and commits what it wrote, all or nothing, when it returns nil; it returns
	// after the writes are on the disk (see Index on volatile resources) and visible to View. fn must not
	// call out: no network, no sleeping, no other store method. It may be called again from the start. Before Run begins
	// it waits, after Run has ended it returns ErrClosed.
	Update(ctx context.Context, fn func(Tx) error) error
	// Watch begins behind a revision: ErrCompacted when it is too old, ErrFuture when not reached.
	Watch(WatchOptions) (Watcher, error)
	// ViewAndWatch calls fn with the last committed state and returns a watcher that begins right behind it.
	ViewAndWatch(opts WatchOptions, fn func(Reader) error) (Watcher, error)
	// Backup writes a consistent copy of everything while writes go on and returns the revision of the copy.
	Backup(ctx context.Context, w io.Writer) (int64, error)
	// Ready says why an Update would wait or fail for all writers (before Run, after it, on a full disk), or nil.
	Ready() error
	// Run owns the store's goroutines until ctx ends; then everything acknowledged or volatile is on the disk. Update
	// works only while it runs.
	Run(ctx context.Context) error
}

// Codec turns objects into the bytes kept on disk and back. Decode must not keep data: the buffer is used again.
type Codec interface {
	Encode(resource string, obj Object) ([]byte, error)
	Decode(resource string, data []byte) (Object, error)
}

// Index computes the values under which ByIndex finds an object; an object may have none or several.
type Index func(Object) []string

// Schema is what a store must know of the resources it keeps.
type Schema struct {
	Codec Codec
	// Indexes by resource and name.
	Indexes map[string]map[string]Index
	// OtherIndexes, by name, are those of resources that are not in Indexes: there may come more while the store is in use.
	OtherIndexes map[string]Index
	// Volatile resources (Events, Leases) are acknowledged once visible and reach the disk within a second: losing the
	// last ones in a power cut harms nobody, and cheap disks live longer.
	Volatile map[string]bool
	// Share, for resources that have it, may replace parts of an object by equal parts of its former state (nil for a new
	// one) or of other stored objects: none of them ever changes, and a thousand replicas need one template in memory. It
	// runs before anybody else sees the object, never twice at a time.
	Share map[string]func(old, object Object)
}

// IndexesOf are the indexes of a resource.
func (s *Schema) IndexesOf(resource string) map[string]Index {
	if indexes, ok := s.Indexes[resource]; ok {
		return indexes
	}
	return s.OtherIndexes
}

// Shared applies Share, if the resource has it. old may be nil.
func (s *Schema) Shared(resource string, old, object Object) {
	if share := s.Share[resource]; share != nil {
		share(old, object)
	}
}
