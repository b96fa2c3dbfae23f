package storetest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/whalepod/whalepod/master/internal/store"
)

// model is the store as simply as it can be said: a map, and every state it ever had.
type model struct {
	objects map[store.Key][2]string // value, resourceVersion
	history map[int64]map[store.Key][2]string
}

// testModel runs random transactions on the store and on the model. They must agree on every answer, now and at earlier
// revisions. All runs share one store: each works in a namespace of its own.
func testModel(t *testing.T, s store.Store) {
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		run++
		namespace := fmt.Sprintf("run%d", run)
		m := &model{objects: map[store.Key][2]string{}, history: map[int64]map[store.Key][2]string{}}
		transactions := rapid.IntRange(1, 12).Draw(rt, "transactions")
		for range transactions {
			m.transaction(rt, s, namespace)
			m.check(rt, s, namespace)
		}
		var at []int64
		for rev := range m.history {
			at = append(at, rev)
		}
		slices.Sort(at)
		for _, rev := range at {
			err := s.ViewAt(rev, func(r store.Reader) error { return same(r, namespace, m.history[rev]) })
			if err != nil {
				rt.Fatalf("at %d: %v", rev, err)
			}
		}
	})
}

func (m *model) transaction(rt *rapid.T, s store.Store, namespace string) {
	fail := rapid.IntRange(0, 4).Draw(rt, "fails") == 0
	steps := rapid.IntRange(1, 6).Draw(rt, "steps")
	type step struct {
		key   store.Key
		op    int
		value string
	}
	plan := make([]step, steps)
	for i := range plan {
		plan[i] = step{
			Key(rapid.SampledFrom([]string{Pods, Events}).Draw(rt, "resource"), namespace, rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(rt, "name")),
			rapid.IntRange(0, 3).Draw(rt, "op"), rapid.SampledFrom([]string{"", "n1", "n2"}).Draw(rt, "value"),
		}
	}
	boom := errors.New("boom")
	var next map[store.Key][2]string
	err := s.Update(rt.Context(), func(tx store.Tx) error {
		next = maps.Clone(m.objects)
		for _, st := range plan {
			old, there := next[st.key]
			object := New(st.key, st.value)
			var err, want error
			switch st.op {
			case 0:
				if err = tx.Create(st.key, object); there {
					want = store.ErrExists
				}
			case 1, 2:
				if st.op == 1 {
					object.SetResourceVersion(old[1])
				} else {
					object.SetResourceVersion("0")
				}
				if err = tx.Put(st.key, object); !there {
					want = store.ErrNotFound
				} else if st.op == 2 {
					want = store.ErrConflict
				}
			case 3:
				if _, err = tx.Delete(st.key, "", ""); !there {
					want = store.ErrNotFound
				}
			}
			if !errors.Is(err, want) {
				rt.Fatalf("%v: %v, want %v", st, err, want)
			}
			if err != nil {
				continue
			}
			if delete(next, st.key); st.op != 3 {
				next[st.key] = [2]string{st.value, object.GetResourceVersion()}
			}
			if err := same(tx, namespace, next); err != nil {
				rt.Fatalf("inside the transaction: %v", err)
			}
		}
		if fail {
			return boom
		}
		return nil
	})
	if fail != errors.Is(err, boom) || !fail && err != nil {
		rt.Fatalf("transaction: %v", err)
	}
	if !fail {
		m.objects = next
	}
}

func (m *model) check(rt *rapid.T, s store.Store, namespace string) {
	err := s.View(func(r store.Reader) error {
		m.history[r.Revision()] = m.objects
		return same(r, namespace, m.objects)
	})
	if err != nil {
		rt.Fatal(err)
	}
}

// same compares a reader with a state of the model.
func same(r store.Reader, namespace string, want map[store.Key][2]string) error {
	keys := slices.SortedFunc(maps.Keys(want), func(a, b store.Key) int { return compareKeys(a, b) })
	i := 0
	for _, resource := range []string{Events, Pods} {
		for o := range r.List(resource, namespace, store.Key{}) {
			if i >= len(keys) || keys[i] != Key(resource, namespace, o.GetName()) {
				return fmt.Errorf("unexpected %s %s", resource, o.GetName())
			}
			if w := want[keys[i]]; w != [2]string{Value(o), o.GetResourceVersion()} {
				return fmt.Errorf("%v is %q@%s, want %v", keys[i], Value(o), o.GetResourceVersion(), w)
			}
			i++
		}
	}
	if i != len(keys) {
		return fmt.Errorf("%d objects, want %d", i, len(keys))
	}
	for _, node := range []string{"n1", "n2"} {
		n := 0
		for o := range r.ByIndex(Pods, ByNode, node) {
			if o.GetNamespace() != namespace {
				continue
			}
			if n++; Value(o) != node {
				return fmt.Errorf("%s is in the index under %s, but on %q", o.GetName(), node, Value(o))
			}
		}
		for key, w := range want {
			if key.Resource == Pods && w[0] == node {
				n--
			}
		}
		if n != 0 {
			return fmt.Errorf("the index has %d too many under %s", n, node)
		}
	}
	return nil
}

func compareKeys(a, b store.Key) int {
	for _, pair := range [][2]string{{a.Resource, b.Resource}, {a.Namespace, b.Namespace}, {a.Name, b.Name}} {
		if pair[0] != pair[1] {
			if pair[0] < pair[1] {
				return -1
			}
			return 1
		}
	}
	return 0
}
