// Package gc deletes objects whose owners are gone, and carries out what a deletion says of dependents: delete them first
// (foreground), let them be (orphan), or delete them afterwards (background).
//
// It writes: owner references, the finalizers foregroundDeletion and orphan, and deletions.
//
// It keeps no graph of its own: the store's index "owner" gives the dependents of a UID, and each event is judged by
// what the store says at that moment. Only the start and the slow resync look at all objects, and only those about
// which there is something to do are queued.
package gc
