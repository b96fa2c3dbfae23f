package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/whalepod/whalepod/dns"
	"github.com/whalepod/whalepod/node/announce"
	"github.com/whalepod/whalepod/node/healthport"
	"github.com/whalepod/whalepod/node/membership"
	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/proxy"
	"github.com/whalepod/whalepod/proxy/nft"
	"github.com/whalepod/whalepod/proxy/policy"
)

const (
	dnsPort = 53
	// Setting up links and rules is tried again between these pauses.
	setupRetryMin, setupRetryMax = time.Second, 30 * time.Second
	// setUpPatience is how long an agent that was started again looks for its network before it is said to be missing.
	setUpPatience = 10 * time.Second
)

// dataPlane is what makes traffic flow on this node. It needs the master only to change.
type dataPlane struct {
	network *network.Network
	proxy   *proxy.Proxy
	native  *nft.Tables // to be closed; nil where the kernel has no nf_tables
	zone    *dns.Zone
	server  *dns.Server
	names   []io.Closer // the server's sockets
	members *membership.Membership
	// gossips is closed when this node begins to take part in the gossip; see rejoin.
	gossips chan struct{}
	// policy enforces network policies, policies tells it of them.
	policy   *policy.Enforcer
	policies *policyFeed
	// announcer and health are what the outside sees of Services, beside the proxy's rules.
	announcer *announce.Announcer
	health    *healthport.Server
}

func (p *dataPlane) close() {
	p.network.Close()
	for _, c := range p.names {
		_ = c.Close() // again, if the server ran
	}
	if p.native != nil {
		p.native.Close()
	}
}

// planeReady is closed once the data plane is set up.
func (a *Agent) planeReady() <-chan struct{} { return a.planeUp }

// runPlane sets the data plane up and runs it with the pods until ctx ends or a part fails.
func (a *Agent) runPlane(ctx context.Context, handler *lateHandler) error {
	a.mu.Lock()
	c := a.cluster
	a.mu.Unlock()
	plane, err := a.setUp(ctx, c)
	if err != nil || plane == nil {
		return err
	}
	defer plane.close()
	manager := a.newPods(c, plane)
	handler.set(a.streams(manager))
	a.withdrawn.set(manager.Withdrawn)
	a.mu.Lock()
	a.plane = plane
	a.mu.Unlock()
	close(a.planeUp)
	// Until the DNS server knows what is on the disk, questions wait in its sockets: resolvers give up at a refusal.
	services := newServiceFeed(a.desired, plane.proxy.Reached, plane.proxy, plane.zone)
	forwarding := a.newForwardingFeed(c, plane.server.SetForwarding)
	return outlive(ctx, plane.server.Run, func(ctx context.Context) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return plane.network.Run(ctx) })
		g.Go(func() error { return plane.proxy.Run(ctx) })
		g.Go(func() error { return plane.policy.Run(ctx) })
		g.Go(func() error { return plane.policies.run(ctx) })
		g.Go(func() error { return forwarding.run(ctx) })
		g.Go(func() error { return a.nodeDNS(c).keep(ctx, a.cfg.NodeDNS) })
		g.Go(func() error { return a.rejoin(ctx, plane, manager) })
		g.Go(func() error { return services.run(ctx) })
		g.Go(func() error { return a.feedPeers(ctx, plane) })
		g.Go(func() error { return a.feedEdge(ctx, plane) })
		g.Go(func() error { return plane.announcer.Run(ctx) })
		g.Go(func() error { return plane.health.Run(ctx) })
		g.Go(func() error { return manager.Run(ctx) })
		g.Go(func() error {
			select {
			case <-manager.Ready():
				a.guard.watch(manager)
				a.measure(manager)
			case <-ctx.Done():
			}
			return nil
		})
		return g.Wait()
	})
}

// outlive runs last until rest has ended, which takes gossip two seconds: pods know no other DNS server. When one fails, both end.
func outlive(ctx context.Context, last, rest func(context.Context) error) error {
	longer, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return last(longer) })
	g.Go(func() error {
		defer stop()
		return rest(ctx)
	})
	return g.Wait()
}

// setUp tries until links and sockets are there; nil without an error when ctx ended first.
func (a *Agent) setUp(ctx context.Context, c *cluster) (*dataPlane, error) {
	for pause := setupRetryMin; ; pause = min(2*pause, setupRetryMax) {
		plane, err := a.trySetUp(ctx, c)
		a.setTrouble(err)
		if err == nil {
			return plane, nil
		}
		if ctx.Err() != nil {
			return nil, nil
		}
		a.log.Error("the node's network could not be set up", "err", err, "retry", pause)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(pause):
		}
	}
}

func (a *Agent) trySetUp(ctx context.Context, c *cluster) (plane *dataPlane, err error) {
	p := &dataPlane{members: a.membership(c), gossips: make(chan struct{})}
	p.network, err = network.New(network.Config{
		NodeName: a.cfg.Identity.Node, NodeIP: a.cfg.NodeIP, PodCIDR: c.node, ClusterPodCIDR: c.pods, ServiceCIDR: c.service,
		DNSIP: c.dns, MTU: a.cfg.MTU, AlwaysVXLAN: a.cfg.AlwaysVXLAN, StateDir: filepath.Join(a.cfg.DataDir, "network"), Logger: a.cfg.Logger,
		Changed: a.pokeEdge,
	})
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			p.close()
			if p.policies != nil {
				p.policies.sub.Close()
			}
		}
	}()
	if err := p.network.Setup(ctx); err != nil {
		return nil, err
	}
	if err := a.newDNS(ctx, c, p); err != nil { // early: questions wait in its sockets
		return nil, err
	}
	if err := a.newProxy(ctx, c, p); err != nil {
		return nil, err
	}
	if err := a.newPolicies(ctx, p); err != nil {
		return nil, err
	}
	a.newEdge(p)
	return p, nil
}

func (a *Agent) newDNS(ctx context.Context, c *cluster, p *dataPlane) error {
	p.zone = dns.NewZone(dns.ZoneConfig{Domain: c.domain, ServerIP: c.dns, Reverse: []netip.Prefix{c.service, c.pods}})
	addr := net.JoinHostPort(c.dns.String(), strconv.Itoa(dnsPort))
	var lc net.ListenConfig
	udp, err := lc.ListenPacket(ctx, "udp4", addr)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	p.names = append(p.names, udp)
	tcp, err := lc.Listen(ctx, "tcp4", addr)
	if err != nil {
		return fmt.Errorf("DNS: %w", err)
	}
	p.names = append(p.names, tcp)
	p.server, err = dns.New(dns.Config{
		Zone: p.zone, PacketConns: []net.PacketConn{udp}, Listeners: []net.Listener{tcp},
		Logger: a.cfg.Logger,
	})
	return err
}
