// Package dns is the DNS server of a node: it answers for the cluster's domain from the Services and EndpointSlices it was
// given, to the letter of the Kubernetes DNS specification 1.1.0, and forwards everything else through a cache.
//
// The way of a query: parse.go reads the wire without allocating; cache.go may hold the finished answer; otherwise zone.go
// looks it up in an immutable Snapshot (lookup.go, reverse.go), or forward.go asks the servers that upstream.go names; packed.go
// turns the result into bytes that later queries only copy. server.go moves datagrams, tcp.go streams.
//
// The package must not read files or watch anything: it is told (Zone.SetService and the like, Server.SetForwarding).
package dns
