package storetest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/whalepod/whalepod/master/internal/store"
)

func watch(t *testing.T, s store.Store, opts store.WatchOptions) store.Watcher {
	t.Helper()
	w, err := s.Watch(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

func testWatch(t *testing.T, s store.Store) {
	w := watch(t, s, store.WatchOptions{Resources: []string{Pods}, After: revision(t, s)})
	set(t, s, web, "a")
	set(t, s, web, "b")
	remove(t, s, web)
	events := collect(t, t.Context(), w, 3)
	created, changed, deleted := events[0], events[1], events[2]
	if created.Prev != nil || created.Deleted || Value(created.Object) != "a" || created.Key != web {
		t.Errorf("created: %v", created)
	}
	if changed.Prev != created.Object || changed.Deleted || Value(changed.Object) != "b" {
		t.Errorf("changed: %v", changed)
	}
	if deleted.Prev != changed.Object || !deleted.Deleted || Value(deleted.Object) != "b" {
		t.Errorf("deleted: %v", deleted)
	}
	for _, e := range events {
		if number(t, e.Object.GetResourceVersion()) != e.Revision {
			t.Errorf("object of event %d has version %s", e.Revision, e.Object.GetResourceVersion())
		}
	}
	if w.Revision() != deleted.Revision {
		t.Errorf("watcher is at %d, the last event at %d", w.Revision(), deleted.Revision)
	}
	// One that waits is woken.
	done := make(chan error, 1)
	go func() { _, err := w.Next(t.Context(), 1); done <- err }()
	set(t, s, web, "c")
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func testWatchFilters(t *testing.T, s store.Store) {
	at := revision(t, s)
	pods := watch(t, s, store.WatchOptions{Resources: []string{Pods}, Namespace: "a", After: at})
	for _, key := range []store.Key{Key(Pods, "b", "x"), Key(Maps, "a", "x"), Key(Nodes, "", "x"), Key(Pods, "a", "x"), Key(Pods, "c", "x")} {
		set(t, s, key, "v")
	}
	if events := collect(t, t.Context(), pods, 1); len(events) != 1 || events[0].Key != Key(Pods, "a", "x") {
		t.Errorf("saw %v", events)
	}
	all := watch(t, s, store.WatchOptions{After: at})
	if events := collect(t, t.Context(), all, 5); len(events) != 5 {
		t.Errorf("saw %v", events)
	}
}

func testWatchMerges(t *testing.T, s store.Store) {
	at := revision(t, s)
	w := watch(t, s, store.WatchOptions{Resources: []string{Pods, Nodes, Maps, Pods}, After: at})
	all := watch(t, s, store.WatchOptions{After: at})
	done := make(chan []store.Event, 2)
	const n = 60
	for _, w := range []store.Watcher{w, all} {
		go func() {
			var out []store.Event
			for len(out) < n {
				events, err := w.Next(t.Context(), 7)
				if err != nil {
					t.Error(err)
					break
				}
				out = append(out, events...)
			}
			done <- out
		}()
	}
	for i := range n {
		set(t, s, Key([]string{Pods, Nodes, Maps}[i%3], "", fmt.Sprint(i%10)), fmt.Sprint(i))
	}
	for range 2 {
		events := <-done
		for i, e := range events {
			if Value(e.Object) != fmt.Sprint(i) {
				t.Fatalf("event %d is %v", i, e)
			}
		}
		if len(events) != n {
			t.Fatalf("%d events", len(events))
		}
	}
}

func testWatchMax(t *testing.T, s store.Store) {
	at := revision(t, s)
	for i := range 25 {
		set(t, s, Key(Pods, "a", fmt.Sprint(i)), "v")
	}
	w := watch(t, s, store.WatchOptions{After: at})
	for seen := 0; seen < 25; {
		events, err := w.Next(t.Context(), 4)
		if err != nil || len(events) == 0 || len(events) > 4 {
			t.Fatalf("%d events, %v", len(events), err)
		}
		if w.Revision() != events[len(events)-1].Revision {
			t.Fatalf("watcher at %d has seen up to %d", w.Revision(), events[len(events)-1].Revision)
		}
		for _, e := range events {
			if e.Key.Name != fmt.Sprint(seen) {
				t.Fatalf("event %d is %v", seen, e)
			}
			seen++
		}
	}
}

func testWatchBookmark(t *testing.T, s store.Store) {
	w := watch(t, s, store.WatchOptions{Resources: []string{Pods}, After: revision(t, s)})
	set(t, s, Key(Maps, "a", "m"), "v")
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Next(ended, 0); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if w.Revision() != revision(t, s) {
		t.Fatalf("a watcher that has nothing to see is at %d, the store at %d", w.Revision(), revision(t, s))
	}
	set(t, s, web, "a")
	if events := collect(t, t.Context(), w, 1); Value(events[0].Object) != "a" {
		t.Fatalf("saw %v", events)
	}
}

func testWatchRevisions(t *testing.T, s store.Store) {
	start := revision(t, s)
	set(t, s, web, "a")
	_, err := s.Watch(store.WatchOptions{After: revision(t, s) + 1})
	wantErr(t, err, store.ErrFuture)
	_, err = s.Watch(store.WatchOptions{After: start - 1})
	wantErr(t, err, store.ErrCompacted)
	_, err = s.Watch(store.WatchOptions{Resources: []string{"never seen"}, After: start - 1})
	wantErr(t, err, store.ErrCompacted)
	if w := watch(t, s, store.WatchOptions{After: start}); len(collect(t, t.Context(), w, 1)) != 1 {
		t.Error("nothing after the start")
	}
}

// testOvertaken writes until the history has lost what a watcher has not read. It must be told, and not skip the gap.
func testOvertaken(t *testing.T, s store.Store) {
	start := revision(t, s)
	set(t, s, Key(Maps, "a", "quiet"), "v")
	slow := watch(t, s, store.WatchOptions{Resources: []string{Pods}, After: start})
	merged := watch(t, s, store.WatchOptions{Resources: []string{Pods, Maps}, After: start})
	quiet := watch(t, s, store.WatchOptions{Resources: []string{Maps}, After: start})
	set(t, s, web, "first")
	behind := revision(t, s) // one event further: it, too, is overtaken some time
	for round := 0; ; round++ {
		update(t, s, func(tx store.Tx) error {
			for i := range 500 {
				if _, err := Set(tx, web, fmt.Sprint(round, i)); err != nil {
					return err
				}
			}
			return nil
		})
		_, err := s.Watch(store.WatchOptions{Resources: []string{Pods}, After: behind})
		if errors.Is(err, store.ErrCompacted) {
			break
		}
		if err != nil || round > 10000 {
			t.Fatalf("round %d: %v", round, err)
		}
	}
	for name, w := range map[string]store.Watcher{"one resource": slow, "two resources": merged} {
		if events, err := w.Next(t.Context(), 10); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("%s: overtaken watcher got %d events, %v", name, len(events), err)
		}
	}
	err := s.ViewAt(behind, func(r store.Reader) error {
		for range r.List(Pods, "", store.Key{}) {
			continue
		}
		return nil
	})
	wantErr(t, err, store.ErrCompacted)
	if events := collect(t, t.Context(), quiet, 1); events[0].Key.Resource != Maps {
		t.Errorf("a quiet resource: %v", events)
	}
}

func testConcurrent(t *testing.T, s store.Store) {
	checkConcurrent(t, s, 8, 80, func(writer, i int) store.Key {
		return Key([]string{Pods, Maps, Nodes}[i%3], "", fmt.Sprintf("w%d-%d", writer, i%5))
	})
}

// checkConcurrent has writers write and watchers watch at the same time. Each watcher must see each write that was
// acknowledged once, in the order of revisions, and View must never be behind an acknowledgement.
func checkConcurrent(t *testing.T, s store.Store, writers, each int, key func(writer, i int) store.Key) {
	var (
		start    = revision(t, s)
		mu       sync.Mutex
		acked    = make(map[int64]string)
		watchers sync.WaitGroup
		all      = make([][]store.Event, 4)
	)
	for i := range all {
		w := watch(t, s, store.WatchOptions{After: start})
		watchers.Go(func() { all[i] = collect(t, t.Context(), w, writers*each) })
	}
	var wg sync.WaitGroup
	for writer := range writers {
		wg.Go(func() {
			for i := range each {
				value := fmt.Sprintf("%d-%d", writer, i)
				var version string
				err := s.Update(t.Context(), func(tx store.Tx) (err error) {
					version, err = Set(tx, key(writer, i), value)
					return err
				})
				if err != nil {
					t.Error(err)
					return
				}
				rev := number(t, version)
				if now := revision(t, s); now < rev {
					t.Errorf("acknowledged %d, View shows %d", rev, now)
				}
				mu.Lock()
				acked[rev] = value
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	watchers.Wait()
	for i, events := range all {
		last := start
		for _, e := range events {
			if e.Revision <= last {
				t.Fatalf("watcher %d: revision %d after %d", i, e.Revision, last)
			}
			last = e.Revision
			if acked[e.Revision] != Value(e.Object) {
				t.Fatalf("watcher %d: event %d is %q, acknowledged was %q", i, e.Revision, Value(e.Object), acked[e.Revision])
			}
		}
		if len(events) != len(acked) {
			t.Fatalf("watcher %d saw %d of %d writes", i, len(events), len(acked))
		}
	}
}

// testViewAndWatch takes snapshots in the midst of writes; snapshot and events must add up to the final state.
func testViewAndWatch(t *testing.T, s store.Store) {
	var writers, readers sync.WaitGroup
	final := Key(Pods, "z", "final")
	for writer := range 4 {
		writers.Go(func() {
			for i := range 100 {
				key := Key(Pods, fmt.Sprint(writer), fmt.Sprint(i%9))
				err := s.Update(t.Context(), func(tx store.Tx) error {
					if _, err := tx.Get(key); err == nil && i%4 == 3 {
						_, err = tx.Delete(key, "", "")
						return err
					}
					_, err := Set(tx, key, fmt.Sprint(i))
					return err
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 6 {
		readers.Go(func() {
			mirror := make(map[store.Key]string)
			w, err := s.ViewAndWatch(store.WatchOptions{Resources: []string{Pods}}, func(r store.Reader) error {
				for o := range r.List(Pods, "", store.Key{}) {
					mirror[Key(Pods, o.GetNamespace(), o.GetName())] = o.GetResourceVersion()
				}
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
			defer w.Close()
			for mirror[final] == "" {
				events, err := w.Next(t.Context(), 0)
				if err != nil {
					t.Error(err)
					return
				}
				for _, e := range events {
					before := ""
					if e.Prev != nil {
						before = e.Prev.GetResourceVersion()
					}
					if mirror[e.Key] != before {
						t.Errorf("event %d follows %q, the mirror is at %q: a gap", e.Revision, before, mirror[e.Key])
					}
					if delete(mirror, e.Key); !e.Deleted {
						mirror[e.Key] = e.Object.GetResourceVersion()
					}
				}
			}
			view(t, s, func(r store.Reader) {
				if n := r.Count(Pods, ""); n != len(mirror) {
					t.Errorf("mirror has %d pods of %d", len(mirror), n)
				}
			})
		})
	}
	writers.Wait()
	set(t, s, final, "v")
	readers.Wait()
	boom := errors.New("boom")
	_, err := s.ViewAndWatch(store.WatchOptions{}, func(store.Reader) error { return boom })
	wantErr(t, err, boom)
}
