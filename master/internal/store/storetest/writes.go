package storetest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/whalepod/whalepod/master/internal/store"
)

var web = Key(Pods, "default", "web")

func testWrites(t *testing.T, s store.Store) {
	if get(t, s, web) != nil {
		t.Fatal("a new store has a pod")
	}
	before := revision(t, s)
	first := set(t, s, web, "a")
	if first <= before || revision(t, s) != first {
		t.Fatalf("revision %d, then %d and store at %d", before, first, revision(t, s))
	}
	if o := get(t, s, web); Value(o) != "a" || number(t, o.GetResourceVersion()) != first {
		t.Fatalf("got %q at %s", Value(o), o.GetResourceVersion())
	}
	second := set(t, s, web, "b")
	if o := get(t, s, web); second <= first || Value(o) != "b" {
		t.Fatalf("got %q at %d after %d", Value(o), second, first)
	}
	var last store.Object
	update(t, s, func(tx store.Tx) (err error) { last, err = tx.Delete(web, "", ""); return err })
	if Value(last) != "b" || number(t, last.GetResourceVersion()) <= second {
		t.Fatalf("deletion returned %q at %s", Value(last), last.GetResourceVersion())
	}
	if get(t, s, web) != nil {
		t.Fatal("a deleted pod is there")
	}
}

func testConflicts(t *testing.T, s store.Store) {
	set(t, s, web, "a")
	version := get(t, s, web).GetResourceVersion()
	old := version
	set(t, s, web, "b")
	version = get(t, s, web).GetResourceVersion()
	object := func(uid, version string) store.Object {
		o := New(web, "c")
		if uid != "" {
			o.SetUID(store.Object(New(Key(Pods, "", uid), "")).GetUID())
		}
		o.SetResourceVersion(version)
		return o
	}
	uid := string(object("", "").GetUID())
	other := Key(Pods, "default", "other")
	for name, c := range map[string]struct {
		want error
		fn   func(store.Tx) error
	}{
		"create twice":          {store.ErrExists, func(tx store.Tx) error { return tx.Create(web, object("", "")) }},
		"put nothing":           {store.ErrNotFound, func(tx store.Tx) error { return tx.Put(other, object("", version)) }},
		"put an old version":    {store.ErrConflict, func(tx store.Tx) error { return tx.Put(web, object("", old)) }},
		"put without a version": {store.ErrConflict, func(tx store.Tx) error { return tx.Put(web, object("", "")) }},
		"put another uid":       {store.ErrConflict, func(tx store.Tx) error { return tx.Put(web, object("x", version)) }},
		"delete nothing":        {store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Delete(other, "", ""); return err }},
		"delete an old version": {store.ErrConflict, func(tx store.Tx) error { _, err := tx.Delete(web, "", old); return err }},
		"delete another uid":    {store.ErrConflict, func(tx store.Tx) error { _, err := tx.Delete(web, "x", ""); return err }},
		"read nothing":          {store.ErrNotFound, func(tx store.Tx) error { _, err := tx.Get(other); return err }},
		"delete right, then none": {store.ErrNotFound, func(tx store.Tx) error {
			if _, err := tx.Delete(web, uid, version); err != nil {
				return fmt.Errorf("the right uid and version: %w", err)
			}
			_, err := tx.Delete(web, "", "")
			return err
		}},
	} {
		if err := s.Update(t.Context(), c.fn); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if o := get(t, s, web); o == nil || Value(o) != "b" || o.GetResourceVersion() != version {
			t.Fatalf("%s left a trace: %v", name, o)
		}
	}
	err := s.Update(t.Context(), func(tx store.Tx) error {
		o := New(other, "a")
		o.SetResourceVersion("7")
		return tx.Create(other, o)
	})
	if err == nil {
		t.Error("an object with a resourceVersion was created")
	}
}

func testRollback(t *testing.T, s store.Store) {
	set(t, s, web, "a")
	before := revision(t, s)
	w, err := s.Watch(store.WatchOptions{After: before})
	if err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err = s.Update(t.Context(), func(tx store.Tx) error {
		for _, key := range []store.Key{web, Key(Maps, "default", "m"), Key(Pods, "default", "new")} {
			if _, err := Set(tx, key, "b"); err != nil {
				return err
			}
		}
		return boom
	})
	wantErr(t, err, boom)
	if revision(t, s) != before || Value(get(t, s, web)) != "a" || get(t, s, Key(Maps, "default", "m")) != nil {
		t.Fatal("a failed transaction left something behind")
	}
	view(t, s, func(r store.Reader) { wantNames(t, names(r.ByIndex(Pods, ByNode, "b"))) })
	set(t, s, web, "c")
	if events := collect(t, t.Context(), w, 1); len(events) != 1 || Value(events[0].Object) != "c" {
		t.Fatalf("watcher saw %v", events)
	}
	func() { // a panic in fn is the caller's, and the store goes on
		defer func() { _ = recover() }()
		_ = s.Update(t.Context(), func(tx store.Tx) error {
			if _, err := Set(tx, web, "d"); err != nil {
				return err
			}
			panic("in fn")
		})
	}()
	set(t, s, Key(Pods, "default", "after"), "e")
	if Value(get(t, s, web)) != "c" {
		t.Fatal("a transaction that panicked left something behind")
	}
}

func testOwnWrites(t *testing.T, s store.Store) {
	set(t, s, Key(Pods, "a", "gone"), "n1")
	update(t, s, func(tx store.Tx) error {
		for _, name := range []string{"x", "y"} {
			if _, err := Set(tx, Key(Pods, "a", name), "n1"); err != nil {
				return err
			}
		}
		if _, err := tx.Delete(Key(Pods, "a", "gone"), "", ""); err != nil {
			return err
		}
		if _, err := Set(tx, Key(Pods, "a", "y"), "n2"); err != nil {
			return err
		}
		wantNames(t, names(tx.List(Pods, "", store.Key{})), "a/x", "a/y")
		wantNames(t, names(tx.ByIndex(Pods, ByNode, "n1")), "a/x")
		wantNames(t, names(tx.ByIndex(Pods, ByNode, "n2")), "a/y")
		if n := tx.Count(Pods, "a"); n != 2 {
			t.Errorf("counted %d", n)
		}
		o, err := tx.Get(Key(Pods, "a", "y"))
		if err != nil {
			return err
		}
		if number(t, o.GetResourceVersion()) != tx.Revision() {
			t.Errorf("revision %d after a write of %s", tx.Revision(), o.GetResourceVersion())
		}
		return nil
	})
}

func testWalkAndWrite(t *testing.T, s store.Store) {
	const n = 300
	update(t, s, func(tx store.Tx) error {
		for i := range n {
			if _, err := Set(tx, Key(Pods, "a", fmt.Sprintf("p%03d", i)), "old"); err != nil {
				return err
			}
		}
		return nil
	})
	walked := 0
	update(t, s, func(tx store.Tx) error {
		for round := range 2 { // the second walks a table that this transaction has written
			for o := range tx.List(Pods, "a", store.Key{}) {
				walked++
				key := Key(Pods, "a", o.GetName())
				var err error
				if round == 0 {
					_, err = Set(tx, key, "new")
				} else if _, err = tx.Delete(key, "", ""); err == nil {
					_, err = Set(tx, Key(Pods, "b", o.GetName()), "new")
				}
				if err != nil {
					return err
				}
			}
		}
		for o := range tx.ByIndex(Pods, ByNode, "new") {
			walked++
			if _, err := Set(tx, Key(Pods, o.GetNamespace(), o.GetName()), "newer"); err != nil {
				return err
			}
		}
		return nil
	})
	view(t, s, func(r store.Reader) {
		if walked != 3*n || r.Count(Pods, "a") != 0 || r.Count(Pods, "b") != n || len(names(r.ByIndex(Pods, ByNode, "newer"))) != n {
			t.Fatalf("walked %d, now %d and %d", walked, r.Count(Pods, "a"), r.Count(Pods, "b"))
		}
	})
}

func testBadKeys(t *testing.T, s store.Store) {
	for _, key := range []store.Key{{}, Key(Pods, "a", ""), Key("", "a", "b"), Key(Pods, "a/b", "c"), Key(Pods, "a", string(make([]byte, 40000)))} {
		if err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Create(key, New(key, "")) }); err == nil {
			t.Errorf("%.40q was created", key)
		}
	}
}

func testContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := s.Update(ctx, func(tx store.Tx) error { _, err := Set(tx, web, "a"); return err })
	wantErr(t, err, context.Canceled)
}

func testVolatile(t *testing.T, s store.Store) {
	event := Key(Events, "default", "e")
	w, err := s.Watch(store.WatchOptions{After: revision(t, s)})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		value := fmt.Sprint(i)
		rev := set(t, s, event, value)
		if revision(t, s) < rev || Value(get(t, s, event)) != value {
			t.Fatal("a volatile write is not visible when Update returns")
		}
	}
	remove(t, s, event)
	if events := collect(t, t.Context(), w, 51); !events[50].Deleted || Value(events[49].Object) != "49" {
		t.Fatalf("watcher saw %v", events)
	}
}

// testVolatileOrder mixes volatile and other writes from many writers: one order of revisions for all.
func testVolatileOrder(t *testing.T, s store.Store) {
	checkConcurrent(t, s, 8, 60, func(writer, i int) store.Key {
		if (writer+i)%2 == 0 {
			return Key(Events, "default", fmt.Sprintf("e%d", writer))
		}
		return Key(Pods, "default", fmt.Sprintf("p%d", writer))
	})
}
