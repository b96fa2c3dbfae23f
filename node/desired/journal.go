package desired

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// The journal is one append-only file of records: magic, length, CRC-32C, payload. A damaged record is skipped by
// looking for the next magic, so damage costs what it hit and no more. Secrets are in it, hence mode 0600.
const (
	journalName = "state.journal"
	// compactAfter is how many bytes of history are worth rewriting the file for.
	compactAfter = 1 << 20
	// syncDelay bounds what a power cut can lose; the master has it all, so one fsync for many changes is enough. Pods
	// wait less: a node that reboots while the master is away has only this file to know them by.
	syncDelay    = time.Second
	syncDelayPod = 50 * time.Millisecond
	// retryDelay is how often the disk is tried again that refused what had to be written: it was full, mostly.
	retryDelay = 10 * time.Second
	headerSize = 12
	// maxRecord is far above what the API admits in one object (3 MiB).
	maxRecord = 16 << 20
)

var (
	magic      = []byte("WPd1")
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

type recordKind byte

const (
	recordObject recordKind = iota
	recordComplete
)

// record is one change; object nil says that it is gone.
type record struct {
	kind     recordKind
	resource Resource
	key      string
	object   Object
	revision uint64
}

// marshal appends the record with its header.
func (r record) marshal(buf []byte) ([]byte, error) {
	start := len(buf)
	buf = append(buf, magic...)
	buf = append(buf, make([]byte, headerSize-len(magic))...)
	buf = append(buf, byte(r.kind))
	buf = binary.AppendUvarint(buf, r.revision)
	buf = binary.AppendUvarint(buf, uint64(len(r.resource)))
	buf = append(buf, r.resource...)
	buf = binary.AppendUvarint(buf, uint64(len(r.key)))
	buf = append(buf, r.key...)
	if r.object == nil {
		buf = append(buf, 0)
	} else {
		data, err := r.object.Marshal()
		if err != nil {
			return buf[:start], fmt.Errorf("%s %s: %w", r.resource, r.key, err)
		}
		buf = append(buf, 1)
		buf = append(buf, data...)
	}
	payload := buf[start+headerSize:]
	binary.LittleEndian.PutUint32(buf[start+4:], uint32(len(payload)))
	binary.LittleEndian.PutUint32(buf[start+8:], crc32.Checksum(payload, castagnoli))
	return buf, nil
}

var errDamaged = errors.New("damaged record")

func unmarshal(payload []byte) (record, error) {
	if len(payload) == 0 {
		return record{}, errDamaged
	}
	r := record{kind: recordKind(payload[0])}
	rest := payload[1:]
	revision, n := binary.Uvarint(rest)
	if n <= 0 {
		return r, errDamaged
	}
	r.revision, rest = revision, rest[n:]
	text := func() (string, bool) {
		size, n := binary.Uvarint(rest)
		if n <= 0 || size > uint64(len(rest)-n) {
			return "", false
		}
		s := string(rest[n : n+int(size)])
		rest = rest[n+int(size):]
		return s, true
	}
	resource, ok := text()
	if !ok {
		return r, errDamaged
	}
	r.resource = Resource(resource)
	if r.key, ok = text(); !ok || len(rest) == 0 {
		return r, errDamaged
	}
	if rest[0] == 0 {
		return r, nil
	}
	object := New(r.resource)
	if object == nil {
		return r, fmt.Errorf("unknown resource %q", resource)
	}
	if err := object.Unmarshal(rest[1:]); err != nil {
		return r, fmt.Errorf("%s %s: %w", r.resource, r.key, err)
	}
	r.object = object
	return r, nil
}

// replay calls fn for every good record and tells whether all were good.
func replay(data []byte, log *slog.Logger, fn func(record)) (damaged bool) {
	for len(data) > 0 {
		skip := func(why error) {
			damaged = true
			next := bytes.Index(data[1:], magic)
			log.Error("a record of the desired state on disk is damaged and left out", "err", why)
			if next < 0 {
				data = nil
				return
			}
			data = data[1+next:]
		}
		if len(data) < headerSize || !bytes.HasPrefix(data, magic) {
			skip(errDamaged)
			continue
		}
		size := binary.LittleEndian.Uint32(data[4:])
		if size > maxRecord || int(size) > len(data)-headerSize {
			skip(errDamaged)
			continue
		}
		payload := data[headerSize : headerSize+int(size)]
		if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(data[8:]) {
			skip(errDamaged)
			continue
		}
		r, err := unmarshal(payload)
		if err != nil {
			skip(err)
			continue
		}
		fn(r)
		data = data[headerSize+int(size):]
	}
	return damaged
}

// journal is the open file. Its mutex guards against the timer of the delayed fsync; everything else is under State.mu.
type journal struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	file    *os.File
	size    int64
	live    int64 // size right after the last compaction
	pending *time.Timer
	due     time.Time // of pending
	// behind: something is missing in the file, which must be written anew.
	behind bool
	// lost is called, without locks, when that becomes so between two calls.
	lost func()
}

// openJournal replays the file, then rewrites it when it was damaged so that the damage does not stay.
func openJournal(path string, log *slog.Logger, fn func(record)) (j *journal, damaged bool, err error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	damaged = replay(data, log, fn)
	if damaged { // keep the evidence; a half-written last record after a power cut is the usual case
		if err := os.WriteFile(path+".damaged", data, 0o600); err != nil {
			log.Warn("the damaged desired state could not be set aside", "err", err)
		}
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, damaged, err
	}
	j = &journal{path: path, log: log, file: f, size: int64(len(data)), lost: func() {}}
	if damaged {
		j.size = compactAfter * 2 // the next append compacts
	}
	return j, damaged, nil
}

func (j *journal) append(records []record) error {
	var buf []byte
	var errs []error
	delay := syncDelay
	for _, r := range records {
		if r.resource == Pods {
			delay = syncDelayPod
		}
		out, err := r.marshal(buf)
		if err != nil {
			errs = append(errs, err)
		}
		buf = out
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	_, err := j.file.Write(buf)
	if err != nil {
		j.behind = true
		_ = j.file.Truncate(j.size) // no half record stays; if this fails too, replaying skips it
		return errors.Join(append(errs, err)...)
	}
	j.size += int64(len(buf))
	if due := time.Now().Add(delay); j.pending == nil || due.Before(j.due) { // never later: changes may come without a pause
		if j.pending != nil {
			j.pending.Stop()
		}
		j.pending, j.due = time.AfterFunc(delay, j.sync), due
	}
	return errors.Join(errs...)
}

func (j *journal) sync() {
	j.mu.Lock()
	j.pending = nil
	err := j.file.Sync()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	j.behind = j.behind || err != nil // the kernel does not try again to write what it could not
	j.mu.Unlock()
	if err != nil {
		j.log.Error("desired state could not be synced to disk", "err", err)
		j.lost()
	}
}

func (j *journal) isBehind() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.behind
}

func (j *journal) wantsCompaction() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.behind || j.size > compactAfter+2*j.live
}

// compact replaces the file by one that holds only the records given.
func (j *journal) compact(records []record) error {
	tmp := j.path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	var size int64
	var buf []byte
	for _, r := range records {
		if buf, err = r.marshal(buf[:0]); err != nil {
			break
		}
		if _, err = f.Write(buf); err != nil {
			break
		}
		size += int64(len(buf))
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, j.path)
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(tmp)
		return fmt.Errorf("compact: %w", err)
	}
	syncDir(filepath.Dir(j.path))
	j.mu.Lock()
	defer j.mu.Unlock()
	_ = j.file.Close()
	j.file, j.size, j.live, j.behind = f, size, size, false
	return nil
}

func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil {
		_ = d.Sync()
		_ = d.Close()
	}
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.pending != nil {
		j.pending.Stop()
	}
	return errors.Join(j.file.Sync(), j.file.Close())
}
