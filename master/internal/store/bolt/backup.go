package bolt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime/debug"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/whalepod/whalepod/master/internal/store"
)

// restoreBump is added to the revision of a restored copy. The store that is lost may have gone far beyond the copy, and
// a client must not take one of its revisions for one of ours: it gets 410 and lists again. etcd's documentation on
// restoring advises the same number for the same reason.
const restoreBump = 1_000_000_000

// Backup brings waiting volatile writes to the disk, then copies the file as of one transaction. A disk too full for the
// former does not prevent the copy.
func (s *Store) Backup(ctx context.Context, w io.Writer) (int64, error) {
	if err := s.flush(ctx); err != nil {
		if s.closedErr() != nil || ctx.Err() != nil {
			return 0, err
		}
		s.log.Warn("The backup leaves out the last events and leases", "err", err)
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	var revision int64
	err := s.guard(func() error {
		return s.db.View(func(btx *bbolt.Tx) error {
			var err error
			revision, _, err = openRecord(metaBucket, metaRevision, btx.Bucket([]byte(metaBucket)).Get([]byte(metaRevision)))
			if err != nil {
				return err
			}
			_, err = btx.WriteTo(&stoppable{w, func() error { return errors.Join(ctx.Err(), s.closedErr()) }})
			return err
		})
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = store.ErrClosed
	}
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // bbolt keeps only its text
		}
		return 0, fmt.Errorf("store: backup: %w", err)
	}
	return revision, nil
}

// flush waits until everything visible is in the file.
func (s *Store) flush(ctx context.Context) error {
	s.mu.Lock()
	// A commit under way may have taken volatile writes along that are not in the file yet: it is waited for.
	if s.closed != nil || !s.started || len(s.dirty) == 0 && !s.committing {
		defer s.mu.Unlock()
		return s.closed
	}
	p := s.enqueue(&tx{state: s.head})
	p.flush = true
	s.mu.Unlock()
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stoppable ends a copy to somebody who reads slowly when its context or the store ends: until then the pages that it
// holds cannot be used again, and the file not be closed. A Write that hangs for ever is for the writer's own deadline.
type stoppable struct {
	w    io.Writer
	stop func() error
}

func (c *stoppable) Write(p []byte) (int, error) {
	if err := c.stop(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}

// Restore checks a copy made by Backup and makes it the store at path, where nothing must be. The objects are the
// copy's, the revision is far ahead of it, so that whoever watched the lost store lists again.
func Restore(ctx context.Context, backup, path string) error {
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("store: %s exists already; move it away before a backup is restored in its place", path)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: %w", err)
	}
	err := replaceWith(path, func(temp string) error {
		if err := copyFile(ctx, backup, temp); err != nil {
			return fmt.Errorf("store: cannot copy the backup: %w", err)
		}
		c, err := read(temp, nil)
		if err != nil {
			return fmt.Errorf("store: the backup %s cannot be used: %w. Nothing was put in place", backup, err)
		}
		next := max(c.revision, c.ceiling) + restoreBump
		return editFile(temp, func(btx *bbolt.Tx) error {
			return btx.Bucket([]byte(metaBucket)).Put([]byte(metaCeiling), sealNumber(metaCeiling, next))
		})
	})
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("store: %s exists already; move it away before a backup is restored in its place", path)
	}
	return err
}

func copyFile(ctx context.Context, from, to string) error {
	src, err := openLocked(from) // the file of a running store is no backup
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(&stoppable{dst, ctx.Err}, src)
	return errors.Join(err, dst.Sync(), dst.Close())
}
