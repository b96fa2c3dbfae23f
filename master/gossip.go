package master

import (
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// gossipName is the master's name among the machines; no node can have it, since a node's name has no underscore.
const gossipName = "_master"

// gossipSeeds are the known nodes: a master that restarts finds the gossip again by itself.
func (m *Master) gossipSeeds() []string {
	var seeds []string
	_ = m.registry.View(func(v *registry.View) error {
		for n := range registry.List[*corev1.Node](v, "") {
			for _, a := range n.Status.Addresses {
				if a.Type == corev1.NodeInternalIP {
					seeds = append(seeds, net.JoinHostPort(a.Address, strconv.Itoa(m.cfg.NodeGossipPort)))
				}
			}
		}
		return nil
	})
	return seeds
}
