package node

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/announce"
	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/healthport"
	"github.com/whalepod/whalepod/node/membership"
	"github.com/whalepod/whalepod/node/network"
	"github.com/whalepod/whalepod/node/session"
)

// gossipPatience is how long a node that starts waits for all other nodes before it takes part in announcing addresses:
// before it has heard of the others it would take all of theirs.
const gossipPatience = 5 * time.Second

func (a *Agent) newEdge(p *dataPlane) {
	p.announcer = announce.New(announce.Config{
		Node: a.cfg.Identity.Node, NodeIP: a.cfg.NodeIP, Logger: a.cfg.Logger,
		Links: func() ([]announce.Link, error) { return announceLinks(p.network.Links, a.cfg.NodeIP) },
		Event: func(s announce.Service, eventType, reason, message string) {
			a.outbox.Event(session.Event{Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: string(s.UID), Type: eventType, Reason: reason, Message: message})
		},
	})
	p.health = healthport.New(healthport.Config{
		Node: a.cfg.Identity.Node, Logger: a.cfg.Logger,
		Healthy: func() bool {
			select {
			case <-p.proxy.Ready():
				return true
			default:
				return false
			}
		},
		Warn: func(s healthport.Service, reason, message string) {
			a.outbox.Event(session.Event{Kind: "Service", Namespace: s.Namespace, Name: s.Name, UID: s.UID, Type: corev1.EventTypeWarning, Reason: reason, Message: message})
		},
	})
}

// announceLinks are the links by which addresses may be announced, that of the node's own address first: when there are too many
// to tell of (each network of Docker's is one), the last are left out.
func announceLinks(links func() ([]network.Link, error), nodeIP netip.Addr) ([]announce.Link, error) {
	all, err := links()
	if err != nil {
		return nil, err
	}
	var out []announce.Link
	for _, l := range all {
		if len(l.MAC) != len(announce.MAC{}) {
			continue
		}
		link := announce.Link{Name: l.Name, Index: l.Index, MAC: announce.MAC(l.MAC), Addrs: l.Addrs}
		if slices.ContainsFunc(l.Addrs, func(p netip.Prefix) bool { return p.Addr() == nodeIP }) {
			out = slices.Insert(out, 0, link)
		} else {
			out = append(out, link)
		}
	}
	return out, nil
}

// pokeEdge makes feedEdge look at machines, links and pools again.
func (a *Agent) pokeEdge() {
	select {
	case a.edgePoke <- struct{}{}:
	default:
	}
}

// feedEdge tells the announcer and the health check ports what there is, at first and then when it changes.
func (a *Agent) feedEdge(ctx context.Context, p *dataPlane) error {
	sub := a.desired.Subscribe(desired.Services, desired.EndpointSlices, desired.Nodes)
	defer sub.Close()
	e := newEdge()
	for _, s := range a.desired.Services() {
		e.setService(desired.Key(s.Namespace, s.Name), s, a.desired.EndpointSlices)
	}
	rules, gossips := p.proxy.Ready(), p.gossips
	var patience <-chan time.Time
	joined, waited := false, false
	for services, peers := true, true; ; {
		if services {
			p.announcer.Set(e.addresses(a.pools()))
			p.health.Set(e.healthPorts(a.cfg.Identity.Node))
		}
		// Packets that are announced here must find rules.
		ready := rules == nil && gossips == nil
		if ready && patience == nil {
			patience = time.After(gossipPatience)
		}
		joined = joined || ready && (waited || a.everybodyIsHere(p))
		if peers && joined {
			a.feedPeersOfEdge(p)
		}
		services, peers = false, false
		select {
		case <-ctx.Done():
			return nil
		case <-rules:
			rules, peers = nil, true
		case <-gossips:
			gossips, peers = nil, true
		case <-patience:
			waited, peers = true, true
		case <-a.edgePoke:
			services, peers = true, true
			p.announcer.Look()
		case <-sub.C():
			for _, ref := range sub.Take() {
				if ref.Resource == desired.Nodes {
					peers = true
				} else if a.feedEdgeOne(e, ref) {
					services = true
				}
			}
		}
	}
}

func (a *Agent) feedEdgeOne(e *edge, ref desired.Ref) bool {
	namespace, name, _ := strings.Cut(ref.Key, "/")
	switch ref.Resource {
	case desired.Services:
		s, _ := a.desired.Service(namespace, name)
		return e.setService(ref.Key, s, a.desired.EndpointSlices)
	case desired.EndpointSlices:
		s, _ := a.desired.EndpointSlice(namespace, name)
		return e.setSlice(ref.Key, s)
	}
	return false
}

// everybodyIsHere: gossip knows all nodes that there are.
func (a *Agent) everybodyIsHere(p *dataPlane) bool {
	members := p.members.Members()
	for _, n := range a.desired.Nodes() {
		if !slices.ContainsFunc(members, func(m membership.Member) bool { return m.Name == n.Name }) {
			return false
		}
	}
	return true
}

// feedPeersOfEdge tells the others that this node announces, and the announcer who of the others does.
func (a *Agent) feedPeersOfEdge(p *dataPlane) {
	links, err := announceLinks(p.network.Links, a.cfg.NodeIP)
	if err != nil {
		a.log.Warn("addresses are announced on the links known before", "err", err)
		return
	}
	p.members.Tell(announce.Meta(links, membership.MaxMeta))
	p.announcer.SetPeers(announcePeers(a.cfg.Identity.Node, links, p.members.Members(), a.desired.Node))
}

// announcePeers are the machines that announce: nodes of the cluster that say so, and are not labelled out of it.
func announcePeers(self string, links []announce.Link, members []membership.Member, node func(string) (*corev1.Node, bool)) []announce.Peer {
	var out []announce.Peer
	for _, m := range members {
		theirs, ok := announce.ParseMeta(m.Meta)
		if m.Name == self {
			theirs, ok = links, true
		}
		n, known := node(m.Name)
		if !ok || !known {
			continue
		}
		if _, out := n.Labels[corev1.LabelNodeExcludeBalancers]; out {
			continue
		}
		ready := slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})
		out = append(out, announce.Peer{Name: m.Name, Links: theirs, Ready: ready})
	}
	slices.SortFunc(out, func(x, y announce.Peer) int { return strings.Compare(x.Name, y.Name) })
	return out
}
