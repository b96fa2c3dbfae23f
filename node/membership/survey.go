package membership

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// memberlist probes one machine every probeEvery. A dead machine is soon found so, because all others probe; but a
// machine that is cut off finds out about the others one after the other, which takes it half a second for each. So when
// one has died, or none has answered for surveyQuiet, they are all asked at once whether they are there. Only if nobody is, it is believed: while somebody
// answers, others probe too, and a machine that is only busy has the time that memberlist gives it to contradict.
const (
	surveyTries = 3
	// surveyQuiet is two probes.
	surveyQuiet = 2*probeEvery + 100*time.Millisecond
	// surveyDial is for a machine that answers by TCP only, since somebody's firewall forgot about UDP.
	surveyDial = surveyTries * probeTimeout
	// surveyPatience: a survey that took longer than it may shows that we are too busy to judge others.
	surveyPatience = surveyDial + 150*time.Millisecond
	// surveyAgain is how often those who were silent, and whom memberlist does not call dead, are asked again.
	surveyAgain = 500 * time.Millisecond
)

// answered is told by memberlist of each probe that was answered.
type answered struct{ quiet *time.Timer }

func (answered) AckPayload() []byte { return nil }
func (a answered) NotifyPingComplete(*memberlist.Node, time.Duration, []byte) {
	a.quiet.Reset(surveyQuiet)
}

// survey asks all members, and takes those who do not answer for dead until memberlist does, or they answer.
func (m *Membership) survey(ctx context.Context, list *memberlist.Memberlist) {
	began, members := time.Now(), m.Members()
	silent := m.ask(ctx, list, members)
	if len(silent) < len(members)-1 || time.Since(began) > surveyPatience {
		return
	}
	for _, v := range silent {
		m.set(v, false, true)
		m.mu.Lock()
		m.silent[v.Name] = v
		m.mu.Unlock()
	}
	t := time.NewTicker(surveyAgain)
	defer t.Stop()
	for {
		m.mu.Lock()
		left := slices.Collect(maps.Values(m.silent))
		m.mu.Unlock()
		if len(left) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		mute := m.ask(ctx, list, left)
		for _, v := range left {
			m.mu.Lock()
			_, open := m.silent[v.Name] // memberlist has not come to a conclusion of its own meanwhile
			m.mu.Unlock()
			if open && !slices.Contains(mute, v) && ctx.Err() == nil {
				m.set(v, true, false)
			}
		}
	}
}

// ask returns those who do not answer; nobody, when ctx ends meanwhile.
func (m *Membership) ask(ctx context.Context, list *memberlist.Memberlist, members []Member) []Member {
	var mu sync.Mutex
	var silent []Member
	var asking sync.WaitGroup
	for _, v := range members {
		if v.Name == m.cfg.Name {
			continue
		}
		asking.Go(func() {
			if !answers(ctx, list, v) {
				mu.Lock()
				silent = append(silent, v)
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return silent
}

func answers(ctx context.Context, list *memberlist.Memberlist, v Member) bool {
	dialed := make(chan bool, 1)
	go func() { dialed <- dials(ctx, v, surveyDial) }()
	addr := net.UDPAddr{IP: net.ParseIP(v.Addr), Port: int(v.Port)}
	for range surveyTries {
		if _, err := list.Ping(v.Name, &addr); err == nil || ctx.Err() != nil {
			return true
		}
	}
	return <-dialed
}
