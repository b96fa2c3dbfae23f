package scheduler

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Decision is the outcome for one pod.
type Decision struct {
	// Node is the chosen one; empty when none fits.
	Node string
	// Message says why none fits, as kube-scheduler words it; empty when one does.
	Message string
	// Evaluated and Feasible count the nodes that were looked at and that fitted.
	Evaluated, Feasible int
	// Nominated is the node that takes the pod as soon as the Victims have left it; empty when that would help nowhere.
	Nominated string
	Victims   []*corev1.Pod
	// Waits: what the pod was nominated to before stands.
	Waits bool
	// Blocked is what kept it from a node; nothing, when there is no node.
	Blocked Blocks
}

// enough is how many nodes that fit are compared: more comparing costs time and finds hardly a better one. (kube-scheduler
// compares up to half of the nodes; that was measured to be four times slower at 1,000 nodes.)
const enough = 100

const noNodes = "no nodes available to schedule pods"

// Schedule picks the best node for a pod, or those that have to leave one for it. It changes nothing; equal snapshots,
// seeds and pods give equal decisions.
func Schedule(s *Snapshot, pod *corev1.Pod) Decision {
	if len(s.nodes) == 0 {
		return Decision{Message: noNodes, Waits: true}
	}
	if blocked, _ := s.claims(pod); blocked != "" {
		return s.refused(pod, blocked+".")
	}
	q := newQuery(s, pod)
	d := Decision{}
	if reserved := s.nominated[pod.UID]; reserved != nil && reserved.node.obj != nil && q.fits(reserved.node) {
		return Decision{Node: reserved.node.name, Evaluated: 1, Feasible: 1}
	}
	candidates, start := s.candidates(pod, q.filters)
	scorer := newScorer(s, pod, q.info)
	rated := make([]raw, 0, min(enough, len(candidates)))
	for i := range candidates {
		n := candidates[(start+i)%len(candidates)]
		d.Evaluated++
		if !q.fits(n) {
			continue
		}
		if rated = append(rated, scorer.rate(n)); len(rated) >= enough {
			break
		}
	}
	d.Feasible = len(rated)
	if best := scorer.best(rated); best != nil {
		d.Node = best.name
		return d
	}
	unfit := q.unschedulable()
	unfit.Evaluated = d.Evaluated
	return unfit
}

// candidates are the nodes to look at and where to begin: the pods of one owner begin at different places, so that
// those of large clusters do not all compare the same hundred nodes.
func (s *Snapshot) candidates(pod *corev1.Pod, filters []filter) ([]*Node, int) {
	if f, ok := filters[0].(fieldFilter); ok {
		var named []*Node
		for name := range f.names {
			if n := s.Node(name); n != nil {
				named = append(named, n)
			}
		}
		slices.SortFunc(named, func(a, b *Node) int { return strings.Compare(a.name, b.name) })
		return named, 0
	}
	if len(s.nodes) <= enough {
		return s.nodes, 0
	}
	return s.nodes, int(hash(s.Seed, string(pod.UID)) % uint64(len(s.nodes)))
}

// Fits says whether a node can take a pod and, when not, why. It is what Schedule asks, for the one node that a binding
// is about to be committed to; what concerns pods on other nodes is for Schedule alone.
func Fits(n *Node, pod *corev1.Pod) (bool, []string) {
	var why refusal
	if first(newFilters(nil, pod, newPodInfo(pod)), n, &why) != nil {
		return false, why.reasons
	}
	return true, nil
}

// unschedulable says why no node takes the pod, and who might go for it.
func (q *query) unschedulable() Decision {
	reasons := map[string]int{}
	var blocked Blocks
	var potential []*Node
	for _, n := range q.s.nodes {
		var why refusal
		f := q.refusing(n, &why)
		if f == nil {
			continue
		}
		blocked |= f.blocks()
		for _, reason := range why.reasons {
			reasons[reason]++
		}
		if why.preemptible {
			potential = append(potential, n)
		}
	}
	d := Decision{Blocked: blocked, Message: q.s.head() + histogram(reasons)}
	switch policy := q.pod.Spec.PreemptionPolicy; {
	case policy != nil && *policy == corev1.PreemptNever:
		d.Waits = true
		d.Message += " preemption: " + neverPreempts
	case q.waitsForVictims():
		d.Waits = true
		d.Message += " preemption: " + alreadyWaiting
	default:
		best, outcomes := q.preempt(potential)
		if best == nil {
			d.Message += " preemption: " + q.s.head() + histogram(outcomes)
			break
		}
		d.Nominated = best.node.name
		for _, v := range best.victims {
			d.Victims = append(d.Victims, v.pod)
		}
	}
	return d
}

func (s *Snapshot) head() string { return fmt.Sprintf("0/%d nodes are available: ", len(s.nodes)) }

// refused is the decision on a pod that no node can take, for a reason of its own.
func (s *Snapshot) refused(pod *corev1.Pod, why string) Decision {
	d := Decision{Blocked: byVolumes, Message: s.head() + why + " preemption: "}
	if p := pod.Spec.PreemptionPolicy; p != nil && *p == corev1.PreemptNever {
		d.Waits = true
		d.Message += neverPreempts
		return d
	}
	d.Message += s.head() + histogram(map[string]int{notHelpful: len(s.nodes)})
	return d
}

// histogram words counted reasons as kube-scheduler does: sorted as text, numbers included.
func histogram(reasons map[string]int) string {
	parts := make([]string, 0, len(reasons))
	for reason, n := range reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ") + "."
}

// hash is FNV-1a over the seed and the text.
func hash(seed uint64, text string) uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	h := uint64(offset) ^ seed
	for i := range len(text) {
		h ^= uint64(text[i])
		h *= prime
	}
	return h
}
