// Package node is the agent: it composes the session with the master, the pods, the network, the DNS server and the
// service proxy of one node, and hands each what it needs to know. It starts and ends them together.
package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/membership"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/pressure/meter"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/session"
	agentv1 "github.com/whalepod/whalepod/proto/agent/v1"
)

// Config of an agent.
type Config struct {
	// DataDir holds what the agent keeps: identity, desired state, volumes.
	DataDir string
	// LocalVolumes is where the cluster's own local volumes are kept, which outlive the agent; empty: this node keeps none.
	LocalVolumes string
	// Identity says which node of which cluster this is; see session.Join.
	Identity *session.Identity
	// NodeIP is the address under which the other machines reach this one.
	NodeIP netip.Addr
	// GossipPort is the same on all nodes.
	GossipPort int
	Engine     runtime.Engine
	// DockerHost is where the engine listens, for who examines this machine.
	DockerHost string
	// Labels of the node, beside those it has by itself.
	Labels map[string]string
	// AlwaysVXLAN and MTU; see network.Config.
	AlwaysVXLAN bool
	MTU         int
	// EvictionHard is what to change of pressure.Defaults, in the words of the flag --eviction-hard.
	EvictionHard string
	// ImageGC says when unused images are removed; pressure.DefaultImagePolicy if zero.
	ImageGC pressure.ImagePolicy
	// Reserved is what pods may not ask for.
	Reserved corev1.ResourceList
	// ResolvConf is the file that names the upstream name servers, /etc/resolv.conf.
	ResolvConf string
	// NodeDNS: the machine itself is to resolve the cluster's names; see nodeDNS.
	NodeDNS bool
	// ProxyMode is one of ProxyAuto (also if empty), ProxyIptables and ProxyNftables.
	ProxyMode string
	// Version that the node shows as its kubelet's.
	Version string
	Logger  *slog.Logger
}

// Agent is all of it.
type Agent struct {
	// withdrawn tells the pods, once they are there, which of them get no new connections any more.
	withdrawn lateWithdrawn

	cfg     Config
	log     *slog.Logger
	machine machine
	desired *desired.State
	outbox  *session.Outbox
	session *session.Client
	guard   *guard
	meter   *meter.Meter

	mu      sync.Mutex
	cluster *cluster
	welcome chan struct{} // closed once cluster is known
	pods    *pods.Manager // of the data plane, to be measured
	plane   *dataPlane    // nil until it is set up
	engine  engineSeen
	// setUpBy is until when a plane that is not there yet is no trouble; zero at the first start.
	setUpBy time.Time
	// policyTrouble is why network policies cannot be enforced; empty if they can.
	policyTrouble string
	planeUp       chan struct{} // closed then
	// edgePoke is for feedEdge.
	edgePoke chan struct{}
	trouble  string // why it could not be set up
}

// cluster is what the master said, parsed.
type cluster struct {
	service, pods, node netip.Prefix
	dns                 netip.Addr
	domain              string
	// loadBalancers are the ranges of the addresses that nodes announce.
	loadBalancers []netip.Prefix
	gossipKey     []byte
	seeds         []string
}

func parseCluster(c *agentv1.ClusterConfig, podCIDR string) (*cluster, error) {
	out := &cluster{domain: c.ClusterDomain, gossipKey: c.GossipKey, seeds: c.GossipSeeds}
	var errs [4]error
	out.service, errs[0] = netip.ParsePrefix(c.ServiceCidr)
	out.pods, errs[1] = netip.ParsePrefix(c.PodCidr)
	out.node, errs[2] = netip.ParsePrefix(podCIDR)
	out.dns, errs[3] = netip.ParseAddr(c.DnsIp)
	for _, s := range c.LbPools {
		// What a later master may tell in other forms, a later agent announces.
		if pool, err := netip.ParsePrefix(s); err == nil {
			out.loadBalancers = append(out.loadBalancers, pool)
		}
	}
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("the master's description of the cluster: %w", err)
	}
	return out, nil
}

// New opens what is on the disk. It starts nothing.
func New(cfg Config) (*Agent, error) {
	a := &Agent{
		cfg: cfg, log: cfg.Logger.With("component", "agent", "node", cfg.Identity.Node), machine: inspectMachine(),
		outbox: session.NewOutbox(), meter: meter.New(), welcome: make(chan struct{}), planeUp: make(chan struct{}),
		edgePoke: make(chan struct{}, 1),
	}
	err := errors.Join(checkProxyMode(cfg.ProxyMode), a.addGuard())
	if err != nil {
		return nil, err
	}
	a.desired, err = desired.Open(desired.Config{Dir: filepath.Join(cfg.DataDir, "desired"), Log: cfg.Logger})
	if err != nil {
		return nil, err
	}
	if cfg.Identity.PodCIDR == "" {
		return a, nil // first start: the master will say
	}
	a.setUpBy = time.Now().Add(setUpPatience)
	c, err := cfg.Identity.ClusterConfig()
	if err == nil {
		err = a.welcomed(c, cfg.Identity.PodCIDR)
	}
	if err != nil {
		a.log.Warn("what is known of the cluster cannot be used; waiting for the master", "err", err)
	}
	return a, nil
}

// errMoved ends the agent, which its supervisor starts again: addresses of a running data plane do not change.
var errMoved = errors.New("the master has given this node other addresses; starting anew")

// welcomed takes what the master says at the beginning of a session.
func (a *Agent) welcomed(c *agentv1.ClusterConfig, podCIDR string) error {
	next, err := parseCluster(c, podCIDR)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.cluster; old != nil {
		if old.node != next.node || old.pods != next.pods || old.service != next.service || old.dns != next.dns {
			return errMoved
		}
		if !slices.Equal(old.loadBalancers, next.loadBalancers) {
			now := *old
			now.loadBalancers = next.loadBalancers
			a.cluster = &now
			a.pokeEdge()
		}
		return nil
	}
	a.cluster = next
	close(a.welcome)
	return nil
}

// pools are the ranges of the addresses that nodes announce; the only part of the cluster's description that may change.
func (a *Agent) pools() []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.cluster.loadBalancers
}

func (a *Agent) podCIDR() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.cluster == nil {
		return ""
	}
	return a.cluster.node.String()
}

func (a *Agent) networkReady() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.plane != nil
}

// Run works until ctx ends or a part fails. Pods, rules and links stay as they are: they do not need the agent to run on.
func (a *Agent) Run(ctx context.Context) error {
	defer a.desired.Close()
	g, ctx := errgroup.WithContext(ctx)
	moved := make(chan error, 1)
	handler := newLateHandler()
	handler.set(a.onlyDiagnose())
	a.session = session.New(session.Config{
		Identity: a.cfg.Identity, Dir: a.cfg.DataDir, Version: a.cfg.Version, Node: a.node, Desired: a.desired, Outbox: a.outbox,
		Serve: handler.serve, Logger: a.cfg.Logger, Withdrawn: a.withdrawn.tell, ReportsInForce: true,
		Welcomed: func(c *agentv1.ClusterConfig, podCIDR string) error {
			err := a.welcomed(c, podCIDR)
			if errors.Is(err, errMoved) {
				select {
				case moved <- err:
				default:
				}
			}
			return err
		},
	})
	g.Go(func() error { return a.session.Run(ctx) })
	g.Go(func() error {
		select {
		case err := <-moved:
			return err
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return a.guard.run(ctx) })
	g.Go(func() error {
		return (&usageReport{meter: a.meter, running: a.running, tell: a.outbox.Usage, log: a.log}).run(ctx)
	})
	g.Go(func() error { return (&nodeReport{Agent: a, tell: a.outbox.Node}).run(ctx) })
	g.Go(func() error {
		select {
		case <-a.welcome:
			return a.runPlane(ctx, handler)
		case <-ctx.Done():
			return nil
		}
	})
	return g.Wait()
}

func (a *Agent) membership(c *cluster) *membership.Membership {
	return membership.New(membership.Config{
		Name: a.cfg.Identity.Node, Addr: a.cfg.NodeIP.String(), Port: a.cfg.GossipPort, Key: c.gossipKey,
		Seeds: func() []string { return a.gossipSeeds(c) }, Logger: a.cfg.Logger,
	})
}
