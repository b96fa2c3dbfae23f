// Package usage remembers what nodes and containers use, as the agents last told it, and serves it as metrics.k8s.io, as
// metrics-server does. It keeps nothing but the last figures, in memory only: after a start they are there again within
// seconds, and nobody reads old ones.
package usage
