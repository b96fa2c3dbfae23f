package desired

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func pod(name, uid string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(uid)}}
}

func change(o *corev1.Pod, rev uint64) Change {
	return Change{Resource: Pods, Key: Key(o.Namespace, o.Name), Object: o, Revision: rev}
}

func open(t *testing.T, dir string) *State {
	t.Helper()
	s, err := Open(Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func names(s *State) string {
	var b bytes.Buffer
	for _, p := range s.Pods() {
		fmt.Fprintf(&b, "%s ", p.Name)
	}
	return b.String()
}

func TestSnapshotDropsWhatItDidNotNameAndSurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	if s.Completed() {
		t.Fatal("an empty new state must not count as complete")
	}
	s.Begin()
	_ = s.Apply([]Change{change(pod("a", "1"), 1), change(pod("b", "2"), 2)})
	_ = s.Complete(2)
	if got := names(s); got != "a b " || !s.Completed() || s.Revision() != 2 {
		t.Fatalf("got %q complete=%v rev=%d", got, s.Completed(), s.Revision())
	}
	_ = s.Close()

	s = open(t, dir)
	if got := names(s); got != "a b " || !s.Completed() || s.Revision() != 2 {
		t.Fatalf("after restart: %q complete=%v rev=%d", got, s.Completed(), s.Revision())
	}
	s.Begin()
	_ = s.Apply([]Change{change(pod("b", "2"), 3), change(pod("c", "3"), 4)})
	if got := names(s); got != "a b c " {
		t.Fatalf("inside a snapshot nothing goes: %q", got)
	}
	_ = s.Complete(5)
	if got := names(s); got != "b c " {
		t.Fatalf("after Complete: %q", got)
	}
	_ = s.Apply([]Change{{Resource: Pods, Key: "default/b", Revision: 6}, {Resource: "unknown", Key: "x", Revision: 7}})
	_ = s.Close()
	if got := names(open(t, dir)); got != "c " {
		t.Fatalf("after deletion and restart: %q", got)
	}
}

func TestJournalIsPrivate(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	_ = s.Apply([]Change{change(pod("a", "1"), 1)})
	info, err := os.Stat(filepath.Join(dir, journalName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("mode %v, err %v", info.Mode(), err)
	}
}

// Any single damaged byte and any cut-off end loses at most the record it hit, and never counts as complete.
func TestDamageCostsOneRecord(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	var changes []Change
	for i := range 5 {
		changes = append(changes, change(pod(fmt.Sprintf("p%d", i), "x"), uint64(i)))
	}
	_ = s.Apply(changes)
	_ = s.Complete(9)
	_ = s.Close()
	path := filepath.Join(dir, journalName)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(good); i += 3 {
		for _, cut := range []bool{false, true} {
			bad := bytes.Clone(good)
			if cut {
				bad = bad[:i]
			} else {
				bad[i] ^= 0x5a
			}
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			s := open(t, dir)
			if got := len(s.Pods()); !cut && got < 4 {
				t.Fatalf("byte %d damaged: %d pods left of 5", i, got)
			}
			if s.Completed() && (!cut || i < len(good)) && i != 0 {
				if !cut || len(s.Pods()) < 5 {
					t.Fatalf("byte %d (cut %v): a damaged state counts as complete", i, cut)
				}
			}
			_ = s.Close()
		}
	}
}

func TestDamageIsHealedByTheNextWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, journalName)
	s := open(t, dir)
	_ = s.Apply([]Change{change(pod("a", "1"), 1)})
	_ = s.Close()
	f, _ := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	_, _ = f.WriteString("WPd1half a record")
	_ = f.Close()
	s = open(t, dir)
	s.Begin()
	_ = s.Apply([]Change{change(pod("a", "1"), 2), change(pod("b", "1"), 3)})
	_ = s.Complete(3)
	_ = s.Close()
	s = open(t, dir)
	if got := names(s); got != "a b " || !s.Completed() {
		t.Fatalf("got %q complete=%v", got, s.Completed())
	}
}

func TestCompactionKeepsTheState(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	big := pod("big", "1")
	big.Annotations = map[string]string{"x": string(make([]byte, 100_000))}
	for i := range 50 {
		if err := s.Apply([]Change{change(big.DeepCopy(), uint64(i)), change(pod("a", "1"), uint64(i))}); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Complete(50)
	_ = s.Close()
	info, _ := os.Stat(filepath.Join(dir, journalName))
	if info.Size() > 2*compactAfter {
		t.Fatalf("journal is %d bytes", info.Size())
	}
	s = open(t, dir)
	if got := names(s); got != "a big " || !s.Completed() || s.Revision() != 50 {
		t.Fatalf("got %q %v %d", got, s.Completed(), s.Revision())
	}
}

func TestSubscription(t *testing.T) {
	s := open(t, "")
	sub := s.Subscribe(Pods)
	_ = s.Apply([]Change{{Resource: Services, Key: "default/x", Object: &corev1.Service{}}})
	select {
	case <-sub.C():
		t.Fatal("poked for a resource not asked for")
	default:
	}
	_ = s.Apply([]Change{change(pod("a", "1"), 1)})
	_ = s.Apply([]Change{change(pod("a", "1"), 2), change(pod("b", "1"), 3)})
	<-sub.C()
	if got := sub.Take(); len(got) != 2 {
		t.Fatalf("got %v", got)
	}
	_ = s.Complete(3)
	<-sub.C()
	if got := sub.Take(); len(got) != 1 || got[0].Key != "" {
		t.Fatalf("got %v", got)
	}
	sub.Close()
	_ = s.Apply([]Change{change(pod("c", "1"), 4)})
	if got := sub.Take(); len(got) != 0 {
		t.Fatalf("closed subscription still told of %v", got)
	}
}

func FuzzReplay(f *testing.F) {
	buf, _ := record{resource: Pods, key: "default/a", object: pod("a", "1"), revision: 7}.marshal(nil)
	f.Add(buf)
	f.Add(append(buf, "WPd1"...))
	f.Fuzz(func(t *testing.T, data []byte) {
		replay(data, slog.New(slog.DiscardHandler), func(record) {})
	})
}

// Changes that come without a pause must not keep the disk from being written.
func TestSyncIsNotPutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, err := Open(Config{Dir: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		timers := map[*time.Timer]bool{}
		for range 50 {
			if err := s.Apply([]Change{{Resource: Pods, Key: "ns/a", Object: &corev1.Pod{}}}); err != nil {
				t.Fatal(err)
			}
			s.disk.mu.Lock()
			timers[s.disk.pending] = true
			s.disk.mu.Unlock()
			time.Sleep(syncDelayPod / 5)
			synctest.Wait()
		}
		if len(timers) > 11 {
			t.Errorf("%d syncs were begun in the time of 10", len(timers))
		}
	})
}

// A disk that refuses to take anything loses nothing: all is written as soon as it can be.
func TestDiskFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		path := filepath.Join(dir, journalName)
		s := open(t, dir)
		s.Begin()
		_ = s.Apply([]Change{change(pod("a", "1"), 1)})
		_ = s.Complete(1)
		_ = s.Close()
		kept, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Remove(path), os.Symlink("/dev/full", path), os.Mkdir(path+".tmp", 0o700)); err != nil {
			t.Fatal(err)
		}
		// Reading /dev/full never ends: what was kept is loaded by hand.
		s = &State{log: slog.New(slog.DiscardHandler), objects: map[Resource]map[string]entry{}}
		replay(kept, s.log, s.load)
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.disk = &journal{path: path, log: s.log, file: f, lost: s.rewrite}
		err = s.Apply([]Change{change(pod("b", "2"), 2)})
		if !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
			t.Fatal(err)
		}
		_ = s.Apply([]Change{{Resource: Pods, Key: "default/a", Revision: 3}})
		if got := names(s); got != "b " || !s.Completed() {
			t.Errorf("in memory: %q", got)
		}
		time.Sleep(time.Hour)
		if err := os.Remove(path + ".tmp"); err != nil { // there is room again
			t.Fatal(err)
		}
		time.Sleep(retryDelay)
		synctest.Wait()
		if err := s.Apply([]Change{change(pod("c", "3"), 4)}); err != nil {
			t.Error(err)
		}
		_ = s.Close()
		s = open(t, dir)
		if got := names(s); got != "b c " || !s.Completed() {
			t.Errorf("on disk: %q, complete %v", got, s.Completed())
		}
		_ = s.Close()
	})
}
