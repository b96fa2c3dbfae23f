// Package job runs the pods of Jobs to their end and counts them: parallelism and completions, plain and Indexed, back-off
// between failures, limits for the Job and for each index, the policies that decide by exit codes and conditions which
// failures count and which successes are enough, suspension, deadlines, and the time after which a finished Job goes.
//
// It writes: pods (create, delete, owner references, the finalizer batch.kubernetes.io/job-tracking), jobs/status, and the
// deletion of finished Jobs whose ttlSecondsAfterFinished has passed.
//
// A pod carries the finalizer until it is counted. Kubernetes counts in three steps, with the UIDs in
// status.uncountedTerminatedPods between them, since no write there covers both a pod and its Job. Here one transaction takes
// the finalizer away and counts: a pod with the finalizer is not counted, a pod without is, and nothing is ever in between.
// plan.go decides, controller.go does.
package job
