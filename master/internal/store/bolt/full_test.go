package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/whalepod/whalepod/master/internal/store"
	"github.com/whalepod/whalepod/master/internal/store/storetest"
)

// TestDiskFull lets a child run into the limit of a file's size (RLIMIT_FSIZE), which needs no root and fails like a disk
// without room.
func TestDiskFull(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fullEnv+"="+config(t).Path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fullChild(path string) {
	if err := fillDisk(path); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func fillDisk(path string) error {
	signal.Ignore(syscall.SIGXFSZ)
	cfg := Config{Path: path, Schema: storetest.Schema()}
	s, err := Open(cfg)
	if err != nil {
		return err
	}
	if s.Ready() == nil {
		return errors.New("ready before it runs")
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	limit := func(n uint64) error {
		return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: n, Max: ^uint64(0)})
	}
	if err := limit(6 << 20); err != nil {
		return err
	}
	acked, err := fillUp(ctx, s)
	if err != nil {
		return err
	}
	if s.Ready() == nil {
		return errors.New("ready though the disk is full")
	}
	event := storetest.Key(storetest.Events, "default", "e")
	if err := set(ctx, s, event, "seen while the disk is full"); err != nil {
		return fmt.Errorf("a volatile write: %w", err)
	}
	if _, err := s.Backup(ctx, new(strings.Builder)); err != nil {
		return fmt.Errorf("backup from a full disk: %w", err)
	}
	if err := limit(^uint64(0)); err != nil {
		return err
	}
	again := storetest.Key(storetest.Maps, "default", "again")
	if err := set(ctx, s, again, "v"); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := s.Ready(); err != nil {
		return fmt.Errorf("not ready with room again: %w", err)
	}
	acked[again], acked[event] = true, true
	revision := revision(s)
	cancel()
	if err := <-ended; err != nil {
		return err
	}
	if s, err = Open(cfg); err != nil {
		return err
	}
	defer s.Close()
	if s.start < revision {
		return fmt.Errorf("the revision went back from %d to %d", revision, s.start)
	}
	return check(s, acked)
}

func set(ctx context.Context, s *Store, key store.Key, value string) error {
	return s.Update(ctx, func(tx store.Tx) error { _, err := storetest.Set(tx, key, value); return err })
}

// fillUp writes with several writers until each has been refused, and compares what the store shows with the answers.
func fillUp(ctx context.Context, s *Store) (map[store.Key]bool, error) {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		acked = make(map[store.Key]bool)
		last  error
	)
	for writer := range 8 {
		wg.Go(func() {
			for i := range 1000 {
				key := storetest.Key(storetest.Maps, "default", fmt.Sprintf("w%d-%d", writer, i))
				err := set(ctx, s, key, strings.Repeat("x", 20000))
				mu.Lock()
				if err != nil {
					last = err
				} else {
					acked[key] = true
				}
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if last == nil || !strings.Contains(last.Error(), "cannot write "+s.cfg.Path) {
		return nil, fmt.Errorf("the disk is full, but the error is: %v", last)
	}
	return acked, check(s, acked)
}

func check(s *Store, acked map[store.Key]bool) error {
	return s.View(func(r store.Reader) error {
		n := 0
		for _, resource := range []string{storetest.Maps, storetest.Events} {
			for o := range r.List(resource, "", store.Key{}) {
				n++
				if !acked[storetest.Key(resource, o.GetNamespace(), o.GetName())] {
					return fmt.Errorf("%s was refused and is there", o.GetName())
				}
			}
		}
		if n != len(acked) {
			return fmt.Errorf("%d objects of %d acknowledged", n, len(acked))
		}
		return nil
	})
}
