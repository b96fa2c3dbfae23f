// Package proxy turns Services and EndpointSlices into the rules of one node.
//
// plan.go and endpoints.go are pure: they say what a node has to do for a Service (Port), in no back end's words. model.go keeps
// the plan, and hands what changed to a Backend; proxy.go collects changes for a few milliseconds and has them applied. There are
// two back ends: package proxy/nft for kernels that take its rules, and tables.go here for all others, which renders the plan
// into chains (rules.go, base.go) and applies those that changed with one `iptables-restore --noflush` (package
// proxy/iptables). Beside proxy/nft, tables.go holds the few rules that let traffic of pods pass what others drop there.
//
// The way of a packet with iptables (that with nf_tables stands in package proxy/nft):
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
