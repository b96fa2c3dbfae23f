package announce

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lan is a link in memory: what one sends all others receive, or the one whom it is for.
type lan struct {
	mu    sync.Mutex
	conns []*port
	sent  []Packet
}

// port is a machine's place on the lan. Filters work as the kernel's do.
type port struct {
	lan   *lan
	mac   MAC
	in    chan Packet
	ended chan struct{}
	once  sync.Once

	mu   sync.Mutex
	only []netip.Addr
	all  bool // hears everything
}

func (l *lan) plug(mac MAC, all bool) *port {
	p := &port{lan: l, mac: mac, in: make(chan Packet, 1000), ended: make(chan struct{}), all: all}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, p)
	return p
}

func (p *port) Only(addrs []netip.Addr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.only = slices.Clone(addrs)
	return nil
}

func (p *port) hears(x Packet) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all || slices.Contains(p.only, x.SenderIP) || slices.Contains(p.only, x.TargetIP)
}

func (p *port) Send(x Packet, to MAC) error {
	p.lan.mu.Lock()
	defer p.lan.mu.Unlock()
	p.lan.sent = append(p.lan.sent, x)
	for _, o := range p.lan.conns {
		if o != p && (to == broadcast || to == o.mac) && o.hears(x) {
			select {
			case o.in <- x:
			default:
			}
		}
	}
	return nil
}

func (p *port) Receive() (Packet, error) {
	select {
	case x := <-p.in:
		return x, nil
	case <-p.ended:
		return Packet{}, net.ErrClosed
	}
}

func (p *port) Close() error {
	p.once.Do(func() { close(p.ended) })
	p.lan.mu.Lock()
	defer p.lan.mu.Unlock()
	p.lan.conns = slices.DeleteFunc(p.lan.conns, func(o *port) bool { return o == p })
	return nil
}

// took returns how many announcements there were of an address since the last call, and forgets everything sent.
func (l *lan) took(at netip.Addr) (by map[MAC]int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	by = map[MAC]int{}
	for _, p := range l.sent {
		if p.Op == opRequest && p.announces() && p.SenderIP == at {
			by[p.SenderMAC]++
		}
	}
	l.sent = nil
	return by
}

// ask is what a client does: it returns who answers for an address.
func (l *lan) ask(at netip.Addr) []MAC {
	client := MAC{2, 0xff}
	p := l.plug(client, true)
	defer p.Close()
	_ = p.Send(Packet{Op: opRequest, SenderMAC: client, SenderIP: ip("198.51.100.1"), TargetIP: at}, broadcast)
	synctest.Wait()
	var by []MAC
	for {
		select {
		case x := <-p.in:
			if x.Op == opReply && x.SenderIP == at && x.TargetMAC == client {
				by = append(by, x.SenderMAC)
			}
		default:
			return by
		}
	}
}

// machine is a node with its announcer.
type machine struct {
	Peer
	*Announcer
	stop   func()
	events *[]string
	failed func() // its link fails
}

func (n *machine) mac() MAC { return n.Links[0].MAC }

// start runs an announcer on a lan.
func start(t *testing.T, l *lan, p Peer) *machine {
	t.Helper()
	m := &machine{Peer: p, events: new([]string)}
	var mu sync.Mutex
	var conn *port
	m.Announcer = New(Config{
		Node: p.Name, NodeIP: p.Links[0].Addrs[0].Addr(),
		Links: func() ([]Link, error) { return p.Links, nil },
		Listen: func(link Link) (Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			conn = l.plug(link.MAC, false)
			return conn, nil
		},
		Event: func(s Service, eventType, reason, message string) {
			mu.Lock()
			defer mu.Unlock()
			*m.events = append(*m.events, fmt.Sprintf("%s %s %s: %s", s.Name, eventType, reason, message))
		},
	})
	m.failed = func() {
		mu.Lock()
		defer mu.Unlock()
		conn.Close()
	}
	m.stop = run(t, m.Announcer)
	return m
}

// run runs an announcer until the test ends or stop is called.
func run(t *testing.T, a *Announcer) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

var web = Address{IP: ip("198.51.100.200"), Services: []Service{{Namespace: "default", Name: "web"}}}

// three nodes on a lan, that know each other.
func three(t *testing.T, l *lan) []*machine {
	t.Helper()
	var all []*machine
	for i := range 3 {
		all = append(all, start(t, l, node(fmt.Sprintf("node%d", i+1), fmt.Sprintf("198.51.100.%d/24", 11+i))))
	}
	know(all...)
	return all
}

// onLAN runs f, in a time of its own, with three nodes on a lan, of which first announces.
func onLAN(t *testing.T, f func(t *testing.T, l *lan, first *machine, others []*machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lan{}
		first, others := winner(three(t, l))
		f(t, l, first, others)
	})
}

// know tells each of them of all of them.
func know(all ...*machine) {
	var peers []Peer
	for _, m := range all {
		peers = append(peers, m.Peer)
	}
	for _, m := range all {
		m.SetPeers(slices.Clone(peers))
		m.Set([]Address{web})
	}
}

// winner comes first, and the others after it.
func winner(all []*machine) (*machine, []*machine) {
	var peers []Peer
	for _, m := range all {
		peers = append(peers, m.Peer)
	}
	name := elect(web.IP, peers)
	i := slices.IndexFunc(all, func(m *machine) bool { return m.Name == name })
	return all[i], slices.Delete(slices.Clone(all), i, i+1)
}

func (l *lan) answeredBy(t *testing.T, what string, want ...MAC) {
	t.Helper()
	if got := l.ask(web.IP); !slices.Equal(got, want) {
		t.Errorf("%s: %v answer, want %v", what, got, want)
	}
}

func TestOneAnswersAndAnotherTakesOver(t *testing.T) {
	onLAN(t, func(t *testing.T, l *lan, first *machine, others []*machine) {
		synctest.Wait()
		l.answeredBy(t, "while it asks whether somebody has the address")
		time.Sleep(probes*probeEvery + time.Millisecond)
		l.answeredBy(t, "announced", first.mac())
		time.Sleep(10 * time.Second)
		if by := l.took(web.IP); len(by) != 1 || by[first.mac()] != 1+len(announceAfter) {
			t.Errorf("announcements: %v", by)
		}
		time.Sleep(time.Hour)
		if by := l.took(web.IP); len(by) != 1 || by[first.mac()] != int(time.Hour/repeatEvery) {
			t.Errorf("announcements in an hour: %v", by)
		}

		first.stop()
		l.answeredBy(t, "its agent has ended")
		second, _ := winner(others)
		know(others...)
		time.Sleep(probes*probeEvery + time.Millisecond)
		l.answeredBy(t, "taken over", second.mac())
		if by := l.took(web.IP); by[second.mac()] != 1 {
			t.Errorf("the one that took over announces %v", by)
		}
		if want := []string{`web Normal NodeAssigned: announcing 198.51.100.200 from node "` + second.Name + `"`}; !slices.Equal(*second.events, want) {
			t.Errorf("events: %q", *second.events)
		}

		again := start(t, l, first.Peer)
		know(append(others, again)...)
		time.Sleep(probes*probeEvery + time.Millisecond)
		l.answeredBy(t, "the first is back", again.mac())
		again.Set(nil)
		synctest.Wait()
		l.answeredBy(t, "the Service is gone")
		if n := len(l.conns); n != 0 {
			t.Errorf("%d links are listened on for nothing", n)
		}
	})
}

func TestOnlyNodesThatMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{}
		all := three(t, l)
		_, others := winner(all)
		for _, m := range all {
			m.Set([]Address{{IP: web.IP, Nodes: map[string]bool{others[0].Name: true}}})
		}
		time.Sleep(time.Second)
		l.answeredBy(t, "the one with an endpoint", others[0].mac())
		for _, m := range all {
			m.Set([]Address{{IP: web.IP, Nodes: map[string]bool{}}})
		}
		time.Sleep(time.Second)
		l.answeredBy(t, "no endpoints")
		for _, m := range all {
			m.Set([]Address{{IP: ip("198.51.100.12")}})
		}
		time.Sleep(time.Second)
		for _, m := range all {
			if got := m.Answered(); len(got) != 0 {
				t.Errorf("%s answers for a node's own address: %v", m.Name, got)
			}
		}
	})
}

func TestSplitBrainHeals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		left, right := &lan{}, &lan{}
		all := three(t, left)
		first, others := winner(all)
		cut, _ := winner(others)
		time.Sleep(time.Minute)
		// The one that would be next is cut off, and thinks that all others are dead.
		alone := start(t, right, cut.Peer)
		cut.stop()
		know(alone)
		know(slices.DeleteFunc(slices.Clone(all), func(m *machine) bool { return m == cut })...)
		time.Sleep(time.Minute)
		left.answeredBy(t, "the larger side", first.mac())
		right.answeredBy(t, "the other side", alone.mac())
		// The link heals; gossip has not noticed yet.
		joined := left
		right.mu.Lock()
		for _, p := range right.conns {
			p.lan = joined
			joined.conns = append(joined.conns, p)
		}
		right.mu.Unlock()
		time.Sleep(time.Minute)
		joined.took(web.IP)
		know(append(slices.DeleteFunc(slices.Clone(all), func(m *machine) bool { return m == cut }), alone)...)
		time.Sleep(time.Second)
		joined.answeredBy(t, "healed", first.mac())
		// The other may contradict once: it need not have heard of the winner when the winner's correction comes, who says it again then.
		if by := joined.took(web.IP); by[first.mac()] < 2+2*by[alone.mac()] || by[alone.mac()] > 1 {
			t.Errorf("the winner has to correct those who believed the other: %v", by)
		}
		if len(*first.events) != 1 {
			t.Errorf("a node is no stranger: %q", *first.events)
		}
	})
}

// TestNodesThatDisagree: a node that does not know better yet is contradicted, and not for ever.
func TestNodesThatDisagree(t *testing.T) {
	onLAN(t, func(t *testing.T, l *lan, first *machine, others []*machine) {
		time.Sleep(time.Minute)
		l.took(web.IP)
		other := l.plug(others[0].mac(), true)
		for range 100 {
			_ = other.Send(announcement(other.mac, web.IP)[0], broadcast)
			time.Sleep(100 * time.Millisecond)
		}
		if n := l.took(web.IP)[first.mac()]; n < 9 || n > 11 {
			t.Errorf("contradicted %d times in 10 s", n)
		}
		l.answeredBy(t, "all the same", first.mac())
	})
}

// stranger is a machine that has the address and is no node.
func stranger(t *testing.T, l *lan) *port {
	p := l.plug(MAC{2, 0xee}, true)
	var done sync.WaitGroup
	done.Go(func() {
		for {
			x, err := p.Receive()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if x.Op == opRequest && x.TargetIP == web.IP && !x.announces() {
				_ = p.Send(answer(p.mac, x), x.SenderMAC)
			}
		}
	})
	t.Cleanup(func() { p.Close(); done.Wait() })
	return p
}

func TestStrangersAddressIsNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{}
		s := stranger(t, l)
		first, _ := winner(three(t, l))
		time.Sleep(10 * time.Minute)
		l.answeredBy(t, "the stranger's", s.mac)
		if by := l.took(web.IP); len(by) != 0 {
			t.Errorf("announced all the same: %v", by)
		}
		want := "web Warning AddressConflict: 198.51.100.200 is in use by 02:ee:00:00:00:00 on link eth0: it is not announced by node \"" + first.Name + `"`
		if !slices.Equal(*first.events, []string{want}) {
			t.Errorf("events: %q", *first.events)
		}
		s.Close()
		time.Sleep(retryConflict + time.Second)
		l.answeredBy(t, "the stranger has gone", first.mac())
	})
}

func TestStrangerThatComesLater(t *testing.T) {
	onLAN(t, func(t *testing.T, l *lan, first *machine, _ []*machine) {
		time.Sleep(time.Second)
		slow := l.plug(MAC{2, 0xee}, true)
		_ = slow.Send(Packet{Op: opReply, SenderMAC: slow.mac, SenderIP: web.IP, TargetMAC: first.mac(), TargetIP: ip("198.51.100.11")}, first.mac())
		synctest.Wait()
		l.answeredBy(t, "it answered late, but has the address")
		time.Sleep(retryConflict + time.Minute)
		l.answeredBy(t, "it does not any more", first.mac())
		l.took(web.IP)
		for range 100 {
			_ = slow.Send(announcement(slow.mac, web.IP)[0], broadcast)
			time.Sleep(time.Second)
		}
		if n := l.took(web.IP)[first.mac()]; n < 9 || n > 12 {
			t.Errorf("an address with clients is defended %d times in 100 s", n)
		}
		l.answeredBy(t, "defended", first.mac())
		if len(*first.events) != 3 { // conflict, assigned; the same stranger is told once
			t.Errorf("events: %q", *first.events)
		}
	})
}

// TestTwoStrangersToGossip: where gossip is blocked, the second node does not take what the first has.
func TestTwoStrangersToGossip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{}
		a, b := start(t, l, node("a", "198.51.100.11/24")), start(t, l, node("b", "198.51.100.12/24"))
		know(a)
		time.Sleep(time.Minute)
		know(b)
		time.Sleep(time.Minute)
		l.answeredBy(t, "the first keeps it", a.mac())
		a.stop()
		time.Sleep(retryConflict + time.Second)
		l.answeredBy(t, "it was the last", b.mac())
	})
}

func TestLinkFailsAndComesBack(t *testing.T) {
	onLAN(t, func(t *testing.T, l *lan, first *machine, _ []*machine) {
		time.Sleep(time.Minute)
		l.took(web.IP)
		first.failed()
		synctest.Wait()
		l.answeredBy(t, "its link is away")
		time.Sleep(relook + time.Second)
		l.answeredBy(t, "its link is back", first.mac())
		if by := l.took(web.IP); by[first.mac()] == 0 {
			t.Error("nobody was told")
		}
	})
}

// TestLinkThatIsNotThereYet: an address waits for its link, and one that is on nobody's link is announced on the node's own.
func TestLinkThatIsNotThereYet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &lan{}
		p := node("a", "198.51.100.11/24", "192.168.7.1/24")
		var mu sync.Mutex
		there, broken := false, false
		var opened []string
		a := New(Config{
			Node: "a", NodeIP: ip("198.51.100.11"),
			Links: func() ([]Link, error) {
				mu.Lock()
				defer mu.Unlock()
				if !there {
					return nil, nil
				}
				return p.Links, nil
			},
			Listen: func(link Link) (Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				if broken {
					return nil, errors.New("no such device")
				}
				opened = append(opened, link.Name)
				return l.plug(link.MAC, false), nil
			},
		})
		run(t, a)
		a.SetPeers([]Peer{p})
		a.Set([]Address{{IP: ip("192.168.7.200")}, {IP: ip("192.0.2.1")}})
		time.Sleep(time.Minute)
		if got := a.Answered(); len(got) != 0 {
			t.Errorf("without a link: %v", got)
		}
		mu.Lock()
		there, broken = true, true
		mu.Unlock()
		a.Look()
		time.Sleep(time.Minute)
		mu.Lock()
		broken = false
		mu.Unlock()
		time.Sleep(relook + time.Second)
		if got := a.Answered(); len(got) != 2 {
			t.Errorf("with its links: %v", got)
		}
		slices.Sort(opened)
		if !slices.Equal(opened, []string{"eth0", "eth1"}) {
			t.Errorf("opened %v", opened)
		}
	})
}
