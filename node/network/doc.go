// Package network owns the kernel's links, addresses and routes on one node: the bridge wp0 that pods hang on, one veth
// pair for each pod, the routes to the other nodes' pods, and the VXLAN device where a plain route cannot work.
//
// The kernel itself is the database. The alias of a pod's veth says which pod it is and which address it has, and our
// routes carry a routing protocol number of their own, so a restarted agent adopts what it finds and a stale entry is
// never mistaken for somebody else's. Nothing is torn down when the agent stops: pods keep their network.
//
// Pods get /32 addresses and reach everything, their neighbours on the same node too, through the node's IP layer. So a
// reply always passes the connection tracking that translated the request, whether or not bridge netfilter is loaded.
//
// The package must not touch iptables (proxy does that) nor containers (node/runtime does): it is given the path of a
// network namespace and fills it.
package network
