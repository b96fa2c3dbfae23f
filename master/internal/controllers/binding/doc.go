// Package binding gives pods without a node to one: it feeds the scheduler's Snapshot from the watch, asks it, and commits
// its decisions, many in one transaction. It is the only package that imports scheduler.
//
// It writes: spec.nodeName of pods, their PodScheduled condition and status.nominatedNodeName; of pods that have to leave a
// node for a more important one, the condition DisruptionTarget; and it deletes those.
//
// A pod that fits nowhere is parked, and tried again when something has changed that it may have waited for: what a
// decision was blocked by is kept with it, and Snapshot.Concerns tells whether news matter to it. Delays between the tries
// of one pod grow from firstRetry to lastRetry; after flushAfter it is tried in any case.
//
// Goroutines: Run itself, which owns the snapshot and the queue, and one that waits for the watch and hands batches of
// events over an unbuffered channel.
package binding
