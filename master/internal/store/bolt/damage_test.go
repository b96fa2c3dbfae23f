package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"github.com/whalepod/whalepod/master/internal/store"
	"github.com/whalepod/whalepod/master/internal/store/storetest"
)

// sample returns a store's file with small and inline buckets, branch pages and overflow pages.
func sample(t *testing.T) []byte {
	t.Helper()
	cfg := config(t)
	s := open(t, cfg)
	stop := run(t, s)
	err := s.Update(t.Context(), func(tx store.Tx) error {
		for i := range 400 {
			if _, err := storetest.Set(tx, storetest.Key(storetest.Pods, "default", fmt.Sprintf("p%03d", i)), "n1"); err != nil {
				return err
			}
		}
		_, err := storetest.Set(tx, storetest.Key(storetest.Maps, "default", "big"), strings.Repeat("0123456789", 2000))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	put(t, s, storetest.Key(storetest.Nodes, "", "n1"), "inline")
	stop()
	f, err := os.Open(cfg.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	objects := -4 // meta records
	in, err := inspect(f, func(string, string, []byte) error { objects++; return nil })
	if err != nil || objects-3 != 402 { // and three counts
		t.Fatal(objects, err)
	}
	data := make([]byte, int64(in.pages)*in.pageSize) // without the space kept for growing
	if _, err := f.ReadAt(data, 0); err != nil {
		t.Fatal(err)
	}
	return data
}

// wantRefused opens a damaged file: it must be refused in words and be the same file afterwards.
func wantRefused(t *testing.T, path string, words ...string) {
	t.Helper()
	before, _ := os.ReadFile(path)
	s, err := Open(Config{Path: path, Schema: storetest.Schema()})
	if err == nil {
		_ = s.Close()
		t.Fatal("a damaged file was opened")
	}
	for _, want := range append(words, path) {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) {
		t.Error("the file was changed")
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamagedFiles(t *testing.T) {
	good := sample(t)
	page := os.Getpagesize()
	used := len(good)
	for used > 0 && good[used-1] == 0 {
		used--
	}
	zeroed := func(from, n int) []byte {
		out := bytes.Clone(good)
		clear(out[from : from+n])
		return out
	}
	random := make([]byte, 64<<10)
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":                  {nil, "empty"},
		"one byte":               {good[:1], "--restore"},
		"half a meta page":       {good[:40], "--restore"},
		"one meta page":          {good[:page], "cut short"},
		"two meta pages":         {good[:2*page], "cut short"},
		"within a page":          {good[:page*5+17], "cut short"},
		"last page gone":         {good[:(used-1)/page*page], "cut short"},
		"text":                   {[]byte(strings.Repeat("apiVersion: v1\n", 1000)), "--restore"},
		"random":                 {random, "--restore"},
		"zeros":                  {make([]byte, len(good)), "--restore"},
		"meta pages zeroed":      {zeroed(0, 2*page), "--restore"},
		"everything else zeroed": {zeroed(2*page, len(good)-2*page), "--restore"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "store.db")
			writeTo(t, path, c.data)
			wantRefused(t, path, c.want, "--restore FILE", "Nothing was changed")
		})
	}
	t.Run("directory", func(t *testing.T) { wantRefused(t, t.TempDir(), "is a directory") })
	t.Run("below a file", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "file")
		writeTo(t, path, nil)
		if _, err := Open(Config{Path: filepath.Join(path, "store.db"), Schema: storetest.Schema()}); err == nil || !strings.Contains(err.Error(), "not a directory") {
			t.Error(err)
		}
	})
}

// TestDamageAnywhere zeroes each page and flips bits all over the file. Either it is refused, or the damage is where
// nothing is kept, and the store holds what it held. (A damaged meta page takes us to the other one: at most the last
// transaction is missing, as after a power cut.)
func TestDamageAnywhere(t *testing.T) {
	good := sample(t)
	path := filepath.Join(t.TempDir(), "store.db")
	page := os.Getpagesize()
	refused, harmless := 0, 0
	writeTo(t, path, good)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	patch := func(data []byte, at int) {
		if _, err := f.WriteAt(data, int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, data []byte, at int, meta bool) {
		patch(data, at)
		defer patch(good[at:at+len(data)], at)
		c, err := load(path, &store.Schema{Codec: storetest.Schema().Codec})
		switch {
		case err == nil && (c.objects == 402 || meta && c.fallback):
			harmless++
			wantUsable(t, what, path)
		case err == nil:
			t.Errorf("%s: opened with %d objects", what, c.objects)
		case !strings.Contains(err.Error(), "--restore FILE"):
			t.Errorf("%s: %v", what, err)
		default:
			refused++
		}
	}
	for id := range len(good) / page {
		if !bytes.Equal(make([]byte, page), good[id*page:(id+1)*page]) {
			check(fmt.Sprintf("page %d zeroed", id), make([]byte, page), id*page, id < 2)
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 4000 {
		at, bit := rng.IntN(len(good)), byte(1)<<rng.IntN(8)
		if good[at] == 0 && rng.IntN(100) > 0 { // most of the file is empty: aim at what is not
			continue
		}
		check(fmt.Sprintf("byte %d of page %d flipped by %#x", at%page, at/page, bit), []byte{good[at] ^ bit}, at, at < 2*page)
	}
	t.Logf("%d refused, %d harmless", refused, harmless)
	if refused < harmless/4 {
		t.Error("hardly any damage was found")
	}
}

// wantUsable writes to a copy of a file that passed the check: bbolt must get along with it, too.
func wantUsable(t *testing.T, what, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t)
	writeTo(t, cfg.Path, data)
	s, err := Open(cfg)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	stop := run(t, s)
	put(t, s, storetest.Key(storetest.Pods, "default", "p100"), strings.Repeat("new", 2000))
	stop()
}

type badCodec struct{ store.Codec }

func (badCodec) Decode(string, []byte) (store.Object, error) {
	return nil, errors.New("unknown field 77")
}

func TestUndecodableObject(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	data := sample(t)
	writeTo(t, path, data)
	schema := storetest.Schema()
	schema.Codec = badCodec{schema.Codec}
	_, err := Open(Config{Path: path, Schema: schema})
	if err == nil || !strings.Contains(err.Error(), `configmaps "default/big" cannot be decoded: unknown field 77`) {
		t.Fatal(err)
	}
	if after, _ := os.ReadFile(path); !bytes.Equal(data, after) {
		t.Error("the file was changed")
	}
}

func TestNewerFormat(t *testing.T) {
	cfg := config(t)
	if err := ensureFile(cfg.Path); err != nil {
		t.Fatal(err)
	}
	err := editFile(cfg.Path, func(btx *bbolt.Tx) error {
		return btx.Bucket([]byte(metaBucket)).Put([]byte(metaFormat), sealNumber(metaFormat, formatVersion+1))
	})
	if err != nil {
		t.Fatal(err)
	}
	wantRefused(t, cfg.Path, "a newer wp-master", "format 2")
}

// TestTruncatedWhileRunning cuts the file under a running store: no crash, an error, and Run says why it ends.
func TestTruncatedWhileRunning(t *testing.T) {
	cfg := config(t)
	s := open(t, cfg)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(t.Context()) }()
	put(t, s, pod, "n1")
	if err := os.Truncate(cfg.Path, 0); err != nil {
		t.Fatal(err)
	}
	err := s.Update(t.Context(), func(tx store.Tx) error { _, err := storetest.Set(tx, pod, "n2"); return err })
	if err == nil {
		t.Fatal("written to a file that is gone")
	}
	if runErr := <-ended; runErr == nil || !strings.Contains(runErr.Error(), "damaged") {
		t.Errorf("Run: %v, Update: %v", runErr, err)
	}
	if value(t, s, pod) != "n1" {
		t.Error("memory holds what the disk refused")
	}
	if err := s.Update(t.Context(), func(store.Tx) error { return nil }); err == nil {
		t.Error("Update works without Run")
	}
}
