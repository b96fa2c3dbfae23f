// Package history keeps the past templates of a StatefulSet or DaemonSet as ControllerRevisions, as Kubernetes'
// pkg/controller/history does, so that `kubectl rollout history` and `rollout undo` find what they expect.
//
// A turn is: Read, Resolve (which revision is the present template's?), Truncate, Write. All but Read and Write are pure;
// the caller runs all of them on one state, Write in the transaction that also writes the pods. Used by the controllers of
// both kinds; it starts nothing and knows neither.
package history
