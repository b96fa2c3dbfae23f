package bolt

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/whalepod/whalepod/master/internal/store"
	"github.com/whalepod/whalepod/master/internal/store/storetest"
)

// Environment of a child: the test binary runs itself as the process to kill, or to run out of disk.
const (
	crashEnv = "WHALEPOD_TEST_CRASH"
	fullEnv  = "WHALEPOD_TEST_FULL"
)

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(crashEnv) != "":
		crashChild(os.Getenv(crashEnv))
	case os.Getenv(fullEnv) != "":
		fullChild(os.Getenv(fullEnv))
	default:
		os.Exit(m.Run())
	}
}

const crashWriters = 6

// TestCrash kills a writing process again and again, always on the same file. Everything that it said was acknowledged,
// or that one of its watchers saw, must be there, and no revision be given out twice.
func TestCrash(t *testing.T) {
	chains, rounds := 4, 75
	if testing.Short() {
		rounds = 5
	}
	for chain := range chains {
		t.Run(fmt.Sprint(chain), func(t *testing.T) {
			t.Parallel()
			c := &crash{cfg: config(t), seen: make(map[store.Key]int64), contents: make(map[int64]string)}
			for range rounds {
				c.kill(t)
				c.check(t)
				if t.Failed() {
					return
				}
			}
			t.Logf("%d kills, %d acknowledged, last revision %d", rounds, c.lines, c.last)
		})
	}
}

type crash struct {
	cfg      Config
	seen     map[store.Key]int64 // the newest revision of each durable key
	contents map[int64]string    // what each revision was given to
	last     int64               // the highest revision anybody saw
	floor    int64               // the highest of the rounds before
	lines    int
}

// kill runs a child for a random time and takes down what it said: "resource name revision value".
func (c *crash) kill(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashEnv+"="+c.cfg.Path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	c.floor = c.last
	r := bufio.NewReader(out)
	for first := true; ; first = false {
		line, err := r.ReadString('\n')
		if err == io.EOF {
			return // what is cut off was not said
		}
		if err != nil {
			t.Error(err)
			return
		}
		if first { // it writes now
			time.AfterFunc(time.Duration(rand.IntN(40_000))*time.Microsecond, func() { _ = cmd.Process.Kill() })
		}
		c.note(t, line)
	}
}

func (c *crash) note(t *testing.T, line string) {
	f := strings.Fields(line)
	if len(f) != 4 {
		t.Errorf("the child said %q", line)
		return
	}
	rev, err := strconv.ParseInt(f[2], 10, 64)
	if err != nil {
		t.Error(err)
	}
	c.lines++
	if old, ok := c.contents[rev]; ok && old != f[3] || rev <= c.floor {
		t.Errorf("revision %d was given to %q, now to %q; before this start %d was reached", rev, old, f[3], c.floor)
	}
	c.contents[rev] = f[3]
	c.last = max(c.last, rev)
	key := storetest.Key(f[0], "default", f[1])
	if f[0] != storetest.Events && rev > c.seen[key] {
		c.seen[key] = rev
	}
}

func (c *crash) check(t *testing.T) {
	s, err := Open(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.start < c.last {
		t.Errorf("opened at revision %d, but %d was seen", s.start, c.last)
	}
	_ = s.View(func(r store.Reader) error {
		for key, rev := range c.seen {
			o, err := r.Get(key)
			if err != nil {
				t.Errorf("%v, acknowledged at %d, is lost: %v", key, rev, err)
				continue
			}
			got, _ := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
			if got < rev || got == rev && c.contents[rev] != strings.SplitN(storetest.Value(o), "/", 2)[0] {
				t.Errorf("%v was at %d, is %q at %d", key, rev, storetest.Value(o), got)
			}
		}
		return nil
	})
}

// crashChild writes until it is killed, and says what was acknowledged and what a watcher saw.
func crashChild(path string) {
	die := func(err error) {
		slog.Error("child", "err", err)
		os.Exit(1)
	}
	s, err := Open(Config{Path: path, Schema: storetest.Schema(), FlushDelay: 3 * time.Millisecond})
	if err != nil {
		die(err)
	}
	go func() { die(s.Run(context.Background())) }()
	var mu sync.Mutex
	say := func(key store.Key, rev, value string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%s %s %s %s\n", key.Resource, key.Name, rev, strings.SplitN(value, "/", 2)[0])
	}
	w, err := s.Watch(store.WatchOptions{After: s.start})
	if err != nil {
		die(err)
	}
	go func() {
		for {
			events, err := w.Next(context.Background(), 0)
			if err != nil {
				die(err)
			}
			for _, e := range events {
				say(e.Key, strconv.FormatInt(e.Revision, 10), storetest.Value(e.Object))
			}
		}
	}()
	for writer := range crashWriters {
		go func() {
			for i := 0; ; i++ {
				resource := []string{storetest.Pods, storetest.Maps, storetest.Events}[rand.IntN(3)]
				key := storetest.Key(resource, "default", fmt.Sprintf("w%d-%d", writer, rand.IntN(30)))
				value := fmt.Sprintf("%d:%d:%d/%s", os.Getpid(), writer, i, strings.Repeat("x", rand.IntN(3000)))
				var rev string
				err := s.Update(context.Background(), func(tx store.Tx) (err error) {
					rev, err = storetest.Set(tx, key, value)
					return err
				})
				if err != nil {
					die(err)
				}
				say(key, rev, value)
			}
		}()
	}
	select {}
}
