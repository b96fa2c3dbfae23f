// Package namespace makes the namespaces that every cluster has, and empties those that are being deleted: their pods
// first, then everything else, then the namespace's own finalizer.
//
// It writes: namespaces (creation of four, status, spec.finalizers) and deletes what lies in a terminating one.
package namespace
