// Package daemonset keeps one pod of a DaemonSet on each node that may run it, and updates them one after the other.
//
// It decides where pods belong; the scheduler binds them there, because each pod's node affinity names its node. Whether a
// node may run one is asked of package scheduler, so that both never differ: of its filters, those about labels, names and
// taints. That a node is full is no reason not to make the pod: it waits, and the user sees why.
//
// plan.go and rolling.go are pure. A turn reads, decides, and writes pods, revisions and status in one transaction; so
// there are no expectations, and no pod is made or deleted twice.
package daemonset
