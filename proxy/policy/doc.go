// Package policy turns the NetworkPolicies of one node's pods into iptables rules and kernel sets of addresses.
//
// blocks.go, rules.go and model.go are pure: they say what the kernel should hold. enforcer.go keeps the kernel so, with one
// `iptables-restore --noflush` where rules change (package proxy/iptables) and one message where an address comes or goes
// (package proxy/ipset).
//
// The way of the first packet of a connection, in the table mangle:
//
//	FORWARD ─► WP-POLICY ──────┬─ from a pod isolated for egress ─► WP-EGRESS ─► WP-E-… what its policies allow: back, else DROP
//	INPUT ───► WP-POLICY-NODE ─┘
//	           WP-POLICY ──────── to a pod isolated for ingress ──► WP-INGRESS ─► WP-I-… what its policies allow: back, else DROP
//
// Pods that the same policies select share a chain (a group), and a set says which addresses go there: a pod that comes into a
// Deployment is added to sets, and no rule changes. What a rule allows is a set, too, which the master keeps (proto/netpolicy).
//
// The table is mangle, not filter, because nobody else's rule comes before: Docker, firewalld and ufw accept packets in filter, and
// put their rules first there whenever they start; what mangle drops, no one accepts. It comes after the translation of Services'
// addresses and before masquerading, so rules see the pods' own addresses on both sides.
//
// What always passes: packets of connections that are there already; what the node itself sends to its pods (it goes through OUTPUT,
// where there are no rules); and a pod to itself. What a pod sends to its node is egress like everything else: the cluster's name
// server is there, and perhaps the API.
package policy
