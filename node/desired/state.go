package desired

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Config of a State.
type Config struct {
	// Dir on the node's disk that is this package's alone. Empty: nothing is kept.
	Dir string
	Log *slog.Logger
}

type entry struct {
	object Object
	// generation of the snapshot that last spoke of the object.
	generation uint64
	revision   uint64
}

// State is the desired state. All methods are safe for concurrent use.
type State struct {
	log *slog.Logger

	mu       sync.RWMutex
	objects  map[Resource]map[string]entry
	revision uint64
	mark     uint64
	// complete: what is here is all there is (told by the master, or read whole from disk).
	complete bool
	// restored: there was something on disk.
	restored bool
	// snapshot counts Begins; inSnapshot lasts from Begin to Complete.
	snapshot   uint64
	inSnapshot bool
	subs       []*Subscription
	disk       *journal
	retry      *time.Timer // of a disk that refused
}

// Open reads what is on disk. Damage costs only the objects it hit: they are logged and left out, and the state then
// does not count as complete, so that nothing is ended for being unknown.
func Open(cfg Config) (*State, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &State{log: cfg.Log.With("component", "desired"), objects: map[Resource]map[string]entry{}}
	if cfg.Dir == "" {
		return s, nil
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("desired state: %w", err)
	}
	j, damaged, err := openJournal(filepath.Join(cfg.Dir, journalName), s.log, s.load)
	if err != nil {
		return nil, fmt.Errorf("desired state: %w", err)
	}
	if damaged {
		s.complete = false
	}
	s.disk = j
	j.lost = s.rewrite
	return s, nil
}

// load takes one record from disk.
func (s *State) load(r record) {
	s.restored = true
	switch {
	case r.kind == recordComplete:
		s.complete, s.revision = true, r.revision
	case r.object == nil:
		delete(s.objects[r.resource], r.key)
	default:
		s.put(r.resource, r.key, entry{object: r.object, revision: r.revision})
	}
}

func (s *State) put(r Resource, key string, e entry) {
	m := s.objects[r]
	if m == nil {
		m = map[string]entry{}
		s.objects[r] = m
	}
	m[key] = e
}

// Begin starts a snapshot: until Complete, Apply tells what there is.
func (s *State) Begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.snapshot++
	s.inSnapshot = true
}

// Apply takes a batch of changes. The objects belong to the State afterwards. An error means that the disk refused
// them; memory has them all the same.
func (s *State) Apply(changes []Change) error {
	refs := make([]Ref, 0, len(changes))
	records := make([]record, 0, len(changes))
	s.mu.Lock()
	for _, c := range changes {
		c.Resource = c.Resource.bare()
		if constructors[c.Resource] == nil {
			continue // a newer master speaks of kinds this agent does not know
		}
		s.revision = max(s.revision, c.Revision)
		if c.Object == nil {
			if _, ok := s.objects[c.Resource][c.Key]; !ok {
				continue
			}
			delete(s.objects[c.Resource], c.Key)
		} else {
			c.Object.SetManagedFields(nil) // nobody on a node reads them, and they are half of an object's memory
			s.put(c.Resource, c.Key, entry{object: c.Object, generation: s.snapshot, revision: c.Revision})
		}
		refs = append(refs, Ref{c.Resource, c.Key})
		records = append(records, record{resource: c.Resource, key: c.Key, object: c.Object, revision: c.Revision})
	}
	err := s.append(records)
	s.poke(refs)
	s.mu.Unlock()
	return err
}

// Complete ends a snapshot: what it did not speak of is gone. From now on Completed is true.
func (s *State) Complete(revision uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var refs []Ref
	var records []record
	if s.inSnapshot {
		for r, m := range s.objects {
			for key, e := range m {
				if e.generation < s.snapshot {
					delete(m, key)
					refs = append(refs, Ref{r, key})
					records = append(records, record{resource: r, key: key})
				}
			}
		}
	}
	s.inSnapshot = false
	s.revision = max(s.revision, revision)
	first := !s.complete
	s.complete = true
	records = append(records, record{kind: recordComplete, revision: s.revision})
	err := s.append(records)
	if first {
		refs = append(refs, Ref{Resource: Pods}) // wakes those who wait for completeness
	}
	s.poke(refs)
	return err
}

// append writes to disk, and writes the file anew when most of it is history or something is missing in it. Call with mu held.
func (s *State) append(records []record) error {
	if s.disk == nil || len(records) == 0 {
		return nil
	}
	err := s.disk.append(records)
	if s.disk.wantsCompaction() {
		missing := s.disk.isBehind()
		cerr := s.disk.compact(s.all())
		if missing && cerr == nil { // now it is there
			err = nil
		}
		err = errors.Join(err, cerr)
	}
	if err != nil {
		s.log.Error("desired state could not be kept on disk", "err", err)
		s.retryLater()
	}
	return err
}

// retryLater to write what the disk refused, if something is missing there. Call with mu held.
func (s *State) retryLater() {
	if s.retry == nil && s.disk.isBehind() {
		s.retry = time.AfterFunc(retryDelay, s.rewrite)
	}
}

// rewrite the file if something is missing in it: nothing that the disk refused is lost as long as the agent runs.
func (s *State) rewrite() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retry = nil
	if s.disk == nil || !s.disk.isBehind() {
		return
	}
	if err := s.disk.compact(s.all()); err != nil {
		s.log.Debug("desired state still cannot be kept on disk", "err", err)
		s.retryLater()
		return
	}
	s.log.Info("desired state is on the disk again")
}

// all lists the whole state as records. Call with mu held.
func (s *State) all() []record {
	var out []record
	for r, m := range s.objects {
		for key, e := range m {
			out = append(out, record{resource: r, key: key, object: e.object, revision: e.revision})
		}
	}
	if s.complete {
		out = append(out, record{kind: recordComplete, revision: s.revision})
	}
	return out
}

// Completed tells whether the state is whole: what is not here is not wanted on this node.
func (s *State) Completed() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.complete
}

// Usable tells whether there is enough to act on: a whole state, or what is left of one on disk. While the first snapshot
// is still coming in there is not, for a pod may be here before the services and config maps that it needs.
func (s *State) Usable() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.complete || s.restored
}

// Revision of the newest change.
func (s *State) Revision() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.revision
}

// Mark notes that the master wants to hear when all that was applied up to now is in force. It wakes those who follow Services
// or EndpointSlices.
func (s *State) Mark(mark uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mark = mark
	for _, sub := range s.subs {
		if slices.Contains(sub.resources, EndpointSlices) {
			sub.poke()
		}
	}
}

// Marked is the last mark. Whoever reads it before Take has taken all that was applied before the mark.
func (s *State) Marked() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.mark
}

// Close writes what is pending and closes the file.
func (s *State) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.disk == nil {
		return nil
	}
	if s.retry != nil {
		s.retry.Stop()
	}
	err := s.disk.close()
	s.disk = nil
	return err
}

func get[T Object](s *State, r Resource, key string) (T, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	o, ok := s.objects[r][key].object.(T)
	return o, ok
}

// list returns all objects of a resource in the order of their keys.
func list[T Object](s *State, r Resource) []T {
	type keyed struct {
		key    string
		object T
	}
	s.mu.RLock()
	all := make([]keyed, 0, len(s.objects[r]))
	for key, e := range s.objects[r] {
		if o, ok := e.object.(T); ok {
			all = append(all, keyed{key, o})
		}
	}
	s.mu.RUnlock()
	slices.SortFunc(all, func(a, b keyed) int { return cmp.Compare(a.key, b.key) })
	out := make([]T, len(all))
	for i := range all {
		out[i] = all[i].object
	}
	return out
}
