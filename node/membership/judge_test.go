package membership

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
)

// Answers of a machine that is called dead, and how long after that it is believed; "" as long as memberlist does not
// change its mind.
func TestJudge(t *testing.T) {
	const never = time.Duration(-1)
	for _, tt := range []struct {
		name string
		// answers: "itself", "kernel", "no", or "late", which is no for who was too busy to ask; the last one repeats.
		answers string
		dead    time.Duration
	}{
		{"it is dead", "no", judgeTimeout},
		{"it is busy", "itself", never},
		{"its process is starved for a moment", "kernel kernel itself", never},
		{"its process is stopped", "kernel", 5*judgeTimeout + 4*judgeAgain},
		{"it dies after all", "itself itself no", 3*judgeTimeout + 2*judgeAgain},
		{"we are busy", "late itself", never},
		{"we are busy, and it is dead", "late no", time.Second + judgeTimeout},
		{"we are busy all the time", "late", (judgeBusyMost + 1) * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := New(Config{Name: "a", Seeds: func() []string { return nil }, Logger: slog.New(slog.DiscardHandler)})
				m.judging = true
				answers, asked := strings.Fields(tt.answers), 0
				ctx, cancel := context.WithCancel(t.Context())
				done := make(chan struct{})
				go func() {
					defer close(done)
					m.judge(ctx, func(context.Context, Member) (itself, kernel bool) {
						is := answers[min(asked, len(answers)-1)]
						asked++
						if time.Sleep(judgeTimeout); is == "late" {
							time.Sleep(time.Second - judgeTimeout)
						}
						return is == "itself", is == "kernel"
					})
				}()
				defer func() { cancel(); <-done }()
				b := &memberlist.Node{Name: "b", Addr: net.ParseIP("192.0.2.2"), Port: 7946}
				m.note(b, true)
				m.note(b, false)
				began := time.Now()
				dead := func() bool { return len(m.Dead()) > 0 }
				for !dead() && time.Since(began) < time.Minute {
					if len(m.Members()) != 1 {
						t.Fatalf("after %s neither dead nor alive", time.Since(began))
					}
					time.Sleep(judgeTimeout / 6)
					synctest.Wait()
				}
				if took := time.Since(began); dead() != (tt.dead != never) || dead() && took != tt.dead {
					t.Errorf("dead: %v, after %s, wanted %s", dead(), took, tt.dead)
				}
				if dead() && len(m.Members()) > 0 {
					t.Errorf("both: %v %v", m.Members(), m.Dead())
				}
				m.note(b, true) // memberlist has heard it contradict
				before := asked
				time.Sleep(time.Minute)
				if asked > before+1 || dead() || len(m.Members()) != 1 {
					t.Errorf("goes on asking: %d times; dead %v", asked-before, m.Dead())
				}
			})
		})
	}
}

// A machine that memberlist calls dead and that lives is never told of as dead; one that has died is.
func TestWhoIsCalledDeadIsAsked(t *testing.T) {
	t.Parallel()
	key := make([]byte, 32)
	a, _ := start(t, "a", "127.0.0.1", freePort(t, "127.0.0.1"), key)
	await(t, a, "itself", func() bool { return len(a.Members()) == 1 })
	lives := quietConfig("lives", freePort(t, "127.0.0.5"), key)
	list, err := memberlist.Create(lives)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = list.Shutdown() }()
	node := func(name string, port int) *memberlist.Node {
		return &memberlist.Node{Name: name, Addr: net.ParseIP("127.0.0.5"), Port: uint16(port)}
	}
	var told atomic.Bool
	is := func(name string) bool {
		_, dead := a.Dead()["lives"]
		if dead {
			told.Store(true)
		}
		_, dead = a.Dead()[name]
		return dead
	}
	for _, n := range []*memberlist.Node{node("lives", lives.BindPort), node("dies", freePort(t, "127.0.0.5"))} {
		a.note(n, true)
		a.note(n, false)
	}
	await(t, a, "the dead one", func() bool { return is("dies") })
	if told.Load() || !slices.ContainsFunc(a.Members(), func(v Member) bool { return v.Name == "lives" }) {
		t.Errorf("members %v, dead %v", a.Members(), a.Dead())
	}
}
