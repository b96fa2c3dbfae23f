// Package admit is the node's own look at a pod that was bound to it: does it really fit here, beside those that are
// here already. Pods can be bound without the scheduler (spec.nodeName), and two writers can race. Pure.
package admit
