package proxy

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

const (
	// settle is how long changes are collected before they are applied together.
	settle = 3 * time.Millisecond
	// watchEvery is how often a few chains are looked at, in case somebody flushed the tables.
	watchEvery = time.Minute
	// applyTimeout bounds one change of the tables; a full one of 5,000 Services takes iptables-restore a few seconds at worst.
	applyTimeout = time.Minute
	backoffMin   = 100 * time.Millisecond
	backoffMax   = 30 * time.Second
)

// Applier holds the kernel's tables; proxy/iptables is the real one.
type Applier interface {
	// Read returns table → chain → rules as "-A …" lines: all of the chains whose names begin with Prefix, and of
	// other chains only the rules that jump to such a chain.
	Read(ctx context.Context) (map[string]map[string]string, error)
	// List returns the same for one chain; a chain that is not there is empty.
	List(ctx context.Context, table, chain string) (string, error)
	// Restore applies the text; each table's part all at once or not at all.
	Restore(ctx context.Context, text string) error
}

// Config is what the rules depend on besides Services.
type Config struct {
	NodeName       string
	Zone           string       // of the node, until SetZone says another
	PodCIDR        netip.Prefix // of this node
	ClusterPodCIDR netip.Prefix
	ServiceCIDR    netip.Prefix
	// LocalIPs are addresses in ServiceCIDR that the node itself answers: DNS.
	LocalIPs []netip.Addr
	// Announced says of a load balancer's address that it belongs to the load balancer alone, not to a machine: there packets to ports that
	// no Service has are refused, which otherwise nobody would answer. It must return at once, and may be nil: none does.
	Announced func(netip.Addr) bool
	// RandomFully is set where iptables knows MASQUERADE --random-fully (1.6.2): fewer collisions of source ports.
	RandomFully bool
	// Applier is the machine's iptables.
	Applier Applier
	// Native is a back end that does without iptables (proxy/nft); nil: iptables holds all rules. Beside it Applier, which may
	// be nil then, holds only what lets the traffic of pods pass.
	Native Backend
	// Former says that Native is not to be used: only its rules, which an earlier agent may have left, are to be taken away once
	// those of iptables are in force.
	Former bool
	// StaleUDP makes the kernel forget the flows to these addresses that are not to one of their endpoints, after the rules are in
	// force. It may be nil.
	StaleUDP func([]UDPAddress) error
	// Withdrawn is told which nodes' endpoints have just been left out because the nodes are dead, after the rules are in
	// force: connections that the kernel still translates to them lead nowhere. It may be nil.
	Withdrawn func(nodes []string) error
	// InForce is told the last mark of Reached once all that was given before it is in force. It may be nil.
	InForce func(mark uint64)
	Logger  *slog.Logger
}

// Proxy keeps the node's rules equal to what it was told. Its methods return at once; Run does the work.
type Proxy struct {
	cfg  Config
	log  *slog.Logger
	poke chan struct{}

	applying sync.Mutex // held while the kernel's tables are read or written; taken before mu

	mu       sync.Mutex
	model    *model
	complete bool
	repair   bool

	// Only with applying.
	backend   Backend
	known     bool // what the kernel holds is known
	first     bool // nothing was read yet
	withdrawn []string
	died      []string // with mu: nodes for withdrawn
	reached   uint64   // with mu
	inForce   uint64   // with applying: the last mark told

	readyOnce sync.Once
	ready     chan struct{}
}

// New starts nothing.
func New(cfg Config) (*Proxy, error) {
	if !cfg.PodCIDR.Addr().Is4() || !cfg.ClusterPodCIDR.Addr().Is4() || !cfg.ServiceCIDR.Addr().Is4() {
		return nil, errors.New("proxy: pod and service ranges must be IPv4")
	}
	if cfg.Applier == nil && (cfg.Native == nil || cfg.Former) {
		return nil, errors.New("proxy: no applier")
	}
	cfg.PodCIDR, cfg.ClusterPodCIDR, cfg.ServiceCIDR = cfg.PodCIDR.Masked(), cfg.ClusterPodCIDR.Masked(), cfg.ServiceCIDR.Masked()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{cfg: cfg, log: cfg.Logger.With("component", "proxy"), poke: make(chan struct{}, 1), ready: make(chan struct{}), first: true}
	p.model, p.backend = newModel(&p.cfg), p.cfg.backend()
	return p, nil
}

// SetService adds a Service or replaces it. The object must not be changed afterwards.
func (p *Proxy) SetService(svc *corev1.Service) { p.change(func() { p.model.setService(svc) }) }

// DeleteService removes a Service.
func (p *Proxy) DeleteService(namespace, name string) {
	p.change(func() { p.model.deleteService(key{namespace, name}) })
}

// SetSlice adds an EndpointSlice or replaces it. The object must not be changed afterwards.
func (p *Proxy) SetSlice(s *discoveryv1.EndpointSlice) { p.change(func() { p.model.setSlice(s) }) }

// DeleteSlice removes an EndpointSlice.
func (p *Proxy) DeleteSlice(namespace, name string) {
	p.change(func() { p.model.deleteSlice(key{namespace, name}) })
}

// SetHostPorts replaces the host ports of a pod ("namespace/name"); none removes them.
func (p *Proxy) SetHostPorts(pod string, ports []HostPort) {
	p.change(func() { p.model.setHostPorts(pod, ports) })
}

// SetDeadNodes leaves the endpoints on these nodes out at once, whatever the API still says of them.
// Each call replaces the whole set.
func (p *Proxy) SetDeadNodes(dead map[string]bool) {
	p.change(func() {
		for n := range dead {
			if dead[n] && !p.model.at.dead[n] {
				p.died = append(p.died, n)
			}
		}
		p.model.setDead(dead)
	})
}

// SetZone says in which zone the node is (its label topology.kubernetes.io/zone): Services may prefer endpoints near it.
func (p *Proxy) SetZone(zone string) {
	p.mu.Lock()
	same := p.model.at.zone == zone
	p.mu.Unlock()
	if !same {
		p.change(func() { p.model.setZone(zone) })
	}
}

// Synced says that everything there is has been given. Before that nothing is applied, so that a restarted agent never
// withdraws rules that work.
func (p *Proxy) Synced() { p.change(func() { p.complete = true }) }

// Reached gives what was given up to now a mark, which comes back by InForce; see desired.State.Mark.
func (p *Proxy) Reached(mark uint64) {
	p.mu.Lock()
	same := p.reached == mark
	p.mu.Unlock()
	if !same {
		p.change(func() { p.reached = mark })
	}
}

// Repair makes Run read the tables back and put right what differs: call it when Docker or a firewall was restarted.
func (p *Proxy) Repair() { p.change(func() { p.repair = true }) }

// Ready is closed once the rules are in force for the first time.
func (p *Proxy) Ready() <-chan struct{} { return p.ready }

func (p *Proxy) change(f func()) {
	p.mu.Lock()
	f()
	p.mu.Unlock()
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// Run applies changes until ctx ends, and leaves the rules in force.
func (p *Proxy) Run(ctx context.Context) error {
	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	backoff := backoffMin
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watch.C:
			p.lookAfter(ctx)
		case <-retry:
		case <-p.poke:
			if retry != nil { // which takes all changes with it
				continue
			}
			if !wait(ctx, settle) {
				return nil
			}
		}
		err := p.sync(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			p.log.Error("service rules are not in force, trying again", "err", err, "in", backoff)
			retry = time.After(backoff)
			backoff = min(2*backoff, backoffMax)
		default:
			retry, backoff = nil, backoffMin
		}
	}
}

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// sync applies what changed; after an error, at the start and for repairs it reads the tables and compares them all.
func (p *Proxy) sync(ctx context.Context) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	p.mu.Lock()
	if !p.complete {
		p.mu.Unlock()
		return nil
	}
	whole, again := !p.known || p.repair, !p.first
	p.repair = false
	p.mu.Unlock()
	if whole {
		p.known = false
		found, err := p.backend.Read(ctx)
		if err != nil {
			return err
		}
		p.adopt(found)
	}
	start := time.Now()
	mark, news := p.hand()
	n, err := p.backend.Apply(ctx)
	p.known = err == nil
	if err != nil {
		return err
	}
	if n > 0 && whole && again && !news {
		p.log.Info("service rules were not as they should be, and have been put right", "took", time.Since(start))
	}
	if n > 0 {
		p.log.Debug("service rules applied", "bytes", n, "took", time.Since(start), "whole", whole)
	}
	p.readyOnce.Do(func() { close(p.ready) })
	if mark != p.inForce {
		p.inForce = mark
		if p.cfg.InForce != nil {
			p.cfg.InForce(mark)
		}
	}
	p.forget()
	return nil
}

// adopt keeps the host ports that an earlier agent left, for a while.
func (p *Proxy) adopt(found map[string][]HostPort) {
	if !p.first {
		return
	}
	p.first = false
	p.mu.Lock()
	defer p.mu.Unlock()
	p.model.adopt(found)
	if len(p.model.adopted) > 0 {
		time.AfterFunc(adoptGrace, func() { p.change(p.model.dropAdopted) })
	}
}

// hand gives the back end what changed, and says which mark that is, and whether there was anything.
func (p *Proxy) hand() (mark uint64, news bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	news = len(p.model.dirty)+len(p.model.dirtyPods) > 0
	p.model.flush(p.backend)
	p.withdrawn, p.died = append(p.withdrawn, p.died...), nil
	return p.reached, news
}

// forget ends what the kernel still sends to endpoints that are gone. It is not worth failing for: it ends by itself when silent,
// and every look after the tables tries again.
func (p *Proxy) forget() {
	nodes := p.withdrawn
	p.withdrawn = nil
	if len(nodes) > 0 && p.cfg.Withdrawn != nil {
		if err := p.cfg.Withdrawn(nodes); err != nil {
			p.log.Warn("connections may still be sent to nodes that are dead", "nodes", nodes, "err", err)
		}
	}
	if p.cfg.StaleUDP == nil {
		return
	}
	p.mu.Lock()
	list := p.model.udp.take()
	p.mu.Unlock()
	if len(list) == 0 {
		return
	}
	if err := p.cfg.StaleUDP(list); err != nil {
		p.log.Warn("UDP clients may still be sent to endpoints that are gone, trying again with the next change", "err", err)
		p.mu.Lock()
		p.model.udp.again(list)
		p.mu.Unlock()
	}
}

// lookAfter looks whether somebody else flushed or changed our rules.
func (p *Proxy) lookAfter(ctx context.Context) {
	p.applying.Lock()
	defer p.applying.Unlock()
	if !p.known {
		return
	}
	ok, err := p.backend.Intact(ctx)
	switch {
	case err != nil:
		p.log.Warn("cannot look at the service rules", "err", err)
	case !ok:
		p.log.Debug("the kernel's tables were changed by somebody else, looking whether service rules were among them")
		p.known = false
	}
}

// Remove takes all our rules out of the tables: for uninstalling. Run must have ended.
func (p *Proxy) Remove(ctx context.Context) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	p.known = false
	return p.backend.Remove(ctx)
}
