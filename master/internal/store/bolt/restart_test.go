package bolt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.etcd.io/bbolt"

	"github.com/whalepod/whalepod/master/internal/store"
	"github.com/whalepod/whalepod/master/internal/store/storetest"
)

var (
	pod   = storetest.Key(storetest.Pods, "default", "web")
	event = storetest.Key(storetest.Events, "default", "web.1")
)

func put(t testing.TB, s *Store, key store.Key, value string) {
	t.Helper()
	err := s.Update(context.Background(), func(tx store.Tx) error { _, err := storetest.Set(tx, key, value); return err })
	if err != nil {
		t.Fatal(err)
	}
}

func value(t testing.TB, s *Store, key store.Key) (out string) {
	t.Helper()
	_ = s.View(func(r store.Reader) error {
		if o, err := r.Get(key); err == nil {
			out = storetest.Value(o)
		}
		return nil
	})
	return out
}

func revision(s *Store) int64 { return s.committed.Load().revision }

func TestCleanRestartKeepsTheRevision(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	stop := run(t, s)
	put(t, s, pod, "n1")
	put(t, s, event, "volatile, and not flushed yet")
	at, id := revision(s), s.ID()
	stop()
	if _, err := os.Stat(cfg.Path + ownerSuffix); err == nil {
		t.Error("the owner's note is still there")
	}
	err := s.Update(t.Context(), func(store.Tx) error { return nil })
	if !errors.Is(err, store.ErrClosed) {
		t.Errorf("Update after Run: %v", err)
	}
	if _, err := s.Backup(t.Context(), new(bytes.Buffer)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Backup after Run: %v", err)
	}

	s = start(t, cfg)
	if revision(s) != at || s.ID() != id || len(id) != 32 {
		t.Errorf("revision %d, was %d; id %q, was %q", revision(s), at, s.ID(), id)
	}
	if value(t, s, pod) != "n1" || value(t, s, event) == "" {
		t.Error("objects are lost")
	}
	_ = s.View(func(r store.Reader) error {
		for range r.ByIndex(storetest.Pods, storetest.ByNode, "n1") {
			return nil
		}
		t.Error("the index is lost")
		return nil
	})
	if _, err := s.Watch(store.WatchOptions{After: at - 1}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("watch from before the restart: %v", err)
	}
	if _, err := s.Watch(store.WatchOptions{After: at}); err != nil {
		t.Errorf("watch from the restart on: %v", err)
	}
}

func TestFlushWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t)
		s := open(t, cfg)
		stop := run(t, s)
		put(t, s, pod, "n1") // reserves revisions
		put(t, s, event, "x")
		if inFile(t, s, event) {
			t.Error("a volatile write went to the disk at once")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if !inFile(t, s, event) {
			t.Error("a volatile write is not on the disk after a second")
		}
		put(t, s, event, "y")
		put(t, s, pod, "n2")
		if !inFile(t, s, event) || len(s.dirty) > 0 {
			t.Error("a durable write did not take the volatile ones along")
		}
		stop()
	})
}

func inFile(t *testing.T, s *Store, key store.Key) (there bool) {
	t.Helper()
	err := s.db.View(func(btx *bbolt.Tx) error {
		b := btx.Bucket([]byte(key.Resource))
		there = b != nil && b.Get([]byte(diskKey(key))) != nil
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return there
}

// TestVolatileRevisionsAreNotReused copies the file while the store runs, which is what a power cut leaves.
func TestVolatileRevisionsAreNotReused(t *testing.T) {
	cfg := config(t)
	cfg.FlushDelay = time.Hour
	s := start(t, cfg)
	put(t, s, pod, "n1")
	for i := range 3 * reserve {
		put(t, s, event, fmt.Sprint(i))
	}
	data, err := os.ReadFile(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	crashed := config(t)
	writeTo(t, crashed.Path, data)
	after := start(t, crashed)
	if revision(after) < revision(s) {
		t.Errorf("starts at %d, but %d was seen", revision(after), revision(s))
	}
	if _, err := after.Watch(store.WatchOptions{After: revision(s)}); err == nil && revision(after) != revision(s) {
		t.Error("a watcher of the lost revisions is not told")
	}
}

func writeTo(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWithoutRun(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	waiting := make(chan error, 1)
	go func() { waiting <- s.Update(t.Context(), func(store.Tx) error { return nil }) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
	if err := s.Run(t.Context()); !errors.Is(err, store.ErrClosed) {
		t.Error(err)
	}
	open(t, cfg)
}

func TestModes(t *testing.T) {
	cfg := config(t)
	open(t, cfg)
	for path, want := range map[string]os.FileMode{cfg.Path: 0o600, filepath.Dir(cfg.Path): 0o700, cfg.Path + ownerSuffix: 0o600} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
	left, _ := filepath.Glob(filepath.Join(filepath.Dir(cfg.Path), ".*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestSecondOpenIsRefused(t *testing.T) {
	cfg := config(t)
	start(t, cfg)
	_, err := Open(cfg)
	if err == nil {
		t.Fatal("two stores on one file")
	}
	for _, want := range []string{cfg.Path, "another wp-master", fmt.Sprintf("pid %d", os.Getpid()), "Stop"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if err := Restore(t.Context(), cfg.Path, filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("the file of a running store was taken for a backup")
	}
}

func TestBackupAndRestore(t *testing.T) {
	cfg := config(t)
	cfg.FlushDelay = time.Hour
	s := start(t, cfg)
	for i := range 500 {
		put(t, s, storetest.Key(storetest.Maps, "default", fmt.Sprint("m", i)), strings.Repeat("x", i*20))
	}
	put(t, s, event, "volatile")
	ctx, cancel := context.WithCancel(t.Context())
	writing := make(chan struct{})
	go func() { // writes go on meanwhile
		defer close(writing)
		for ctx.Err() == nil {
			_ = s.Update(ctx, func(tx store.Tx) error { _, err := storetest.Set(tx, pod, "n1"); return err })
		}
	}()
	var buf bytes.Buffer
	at, err := s.Backup(t.Context(), &buf)
	cancel()
	<-writing
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	backup := filepath.Join(dir, "backup")
	writeTo(t, backup, buf.Bytes())
	if err := Restore(t.Context(), backup, cfg.Path); err == nil || !strings.Contains(err.Error(), "exists already") {
		t.Errorf("restored over a store: %v", err)
	}
	restored := Config{Path: filepath.Join(dir, "new", "store.db"), Schema: cfg.Schema}
	if err := Restore(t.Context(), backup, restored.Path); err != nil {
		t.Fatal(err)
	}
	r := start(t, restored)
	if r.ID() != s.ID() || value(t, r, event) != "volatile" || value(t, r, storetest.Key(storetest.Maps, "default", "m499")) == "" {
		t.Error("the restored store is not the one backed up")
	}
	if revision(r) < at+restoreBump {
		t.Errorf("restored at %d from %d", revision(r), at)
	}
	if _, err := r.Watch(store.WatchOptions{After: revision(s)}); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("a watcher of the lost store: %v", err)
	}
	put(t, r, pod, "n3")

	cut := filepath.Join(dir, "cut")
	writeTo(t, cut, buf.Bytes()[:buf.Len()/2])
	target := filepath.Join(dir, "other", "store.db")
	err = Restore(t.Context(), cut, target)
	if err == nil || !strings.Contains(err.Error(), "cut short") || !strings.Contains(err.Error(), cut) {
		t.Errorf("half a backup: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "other", "*")); len(left) > 0 {
		t.Errorf("half a backup left %v", left)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Restore(ended, backup, target); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.Backup(ended, new(bytes.Buffer)); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// Volatile writes that a commit under way has taken along are in a backup that begins meanwhile.
func TestBackupWaitsForTheCommitUnderWay(t *testing.T) {
	cfg := config(t)
	cfg.FlushDelay = time.Hour
	s := start(t, cfg)
	put(t, s, pod, "n0") // the first write of all reserves revisions, and is never volatile
	put(t, s, event, "volatile")
	held, err := s.db.Begin(true) // the commit will wait for this transaction
	if err != nil {
		t.Fatal(err)
	}
	written := make(chan error, 1)
	go func() {
		written <- s.Update(context.Background(), func(tx store.Tx) error { _, err := storetest.Set(tx, pod, "n1"); return err })
	}()
	for committing := false; !committing; goruntime.Gosched() {
		s.mu.Lock()
		committing = s.committing
		s.mu.Unlock()
	}
	var buf bytes.Buffer
	saved := make(chan error, 1)
	go func() {
		_, err := s.Backup(context.Background(), &buf)
		saved <- err
	}()
	for queued := false; !queued; goruntime.Gosched() { // until it waits, or has ended too early
		s.mu.Lock()
		queued = len(s.queue) > 0 || len(saved) > 0
		s.mu.Unlock()
	}
	if err := held.Rollback(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(<-written, <-saved); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	backup := filepath.Join(dir, "backup")
	writeTo(t, backup, buf.Bytes())
	restored := Config{Path: filepath.Join(dir, "new", "store.db"), Schema: cfg.Schema}
	if err := Restore(t.Context(), backup, restored.Path); err != nil {
		t.Fatal(err)
	}
	if got := value(t, start(t, restored), event); got != "volatile" {
		t.Errorf("the event is %q in the backup", got)
	}
}
