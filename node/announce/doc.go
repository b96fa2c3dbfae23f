// Package announce makes addresses of load balancers reachable on bare servers: of all nodes exactly one answers the ARP
// requests for such an address, so that the routers and machines on its link send there what is meant for the Service; the
// node's proxy rules do the rest.
//
// Who answers for which address every agent decides for itself (elect), by what gossip says of who is alive and on which
// links: the master is not asked. The address is on no link and the kernel does not know it; this package answers by a raw
// socket. So nothing answers any more when the agent is dead, whatever the kernel of its machine still does.
//
// It reads no API objects and knows no netlink: what it needs to know it is told, and links are found by whoever makes it.
package announce
