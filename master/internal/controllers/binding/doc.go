// Package binding gives pods without a node to one: it feeds the scheduler's Snapshot from the watch, asks it, and commits
// its decisions, many in one transaction. It is the only package that imports scheduler.
//
// It writes: spec.nodeName of pods, and their PodScheduled condition.
//
// A pod that fits nowhere is parked, and tried again when something has changed that can make room: a node came, or changed
// in what filters read, or a pod left one. Delays between the tries of one pod grow from firstRetry to lastRetry.
//
// Goroutines: Run itself, which owns the snapshot and the queue, and one that waits for the watch and hands batches of
// events over an unbuffered channel.
package binding
