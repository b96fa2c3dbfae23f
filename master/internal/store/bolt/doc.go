// Package bolt is the store of a single master: every object decoded in memory, its bytes in one bbolt file.
//
// Readers take a pointer to an immutable state (copy-on-write btrees) and never wait. Writers run one after another
// under one mutex against the head state and queue what they changed; one goroutine, the committer, writes whatever is
// queued as one bbolt transaction (group commit, without a timer), then publishes: events into the history of each
// resource, the new state, the wake-up of watchers, and last the answer to the writers.
//
// Lock order: Store.mu, then topic.mu. No lock is held while the disk is written or while a reader's function runs.
//
// Goroutines: the committer, in Run. Channels: Store.kick (1, a poke), pending.done (1, the answer to one writer) and the
// wake channel of each resource (closed, never sent to).
//
// The package must not know of kinds or HTTP, and nothing else in the project may import bbolt.
package bolt
