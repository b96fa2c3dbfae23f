package membership

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memberlist calls a machine dead when its probes have had no answer for a second or two. On a small server that is asked to do
// much, that may mean only that it is busy, or that whoever asked is; and to believe it ends connections, although the machine contradicts
// as soon as it hears of it. So a machine that is called dead is asked by ourselves before anybody is told, and called, so that it hears
// what is said of it. One that died costs judgeTimeout.
const (
	judgeTimeout = 300 * time.Millisecond
	// judgeBusy: who has waited longer than that for what ends at judgeTimeout is too busy to judge (or his virtual machine was not
	// given a processor meanwhile). Then it asks again, but not for ever.
	judgeBusy     = judgeTimeout + 50*time.Millisecond
	judgeBusyMost = 4
	// judgeAgain is how often a machine is asked that answers, until memberlist believes it, too.
	judgeAgain = 500 * time.Millisecond
	// kernelPatience is for a machine that takes connections but says nothing: its kernel lives, what runs on it may not.
	kernelPatience = 3 * time.Second
)

// doubt is of a death that memberlist has told of.
type doubt struct {
	Member
	judged bool // somebody is at it
}

// doubt a machine's death. It returns false if there is nothing to find out: it was no member, or nobody judges.
func (m *Membership) doubt(v Member) bool {
	m.mu.Lock()
	_, member := m.members[v.Name]
	if member = member && m.judging; member {
		m.doubts[v.Name] = &doubt{Member: v}
	}
	m.mu.Unlock()
	if member {
		poke(m.doubted)
		m.claim(v)
	}
	return member
}

// doubting says whether the doubt stands: memberlist has neither found the machine alive nor has it left.
func (m *Membership) doubting(d *doubt) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.doubts[d.Name] == d
}

// asker says whether a machine answers within judgeTimeout: it itself, or only its kernel.
type asker func(ctx context.Context, v Member) (itself, kernel bool)

// judge finds out about machines that memberlist calls dead, until ctx ends.
func (m *Membership) judge(ctx context.Context, ask asker) {
	var judging sync.WaitGroup
	defer judging.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.doubted:
		}
		m.mu.Lock()
		for _, d := range m.doubts {
			if !d.judged {
				d.judged = true
				judging.Go(func() { m.judgeOne(ctx, ask, d) })
			}
		}
		m.mu.Unlock()
	}
}

func (m *Membership) judgeOne(ctx context.Context, ask asker, d *doubt) {
	heard, busy := time.Now(), 0
	for m.doubting(d) {
		began := time.Now()
		itself, kernel := ask(ctx, d.Member)
		switch now := time.Now(); {
		case ctx.Err() != nil:
			return
		case itself:
			heard = now
		case kernel && now.Sub(heard) < kernelPatience:
		case now.Sub(began) > judgeBusy && busy < judgeBusyMost:
			busy++
			continue
		default:
			m.condemn(d)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(judgeAgain):
		}
	}
}

// condemn believes memberlist.
func (m *Membership) condemn(d *doubt) {
	if m.doubting(d) {
		m.set(d.Member, false, true)
	}
}

// askNow asks by a ping of memberlist's, and by a connection, which a machine's kernel takes however busy its processes are.
func askNow(list *memberlist.Memberlist) asker {
	return func(ctx context.Context, v Member) (itself, kernel bool) {
		dialed := make(chan bool, 1)
		go func() { dialed <- dials(ctx, v, judgeTimeout) }()
		_, err := list.Ping(v.Name, &net.UDPAddr{IP: net.ParseIP(v.Addr), Port: int(v.Port)})
		return err == nil, <-dialed
	}
}

func dials(ctx context.Context, v Member, timeout time.Duration) bool {
	c, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", v.host())
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}
