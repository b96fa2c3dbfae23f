package scheduler

import corev1 "k8s.io/api/core/v1"

// affinityToPods refuses nodes that are not in the company that the pod requires.
type affinityToPods struct {
	s     *Snapshot
	terms []podTerm
	// company counts, by domain, the pods that match all terms; total is their sum.
	company map[domain]int
	total   int
	// self: the pod matches its own terms, so while nobody else does it may begin anywhere.
	self bool
}

// interPodFilters are made only for pods that need them; they look at every pod once.
func (s *Snapshot) interPodFilters(pod *corev1.Pod) (filters []filter) {
	if terms := requiredPodAffinity(pod); len(terms) > 0 {
		f := &affinityToPods{s: s, terms: terms, company: map[domain]int{}, self: s.matchesAll(terms, pod)}
		for _, p := range s.pods {
			f.adjust(p, p.node, 1)
		}
		filters = append(filters, f)
	}
	if terms := requiredPodAntiAffinity(pod); len(terms) > 0 {
		f := &antiAffinityToPods{s: s, terms: terms, taken: map[domain]int{}}
		for i := range terms {
			f.keys = appendNew(f.keys, terms[i].topology)
		}
		for _, p := range s.pods {
			f.adjust(p, p.node, 1)
		}
		filters = append(filters, f)
	}
	if len(s.loners) > 0 || s.lonersNominated() {
		f := &lonersFilter{s: s, pod: pod, taken: map[domain]int{}}
		for _, p := range s.loners {
			f.adjust(p, p.node, 1)
		}
		filters = append(filters, f)
	}
	return filters
}

func (s *Snapshot) matchesAll(terms []podTerm, pod *corev1.Pod) bool {
	for i := range terms {
		if !s.termMatches(&terms[i], pod) {
			return false
		}
	}
	return true
}

func (f *affinityToPods) adjust(p *podInfo, n *Node, sign int) {
	if n.obj == nil || !f.s.matchesAll(f.terms, p.pod) {
		return
	}
	for i := range f.terms {
		if d, ok := domainOf(n, f.terms[i].topology); ok {
			f.company[d] += sign
			f.total += sign
		}
	}
}

func (f *affinityToPods) fits(n *Node) bool {
	together := true
	for i := range f.terms {
		d, ok := domainOf(n, f.terms[i].topology)
		if !ok {
			return false
		}
		together = together && f.company[d] > 0
	}
	return together || f.self && f.total == 0
}

func (*affinityToPods) blocks() Blocks { return byAffinity }

func (*affinityToPods) explain(*Node) refusal {
	return refuse("node(s) didn't match pod affinity rules")
}

// antiAffinityToPods refuses nodes in domains with pods that the pod keeps away from.
type antiAffinityToPods struct {
	s     *Snapshot
	terms []podTerm
	taken map[domain]int
	keys  []string
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

func (f *antiAffinityToPods) adjust(p *podInfo, n *Node, sign int) {
	for i := range f.terms {
		if d, ok := domainOf(n, f.terms[i].topology); ok && f.s.termMatches(&f.terms[i], p.pod) {
			f.taken[d] += sign
		}
	}
}

func (f *antiAffinityToPods) fits(n *Node) bool { return free(f.taken, f.keys, n) }

func free(taken map[domain]int, keys []string, n *Node) bool {
	for _, key := range keys {
		if d, ok := domainOf(n, key); ok && taken[d] > 0 {
			return false
		}
	}
	return true
}

func (*antiAffinityToPods) blocks() Blocks { return byAntiAffinity }

func (*antiAffinityToPods) explain(*Node) refusal {
	return refusal{[]string{"node(s) didn't match pod anti-affinity rules"}, true}
}

// lonersFilter refuses nodes in domains where pods are that keep this one away.
type lonersFilter struct {
	s     *Snapshot
	pod   *corev1.Pod
	taken map[domain]int
	keys  []string
}

func (f *lonersFilter) adjust(p *podInfo, n *Node, sign int) {
	for i := range p.anti {
		if d, ok := domainOf(n, p.anti[i].topology); ok && f.s.termMatches(&p.anti[i], f.pod) {
			f.taken[d] += sign
			f.keys = appendNew(f.keys, p.anti[i].topology)
		}
	}
}

func (f *lonersFilter) fits(n *Node) bool { return len(f.taken) == 0 || free(f.taken, f.keys, n) }

func (*lonersFilter) blocks() Blocks { return byLoners }

func (*lonersFilter) explain(*Node) refusal {
	return refusal{[]string{"node(s) didn't satisfy existing pods anti-affinity rules"}, true}
}
