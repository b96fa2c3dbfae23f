// Package membership is gossip between all machines of the cluster: it tells within seconds that a machine is dead, so
// that routes to it are withdrawn before anybody is asked. It is a signal, never the source of desired state. It is the
// only importer of memberlist, and a leaf.
package membership

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

// Timing of the detection: each machine is probed by another about once in probeEvery; one that does not answer directly
// or through others is suspected, and dead when nobody has vouched for it in suspicionMult*probeEvery (memberlist scales
// that with the logarithm of the cluster's size). All in all about 2 s for a few machines.
//
// probeTimeout is under half of probeEvery, so that a helper's "I cannot reach it either" arrives while the probe still
// waits for it. awarenessMax 1 keeps the interval as it is: by default memberlist probes up to eight times slower after
// failed probes, which made a busy machine notice a death only after 4 s. A wrong suspicion is cheap, the suspected has
// suspicionMult*probeEvery to refute it. gossipEvery is memberlist's look for news to pass on, which wakes the process also
// when there are none; news travel with probes besides.
//
// A machine with the name of another and an address of its own is not believed before that one has been dead for deadReclaim,
// and memberlist looks again only when the two happen to exchange all they know, once in 30 s. So who hears of such a machine
// calls it for claimPatience: by then the former address is dead, or there are two machines of one name.
//
// After a cut that lasted long enough for both sides to call each other dead, nobody probes across any more, and memberlist
// passes news to the dead only while it has some. So those who are missing are called every rejoinMissing: a packet
// each, which is what it costs to be whole again within seconds of the cable being back. Two or three calls may be needed, since
// a machine is believed alive again only after it has heard that it was thought dead.
const (
	probeEvery    = 500 * time.Millisecond
	probeTimeout  = 200 * time.Millisecond
	gossipEvery   = 500 * time.Millisecond
	suspicionMult = 2
	awarenessMax  = 1
	// A machine that is alone asks its seeds again soonest.
	rejoinAlone   = time.Second
	rejoinMissing = time.Second
	rejoinEvery   = 15 * time.Second
	// rejoinAtOnce bounds how many seeds are asked in a turn: one that answers knows all others.
	rejoinAtOnce = 8
	leaveTimeout = time.Second
	dialTimeout  = 2 * time.Second
	deadReclaim  = time.Second
	// claimPatience is more than what it takes to find a machine dead, and deadReclaim.
	claimPatience = 10 * time.Second
)

// Config of a machine's membership.
type Config struct {
	// Name of this machine, unique in the cluster.
	Name string
	// Addr is where the others reach this machine; Port is 7946 by default, TCP and UDP.
	Addr string
	Port int
	// Key encrypts the gossip; 32 bytes.
	Key []byte
	// Seeds names machines to join, as host:port; it is asked again while this machine is alone or parts are missing.
	Seeds  func() []string
	Logger *slog.Logger
}

// Member is another machine, or this one.
type Member struct {
	Name, Addr string
	Port       uint16
	// Meta is what the machine tells of itself; see Membership.Tell.
	Meta string
}

func (v Member) host() string { return net.JoinHostPort(v.Addr, strconv.Itoa(int(v.Port))) }

// MaxMeta is how much a machine can tell of itself, in bytes: memberlist's limit.
const MaxMeta = memberlist.MetaMaxSize

// Membership is this machine's part in the gossip.
type Membership struct {
	cfg     Config
	log     *slog.Logger
	changed chan struct{}
	died    chan struct{} // somebody died, or nobody answers: time for a survey
	told    chan struct{} // poked by Tell
	claimed chan struct{} // poked when claims have come
	doubted chan struct{} // poked when doubts have

	mu      sync.Mutex
	meta    string
	members map[string]Member
	// dead are machines that were members and went silent, with the time when they did. One that left is not dead.
	dead map[string]time.Time
	// silent are those of the dead that are so by our own survey alone.
	silent map[string]Member
	// claims are where machines say to be that are known by another address, with the time when that was first heard.
	claims map[string]time.Time
	// doubts are members that memberlist calls dead and that we are asking ourselves, if judging.
	doubts  map[string]*doubt
	judging bool
}

// New makes a membership; Run starts it.
func New(cfg Config) *Membership {
	return &Membership{
		cfg: cfg, log: cfg.Logger.With("component", "membership"), changed: make(chan struct{}, 1), died: make(chan struct{}, 1), told: make(chan struct{}, 1),
		claimed: make(chan struct{}, 1), doubted: make(chan struct{}, 1), members: map[string]Member{}, dead: map[string]time.Time{}, silent: map[string]Member{},
		claims: map[string]time.Time{}, doubts: map[string]*doubt{},
	}
}

// Members are the machines that are alive as far as this one knows.
func (m *Membership) Members() []Member {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]Member, 0, len(m.members))
	for _, v := range m.members {
		out = append(out, v)
	}
	return out
}

// Dead are the machines that were alive and fell silent, with the time when that was noticed.
func (m *Membership) Dead() map[string]time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]time.Time, len(m.dead))
	for k, v := range m.dead {
		out[k] = v
	}
	return out
}

// Changed is poked when Members or Dead changed. It has one reader.
func (m *Membership) Changed() <-chan struct{} { return m.changed }

// Tell sets what this machine tells of itself to all others: at most MaxMeta bytes, and not "leaving".
func (m *Membership) Tell(meta string) {
	if len(meta) > MaxMeta || meta == leavingMeta {
		m.log.Error("this cannot be told by gossip", "bytes", len(meta))
		return
	}
	m.mu.Lock()
	same := m.meta == meta
	m.meta = meta
	m.mu.Unlock()
	if same {
		return
	}
	poke(m.told)
}

func (m *Membership) ownMeta() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return []byte(m.meta)
}

// Run takes part in the gossip until ctx ends, and then says good-bye.
func (m *Membership) Run(ctx context.Context) error {
	c := memberlist.DefaultLANConfig()
	c.Name, c.BindAddr, c.BindPort = m.cfg.Name, m.cfg.Addr, m.cfg.Port
	c.AdvertiseAddr, c.AdvertisePort = m.cfg.Addr, m.cfg.Port
	c.SecretKey = m.cfg.Key
	c.ProbeInterval, c.ProbeTimeout, c.SuspicionMult = probeEvery, probeTimeout, suspicionMult
	c.AwarenessMaxMultiplier, c.GossipInterval = awarenessMax, gossipEvery
	c.TCPTimeout = dialTimeout
	c.DeadNodeReclaimTime = deadReclaim // a machine that comes back with another address keeps its name
	c.Conflict, c.Events = events{m}, events{m}
	goodbye := &delegate{own: m.ownMeta}
	c.Delegate = goodbye
	quiet := time.AfterFunc(surveyQuiet, func() { poke(m.died) })
	defer quiet.Stop()
	c.Ping = answered{quiet}
	c.Logger = log.New(bridge{m.log}, "", 0)
	m.mu.Lock()
	m.judging = true
	m.mu.Unlock()
	list, err := memberlist.Create(c)
	if err != nil {
		return fmt.Errorf("gossip on %s: %w; is the port in use, or the address not this machine's?", net.JoinHostPort(m.cfg.Addr, strconv.Itoa(m.cfg.Port)), err)
	}
	var joining sync.WaitGroup
	defer joining.Wait() // no longer than a call takes
	defer func() {
		goodbye.leaving.Store(true)
		_ = list.UpdateNode(leaveTimeout)
		_ = list.Leave(leaveTimeout)
		_ = list.Shutdown()
	}()
	joining.Go(func() { m.keepJoining(ctx, list) })
	joining.Go(func() { m.judge(ctx, askNow(list)) })
	joining.Go(func() {
		for ctx.Err() == nil {
			select {
			case <-ctx.Done():
			case <-m.died:
				m.survey(ctx, list)
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.told:
			if err := list.UpdateNode(leaveTimeout); err != nil {
				m.log.Debug("gossip has not passed on yet what this machine tells", "err", err)
			}
		}
	}
}

func (m *Membership) keepJoining(ctx context.Context, list *memberlist.Memberlist) {
	for {
		t := time.NewTimer(m.join(list.Join))
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-m.claimed:
			t.Stop()
			select { // it has just called, and is not believed yet
			case <-ctx.Done():
				return
			case <-time.After(rejoinMissing):
			}
		case <-t.C:
		}
	}
}

// join calls seeds that are not members: at the start, and again after a cut that lasted long enough for both sides to
// forget each other. It says when to look again.
func (m *Membership) join(call func([]string) (int, error)) time.Duration {
	seeds, claims := m.missing(), m.claimants(time.Now())
	rand.Shuffle(len(seeds), func(i, j int) { seeds[i], seeds[j] = seeds[j], seeds[i] })
	var calls sync.WaitGroup // side by side: those who are dead must not keep one who lives waiting
	for _, seed := range append(claims, seeds[:min(len(seeds), rejoinAtOnce)]...) {
		calls.Go(func() {
			if _, err := call([]string{seed}); err != nil {
				m.log.Debug("gossip seed does not answer", "seed", seed, "err", err)
			}
		})
	}
	calls.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case len(m.members) <= 1 && len(seeds) > 0:
		return rejoinAlone
	case len(m.dead) > 0, len(m.claims) > 0:
		return rejoinMissing
	}
	return rejoinEvery
}

// claimants are where machines say to be that are believed to be elsewhere.
func (m *Membership) claimants(now time.Time) (hosts []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for host, since := range m.claims {
		if now.Sub(since) > claimPatience {
			delete(m.claims, host)
			continue
		}
		hosts = append(hosts, host)
	}
	return hosts
}

// missing are the seeds that are not members, each once. (memberlist's own list of members may not be read while it works.)
func (m *Membership) missing() []string {
	m.mu.Lock()
	known := map[string]bool{net.JoinHostPort(m.cfg.Addr, strconv.Itoa(m.cfg.Port)): true}
	for _, n := range m.members {
		known[n.host()] = true
	}
	m.mu.Unlock()
	var out []string
	for _, seed := range m.cfg.Seeds() {
		if !known[seed] {
			known[seed] = true // the master names nodes that we know besides
			out = append(out, seed)
		}
	}
	return out
}

// events are memberlist's callbacks, made while it holds its lock: they note, poke and return.
type events struct{ m *Membership }

func (e events) NotifyJoin(n *memberlist.Node)   { e.m.note(n, true) }
func (e events) NotifyUpdate(n *memberlist.Node) { e.m.note(n, true) }
func (e events) NotifyLeave(n *memberlist.Node)  { e.m.note(n, false) }

// NotifyConflict hears of a machine at another address than the one that it is known by.
func (e events) NotifyConflict(known, other *memberlist.Node) {
	if known.Name != e.m.cfg.Name { // of us, others are wrong
		e.m.claim(memberOf(other))
	}
}

func (m *Membership) claim(v Member) {
	m.mu.Lock()
	_, had := m.claims[v.host()]
	if !had {
		m.claims[v.host()] = time.Now()
	}
	m.mu.Unlock()
	if !had {
		poke(m.claimed)
	}
}

func memberOf(n *memberlist.Node) Member {
	return Member{Name: n.Name, Addr: n.Addr.String(), Port: n.Port, Meta: string(n.Meta)}
}

func (m *Membership) note(n *memberlist.Node, alive bool) {
	v := memberOf(n)
	died := !alive && v.Meta != leavingMeta
	if died && m.doubt(v) {
		return
	}
	m.set(v, alive, died)
}

// set notes that a machine is alive, or that it is not, and whether it died without a word.
func (m *Membership) set(v Member, alive, died bool) {
	m.mu.Lock()
	delete(m.silent, v.Name)
	delete(m.doubts, v.Name)
	if alive {
		m.members[v.Name] = v
		delete(m.dead, v.Name)
		delete(m.claims, v.host())
	} else {
		delete(m.members, v.Name)
		delete(m.claims, v.host())
		if _, known := m.dead[v.Name]; died && !known {
			m.dead[v.Name] = time.Now()
			poke(m.died)
		}
	}
	m.mu.Unlock()
	poke(m.changed)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// leavingMeta is what a machine tells of itself before it leaves: memberlist's callback does not say whether a machine left
// or died.
const leavingMeta = "leaving"

type delegate struct {
	leaving atomic.Bool
	own     func() []byte
}

func (d *delegate) NodeMeta(int) []byte {
	if d.leaving.Load() {
		return []byte(leavingMeta)
	}
	return d.own()
}
func (*delegate) NotifyMsg([]byte)                {}
func (*delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (*delegate) LocalState(bool) []byte          { return nil }
func (*delegate) MergeRemoteState([]byte, bool)   {}

// bridge turns memberlist's log lines into debug records: what matters of them the agent says in its own words.
type bridge struct{ log *slog.Logger }

var _ io.Writer = bridge{}

func (b bridge) Write(p []byte) (int, error) {
	b.log.Debug("memberlist", "line", string(p))
	return len(p), nil
}
