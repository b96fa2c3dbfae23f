// Package doctor examines one machine: what of it keeps a node from working, and what to do about it. Checks are small
// functions over a System, which is the machine, and a Place, which is what the cluster wants of it. They change nothing.
//
// The agent runs them for its own node; `wpctl doctor --local` runs them without a cluster, before a machine joins or when
// nothing works. So this package imports nothing of ours, and only what a static program has anyway.
package doctor
