package daemonset

import (
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
	"github.com/whalepod/whalepod/scheduler"
)

// burst is how many pods one transaction makes or deletes at most; the rest follows in the next turn.
const burst = 250

// world is what a turn decides about.
type world struct {
	ds   *appsv1.DaemonSet
	now  time.Time
	hash string
	// nodes there are, by name, and what becomes of the DaemonSet's pods on each.
	nodes []place
	// pods by the node that they are on or meant for, oldest first, without those that ended and are going.
	pods map[string][]*corev1.Pod
	// blocked is how long a failed pod of a node is yet to be left alone.
	blocked func(node string) time.Duration
}

// place is a node as the DaemonSet sees it.
type place struct {
	name string
	// run: a pod belongs there. stay: one that is there may remain.
	run, stay bool
}

// placesOf asks for each node whether the DaemonSet's pods belong there.
func placesOf(ds *appsv1.DaemonSet, nodes func(yield func(*corev1.Node) bool)) []place {
	pod := &corev1.Pod{Spec: ds.Spec.Template.Spec}
	pod.Spec.Tolerations = withTolerations(&pod.Spec)
	var out []place
	for node := range nodes {
		run, stay := runs(pod, node)
		out = append(out, place{node.Name, run, stay})
	}
	slices.SortFunc(out, func(a, b place) int { return strings.Compare(a.name, b.name) })
	return out
}

// runs says whether a daemon belongs on a node, and whether one that is there may stay. A taint that only forbids
// scheduling leaves those alone that are there.
func runs(pod *corev1.Pod, node *corev1.Node) (run, stay bool) {
	if name := pod.Spec.NodeName; name != "" && name != node.Name || !scheduler.MatchesNode(pod, node) {
		return false, false
	}
	run, stay = true, true
	for i := range node.Spec.Taints {
		t := &node.Spec.Taints[i]
		if t.Effect == corev1.TaintEffectPreferNoSchedule || scheduler.Tolerates(pod.Spec.Tolerations, t) {
			continue
		}
		run = false
		stay = stay && t.Effect != corev1.TaintEffectNoExecute
	}
	return run, stay
}

// byNode groups pods by their nodes.
func byNode(pods []*corev1.Pod) map[string][]*corev1.Pod {
	out := map[string][]*corev1.Pod{}
	for _, pod := range pods {
		if podstate.Ended(pod) && pod.DeletionTimestamp != nil {
			continue
		}
		if node := targetOf(pod); node != "" {
			out[node] = append(out[node], pod)
		}
	}
	for _, on := range out {
		slices.SortFunc(on, older)
	}
	return out
}

// older puts those that have their node before those that have not, then by age.
func older(a, b *corev1.Pod) int {
	if bound := a.Spec.NodeName != ""; bound != (b.Spec.NodeName != "") {
		if bound {
			return -1
		}
		return 1
	}
	if d := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); d != 0 {
		return d
	}
	return strings.Compare(a.Name, b.Name)
}

// plan is what a turn does with pods.
type plan struct {
	create []string // nodes
	remove []*corev1.Pod
	// ended of remove have failed or succeeded by themselves, which users hear of.
	ended []*corev1.Pod
	// again is when a failed pod will have been left alone for long enough; 0 for never.
	again time.Duration
	// more: burst has cut the work short.
	more bool
}

func (p *plan) empty() bool { return len(p.create)+len(p.remove) == 0 }

// cut keeps a plan within what one transaction may do.
func (p *plan) cut() *plan {
	if len(p.create) > burst {
		p.create, p.more = p.create[:burst], true
	}
	if len(p.remove) > burst {
		p.remove, p.more = p.remove[:burst], true
		p.ended = slices.DeleteFunc(p.ended, func(pod *corev1.Pod) bool { return !slices.Contains(p.remove, pod) })
	}
	return p
}

// makePlan first puts every node right; only when all are, an update goes on.
func makePlan(w *world) *plan {
	p := &plan{}
	for _, at := range w.nodes {
		w.manage(p, at)
	}
	w.dropLost(p)
	if p.empty() && w.ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		w.roll(p)
	}
	return p.cut()
}

// manage decides about one node, as podsShouldBeOnNode of Kubernetes' daemon_controller.go does.
func (w *world) manage(p *plan, at place) {
	pods := w.pods[at.name]
	switch {
	case at.run && len(pods) == 0:
		p.create = append(p.create, at.name)
	case at.stay:
		running := w.bury(p, at, pods)
		switch {
		case w.surges():
			if len(running) == 0 && at.run {
				p.create = append(p.create, at.name)
			}
			w.pair(p, running)
		case len(running) > 1:
			p.remove = append(p.remove, running[1:]...)
		}
	default:
		for _, pod := range pods {
			if pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod)
			}
		}
	}
}

// bury deletes the pods of a node that have ended, failed ones with growing delays: something fails them. It returns those
// that have not, and are not going.
func (w *world) bury(p *plan, at place, pods []*corev1.Pod) (running []*corev1.Pod) {
	for _, pod := range pods {
		switch {
		case pod.DeletionTimestamp != nil:
			continue
		case pod.Status.Phase == corev1.PodFailed:
			if wait := w.blocked(at.name); wait > 0 {
				if p.again == 0 || wait < p.again {
					p.again = wait
				}
				continue
			}
		case pod.Status.Phase != corev1.PodSucceeded:
			running = append(running, pod)
			continue
		}
		p.remove = append(p.remove, pod)
		p.ended = append(p.ended, pod)
	}
	return running
}

// pair: while an update surges, a node has one old pod that serves and one new pod that does not yet; all others go.
func (w *world) pair(p *plan, running []*corev1.Pod) {
	if len(running) <= 1 {
		return
	}
	var fresh, old *corev1.Pod
	for _, pod := range running {
		switch isNew := pod.Labels[hashLabel] == w.hash; {
		case isNew && fresh == nil:
			fresh = pod
		case !isNew && old == nil:
			old = pod
		default:
			p.remove = append(p.remove, pod)
		}
	}
	if fresh != nil && old != nil && (!podstate.Ready(old) || w.available(fresh)) {
		p.remove = append(p.remove, old)
	}
}

// dropLost deletes pods that wait for a node which does not exist: nobody will ever bind them.
func (w *world) dropLost(p *plan) {
	exists := make(map[string]bool, len(w.nodes))
	for _, at := range w.nodes {
		exists[at.name] = true
	}
	for node, pods := range w.pods {
		for _, pod := range pods {
			if !exists[node] && pod.Spec.NodeName == "" && pod.DeletionTimestamp == nil {
				p.remove = append(p.remove, pod)
			}
		}
	}
}

func (w *world) available(pod *corev1.Pod) bool {
	return podstate.AvailableIn(pod, podstate.Seconds(w.ds.Spec.MinReadySeconds), w.now) == 0
}

// surges says that an update may put a second pod on a node.
func (w *world) surges() bool {
	return w.share(func(r *appsv1.RollingUpdateDaemonSet) *intstr.IntOrString { return r.MaxSurge }, 1) > 0
}

// share is a number of the rolling update, out of so many nodes; 0 when it is not set, or no rolling update.
func (w *world) share(of func(*appsv1.RollingUpdateDaemonSet) *intstr.IntOrString, nodes int) int {
	s := w.ds.Spec.UpdateStrategy
	if s.Type != appsv1.RollingUpdateDaemonSetStrategyType || s.RollingUpdate == nil || of(s.RollingUpdate) == nil {
		return 0
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(of(s.RollingUpdate), nodes, true)
	if err != nil {
		return 0 // validation refuses such at the door
	}
	return n
}
