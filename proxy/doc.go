// Package proxy turns Services and EndpointSlices into the iptables rules of one node.
//
// rules.go and endpoints.go are pure: they say what the tables should hold. model.go keeps that up to date chain by
// chain, so that a change costs what it touches and not what exists. proxy.go collects changes for a few milliseconds
// and applies them with one `iptables-restore --noflush` (package proxy/iptables).
//
// The way of a packet:
//
//	PREROUTING, OUTPUT ─► WP-SERVICES ─► WP-CLUSTERIP ─► WP-V-0AFE0 (/20) ─► WP-V-0AFE01 (/24) ─┬─► WP-S-… endpoints of the cluster
//	                           ├─► WP-NODEPORTS ─► WP-N-tcp-469 (64 ports) ─► WP-E-… from outside ─┤
//	                           └─► WP-EXTERNAL ─► WP-X-CB007105 (one address) ─► WP-E-… ──────────┴─► WP-L-… endpoints of this node
//	POSTROUTING ─► WP-POSTROUTING: masquerades marked packets, hairpins, and what leaves the cluster
//	INPUT, FORWARD, OUTPUT ─► WP-INPUT, WP-FORWARD, WP-OUTPUT: pods may pass; Services without endpoints are refused
//
// Only chains named WP-… and the six jumps to them are ours; everything else in the tables is left alone. Nothing is
// flushed when the agent starts or stops: what the tables hold is read back, compared, and changed where it differs.
package proxy
