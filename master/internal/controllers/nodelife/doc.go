// Package nodelife judges whether nodes live, and frees their pods when they do not.
//
// It writes: a node's conditions when nobody else can (Unknown), its taints of the node.kubernetes.io family, the time from
// which a NoExecute taint counts, the Ready condition of pods on a node that is not there (so that their endpoints are
// withdrawn at once), and it deletes pods: those that do not tolerate a NoExecute taint (any longer), and those of nodes
// that do not exist.
//
// Two witnesses speak of a node: its session with the master, and gossip among all machines. One of them is enough to take
// a node out of service; pods are moved only when the session is gone and gossip does not call the machine alive, since
// a pod that runs twice does more harm than one that is missing for a while. (moby#36311, moby#43508)
//
//	session  gossip   Ready                          taint unreachable
//	alive    -        as the agent says              -
//	alive    dead     Unknown                        NoSchedule
//	gone     alive    Unknown after SilentAfter      NoSchedule
//	gone     unknown  Unknown after SilentAfter      NoSchedule, NoExecute
//	gone     dead     Unknown                        NoSchedule, NoExecute
//
// Until SilentAfter has passed, a node without a session stays as it was found last.
//
// How long a pod tolerates its node's silence counts from the last sign of life. Then it is deleted without being asked for
// its end, so that it can run elsewhere; but a StatefulSet's pod, of which there must never be two, is only marked, and goes
// when its node confirms it, the Node is deleted, or a person taints the node with node.kubernetes.io/out-of-service. Pods
// on a node that answers, and says that it is not ready, end in order.
//
// plan.go and evict.go are pure. Goroutines: those of the loop, and one that waits for the witnesses.
package nodelife
