// Package controller is the one loop that all controllers run in: it watches, names what may need work, and calls
// Reconcile for it, never twice at once for one key, again with growing delays after an error, again after a while when
// asked, and for everything now and then. It knows nothing of what the controllers do.
//
// Events only name keys; what is to be done is read from committed state. Controllers keep no caches and no
// expectations: a transaction that counts and creates in one step cannot miscount.
//
// Goroutines: Run starts the watcher, Config.Workers workers and one that wakes delayed keys; all end with its context.
// The queue holds each key at most once; nothing runs while nothing happens.
package controller
