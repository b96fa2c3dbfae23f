package bolt

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// lockWait is how long bbolt tries for its lock. The answer is known before (see lockShared); this is for the instant
// between the check and the opening.
const lockWait = time.Second

// ownerSuffix names the note beside the file that says which process has it. The lock is flock(2) on the file itself;
// the note only serves the message.
const ownerSuffix = ".pid"

// openDB opens a file that was checked. The list of free pages is not kept in the file: it is one more thing to write
// with each transaction and to be damaged, and the file is read as a whole at the start anyway.
func openDB(path string, mapped int) (db *bbolt.DB, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = damaged(path, fmt.Sprint(r))
		}
	}()
	if strconv.IntSize < 64 {
		mapped = 0 // address space is scarce
	}
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{
		Timeout: lockWait, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true, InitialMmapSize: mapped,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("store: %w", inUse(path))
	}
	if err != nil {
		return nil, fmt.Errorf("store: cannot open %s: %w", path, err)
	}
	return db, nil
}

// damaged is the one answer to a file that is not what we wrote.
func damaged(path, what string) error {
	return fmt.Errorf("store: %s is damaged: %s. Nothing was changed in it. "+
		"To go on, move it away and start from a backup: wp-master --restore FILE", path, what)
}

func inUse(path string) error {
	who := "another wp-master"
	if pid, err := os.ReadFile(path + ownerSuffix); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(pid))); err == nil {
			who = fmt.Sprintf("another wp-master (pid %d)", n)
		}
	}
	return fmt.Errorf("%s is in use: %s is running on it. Stop that one first, or give this one a directory of its own", path, who)
}

func noteOwner(path string) {
	// Without the note the message is less precise, that is all.
	_ = os.WriteFile(path+ownerSuffix, []byte(strconv.Itoa(os.Getpid())+"\n"), 0o600)
}

func forgetOwner(path string) { _ = os.Remove(path + ownerSuffix) }

// openLocked opens a file for reading, refusing one that a master has open.
func openLocked(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, inUse(path)
	}
	return nil, fmt.Errorf("cannot lock %s: %w", path, err)
}

// ensureFile makes an empty store where there is no file at all. An empty file is not taken for a new store: a cluster
// that has lost its state must not come up as one without pods, which every agent would then end.
func ensureFile(path string) error {
	_, err := os.Stat(path)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: %w", err)
	}
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	err = replaceWith(path, func(temp string) error {
		return editFile(temp, func(btx *bbolt.Tx) error {
			meta, err := btx.CreateBucket([]byte(metaBucket))
			if err != nil {
				return err
			}
			for key, record := range map[string][]byte{
				metaFormat:   sealNumber(metaFormat, formatVersion),
				metaID:       sealRecord(metaBucket, metaID, 0, []byte(hex.EncodeToString(id))),
				metaRevision: sealNumber(metaRevision, 1),
				metaCeiling:  sealNumber(metaCeiling, 1),
			} {
				if err := meta.Put([]byte(key), record); err != nil {
					return err
				}
			}
			return nil
		})
	})
	if errors.Is(err, fs.ErrExist) { // somebody was quicker: load will find out who
		return nil
	}
	return err
}

func editFile(path string, fn func(*bbolt.Tx) error) error {
	db, err := openDB(path, 0)
	if err != nil {
		return err
	}
	return errors.Join(db.Update(fn), db.Close())
}

// replaceWith makes a file under another name and gives it its own only when it is whole and on the disk. It never
// replaces an existing one (fs.ErrExist).
func replaceWith(path string, fill func(temp string) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store: %w", err)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	temp := f.Name()
	defer os.Remove(temp)
	if err := errors.Join(f.Close(), fill(temp)); err != nil {
		return err
	}
	if err := os.Link(temp, path); err != nil { // unlike rename, it fails when path exists
		return fmt.Errorf("store: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}
