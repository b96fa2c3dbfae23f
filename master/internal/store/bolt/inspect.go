package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// inspect reads a bbolt file page by page with plain reads. bbolt itself maps the file and trusts it: on a damaged one
// it panics, in goroutines of its own too, or is killed by SIGBUS. Everything that the rest of this package later reads
// through the map has been seen here first. The layout is that of bbolt's internal/common (page.go, meta.go, inode.go),
// in the byte order of the machine; bbolt promises to keep it (file version 2).
const (
	pageHeader    = 16 // id 8, flags 2, count 2, overflow 4
	elementHeader = 16 // leaf: flags 4, pos 4, key 4, value 4; branch: pos 4, key 4, page 8
	bucketHeader  = 16 // root page 8, sequence 8
	metaLen       = 64 // magic, version, page size, flags: 4 each; root bucket 16; free list, pages, transaction, sum: 8 each

	flagBranch, flagLeaf, flagFree = 0x01, 0x02, 0x10

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	// noFreelist stands for the page of the free list when it is not kept in the file.
	noFreelist = ^uint64(0)
	// maxDepth is far beyond any real tree.
	maxDepth = 64
)

var native = binary.NativeEndian

// inspector is one pass over a file.
type inspector struct {
	file     *os.File
	size     int64
	pageSize int64
	pages    uint64 // high-water mark: pages that the file is said to have
	seen     []uint64
	fallback bool                 // one meta page is invalid
	buffers  [maxDepth + 1][]byte // one page for each depth of the walk
	visit    func(bucket, key string, value []byte) error
}

// structureError is damage found in the file, as opposed to an error of reading it.
type structureError string

func (e structureError) Error() string { return string(e) }

func broken(format string, args ...any) error { return structureError(fmt.Sprintf(format, args...)) }

// inspect calls visit with every key of every bucket; the value is valid during the call only.
func inspect(f *os.File, visit func(bucket, key string, value []byte) error) (*inspector, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	in := &inspector{file: f, size: info.Size(), visit: visit}
	switch {
	case !info.Mode().IsRegular():
		return nil, broken("it is not a file")
	case in.size == 0:
		return nil, broken("it is empty")
	}
	root, err := in.readMeta()
	if err != nil {
		return nil, err
	}
	if need := int64(in.pages) * in.pageSize; in.pages > 1<<40 || need > in.size {
		return nil, broken("it is cut short: %d bytes of %d", in.size, need)
	}
	in.seen = make([]uint64, in.pages/64+1)
	return in, in.walkPage(root, walk{depth: 0, bucket: ""})
}

type boltMeta struct {
	pageSize             uint32
	root                 uint64
	freelist, pages, tid uint64
}

// readMeta finds the newer of the two meta pages. bbolt writes them in turn, so that a torn one leaves the state before.
func (in *inspector) readMeta() (root uint64, err error) {
	first, ok := in.metaAt(0)
	sizes := []int64{int64(first.pageSize)}
	if !ok {
		sizes = sizes[:0]
		for size := int64(1 << 10); size <= 1<<16; size <<= 1 {
			sizes = append(sizes, size)
		}
	}
	best, valid := first, ok
	in.fallback = true
	for _, size := range sizes {
		second, ok := in.metaAt(size)
		if !ok || int64(second.pageSize) != size {
			continue
		}
		in.fallback = !valid
		if !valid || second.tid > best.tid {
			best, valid = second, true
		}
		break
	}
	if !valid {
		return 0, broken("neither of its first two pages is that of a store")
	}
	in.pageSize, in.pages = int64(best.pageSize), best.pages
	if best.freelist != noFreelist && best.freelist >= best.pages {
		return 0, broken("its free list is outside of it")
	}
	return best.root, nil
}

func (in *inspector) metaAt(offset int64) (boltMeta, bool) {
	buf := make([]byte, pageHeader+metaLen)
	if _, err := in.file.ReadAt(buf, offset); err != nil {
		return boltMeta{}, false
	}
	b := buf[pageHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(b[:metaLen-8])
	if native.Uint32(b) != boltMagic || native.Uint32(b[4:]) != boltVersion || native.Uint64(b[56:]) != sum.Sum64() {
		return boltMeta{}, false
	}
	m := boltMeta{
		pageSize: native.Uint32(b[8:]), root: native.Uint64(b[16:]),
		freelist: native.Uint64(b[32:]), pages: native.Uint64(b[40:]), tid: native.Uint64(b[48:]),
	}
	return m, m.pageSize >= 1<<10 && m.pageSize <= 1<<16 && m.pageSize&(m.pageSize-1) == 0
}

// walk says where in the trees a page is: of which bucket ("" the list of buckets), and between which keys.
type walk struct {
	depth    int
	bucket   string
	low, end []byte // keys k of the page must be low <= k < end; nil is open
}

func (in *inspector) walkPage(id uint64, w walk) error {
	if w.depth > maxDepth {
		return broken("its tree has a loop at page %d", id)
	}
	page, err := in.readPage(id, w.depth)
	if err != nil {
		return err
	}
	return in.walkElements(id, page, w)
}

// readPage reads a page with its overflow, each page once, into the buffer of its depth: it is valid until the walk
// comes to the next page as deep.
func (in *inspector) readPage(id uint64, depth int) ([]byte, error) {
	if id < 2 || id >= in.pages {
		return nil, broken("it refers to page %d of %d", id, in.pages)
	}
	header := make([]byte, pageHeader)
	if err := in.readAt(header, id); err != nil {
		return nil, err
	}
	overflow := uint64(native.Uint32(header[12:]))
	if native.Uint64(header) != id {
		return nil, broken("page %d has the number %d", id, native.Uint64(header))
	}
	if id+overflow >= in.pages {
		return nil, broken("page %d is said to reach behind the end", id)
	}
	for p := id; p <= id+overflow; p++ {
		if in.seen[p/64]&(1<<(p%64)) != 0 {
			return nil, broken("page %d is used twice", p)
		}
		in.seen[p/64] |= 1 << (p % 64)
	}
	size := int(overflow+1) * int(in.pageSize)
	if cap(in.buffers[depth]) < size {
		in.buffers[depth] = make([]byte, size)
	}
	page := in.buffers[depth][:size]
	return page, in.readAt(page, id)
}

func (in *inspector) readAt(buf []byte, id uint64) error {
	_, err := in.file.ReadAt(buf, int64(id)*in.pageSize)
	if errors.Is(err, io.EOF) {
		return broken("it ends within page %d", id)
	}
	if err != nil {
		return fmt.Errorf("cannot read page %d: %w", id, err)
	}
	return nil
}

// walkElements goes through a branch or leaf page; id is 0 for a small bucket that lies inside its parent's page.
func (in *inspector) walkElements(id uint64, page []byte, w walk) error {
	flags, count := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	if flags != flagBranch && flags != flagLeaf || id == 0 && flags != flagLeaf {
		return broken("page %d is of the unknown kind %#x", id, flags)
	}
	if pageHeader+count*elementHeader > len(page) || flags == flagBranch && count == 0 {
		return broken("page %d is said to have %d entries", id, count)
	}
	var before []byte
	for i := range count {
		e := page[pageHeader+i*elementHeader:]
		key, value, err := element(e, flags)
		if err != nil {
			return broken("entry %d of page %d is outside of it", i, id)
		}
		if i > 0 && bytes.Compare(before, key) >= 0 || bytes.Compare(key, w.low) < 0 || w.end != nil && bytes.Compare(key, w.end) >= 0 {
			return broken("the keys of page %d are out of order at entry %d", id, i)
		}
		before = key
		if flags == flagLeaf {
			err = in.leaf(w, native.Uint32(e), key, value)
		} else {
			child := walk{depth: w.depth + 1, bucket: w.bucket, low: key, end: w.end}
			if i+1 < count {
				if next, _, err := element(e[elementHeader:], flags); err == nil {
					child.end = next
				}
			}
			err = in.walkPage(native.Uint64(e[8:]), child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// element returns key and value of the element at the beginning of e, which reaches to the end of its page.
func element(e []byte, flags uint16) (key, value []byte, err error) {
	pos, keyLen, valueLen := uint64(native.Uint32(e)), uint64(native.Uint32(e[4:])), uint64(0)
	if flags == flagLeaf {
		pos, keyLen, valueLen = uint64(native.Uint32(e[4:])), uint64(native.Uint32(e[8:])), uint64(native.Uint32(e[12:]))
	}
	if pos < elementHeader || pos+keyLen+valueLen > uint64(len(e)) || keyLen == 0 {
		return nil, nil, io.ErrUnexpectedEOF
	}
	return e[pos : pos+keyLen : pos+keyLen], e[pos+keyLen : pos+keyLen+valueLen], nil
}

// leaf takes a bucket in the list of buckets, a key elsewhere: our file nests them no deeper.
func (in *inspector) leaf(w walk, flags uint32, key, value []byte) error {
	const isBucket = 1
	switch {
	case w.bucket != "" && flags == 0:
		return in.visit(w.bucket, string(key), value)
	case w.bucket != "" || flags != isBucket || len(value) < bucketHeader:
		return broken("%q is not where it belongs", key)
	}
	inner := walk{depth: w.depth + 1, bucket: string(key)}
	if root := native.Uint64(value); root != 0 {
		return in.walkPage(root, inner)
	}
	page := value[bucketHeader:]
	if len(page) < pageHeader {
		return broken("bucket %q is cut short", key)
	}
	return in.walkElements(0, page, inner)
}
