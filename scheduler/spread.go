package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// spreadFilter keeps the pods that a constraint selects evenly over the domains of a topology, to within maxSkew.
type spreadFilter struct {
	constraint *corev1.TopologySpreadConstraint
	counts     map[string]int
	// least is the smallest count of any domain that the pod could go to.
	least int
	self  int
}

// spreadFilters are those of the constraints with DoNotSchedule; each looks at every pod once.
func (s *Snapshot) spreadFilters(pod *corev1.Pod) (filters []filter) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			filters = append(filters, s.newSpread(pod, c))
		}
	}
	return filters
}

func (s *Snapshot) newSpread(pod *corev1.Pod, c *corev1.TopologySpreadConstraint) spreadFilter {
	f := spreadFilter{constraint: c, counts: map[string]int{}}
	selector := withKeys(selectorOf(c.LabelSelector), pod, c.MatchLabelKeys, selection.In)
	if selector.Matches(labels.Set(pod.Labels)) {
		f.self = 1
	}
	for _, n := range s.nodes {
		if d, ok := domainOf(n, c.TopologyKey); ok && s.countsForSpread(pod, c, n) {
			f.counts[d.value] += 0
		}
	}
	for _, p := range s.pods {
		if p.pod.Namespace != pod.Namespace || p.pod.DeletionTimestamp != nil || !selector.Matches(labels.Set(p.pod.Labels)) {
			continue
		}
		if d, ok := domainOf(p.node, c.TopologyKey); ok && s.countsForSpread(pod, c, p.node) {
			f.counts[d.value]++
		}
	}
	first := true
	for _, n := range f.counts {
		if first || n < f.least {
			f.least, first = n, false
		}
	}
	if c.MinDomains != nil && len(f.counts) < int(*c.MinDomains) {
		f.least = 0
	}
	return f
}

// countsForSpread says whether a node is one of those over which the constraint spreads: it has all topologies, and the
// pod's own node affinity (unless ignored) and, if asked for, its tolerations accept it.
func (s *Snapshot) countsForSpread(pod *corev1.Pod, c *corev1.TopologySpreadConstraint, n *Node) bool {
	for i := range pod.Spec.TopologySpreadConstraints {
		other := &pod.Spec.TopologySpreadConstraints[i]
		if _, ok := domainOf(n, other.TopologyKey); !ok && other.WhenUnsatisfiable == c.WhenUnsatisfiable {
			return false
		}
	}
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if !MatchesNode(pod, n.obj) {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
		return (taintFilter{pod.Spec.Tolerations}).fits(n)
	}
	return true
}

func (f spreadFilter) fits(n *Node) bool {
	d, ok := domainOf(n, f.constraint.TopologyKey)
	return ok && f.counts[d.value]+f.self-f.least <= int(f.constraint.MaxSkew)
}

func (f spreadFilter) explain(n *Node) refusal {
	const reason = "node(s) didn't match pod topology spread constraints"
	if _, ok := domainOf(n, f.constraint.TopologyKey); !ok {
		return refuse(reason + " (missing required label)")
	}
	return refusal{[]string{reason}, true}
}

// company is what the soft wishes about other pods amount to in each domain: preferred affinity counts for it, preferred
// anti-affinity and constraints with ScheduleAnyway against it. nil when the pod has none.
func (s *Snapshot) company(pod *corev1.Pod) map[domain]int64 {
	terms := preferredPodTerms(pod)
	marks := map[domain]int64{}
	if len(terms) > 0 {
		for _, p := range s.pods {
			for i := range terms {
				if d, ok := domainOf(p.node, terms[i].topology); ok && s.termMatches(&terms[i], p.pod) {
					marks[d] += terms[i].weight
				}
			}
		}
	}
	soft := false
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			continue
		}
		soft = true
		for value, n := range s.newSpread(pod, c).counts {
			marks[domain{c.TopologyKey, value}] -= maxScore * int64(n)
		}
	}
	if len(terms) == 0 && !soft {
		return nil
	}
	return marks
}
