package announce

import (
	"context"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// Before an address is announced two probes ask in this time whether a stranger has it. RFC 5227 takes 4 to 7 s, for
	// networks of 2008; here clients wait, and who is dead must be replaced within 3 s. One that answers late is
	// noticed all the same: see conflictWithin.
	probeEvery = 100 * time.Millisecond
	probes     = 2
	// repeatEvery is how often announcements are repeated for good, for machines that missed the first.
	repeatEvery = 2 * time.Minute
	// conflictWithin is how long after its first announcement an address is given up when a stranger claims it. Later it is
	// defended: clients are served by it.
	conflictWithin = 3 * time.Second
	// defendEvery bounds how often an address is defended (RFC 5227, 2.4, DEFEND_INTERVAL is 10 s), and yieldEvery how often
	// another node of the cluster is told that it is wrong: that ends as soon as gossip has told it, too.
	defendEvery, yieldEvery = 10 * time.Second, time.Second
	// retryConflict is when an address that a stranger has is probed again, and relook when a link that could not be opened.
	retryConflict, relook = 30 * time.Second, 2 * time.Second
	idle                  = time.Hour
	// maxClaims wait to be looked at; more are dropped, for those who claim an address do it again.
	maxClaims = 64
)

// announceAfter are the pauses between the first announcements of an address.
var announceAfter = []time.Duration{300 * time.Millisecond, 700 * time.Millisecond, 2 * time.Second}

// Reasons of the events about Services.
const (
	ReasonAssigned = "NodeAssigned"
	ReasonConflict = "AddressConflict"
)

// Config of an Announcer.
type Config struct {
	// Node is this node's name among the peers, NodeIP its address.
	Node   string
	NodeIP netip.Addr
	// Links are this node's links that have neighbours.
	Links func() ([]Link, error)
	// Listen opens one of them; nil: Open.
	Listen func(Link) (Conn, error)
	// Event is told what users should know about a Service; it must return at once. It may be nil.
	Event  func(s Service, eventType, reason, message string)
	Logger *slog.Logger
}

// Announcer announces this node's share of the addresses. Set, SetPeers and Look return at once; Run does the work.
type Announcer struct {
	cfg    Config
	log    *slog.Logger
	poke   chan struct{}
	claims chan claim

	mu        sync.Mutex
	addresses []Address
	peers     []Peer
	changed   bool // addresses or peers
	look      bool // links may have changed

	// held are the addresses that are this node's, true for those that it answers for; readers of the links go by it.
	held atomic.Pointer[map[netip.Addr]bool]

	// What follows belongs to Run alone.
	holdings map[netip.Addr]*holding
	wires    map[int]*wire // by the link's index
	links    []Link        // as last seen
	relookAt time.Time     // zero: not needed
	// notBefore is when a link that failed may be opened again.
	notBefore map[int]time.Time
	macs      map[MAC]string
	refused   map[string]bool // what was said of links once
	readers   sync.WaitGroup
}

// claim is a packet by which somebody else says to have an address, or asks for it as we do.
type claim struct {
	link string
	Packet
}

// New starts nothing.
func New(cfg Config) *Announcer {
	if cfg.Listen == nil {
		cfg.Listen = Open
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Event == nil {
		cfg.Event = func(Service, string, string, string) {}
	}
	a := &Announcer{
		cfg: cfg, log: cfg.Logger.With("component", "announce"), poke: make(chan struct{}, 1), claims: make(chan claim, maxClaims),
		holdings: map[netip.Addr]*holding{}, wires: map[int]*wire{}, macs: map[MAC]string{}, refused: map[string]bool{},
		notBefore: map[int]time.Time{},
	}
	a.held.Store(&map[netip.Addr]bool{})
	return a
}

// Set replaces the addresses that the cluster announces. They must not be changed afterwards.
func (a *Announcer) Set(addresses []Address) {
	a.change(func() { a.addresses, a.changed = addresses, true })
}

// SetPeers replaces the nodes that can announce, this one among them if it can. They must not be changed afterwards.
func (a *Announcer) SetPeers(peers []Peer) { a.change(func() { a.peers, a.changed = peers, true }) }

// Look makes Run look at the links again.
func (a *Announcer) Look() { a.change(func() { a.look = true }) }

func (a *Announcer) change(f func()) {
	a.mu.Lock()
	f()
	a.mu.Unlock()
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// Answered are the addresses that this node answers for.
func (a *Announcer) Answered() []netip.Addr {
	var out []netip.Addr
	for ip, answered := range *a.held.Load() {
		if answered {
			out = append(out, ip)
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out
}

// Run announces until ctx ends; then nothing answers any more.
func (a *Announcer) Run(ctx context.Context) error {
	defer func() {
		a.held.Store(&map[netip.Addr]bool{})
		for _, w := range a.wires {
			w.close()
		}
		a.readers.Wait()
	}()
	timer := time.NewTimer(idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.poke:
		case <-timer.C:
		case c := <-a.claims:
			a.claimed(c, time.Now())
		}
		now := time.Now()
		a.decide()
		a.connect(now)
		a.publish() // before anybody is asked something
		for _, h := range a.holdings {
			a.step(h, now)
		}
		a.publish()
		timer.Reset(max(0, time.Until(a.next())))
	}
}

// decide elects anew when addresses or nodes changed.
func (a *Announcer) decide() {
	a.mu.Lock()
	changed, addresses, peers := a.changed, a.addresses, a.peers
	a.changed = false
	a.mu.Unlock()
	if !changed {
		return
	}
	for _, p := range peers {
		for _, l := range p.Links {
			a.macs[l.MAC] = p.Name
		}
	}
	ours := map[netip.Addr]bool{}
	for i := range addresses {
		ad := &addresses[i]
		if owner, has := ownerOf(ad.IP, peers); has {
			a.once("owned "+ad.IP.String(), "an address of the pool is a node's own; it is not announced", "address", ad.IP, "node", owner)
			continue
		}
		among := candidates(ad, peers)
		if elect(ad.IP, among) != a.cfg.Node {
			continue
		}
		ours[ad.IP] = true
		a.hold(ad, among)
	}
	for ip := range a.holdings {
		if !ours[ip] {
			if a.holdings[ip].phase == announcing {
				a.log.Info("address is not announced here any more", "address", ip)
			}
			delete(a.holdings, ip)
		}
	}
}

// hold begins with an address, or goes on with it.
func (a *Announcer) hold(ad *Address, among []Peer) {
	var names []string
	for _, p := range among {
		names = append(names, p.Name)
	}
	rivals := strings.Join(names, " ")
	h := a.holdings[ad.IP]
	if h == nil {
		h = &holding{rivals: rivals}
		a.holdings[ad.IP] = h
	}
	h.address = ad
	if h.rivals == rivals {
		return
	}
	h.rivals = rivals
	if h.phase == announcing {
		// One that came back may have announced the address itself while we could not see each other.
		h.steps, h.due = 0, time.Time{}
	}
}

// next is when there is something to do.
func (a *Announcer) next() time.Time {
	next := time.Now().Add(idle)
	for _, h := range a.holdings {
		if h.due.Before(next) {
			next = h.due
		}
	}
	if !a.relookAt.IsZero() && a.relookAt.Before(next) {
		next = a.relookAt
	}
	return next
}

// publish tells the readers what to answer.
func (a *Announcer) publish() {
	now := make(map[netip.Addr]bool, len(a.holdings))
	for ip, h := range a.holdings {
		now[ip] = h.phase == announcing
	}
	if !maps.Equal(*a.held.Load(), now) {
		a.held.Store(&now)
	}
}

// once warns of something the first time.
func (a *Announcer) once(what, message string, args ...any) {
	if !a.refused[what] {
		a.refused[what] = true
		a.log.Warn(message, args...)
	}
}
