package bolt

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"

	"github.com/whalepod/whalepod/master/internal/store"
)

// Config says where the store lives and what it keeps.
type Config struct {
	// Path of the file. It and its directory are made when missing, for the owner's eyes only.
	Path   string
	Schema store.Schema
	Log    *slog.Logger

	// History is the number of events kept of each resource for watchers that lag behind and lists at a revision;
	// HistoryBytes bounds, in encoded bytes and for each resource, the old states that are alive only for it. Beyond
	// either, the oldest quarter goes. Zero means DefaultHistory and DefaultHistoryBytes.
	History, HistoryBytes int
	// FlushDelay is how long a volatile write may wait for a transaction to the disk. Zero means DefaultFlushDelay.
	FlushDelay time.Duration
}

// Defaults of Config. Decoded objects are two to four times their encoded size.
const (
	DefaultHistory      = 4096
	DefaultHistoryBytes = 8 << 20
	DefaultFlushDelay   = 800 * time.Millisecond
)

const (
	// reserve is how many revisions the file reserves ahead: after a crash the counter goes on behind them, so that no
	// revision which a watcher saw on a volatile object is ever given to something else.
	reserve = 1 << 14
	// maxDirty bounds the volatile writes that wait for the disk; beyond it they are acknowledged like any other.
	maxDirty = 1 << 15
	// mmapSize is address space, not memory. Below it bbolt never maps anew, for which it would wait until readers end:
	// a slow backup would stop all writers.
	mmapSize = 1 << 30
	// dropEvery is the number of transactions after which the pages that they touched are given back.
	dropEvery = 1024
	// allocSize is the step in which the file grows.
	allocSize = 4 << 20
)

// Store implements store.Store. Make it with Open.
type Store struct {
	cfg    Config
	schema *store.Schema
	log    *slog.Logger
	db     *bbolt.DB
	id     string
	start  int64 // revision at Open: what came before is not in the histories

	committed atomic.Pointer[state]
	topics    sync.Map // resource → *topic
	topicList atomic.Pointer[[]*topic]
	any       *topic // wakes watchers of all resources; keeps no events

	running chan struct{} // closed when Run begins
	kick    chan struct{}

	mu       sync.Mutex // the writers' lock; the fields below are its
	head     *state     // committed, and what is queued or in flight
	assigned int64      // the last revision given to a write, also one that failed on its way to the disk
	queue    []*pending
	inflight bool // a batch with writers waiting is on its way to the disk
	// committing: any batch is, also one of volatile writes alone.
	committing bool
	ceiling    int64
	dirty      map[store.Key]write // volatile writes, visible but not yet in the file
	started    bool
	closed     error // why there are no more writes
	failure    error // why the last transaction did not reach the disk; nil once one did
}

// pending is a writer that waits for its answer. Without events it only waits for those before it.
type pending struct {
	tx    *tx
	flush bool // volatile writes must go to the disk, too
	done  chan error
}

// Open reads and checks the file, or makes a new one. The file stays locked until Run ends, or Close when Run never began.
func Open(cfg Config) (*Store, error) {
	cfg.History = cmp.Or(cfg.History, DefaultHistory)
	cfg.HistoryBytes = cmp.Or(cfg.HistoryBytes, DefaultHistoryBytes)
	cfg.FlushDelay = cmp.Or(cfg.FlushDelay, DefaultFlushDelay)
	if cfg.Path == "" || cfg.Schema.Codec == nil {
		return nil, errors.New("store: a path and a codec are needed")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Store{
		cfg: cfg, log: cfg.Log.With("component", "store"),
		running: make(chan struct{}), kick: make(chan struct{}, 1),
		dirty: make(map[store.Key]write),
	}
	s.schema = &s.cfg.Schema
	s.topicList.Store(new([]*topic))
	if err := ensureFile(cfg.Path); err != nil {
		return nil, err
	}
	began := time.Now()
	loaded, err := load(cfg.Path, s.schema)
	if err != nil {
		return nil, err
	}
	if loaded.fallback {
		s.log.Warn("One of the two meta pages of the store is torn, as after a power cut; using the other", "file", cfg.Path)
	}
	if s.db, err = openDB(cfg.Path, mmapSize); err != nil {
		return nil, err
	}
	s.db.AllocSize = allocSize
	dropPages(s.db)
	noteOwner(cfg.Path)
	s.id, s.ceiling = loaded.id, loaded.ceiling
	s.start = max(loaded.ceiling, loaded.revision)
	s.assigned = s.start
	s.any = newTopic(s.start)
	s.head = &state{revision: s.start, tables: loaded.tables}
	s.committed.Store(s.head)
	for resource := range loaded.tables {
		s.topic(resource)
	}
	s.log.Info("Store opened", "file", cfg.Path, "rev", s.start, "objects", loaded.objects, "took", time.Since(began).Round(time.Millisecond))
	return s, nil
}

// ID is the cluster's random id, made with the file and kept by backups.
func (s *Store) ID() string { return s.id }

func (s *Store) View(fn func(store.Reader) error) error { return fn(s.committed.Load()) }

func (s *Store) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed != nil:
		return s.closed
	case !s.started:
		return errors.New("store: it does not run yet")
	}
	return s.failure
}

func (s *Store) topic(resource string) *topic {
	if t, ok := s.topics.Load(resource); ok {
		return t.(*topic)
	}
	t, loaded := s.topics.LoadOrStore(resource, newTopic(s.start))
	if !loaded {
		for {
			old := s.topicList.Load()
			list := append((*old)[:len(*old):len(*old)], t.(*topic))
			if s.topicList.CompareAndSwap(old, &list) {
				break
			}
		}
	}
	return t.(*topic)
}

func (s *Store) allTopics() []*topic { return *s.topicList.Load() }

// Close gives up a store that Run was never called on. Where Run was, Run closes it.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.started || s.closed != nil {
		s.mu.Unlock()
		return nil
	}
	s.closed = store.ErrClosed
	s.mu.Unlock()
	close(s.running) // writers that wait for Run learn it
	return s.closeDB()
}

func (s *Store) closeDB() error {
	forgetOwner(s.cfg.Path)
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("store: cannot close %s: %w", s.cfg.Path, err)
	}
	return nil
}

// Run commits until ctx ends, then brings everything to the disk and closes the file. It returns an error when the disk
// left it unknown what is in the file: only a restart, which reads it, can tell.
func (s *Store) Run(ctx context.Context) error {
	s.mu.Lock()
	if s.started || s.closed != nil {
		s.mu.Unlock()
		return fmt.Errorf("store: Run called twice, or after Close: %w", store.ErrClosed)
	}
	s.started = true
	s.mu.Unlock()
	close(s.running)
	return s.commitLoop(ctx)
}
