// Package statefulset keeps the pods of StatefulSets: one for each ordinal, with a name, host name and claims that stay its
// own, made and removed in order, and brought to a new template from the highest ordinal down.
//
// It writes: pods and claims of StatefulSets (create, delete; their owner references and name labels), ControllerRevisions
// and statefulsets/status. plan.go and its neighbours are pure, act.go carries a plan out, controller.go is the loop. Rules
// and words are those of Kubernetes' pkg/controller/statefulset.
//
// There are never two pods of one ordinal, because they would have one name. A pod that is being deleted holds its name
// until its node confirms that it has ended, or until nodelife is sure that the node is dead: this package waits for both
// alike and never deletes by force.
//
// A broken update of an ordered set stands still, as in Kubernetes: the pod that does not become ready blocks its
// predecessors, also after the template has been put right, until somebody deletes that pod. A Parallel set goes on by
// itself.
package statefulset
