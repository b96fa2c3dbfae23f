package storetest

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/store"
)

func testLists(t *testing.T, s store.Store) {
	for _, key := range []store.Key{
		Key(Pods, "b", "1"), Key(Pods, "a", "2"), Key(Pods, "a", "1"), Key(Pods, "a-b", "1"), Key(Pods, "c", "1"),
		Key(Nodes, "", "n2"), Key(Nodes, "", "n1"), Key(Maps, "a", "m"),
	} {
		set(t, s, key, "v")
	}
	view(t, s, func(r store.Reader) {
		none := store.Key{}
		wantNames(t, names(r.List(Pods, "", none)), "a/1", "a/2", "a-b/1", "b/1", "c/1")
		wantNames(t, names(r.List(Pods, "a", none)), "a/1", "a/2")
		wantNames(t, names(r.List(Pods, "nobody", none)))
		wantNames(t, names(r.List(Nodes, "", none)), "/n1", "/n2")
		wantNames(t, names(r.List("unknown", "", none)))
		wantNames(t, names(r.List(Pods, "", Key(Pods, "a", "1"))), "a/2", "a-b/1", "b/1", "c/1")
		wantNames(t, names(r.List(Pods, "", Key(Pods, "a", "11"))), "a/2", "a-b/1", "b/1", "c/1")
		wantNames(t, names(r.List(Pods, "a", Key(Pods, "a", "1"))), "a/2")
		wantNames(t, names(r.List(Pods, "b", Key(Pods, "a", "1"))), "b/1")
		wantNames(t, names(r.List(Pods, "a", Key(Pods, "b", "1"))))
		wantNames(t, names(r.List(Nodes, "", Key(Nodes, "", "n1"))), "/n2")
		for o := range r.List(Pods, "", none) { // stopping early is allowed
			if o.GetName() != "1" {
				t.Error("wrong first")
			}
			break
		}
		if r.Count(Pods, "") != 5 || r.Count(Pods, "a") != 2 || r.Count("unknown", "") != 0 {
			t.Error("wrong counts")
		}
	})
}

// testStamps: a stamp that stays the same promises that the objects did.
func testStamps(t *testing.T, s store.Store) {
	stamp := func(resource string) (at any) {
		view(t, s, func(r store.Reader) { at = r.Stamp(resource) })
		if at == nil {
			t.Error("no stamp of a committed state")
		}
		return at
	}
	before := stamp(Pods)
	for i, write := range []func(){
		func() { set(t, s, Key(Pods, "a", "1"), "v") },
		func() { set(t, s, Key(Pods, "a", "1"), "w") },
		func() { set(t, s, Key(Pods, "a", "2"), "v") },
		func() { remove(t, s, Key(Pods, "a", "1")) },
		func() { remove(t, s, Key(Pods, "a", "2")) },
	} {
		write()
		after := stamp(Pods)
		if after == before {
			t.Error("the same stamp after write", i)
		}
		before = after
	}
	set(t, s, Key(Nodes, "", "n"), "v")
	if stamp(Pods) != before {
		t.Error("another stamp after a write of another resource")
	}
	update(t, s, func(tx store.Tx) error {
		if tx.Stamp(Pods) != nil {
			t.Error("a transaction has a stamp")
		}
		return nil
	})
}

func testIndexes(t *testing.T, s store.Store) {
	label := func(key store.Key, node string, labels ...string) {
		update(t, s, func(tx store.Tx) error {
			o := New(key, node).(*corev1.Pod)
			o.Labels = make(map[string]string)
			for _, l := range labels {
				o.Labels[l] = ""
			}
			if current, err := tx.Get(key); err == nil {
				o.ResourceVersion = current.GetResourceVersion()
				return tx.Put(key, o)
			}
			return tx.Create(key, o)
		})
	}
	label(Key(Pods, "b", "1"), "n1", "x", "y")
	label(Key(Pods, "a", "1"), "n1", "x")
	label(Key(Pods, "a", "2"), "")
	label(Key(Pods, "a", "3"), "n2", "y")
	before := revision(t, s)
	view(t, s, func(r store.Reader) {
		wantNames(t, names(r.ByIndex(Pods, ByNode, "n1")), "a/1", "b/1")
		wantNames(t, names(r.ByIndex(Pods, ByNode, "n")))
		wantNames(t, names(r.ByIndex(Pods, ByNode, "")))
		wantNames(t, names(r.ByIndex(Pods, ByLabel, "x")), "a/1", "b/1")
		wantNames(t, names(r.ByIndex(Pods, ByLabel, "y")), "a/3", "b/1")
		wantNames(t, names(r.ByIndex(Pods, "unknown", "y")))
		wantNames(t, names(r.ByIndex("unknown", ByNode, "y")))
	})
	label(Key(Pods, "a", "1"), "n2", "y")
	label(Key(Pods, "a", "2"), "n1")
	remove(t, s, Key(Pods, "b", "1"))
	view(t, s, func(r store.Reader) {
		wantNames(t, names(r.ByIndex(Pods, ByNode, "n1")), "a/2")
		wantNames(t, names(r.ByIndex(Pods, ByNode, "n2")), "a/1", "a/3")
		wantNames(t, names(r.ByIndex(Pods, ByLabel, "x")))
	})
	err := s.ViewAt(before, func(r store.Reader) error {
		wantNames(t, names(r.ByIndex(Pods, ByNode, "n1")), "a/1", "b/1")
		wantNames(t, names(r.ByIndex(Pods, ByNode, "n2")), "a/3")
		wantNames(t, names(r.ByIndex(Pods, ByLabel, "y")), "a/3", "b/1")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func testViewAt(t *testing.T, s store.Store) {
	start := revision(t, s)
	type snapshot struct {
		revision int64
		pods     []string
	}
	state := func(r store.Reader) (out []string) {
		for o := range r.List(Pods, "", store.Key{}) {
			out = append(out, fmt.Sprintf("%s/%s=%s@%s", o.GetNamespace(), o.GetName(), Value(o), o.GetResourceVersion()))
		}
		return out
	}
	var want []snapshot
	for i := range 40 {
		key := Key(Pods, fmt.Sprint("n", i%3), fmt.Sprint("p", i%7))
		if i%5 == 4 && get(t, s, key) != nil {
			remove(t, s, key)
		} else {
			set(t, s, key, fmt.Sprint(i))
		}
		view(t, s, func(r store.Reader) { want = append(want, snapshot{r.Revision(), state(r)}) })
	}
	for _, w := range want {
		err := s.ViewAt(w.revision, func(r store.Reader) error {
			if r.Revision() != w.revision || r.Count(Pods, "") != len(w.pods) {
				t.Errorf("at %d: revision %d, %d pods", w.revision, r.Revision(), r.Count(Pods, ""))
			}
			wantNames(t, state(r), w.pods...)
			for o := range r.List(Pods, "n1", store.Key{}) {
				if same, err := r.Get(Key(Pods, "n1", o.GetName())); err != nil || same != o {
					t.Errorf("at %d: List and Get differ", w.revision)
				}
			}
			return nil
		})
		if err != nil {
			t.Fatalf("at %d: %v", w.revision, err)
		}
	}
	err := s.ViewAt(start, func(r store.Reader) error {
		_, err := r.Get(Key(Pods, "n0", "p0"))
		return err
	})
	wantErr(t, err, store.ErrNotFound)
	wantErr(t, s.ViewAt(start-1, func(store.Reader) error { return nil }), store.ErrCompacted)
	wantErr(t, s.ViewAt(revision(t, s)+1, func(store.Reader) error { return nil }), store.ErrFuture)
}

// testPaging lists 5,000 pods page by page while they change, and must get them as they were at the first page.
func testPaging(t *testing.T, s store.Store) {
	const total, page = 5000, 250
	update(t, s, func(tx store.Tx) error {
		for i := range total {
			if _, err := Set(tx, Key(Pods, "a", fmt.Sprintf("p%05d", i)), "old"); err != nil {
				return err
			}
		}
		return nil
	})
	at := revision(t, s)
	var after store.Key
	seen := 0
	for round := 0; seen < total; round++ {
		update(t, s, func(tx store.Tx) error { // writes before, at and behind the place of the list
			for _, i := range []int{round, seen, seen + 1, total - 1 - round} {
				if _, err := Set(tx, Key(Pods, "a", fmt.Sprintf("p%05d", i)), "new"); err != nil {
					return err
				}
			}
			if _, err := tx.Delete(Key(Pods, "a", fmt.Sprintf("p%05d", seen+2)), "", ""); err != nil {
				return err
			}
			_, err := Set(tx, Key(Pods, "a", fmt.Sprintf("p%05dx", seen+3)), "new")
			return err
		})
		err := s.ViewAt(at, func(r store.Reader) error {
			n := 0
			for o := range r.List(Pods, "", after) {
				if want := fmt.Sprintf("p%05d", seen); o.GetName() != want || Value(o) != "old" {
					t.Fatalf("got %s=%s, want %s=old", o.GetName(), Value(o), want)
				}
				after = Key(Pods, "a", o.GetName())
				seen++
				if n++; n == page {
					return nil
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if seen != total {
		t.Fatalf("listed %d of %d", seen, total)
	}
}
