// Package aggregator passes requests on to the API servers that APIServices name: through a node's tunnel to their Service, with
// the names of those who ask in headers, which the other server believes because of the master's certificate. It remembers
// what the others said they serve, for discovery, in memory only.
//
// Nobody can register a Service for what the master serves itself, but for metrics.k8s.io: a mistake there could not be undone
// by kubectl.
package aggregator
