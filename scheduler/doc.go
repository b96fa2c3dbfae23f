// Package scheduler decides on which node a pod runs. It is pure: plain values in, a Decision out; no clock, no I/O, no
// goroutines, no store. Who feeds the Snapshot and carries the Decision out is the binding controller.
//
// A Schedule call builds its filters and scorers from the pod (nothing survives the call), asks the filters about the
// nodes, scores those that fit, and names the best. When none fits, the same filters explain themselves, and the sum is
// the user's message, in kube-scheduler's words.
//
// To add a filter: implement the filter interface in a file of its own and list it in newFilters, in the place where
// kube-scheduler has it (only the first filter that refuses a node is counted in the message).
package scheduler
