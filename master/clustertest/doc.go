// Package clustertest runs a real master and several agents in one process and in virtual time: the API through
// client-go, sessions over mTLS, pods on an engine in memory. Only the network below the pods, gossip and the clock are not
// real. It holds tests only.
package clustertest
