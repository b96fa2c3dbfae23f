package announce

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/types"
)

// Address is one address to be announced.
type Address struct {
	IP netip.Addr
	// Services that have it; events are about them.
	Services []Service
	// Nodes that may announce it, those with an endpoint when externalTrafficPolicy is Local; nil: all.
	Nodes map[string]bool
}

// Service names a Service for events.
type Service struct {
	Namespace, Name string
	UID             types.UID
}

// Peer is a node that can announce: one that gossip calls alive (this one, too), that the cluster knows and that is not
// labelled out of it.
type Peer struct {
	Name  string
	Links []Link
	// Ready is the Node's condition. It only breaks ties: a node that is not ready forwards all the same, and agents that
	// are cut off from the master may see it otherwise.
	Ready bool
}

// candidates are those that may announce the address: nodes on its link, or when it is on nobody's link (a router sends it
// here) all; of them those with an endpoint, if that matters; of them the ready ones, if there are any.
func candidates(a *Address, peers []Peer) []Peer {
	near := slices.DeleteFunc(slices.Clone(peers), func(p Peer) bool { return len(linksFor(a.IP, p.Links)) == 0 })
	if len(near) == 0 {
		near = slices.Clone(peers)
	}
	if a.Nodes != nil {
		near = slices.DeleteFunc(near, func(p Peer) bool { return !a.Nodes[p.Name] })
	}
	ready := slices.DeleteFunc(slices.Clone(near), func(p Peer) bool { return !p.Ready })
	if len(ready) > 0 {
		return ready
	}
	return near
}

// elect says which of the candidates announces: the one that scores highest (rendezvous hashing, Thaler and Ravishankar
// 1998). Whoever knows the same candidates comes to the same result, a node that goes leaves its addresses to the others in
// equal shares, and one that comes takes only those that are its own from now on. It is "" when there are none.
func elect(ip netip.Addr, among []Peer) string {
	if len(among) == 0 {
		return ""
	}
	best := slices.MaxFunc(among, func(x, y Peer) int {
		return cmp.Or(cmp.Compare(score(ip, x.Name), score(ip, y.Name)), cmp.Compare(x.Name, y.Name))
	})
	return best.Name
}

// score must stay as it is for ever: nodes of two releases have to agree.
func score(ip netip.Addr, node string) uint64 {
	sum := sha256.Sum256([]byte(ip.String() + "|" + node))
	return binary.BigEndian.Uint64(sum[:])
}

// ownerOf is the node that has the address itself.
func ownerOf(ip netip.Addr, peers []Peer) (string, bool) {
	for _, p := range peers {
		for _, l := range p.Links {
			if slices.ContainsFunc(l.Addrs, func(own netip.Prefix) bool { return own.Addr() == ip }) {
				return p.Name, true
			}
		}
	}
	return "", false
}

// linksFor are the links in whose networks the address is.
func linksFor(ip netip.Addr, links []Link) []Link {
	var out []Link
	for _, l := range links {
		if slices.ContainsFunc(l.Addrs, func(own netip.Prefix) bool { return own.Contains(ip) }) {
			out = append(out, l)
		}
	}
	return out
}

// via are the links on which this node announces the address: those in whose networks it is, or else the one that has the
// node's own address.
func via(ip, node netip.Addr, links []Link) []Link {
	if near := linksFor(ip, links); len(near) > 0 {
		return near
	}
	for _, l := range links {
		if slices.ContainsFunc(l.Addrs, func(own netip.Prefix) bool { return own.Addr() == node }) {
			return []Link{l}
		}
	}
	return nil
}
