package bolt

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/whalepod/whalepod/master/internal/store"
	"github.com/whalepod/whalepod/master/internal/store/storetest"
)

func TestContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store { return start(t, config(t)) })
}

func config(t testing.TB) Config {
	return Config{Path: filepath.Join(t.TempDir(), "data", "store.db"), Schema: storetest.Schema()}
}

func open(t testing.TB, cfg Config) *Store {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// start opens a store and runs it until the test ends.
func start(t testing.TB, cfg Config) *Store {
	t.Helper()
	s := open(t, cfg)
	t.Cleanup(run(t, s))
	return s
}

// run starts Run and returns what ends it, after which the file must be sound.
func run(t testing.TB, s *Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stopped := false
	return func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if _, err := load(s.cfg.Path, s.schema); err != nil {
			t.Errorf("after the end: %v", err)
		}
	}
}
