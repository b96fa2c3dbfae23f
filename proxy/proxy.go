package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"strings"
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
	// applyTimeout bounds one run of iptables-restore; a full table of 5,000 Services takes a few seconds at worst.
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
	PodCIDR        netip.Prefix // of this node
	ClusterPodCIDR netip.Prefix
	ServiceCIDR    netip.Prefix
	// LocalIPs are addresses in ServiceCIDR that the node itself answers: DNS.
	LocalIPs []netip.Addr
	// RandomFully is set where iptables knows MASQUERADE --random-fully (1.6.2): fewer collisions of source ports.
	RandomFully bool
	Applier     Applier
	// StaleUDP is told which UDP flows the kernel should forget, after the rules are in force. It may be nil.
	StaleUDP func([]UDPFlow) error
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
	first    bool // nothing was read yet

	// have is what the tables hold as far as we know; nil means that they must be read. Only with applying.
	have      map[chainKey]string
	stale     []UDPFlow
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
	if cfg.Applier == nil {
		return nil, errors.New("proxy: no applier")
	}
	cfg.PodCIDR, cfg.ClusterPodCIDR, cfg.ServiceCIDR = cfg.PodCIDR.Masked(), cfg.ClusterPodCIDR.Masked(), cfg.ServiceCIDR.Masked()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Proxy{cfg: cfg, log: cfg.Logger.With("component", "proxy"), poke: make(chan struct{}, 1), ready: make(chan struct{}), first: true}
	p.model = newModel(&p.cfg)
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
			if dead[n] && !p.model.dead[n] {
				p.died = append(p.died, n)
			}
		}
		p.model.setDead(dead)
	})
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
	if p.repair {
		p.have, p.repair = nil, false
	}
	p.mu.Unlock()
	whole := p.have == nil
	if whole {
		have, err := p.read(ctx)
		if err != nil {
			return err
		}
		p.have = have
	}
	start := time.Now()
	text, changed, after, mark := p.prepare(whole)
	if text != "" {
		if err := p.cfg.Applier.Restore(ctx, text); err != nil {
			p.have = nil
			return err
		}
		p.log.Debug("service rules applied", "bytes", len(text), "took", time.Since(start), "whole", whole)
	}
	p.remember(changed, after)
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

// prepare writes the text that brings the tables up to date, and says which chains it changes to what, and which mark that is.
func (p *Proxy) prepare(whole bool) (text string, changed map[chainKey]struct{}, after map[chainKey]string, mark uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.first {
		p.first = false
		p.model.adoptHostPorts(p.have[chainKey{tableNat, chainHostPorts}])
		if len(p.model.adopted) > 0 {
			time.AfterFunc(adoptGrace, func() { p.change(p.model.dropAdopted) })
		}
	}
	p.stale = append(p.stale, p.model.flush()...)
	p.withdrawn, p.died = append(p.withdrawn, p.died...), nil
	changed = p.model.changed
	p.model.changed = map[chainKey]struct{}{}
	if whole {
		for k := range p.have {
			changed[k] = struct{}{}
		}
		for k := range p.model.want {
			changed[k] = struct{}{}
		}
	}
	after = make(map[chainKey]string, len(changed))
	for k := range changed {
		if rules, ok := p.model.want[k]; ok {
			after[k] = rules
		}
	}
	return restoreText(p.have, p.model.want, maps.Keys(changed)), changed, after, p.reached
}

// remember notes what the tables hold now.
func (p *Proxy) remember(changed map[chainKey]struct{}, after map[chainKey]string) {
	for k := range changed {
		if rules, ok := after[k]; ok {
			p.have[k] = rules
		} else if strings.HasPrefix(k.chain, Prefix) {
			delete(p.have, k)
		}
	}
	for _, j := range jumps {
		p.have[chainKey{j.table, j.chain}] = "-A " + j.rule() + "\n"
	}
}

// forget ends what the kernel still sends to endpoints that are gone. It is not worth failing for: it ends by itself when
// silent.
func (p *Proxy) forget() {
	nodes := p.withdrawn
	p.withdrawn = nil
	if len(nodes) > 0 && p.cfg.Withdrawn != nil {
		if err := p.cfg.Withdrawn(nodes); err != nil {
			p.log.Warn("connections may still be sent to nodes that are dead", "nodes", nodes, "err", err)
		}
	}
	flows := p.stale
	p.stale = nil
	if len(flows) == 0 || p.cfg.StaleUDP == nil {
		return
	}
	if err := p.cfg.StaleUDP(flows); err != nil {
		p.log.Warn("UDP clients may still be sent to endpoints that are gone", "err", err)
	}
}

func (p *Proxy) read(ctx context.Context) (map[chainKey]string, error) {
	tables, err := p.cfg.Applier.Read(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the tables: %w", err)
	}
	have := map[chainKey]string{}
	for table, chains := range tables {
		for chain, rules := range chains {
			if strings.HasPrefix(chain, Prefix) {
				have[chainKey{table, chain}] = rules
				continue
			}
			for line := range strings.Lines(rules) {
				if strings.Contains(line, "-j "+Prefix) { // never touch another, whatever the applier says
					have[chainKey{table, chain}] += line
				}
			}
		}
	}
	return have, nil
}

// lookAfter looks at two jumps and two chains; a flush or another program's reload empties at least one of them.
func (p *Proxy) lookAfter(ctx context.Context) {
	p.applying.Lock()
	defer p.applying.Unlock()
	if p.have == nil {
		return
	}
	for _, k := range []chainKey{{tableNat, "PREROUTING"}, {tableNat, chainServices}, {tableFilter, "FORWARD"}, {tableFilter, chainForward}} {
		rules, err := p.cfg.Applier.List(ctx, k.table, k.chain)
		if err != nil {
			p.log.Warn("cannot look at the service rules", "err", err)
			return
		}
		if rules != p.have[k] {
			p.log.Info("service rules were changed by somebody else, putting them right", "table", k.table, "chain", k.chain)
			p.have = nil
			return
		}
	}
}

// Remove takes all our rules out of the tables: for uninstalling. Run must have ended.
func (p *Proxy) Remove(ctx context.Context) error {
	p.applying.Lock()
	defer p.applying.Unlock()
	have, err := p.read(ctx)
	if err != nil {
		return err
	}
	p.have = nil
	if text := removalText(have); text != "" {
		return p.cfg.Applier.Restore(ctx, text)
	}
	return nil
}
