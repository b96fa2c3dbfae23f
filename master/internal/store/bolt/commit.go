package bolt

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"

	"github.com/whalepod/whalepod/master/internal/store"
)

// commitLoop is the committer.
func (s *Store) commitLoop(ctx context.Context) error {
	// A file cut short under us is a fault in the memory map: have it as a panic, which commit turns into an error.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	flush := time.NewTimer(time.Hour)
	flush.Stop()
	armed := false
	for n := 1; ; n++ {
		due := false
		select {
		case <-ctx.Done():
			return s.finish()
		case <-flush.C:
			due, armed = true, false
		case <-s.kick:
		}
		if err := s.commitNext(due); err != nil {
			return err
		}
		if n%dropEvery == 0 {
			dropPages(s.db)
		}
		// One timer for the oldest volatile write, none while there is nothing to flush.
		if !armed && s.hasDirty() {
			armed = true
			flush.Reset(s.cfg.FlushDelay)
		}
	}
}

func (s *Store) hasDirty() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.dirty) > 0
}

// finish is the orderly end: no more writes, everything to the disk, and the revision no longer reserved ahead.
func (s *Store) finish() error {
	s.mu.Lock()
	s.closed = store.ErrClosed
	s.mu.Unlock()
	err := s.commitNext(true)
	if err == nil {
		if err = s.hasDirtyErr(); err == nil {
			err = s.writeFile(batch{after: s.committed.Load(), exact: true})
		}
	}
	return errors.Join(err, s.closeDB())
}

func (s *Store) hasDirtyErr() error {
	if s.hasDirty() {
		return errors.New("store: the last events and leases could not be written, see the log")
	}
	return nil
}

// batch is what one bbolt transaction writes.
type batch struct {
	waiting []*pending
	txs     []*tx               // of waiting, those with events
	dirty   map[store.Key]write // volatile writes older than all of txs
	after   *state              // the state of the file afterwards
	exact   bool                // the end: no revisions are reserved ahead
}

func (s *Store) take(flush bool) batch {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := batch{waiting: s.queue, after: s.head}
	s.queue = nil
	for _, p := range b.waiting {
		if len(p.tx.events) > 0 {
			b.txs = append(b.txs, p.tx)
		}
		flush = flush || p.flush
	}
	if len(b.txs) > 0 || flush {
		b.dirty, s.dirty = s.dirty, make(map[store.Key]write)
	}
	s.inflight = len(b.txs) > 0
	s.committing = len(b.txs) > 0 || len(b.dirty) > 0
	return b
}

// commitNext writes whatever is queued. The error it returns is final; one that only concerns this batch goes to the
// writers in it.
func (s *Store) commitNext(flush bool) error {
	b := s.take(flush)
	if len(b.txs) == 0 && len(b.dirty) == 0 {
		for _, p := range b.waiting {
			p.done <- nil
		}
		return nil
	}
	err := s.writeFile(b)
	s.outcome(b, err)
	if err == nil {
		s.succeed(b)
		return nil
	}
	final := s.lost(b, err)
	s.fail(b, err, final)
	return final
}

// outcome remembers for Ready whether the disk takes writes, and logs when that changes.
func (s *Store) outcome(b batch, err error) {
	s.mu.Lock()
	before := s.failure
	s.failure = err
	s.mu.Unlock()
	switch {
	case before != nil && err == nil:
		s.log.Info("The store can be written again", "rev", b.after.revision)
	case before == nil && err != nil:
		s.log.Error("Cannot write the store; writes are refused until the disk takes them again", "err", err)
	}
}

func (s *Store) succeed(b batch) {
	s.mu.Lock()
	s.inflight, s.committing = false, false
	s.publish(b.txs...)
	s.mu.Unlock()
	for _, p := range b.waiting {
		p.done <- nil
	}
}

// fail answers the batch and everything queued since, which was built on it, and takes the head back to what is
// committed. The revisions are not used again: a failed transaction may have left traces in free pages.
func (s *Store) fail(b batch, err, final error) {
	s.mu.Lock()
	late := s.queue
	s.queue = nil
	if len(b.txs) == 0 { // only the flush failed: those who wait have nothing to do with it
		s.queue, late = late, nil
	} else {
		s.head = s.committed.Load()
	}
	s.inflight, s.committing = false, false
	maps.DeleteFunc(b.dirty, func(key store.Key, _ write) bool { _, newer := s.dirty[key]; return newer })
	maps.Copy(s.dirty, b.dirty)
	if final != nil {
		s.closed = final
		late, s.queue = append(late, s.queue...), nil
	} else if len(s.queue) > 0 {
		s.poke()
	}
	s.mu.Unlock()
	for _, p := range b.waiting {
		p.done <- err
	}
	for _, p := range late {
		p.done <- err
	}
}

// lost tells whether a failed transaction is in the file after all: the disk may fail at the very last step, when the
// new meta page is written but not known to be on the disk. Going on would mean answering "failed" for a write that a
// restart finds, so the store stops (and so does one whose file cannot even be read).
func (s *Store) lost(b batch, cause error) error {
	var fault *faultError
	if errors.As(cause, &fault) {
		return cause
	}
	revision := int64(-1)
	err := s.guard(func() error {
		return s.db.View(func(btx *bbolt.Tx) error {
			var err error
			revision, _, err = openRecord(metaBucket, metaRevision, btx.Bucket([]byte(metaBucket)).Get([]byte(metaRevision)))
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("store: %s cannot be read after a failed write: %w", s.cfg.Path, errors.Join(err, cause))
	}
	if revision == b.after.revision {
		return fmt.Errorf("store: the disk failed while the last page was written, restart to learn what is kept: %w", cause)
	}
	return nil
}

// writeFile is one bbolt transaction, on the disk when it returns nil.
func (s *Store) writeFile(b batch) error {
	s.mu.Lock()
	ceiling := s.ceiling
	s.mu.Unlock()
	revision := b.after.revision
	switch {
	case b.exact:
		ceiling = s.assigned // no writer is left
	case revision+reserve/2 > ceiling:
		ceiling = revision + reserve
	}
	err := s.guard(func() error {
		return s.db.Update(func(btx *bbolt.Tx) error { return writeBatch(btx, b, ceiling) })
	})
	if err != nil {
		return fmt.Errorf("store: cannot write %s: %w", s.cfg.Path, err)
	}
	s.mu.Lock()
	s.ceiling = ceiling
	s.mu.Unlock()
	return nil
}

func writeBatch(btx *bbolt.Tx, b batch, ceiling int64) error {
	buckets := make(map[string]*bbolt.Bucket)
	put := func(w write) error {
		bucket := buckets[w.key.Resource]
		if bucket == nil {
			var err error
			if bucket, err = btx.CreateBucketIfNotExists([]byte(w.key.Resource)); err != nil {
				return err
			}
			buckets[w.key.Resource] = bucket
		}
		if w.data == nil {
			return bucket.Delete([]byte(diskKey(w.key)))
		}
		return bucket.Put([]byte(diskKey(w.key)), w.data)
	}
	for _, w := range b.dirty {
		if err := put(w); err != nil {
			return err
		}
	}
	for _, t := range b.txs {
		for _, w := range t.writes {
			if err := put(w); err != nil {
				return err
			}
		}
	}
	meta := btx.Bucket([]byte(metaBucket))
	numbers := map[string]int64{metaRevision: b.after.revision, metaCeiling: ceiling}
	for resource := range buckets {
		numbers[metaCount+resource] = int64(b.after.Count(resource, ""))
	}
	for key, n := range numbers {
		if err := meta.Put([]byte(key), sealNumber(key, n)); err != nil {
			return err
		}
	}
	return nil
}

// faultError is a panic of bbolt, or a fault in its memory map: the file is not what it was.
type faultError struct{ cause any }

func (e *faultError) Error() string {
	return fmt.Sprintf("the file is damaged or was changed by someone else: %v", e.cause)
}

func (s *Store) guard(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = &faultError{r}
		}
	}()
	return fn()
}
