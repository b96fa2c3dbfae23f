// Package pressure decides how a node saves itself when memory, disk or process IDs run short: which thresholds are met, which
// conditions the node then has, which pod goes first and in which words, which images go before any pod does, and what is
// kept from pods in the first place. The rules and words are the kubelet's (pkg/kubelet/eviction and pkg/kubelet/images).
//
// All of it is pure: meter measures, and package node carries out.
package pressure
