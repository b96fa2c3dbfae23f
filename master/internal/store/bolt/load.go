package bolt

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/whalepod/whalepod/master/internal/store"
)

// contents is what a check of the file found; tables only with a schema.
type contents struct {
	id                string
	revision, ceiling int64
	objects           int
	tables            map[string]*table
	fallback          bool
}

// load is read with words for the one who starts the master.
func load(path string, schema *store.Schema) (*contents, error) {
	c, err := read(path, schema)
	var (
		format      formatError
		undecodable *decodeError
		structure   structureError
	)
	switch {
	case err == nil:
		return c, nil
	case errors.As(err, &format):
		return nil, fmt.Errorf("store: %s: %w. Start that version, or a newer one", path, err)
	case errors.As(err, &undecodable):
		return nil, fmt.Errorf("store: %s: %w. Nothing was changed in the file. If a newer wp-master wrote it, start that one; "+
			"otherwise move it away and start from a backup: wp-master --restore FILE", path, err)
	case errors.As(err, &structure):
		return nil, damaged(path, err.Error())
	}
	return nil, fmt.Errorf("store: %w", err)
}

// read reads and checks everything in a file without changing it. With a schema the objects are decoded into tables;
// without, sums and structure are checked.
func read(path string, schema *store.Schema) (*contents, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a directory; name a file in it", path)
	}
	f, err := openLocked(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	l := &loader{schema: schema, counts: make(map[string]int64), expect: make(map[string]int64), numbers: make(map[string]int64)}
	l.tables = make(map[string]*table)
	in, err := inspect(f, l.visit)
	if err != nil {
		return nil, err
	}
	l.fallback = in.fallback
	return &l.contents, l.complete()
}

type loader struct {
	contents
	schema  *store.Schema
	counts  map[string]int64 // objects seen, by resource
	expect  map[string]int64 // objects that there must be
	numbers map[string]int64
}

// formatError is the version of a file that we do not know.
type formatError int64

func (e formatError) Error() string {
	return fmt.Sprintf("a newer wp-master wrote it, in format %d; this one knows %d", int64(e), formatVersion)
}

// decodeError is an object whose bytes are as they were written and that the codec refuses all the same.
type decodeError struct {
	key store.Key
	err error
}

func (e *decodeError) Error() string {
	return fmt.Sprintf("%s cannot be decoded: %v", keyText(e.key), e.err)
}
func (e *decodeError) Unwrap() error { return e.err }

func (l *loader) visit(bucket, diskKey string, record []byte) error {
	revision, data, err := openRecord(bucket, diskKey, record)
	if bucket == metaBucket {
		if err != nil {
			return broken("%s: %v", diskKey, err)
		}
		return l.meta(diskKey, revision, data)
	}
	key, ok := parseDiskKey(bucket, diskKey)
	if !ok {
		return broken("%s has the unreadable key %q", bucket, diskKey)
	}
	if err != nil {
		return broken("%s: %v", keyText(key), err)
	}
	l.counts[bucket]++
	l.objects++
	if l.schema == nil {
		return nil
	}
	object, err := l.schema.Codec.Decode(bucket, data)
	if err != nil {
		return &decodeError{key, err}
	}
	if object.GetResourceVersion() == "" { // a codec may leave out what the record knows
		object.SetResourceVersion(strconv.FormatInt(revision, 10))
	}
	l.schema.Shared(bucket, nil, object)
	t := l.tables[bucket]
	if t == nil {
		t = newTable(l.schema.IndexesOf(bucket))
		l.tables[bucket] = t
	}
	t.put(l.schema.IndexesOf(bucket), ownStrings(key, object), object, len(record))
	return nil
}

func (l *loader) meta(key string, number int64, data []byte) error {
	resource, isCount := strings.CutPrefix(key, metaCount)
	switch {
	case isCount:
		l.expect[resource] = number
	case key == metaFormat && number != formatVersion:
		return formatError(number)
	case key == metaID:
		l.id = string(data)
	}
	l.numbers[key] = number
	return nil
}

// complete checks what only the whole can tell.
func (l *loader) complete() error {
	for _, key := range []string{metaFormat, metaID, metaRevision, metaCeiling} {
		if _, ok := l.numbers[key]; !ok {
			return broken("it holds no %s, as if it were not a store of wp-master", key)
		}
	}
	l.revision, l.ceiling = l.numbers[metaRevision], l.numbers[metaCeiling]
	for resource, want := range l.expect {
		if got := l.counts[resource]; got != want {
			return broken("of %d objects in %s, %d are there", want, resource, got)
		}
	}
	for resource := range l.counts {
		if _, ok := l.expect[resource]; !ok {
			return broken("nobody counted the objects in %s", resource)
		}
	}
	return nil
}
