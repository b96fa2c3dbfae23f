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
}

// enough is how many nodes that fit are compared: more comparing costs time and finds hardly a better one. (kube-scheduler
// compares up to half of the nodes; that was measured to be four times slower at 1,000 nodes.)
const enough = 100

// Schedule picks the best node for a pod. It changes nothing; equal snapshots, seeds and pods give equal decisions.
func Schedule(s *Snapshot, pod *corev1.Pod) Decision {
	if len(s.nodes) == 0 {
		return Decision{Message: "no nodes available to schedule pods"}
	}
	if blocked, _ := s.claims(pod); blocked != "" {
		return Decision{Message: s.refused(pod, blocked+".", len(s.nodes), 0)}
	}
	info := newPodInfo(pod)
	filters := newFilters(s, pod, info)
	candidates, start := s.candidates(pod, filters)
	scorer := newScorer(s, pod, info)
	rated := make([]raw, 0, min(enough, len(candidates)))
	d := Decision{}
	for i := range candidates {
		n := candidates[(start+i)%len(candidates)]
		d.Evaluated++
		if !fitsAll(filters, n) {
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
	d.Message = explain(s, pod, filters)
	return d
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
	for _, f := range newFilters(nil, pod, newPodInfo(pod)) {
		if !f.fits(n) {
			return false, f.explain(n).reasons
		}
	}
	return true, nil
}

// Explain says why no node can take the pod, or that some can.
func Explain(s *Snapshot, pod *corev1.Pod) string {
	if len(s.nodes) == 0 {
		return "no nodes available to schedule pods"
	}
	if blocked, _ := s.claims(pod); blocked != "" {
		return s.refused(pod, blocked+".", len(s.nodes), 0)
	}
	return explain(s, pod, newFilters(s, pod, newPodInfo(pod)))
}

func fitsAll(filters []filter, n *Node) bool {
	for _, f := range filters {
		if !f.fits(n) {
			return false
		}
	}
	return true
}

func explain(s *Snapshot, pod *corev1.Pod, filters []filter) string {
	reasons := map[string]int{}
	helpless, victimless := 0, 0
	for _, n := range s.nodes {
		for _, f := range filters {
			if f.fits(n) {
				continue
			}
			r := f.explain(n)
			for _, reason := range r.reasons {
				reasons[reason]++
			}
			if r.preemptible {
				victimless++
			} else {
				helpless++
			}
			break
		}
	}
	if fit := len(s.nodes) - helpless - victimless; fit > 0 {
		return fmt.Sprintf("%d/%d nodes are available.", fit, len(s.nodes))
	}
	return s.refused(pod, histogram(reasons), helpless, victimless)
}

// refused words why no node takes the pod, and of how many nodes it is hopeless that others go, or nobody could.
func (s *Snapshot) refused(pod *corev1.Pod, why string, helpless, victimless int) string {
	head := fmt.Sprintf("0/%d nodes are available:", len(s.nodes))
	preemption := "not eligible due to preemptionPolicy=Never."
	if p := pod.Spec.PreemptionPolicy; p == nil || *p != corev1.PreemptNever {
		outcomes := map[string]int{}
		if helpless > 0 {
			outcomes["Preemption is not helpful for scheduling"] = helpless
		}
		if victimless > 0 {
			outcomes["No preemption victims found for incoming pod"] = victimless
		}
		preemption = head + " " + histogram(outcomes)
	}
	return head + " " + why + " preemption: " + preemption
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
