// Package namespace empties namespaces that are being deleted: their pods first, then everything else, then the namespace's
// own finalizer.
//
// It writes: namespaces (status, spec.finalizers) and deletes what lies in a terminating one.
package namespace
