// Package nft is the back end of proxy for kernels with nf_tables (5.6 and later): a table of its own, written over netlink.
//
// The rules do not depend on Services: they look addresses up in maps, so that a change is a change of a few elements, however
// many Services there are, and a packet pays the same too.
//
//	prerouting, output ─► services: map services (address, protocol, port) ─► cluster-N, external-N, nodeport-N …  (marks)
//	                                                                       └─► endpoints-N: a number below N,
//	                                                                           map endpoints (address, protocol, port, number) ─► dnat
//	postrouting ─► masquerades marked packets, hairpins, and what leaves the cluster
//	filter-input, filter-forward, filter-output ─► map refused (address, protocol, port) ─► reject or drop
//
// A port of the node itself (NodePort, hostPort) is in the maps with the address 0.0.0.0; an address of a load balancer that is no machine's is
// in refused without protocol and port, for what goes to none of its ports. The chains of a number N are made when
// a first Service has so many endpoints. Every rule and every element carries a comment: namespace/name:port.
//
// Why maps of data and not a chain for each Service, as kube-proxy has: after a change of a rule or of a verdict the kernel
// walks through all chains that can be reached, to see that they have no loops. Only Services with session affinity have some
// (memory.go).
package nft
