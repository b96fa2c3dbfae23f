package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// spreadFilter keeps the pods that a constraint selects evenly over the domains of a topology, to within maxSkew.
type spreadFilter struct {
	s          *Snapshot
	pod        *corev1.Pod
	constraint *corev1.TopologySpreadConstraint
	selector   labels.Selector
	counts     map[string]int
	// least is the smallest count of any domain that the pod could go to; not known after a change.
	least      int
	leastKnown bool
	self       int
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

func spreadSelector(pod *corev1.Pod, c *corev1.TopologySpreadConstraint) labels.Selector {
	return withKeys(selectorOf(c.LabelSelector), pod, c.MatchLabelKeys, selection.In)
}

func (s *Snapshot) newSpread(pod *corev1.Pod, c *corev1.TopologySpreadConstraint) *spreadFilter {
	f := &spreadFilter{s: s, pod: pod, constraint: c, selector: spreadSelector(pod, c), counts: map[string]int{}}
	if f.selector.Matches(labels.Set(pod.Labels)) {
		f.self = 1
	}
	for _, n := range s.nodes {
		if d, ok := domainOf(n, c.TopologyKey); ok && s.countsForSpread(pod, c, n) {
			f.counts[d.value] += 0
		}
	}
	for _, p := range s.pods {
		f.adjust(p, p.node, 1)
	}
	return f
}

func (f *spreadFilter) adjust(p *podInfo, n *Node, sign int) {
	if p.pod.Namespace != f.pod.Namespace || p.pod.DeletionTimestamp != nil || !f.selector.Matches(labels.Set(p.pod.Labels)) {
		return
	}
	if d, ok := domainOf(n, f.constraint.TopologyKey); ok && f.s.countsForSpread(f.pod, f.constraint, n) {
		f.counts[d.value] += sign
		f.leastKnown = false
	}
}

// minimum is what the skew is measured against: nothing, while there are fewer domains than minDomains asks for.
func (f *spreadFilter) minimum() int {
	if f.leastKnown {
		return f.least
	}
	f.least, f.leastKnown = 0, true
	if m := f.constraint.MinDomains; m != nil && len(f.counts) < int(*m) {
		return 0
	}
	first := true
	for _, n := range f.counts {
		if first || n < f.least {
			f.least, first = n, false
		}
	}
	return f.least
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
	return !honorsTaints(c) || (taintFilter{pod.Spec.Tolerations}).fits(n)
}

func honorsTaints(c *corev1.TopologySpreadConstraint) bool {
	return c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
}

func (f *spreadFilter) fits(n *Node) bool {
	d, ok := domainOf(n, f.constraint.TopologyKey)
	return ok && f.counts[d.value]+f.self-f.minimum() <= int(f.constraint.MaxSkew)
}

func (*spreadFilter) blocks() Blocks { return bySpread }

func (f *spreadFilter) explain(n *Node) refusal {
	const reason = "node(s) didn't match pod topology spread constraints"
	if _, ok := domainOf(n, f.constraint.TopologyKey); !ok {
		return refuse(reason + " (missing required label)")
	}
	return refusal{[]string{reason}, true}
}
