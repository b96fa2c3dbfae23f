// Package status computes a pod's status from what the engine shows and what the agent knows: phase, conditions, states
// of containers, in the kubelet's words. Pure.
package status
