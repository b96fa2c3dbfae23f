package node

import (
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/network"
)

// serviceSink is told of Services and EndpointSlices: the proxy, and the DNS zone.
type serviceSink interface {
	SetService(svc *corev1.Service)
	DeleteService(namespace, name string)
	SetSlice(s *discoveryv1.EndpointSlice)
	DeleteSlice(namespace, name string)
	// Synced: everything there is has been given.
	Synced()
}

// serviceFeed hands Services and EndpointSlices on, all at first and then what changes.
type serviceFeed struct {
	state  *desired.State
	sub    *desired.Subscription
	to     []serviceSink
	synced bool
	// reached is told the master's marks once all that was applied before them has been given.
	reached func(mark uint64)
}

// newServiceFeed gives at once what this node knows already.
func newServiceFeed(state *desired.State, reached func(uint64), to ...serviceSink) *serviceFeed {
	f := &serviceFeed{state: state, sub: state.Subscribe(desired.Services, desired.EndpointSlices, desired.Pods), to: to, reached: reached}
	complete := state.Completed() // before looking: then nothing is missing
	for _, s := range state.Services() {
		for _, t := range f.to {
			t.SetService(s)
		}
	}
	for _, s := range state.EndpointSlices() {
		for _, t := range f.to {
			t.SetSlice(s)
		}
	}
	f.sync(complete)
	return f
}

func (f *serviceFeed) run(ctx context.Context) error {
	defer f.sub.Close()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.sub.C():
			f.turn()
		}
	}
}

// turn gives what has changed. Everything else is asked before Take, so that what was applied before it has been given.
func (f *serviceFeed) turn() {
	mark, complete := f.state.Marked(), f.state.Completed()
	for _, ref := range f.sub.Take() {
		for _, t := range f.to {
			f.give(t, ref)
		}
	}
	f.sync(complete)
	f.reached(mark)
}

func (f *serviceFeed) sync(complete bool) {
	if !complete || f.synced {
		return
	}
	f.synced = true
	for _, t := range f.to {
		t.Synced()
	}
}

func (f *serviceFeed) give(to serviceSink, ref desired.Ref) {
	namespace, name, _ := strings.Cut(ref.Key, "/")
	switch ref.Resource {
	case desired.Services:
		if s, ok := f.state.Service(namespace, name); ok {
			to.SetService(s)
		} else {
			to.DeleteService(namespace, name)
		}
	case desired.EndpointSlices:
		if s, ok := f.state.EndpointSlice(namespace, name); ok {
			to.SetSlice(s)
		} else {
			to.DeleteSlice(namespace, name)
		}
	}
}

// feedPeers keeps routes to the other nodes, and takes endpoints on machines that gossip calls dead out of service without asking anybody.
func (a *Agent) feedPeers(ctx context.Context, p *dataPlane) error {
	sub := a.desired.Subscribe(desired.Nodes)
	defer sub.Close()
	for machines := false; ; {
		a.tellZone(p)
		if err := p.network.SetPeers(ctx, a.peers()); err != nil && ctx.Err() == nil {
			a.log.Error("routes to other nodes are incomplete", "err", err)
		}
		dead := map[string]bool{}
		for name := range p.members.Dead() {
			dead[name] = true
		}
		p.proxy.SetDeadNodes(dead)
		p.zone.SetDeadNodes(dead)
		a.pokeEdge()
		if machines {
			a.log.Info("machines changed", "alive", len(p.members.Members()), "dead", slices.Sorted(maps.Keys(dead)))
		}
		machines = false
		select {
		case <-ctx.Done():
			return nil
		case <-sub.C():
			sub.Take()
		case <-p.members.Changed():
			machines = true
		}
	}
}

func (a *Agent) peers() []network.Peer {
	var out []network.Peer
	for _, n := range a.desired.Nodes() {
		cidr, err := netip.ParsePrefix(n.Spec.PodCIDR)
		ip := internalIP(n)
		if n.Name == a.cfg.Identity.Node || err != nil || !ip.IsValid() {
			continue
		}
		place, _ := network.ParsePlace(n.Annotations[network.LinkAnnotation]) // unknown if it cannot be read
		out = append(out, network.Peer{Name: n.Name, IP: ip, PodCIDR: cidr, Place: place})
	}
	return out
}

// addressesOf these nodes and of their pods.
func (a *Agent) addressesOf(nodes []string) []netip.Prefix {
	var out []netip.Prefix
	for _, name := range nodes {
		n, ok := a.desired.Node(name)
		if !ok {
			continue
		}
		if cidr, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil {
			out = append(out, cidr)
		}
		if ip := internalIP(n); ip.IsValid() { // of pods in the host's network
			out = append(out, netip.PrefixFrom(ip, ip.BitLen()))
		}
	}
	return out
}

func internalIP(n *corev1.Node) netip.Addr {
	for _, addr := range n.Status.Addresses {
		if addr.Type == corev1.NodeInternalIP {
			ip, _ := netip.ParseAddr(addr.Address)
			return ip
		}
	}
	return netip.Addr{}
}

// gossipSeeds are the master's and the known nodes': any of them will do.
func (a *Agent) gossipSeeds(c *cluster) []string {
	seeds := append([]string(nil), c.seeds...)
	for _, p := range a.peers() {
		seeds = append(seeds, net.JoinHostPort(p.IP.String(), strconv.Itoa(a.cfg.GossipPort)))
	}
	return seeds
}
