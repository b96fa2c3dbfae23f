package membership

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

// start runs a member on loopback and returns a function that ends it and waits.
func start(t *testing.T, name, addr string, port int, key []byte, seeds ...string) (*Membership, context.CancelFunc) {
	t.Helper()
	m := New(Config{
		Name: name, Addr: addr, Port: port, Key: key, Seeds: func() []string { return seeds }, Logger: slog.New(slog.DiscardHandler),
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	stop := func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		done <- nil
	}
	t.Cleanup(stop)
	return m, stop
}

func await(t *testing.T, m *Membership, what string, ok func() bool) {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-m.Changed():
		case <-timeout:
			t.Fatalf("%s: %s not seen; members %v, dead %v", m.cfg.Name, what, m.Members(), m.Dead())
		}
	}
}

// freePort finds a port free for TCP and UDP on an address.
func freePort(t *testing.T, addr string) int {
	t.Helper()
	l, err := net.Listen("tcp", addr+":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func TestMembersFindEachOtherAndLeave(t *testing.T) {
	key := make([]byte, 32)
	portA, portB := freePort(t, "127.0.0.1"), freePort(t, "127.0.0.2")
	a, _ := start(t, "a", "127.0.0.1", portA, key)
	b, stopB := start(t, "b", "127.0.0.2", portB, key, "127.0.0.1:"+strconv.Itoa(portA))
	await(t, a, "b joining", func() bool { return len(a.Members()) == 2 })
	await(t, b, "a", func() bool { return len(b.Members()) == 2 })
	stopB()
	await(t, a, "b leaving", func() bool { return len(a.Members()) == 1 })
	if len(a.Dead()) != 0 {
		t.Errorf("a machine that said good-bye counts as dead: %v", a.Dead())
	}
}

func TestStrangersAreNotLetIn(t *testing.T) {
	portA, portB := freePort(t, "127.0.0.1"), freePort(t, "127.0.0.2")
	key, other := make([]byte, 32), make([]byte, 32)
	other[0] = 1
	a, _ := start(t, "a", "127.0.0.1", portA, key)
	b, _ := start(t, "b", "127.0.0.2", portB, other, "127.0.0.1:"+strconv.Itoa(portA))
	c, _ := start(t, "c", "127.0.0.3", freePort(t, "127.0.0.3"), key, "127.0.0.1:"+strconv.Itoa(portA))
	await(t, c, "a", func() bool { return len(c.Members()) == 2 })
	await(t, a, "c", func() bool { return len(a.Members()) == 2 })
	await(t, b, "itself", func() bool { return len(b.Members()) == 1 })
	if len(a.Members()) != 2 || len(b.Members()) != 1 {
		t.Errorf("a machine with another key takes part: a sees %v, b sees %v", a.Members(), b.Members())
	}
}

func TestMembersTellOfThemselves(t *testing.T) {
	key := make([]byte, 32)
	portA, portB := freePort(t, "127.0.0.1"), freePort(t, "127.0.0.2")
	a, _ := start(t, "a", "127.0.0.1", portA, key)
	a.Tell("before b is there")
	b, _ := start(t, "b", "127.0.0.2", portB, key, "127.0.0.1:"+strconv.Itoa(portA))
	told := func(m *Membership, name, what string) func() bool {
		return func() bool {
			for _, o := range m.Members() {
				if o.Name == name {
					return o.Meta == what
				}
			}
			return false
		}
	}
	await(t, b, "what a told before", told(b, "a", "before b is there"))
	a.Tell("after")
	await(t, b, "what a tells", told(b, "a", "after"))
	a.Tell(strings.Repeat("x", MaxMeta+1))
	a.Tell(leavingMeta)
	b.Tell("b")
	await(t, a, "what b tells", told(a, "b", "b"))
	if !told(b, "a", "after")() {
		t.Errorf("what cannot be told was: %v", b.Members())
	}
}

// Who is alone asks again soon; what is missing is looked for more often than usual; members are not called.
func TestSeedsAreAskedAgain(t *testing.T) {
	seeds := []string{"192.0.2.1:7946", "192.0.2.2:7946", "192.0.2.3:7946", "192.0.2.4:7946", "192.0.2.5:7946", "192.0.2.6:7946",
		"192.0.2.7:7946", "192.0.2.8:7946", "192.0.2.9:7946", "192.0.2.10:7946"}
	m := New(Config{Name: "a", Addr: "192.0.2.1", Port: 7946, Seeds: func() []string { return seeds }, Logger: slog.New(slog.DiscardHandler)})
	node := func(name, ip string) *memberlist.Node {
		return &memberlist.Node{Name: name, Addr: net.ParseIP(ip), Port: 7946}
	}
	turn := func(what string, wait time.Duration, calls int) {
		t.Helper()
		called := map[string]bool{}
		var mu sync.Mutex
		got := m.join(func(list []string) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			for _, s := range list {
				called[s] = true
			}
			return 0, errors.New("no answer")
		})
		if got != wait || len(called) != calls || called[seeds[0]] {
			t.Errorf("%s: looks again after %s, wanted %s; called %v, wanted %d", what, got, wait, called, calls)
		}
	}
	m.note(node("a", "192.0.2.1"), true)
	turn("alone", rejoinAlone, rejoinAtOnce)
	for i, name := range strings.Split("bcdefghi", "") {
		m.note(node(name, fmt.Sprintf("192.0.2.%d", i+2)), true)
	}
	turn("one seed is no member", rejoinEvery, 1)
	m.note(node("b", "192.0.2.2"), false)
	turn("one has died", rejoinMissing, 2)
}

// A machine that has lost its power and comes back with another address is believed as soon as its former address is dead.
func TestAddressChanges(t *testing.T) {
	t.Parallel()
	key, port := make([]byte, 32), freePort(t, "127.0.0.6")
	seed := "127.0.0.6:" + strconv.Itoa(port)
	a, _ := start(t, "a", "127.0.0.6", port, key)
	b, _ := start(t, "b", "127.0.0.7", freePort(t, "127.0.0.7"), key, seed)
	await(t, a, "b joining", func() bool { return len(a.Members()) == 2 })
	former, err := memberlist.Create(quietConfig("c", freePort(t, "127.0.0.5"), key))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := former.Join([]string{seed}); err != nil {
		t.Fatal(err)
	}
	both := []*Membership{a, b}
	at := func(m *Membership, addr string) func() bool {
		return func() bool {
			return slices.ContainsFunc(m.Members(), func(v Member) bool { return v.Name == "c" && v.Addr == addr })
		}
	}
	for _, m := range both {
		await(t, m, "c", at(m, "127.0.0.5"))
	}
	if err := former.Shutdown(); err != nil { // without a word
		t.Fatal(err)
	}
	began := time.Now()
	start(t, "c", "127.0.0.8", freePort(t, "127.0.0.8"), key, seed)
	for _, m := range both {
		await(t, m, "c's other address", at(m, "127.0.0.8"))
	}
	if took := time.Since(began); took > claimPatience {
		t.Errorf("that took %s", took)
	}
}

// A machine at another address than the one that it is known by is called until it is believed, but not for ever.
func TestOtherAddressesAreCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := New(Config{Name: "a", Addr: "192.0.2.1", Port: 7946, Seeds: func() []string { return nil }, Logger: slog.New(slog.DiscardHandler)})
		node := func(name, ip string) *memberlist.Node {
			return &memberlist.Node{Name: name, Addr: net.ParseIP(ip), Port: 7946}
		}
		turn := func(what string, wait time.Duration, want ...string) {
			t.Helper()
			var called []string
			got := m.join(func(list []string) (int, error) {
				called = append(called, list...)
				return 1, nil
			})
			if got != wait || !slices.Equal(called, want) {
				t.Errorf("%s: looks again after %s, wanted %s; called %v", what, got, wait, called)
			}
		}
		m.note(node("a", "192.0.2.1"), true)
		m.note(node("b", "192.0.2.2"), true)
		turn("nothing", rejoinEvery)
		events{m}.NotifyConflict(node("a", "192.0.2.1"), node("a", "192.0.2.9"))
		turn("somebody has a wrong address of ours", rejoinEvery)
		events{m}.NotifyConflict(node("b", "192.0.2.2"), node("b", "192.0.2.3"))
		select {
		case <-m.claimed:
		default:
			t.Error("nobody is told to look")
		}
		turn("claimed", rejoinMissing, "192.0.2.3:7946")
		m.note(node("b", "192.0.2.3"), true)
		turn("believed", rejoinEvery)
		events{m}.NotifyConflict(node("b", "192.0.2.3"), node("b", "192.0.2.4"))
		time.Sleep(claimPatience / 2)
		events{m}.NotifyConflict(node("b", "192.0.2.3"), node("b", "192.0.2.4"))
		turn("a copy", rejoinMissing, "192.0.2.4:7946")
		time.Sleep(claimPatience/2 + time.Second)
		turn("a copy is never believed", rejoinEvery)
	})
}

// A machine whom nobody answers, by UDP or TCP, finds all others dead at once, and alive again when they answer.
func TestSurvey(t *testing.T) {
	key := make([]byte, 32)
	a, _ := start(t, "a", "127.0.0.1", freePort(t, "127.0.0.1"), key)
	await(t, a, "itself", func() bool { return len(a.Members()) == 1 })
	gone := Member{Name: "gone", Addr: "127.0.0.3", Port: uint16(freePort(t, "127.0.0.3"))}
	a.set(gone, true, false)
	a.set(Member{Name: "first", Addr: "127.0.0.4", Port: 1}, false, true)
	// On a machine that is too busy to judge, another death makes it try again.
	for i := 0; len(a.Members()) > 1; i++ {
		wait := time.NewTimer(2 * time.Second)
		select {
		case <-a.Changed():
		case <-wait.C:
			if i > 10 {
				t.Fatalf("the silent one is still a member: %v", a.Members())
			}
			a.set(Member{Name: fmt.Sprint("another", i), Addr: "127.0.0.4", Port: 1}, false, true)
		}
		wait.Stop()
	}
	if _, dead := a.Dead()["gone"]; !dead {
		t.Errorf("dead: %v", a.Dead())
	}
	start(t, "gone", "127.0.0.3", int(gone.Port), key)
	await(t, a, "the answer", func() bool { _, dead := a.Dead()["gone"]; return !dead })
}

// While somebody answers, those who do not are left to memberlist.
func TestSurveyWhileSomebodyAnswers(t *testing.T) {
	key := make([]byte, 32)
	port := freePort(t, "127.0.0.1")
	a, _ := start(t, "a", "127.0.0.1", port, key)
	b, _ := start(t, "b", "127.0.0.2", freePort(t, "127.0.0.2"), key, "127.0.0.1:"+strconv.Itoa(port))
	await(t, a, "b joining", func() bool { return len(a.Members()) == 2 })
	await(t, b, "a", func() bool { return len(b.Members()) == 2 })
	a.set(Member{Name: "gone", Addr: "127.0.0.3", Port: uint16(freePort(t, "127.0.0.3"))}, true, false)
	list, err := memberlist.Create(quietConfig("asker", freePort(t, "127.0.0.5"), key))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = list.Shutdown() }()
	a.survey(t.Context(), list)
	if len(a.Dead()) > 0 {
		t.Errorf("members %v, dead %v", a.Members(), a.Dead())
	}
}

func quietConfig(name string, port int, key []byte) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort, c.AdvertisePort, c.SecretKey = name, "127.0.0.5", port, port, key
	c.ProbeTimeout, c.LogOutput = probeTimeout, io.Discard
	return c
}
