// Package desired is what this node knows of the desired state: its pods and whatever they, the proxy and the DNS server
// need (services, endpoint slices, config maps, secrets, service accounts, nodes, namespaces, runtime classes, claims and their volumes).
//
// It is told by the session with the master (Begin, Apply, Complete), kept in memory and in one file on the node's disk,
// and read by everybody else on the node. With it a restarted agent goes on while the master is away.
//
// It must not call the master, decide anything about pods, or hand out copies: objects are shared and read only.
package desired
