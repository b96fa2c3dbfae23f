package storetest

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"

	"github.com/whalepod/whalepod/master/internal/store"
)

// Run checks the contract of store.Store. open returns an empty store for Schema whose Run the test need not start or
// stop; it should keep only a few thousand events, or the test of compaction takes long.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for name, test := range map[string]func(*testing.T, store.Store){
		"create, get, put, delete": testWrites,
		"conflicts":                testConflicts,
		"rollback":                 testRollback,
		"reads in a transaction":   testOwnWrites,
		"walks while writing":      testWalkAndWrite,
		"lists and namespaces":     testLists,
		"indexes":                  testIndexes,
		"stamps":                   testStamps,
		"bad keys":                 testBadKeys,
		"ended context":            testContext,
		"volatile":                 testVolatile,
		"volatile keeps its place": testVolatileOrder,
		"watch":                    testWatch,
		"watch filters":            testWatchFilters,
		"watch many resources":     testWatchMerges,
		"watch page by page":       testWatchMax,
		"watch bookmark":           testWatchBookmark,
		"watch revisions":          testWatchRevisions,
		"overtaken watcher":        testOvertaken,
		"concurrent order":         testConcurrent,
		"view and watch":           testViewAndWatch,
		"view at":                  testViewAt,
		"paging under writes":      testPaging,
		"model":                    testModel,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func update(t *testing.T, s store.Store, fn func(store.Tx) error) {
	t.Helper()
	if err := s.Update(t.Context(), fn); err != nil {
		t.Fatal(err)
	}
}

func set(t *testing.T, s store.Store, key store.Key, value string) int64 {
	t.Helper()
	var version string
	update(t, s, func(tx store.Tx) (err error) { version, err = Set(tx, key, value); return err })
	return number(t, version)
}

func remove(t *testing.T, s store.Store, key store.Key) {
	t.Helper()
	update(t, s, func(tx store.Tx) error { _, err := tx.Delete(key, "", ""); return err })
}

func number(t *testing.T, version string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		t.Fatalf("resourceVersion %q: %v", version, err)
	}
	return n
}

func get(t *testing.T, s store.Store, key store.Key) (object store.Object) {
	t.Helper()
	err := s.View(func(r store.Reader) (err error) { object, err = r.Get(key); return err })
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		t.Fatal(err)
	}
	return object
}

func revision(t *testing.T, s store.Store) (n int64) {
	t.Helper()
	if err := s.View(func(r store.Reader) error { n = r.Revision(); return nil }); err != nil {
		t.Fatal(err)
	}
	return n
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("error is %v, want %v", err, want)
	}
}

// names lists "namespace/name" of objects.
func names(objects func(func(store.Object) bool)) (out []string) {
	for o := range objects {
		out = append(out, o.GetNamespace()+"/"+o.GetName())
	}
	return out
}

func wantNames(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got %q, want %q", got, want)
	}
}

func view(t *testing.T, s store.Store, fn func(store.Reader)) {
	t.Helper()
	if err := s.View(func(r store.Reader) error { fn(r); return nil }); err != nil {
		t.Fatal(err)
	}
}

// collect reads n events.
func collect(t *testing.T, ctx context.Context, w store.Watcher, n int) (out []store.Event) {
	t.Helper()
	for len(out) < n {
		events, err := w.Next(ctx, 0)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(out), n, err)
		}
		out = append(out, events...)
	}
	return out
}
