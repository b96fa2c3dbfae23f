// Package apiservice keeps the APIServices: the local ones, one for each group version that the master serves itself, as
// kube-aggregator's autoregister controller does; and whether those with a Service can be reached.
//
// It writes: local APIServices, and the status of all others.
package apiservice
