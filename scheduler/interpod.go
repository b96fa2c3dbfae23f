package scheduler

import corev1 "k8s.io/api/core/v1"

// affinityToPods refuses nodes that are not in the company that the pod requires.
type affinityToPods struct {
	terms []podTerm
	// company counts, by domain, the pods that match all terms.
	company map[domain]int
	// first: nobody matches yet but the pod itself, which has to begin somewhere.
	first bool
}

// interPodFilters are made only for pods that need them; they look at every pod once. s is nil when a single node is asked
// about at the moment of binding.
func (s *Snapshot) interPodFilters(pod *corev1.Pod) (filters []filter) {
	if terms := requiredPodAffinity(pod); len(terms) > 0 {
		f := affinityToPods{terms: terms, company: map[domain]int{}, first: s.matchesAll(terms, pod)}
		for _, p := range s.pods {
			if p.node.obj != nil && s.matchesAll(terms, p.pod) {
				s.tally(f.company, terms, p.node)
			}
		}
		f.first = f.first && len(f.company) == 0
		filters = append(filters, f)
	}
	if terms := requiredPodAntiAffinity(pod); len(terms) > 0 {
		f := antiAffinityToPods{taken: map[domain]bool{}, reason: "node(s) didn't match pod anti-affinity rules"}
		for _, p := range s.pods {
			for i := range terms {
				if s.termMatches(&terms[i], p.pod) {
					f.take(p.node, terms[i].topology)
				}
			}
		}
		filters = append(filters, f.with(terms))
	}
	if len(s.loners) > 0 {
		f := antiAffinityToPods{taken: map[domain]bool{}, reason: "node(s) didn't satisfy existing pods anti-affinity rules"}
		for _, p := range s.loners {
			for i := range p.anti {
				if s.termMatches(&p.anti[i], pod) {
					f.take(p.node, p.anti[i].topology)
				}
			}
		}
		if len(f.taken) > 0 {
			filters = append(filters, f)
		}
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

func (s *Snapshot) tally(counts map[domain]int, terms []podTerm, n *Node) {
	for i := range terms {
		if d, ok := domainOf(n, terms[i].topology); ok {
			counts[d]++
		}
	}
}

func (f affinityToPods) fits(n *Node) bool {
	together := true
	for i := range f.terms {
		d, ok := domainOf(n, f.terms[i].topology)
		if !ok {
			return false
		}
		together = together && f.company[d] > 0
	}
	return together || f.first
}

func (affinityToPods) explain(*Node) refusal {
	return refuse("node(s) didn't match pod affinity rules")
}

// antiAffinityToPods refuses nodes in domains that are taken.
type antiAffinityToPods struct {
	taken  map[domain]bool
	keys   []string
	reason string
}

func (f *antiAffinityToPods) take(n *Node, key string) {
	if d, ok := domainOf(n, key); ok {
		f.taken[d] = true
		f.keys = appendNew(f.keys, key)
	}
}

func (f antiAffinityToPods) with(terms []podTerm) antiAffinityToPods {
	for i := range terms {
		f.keys = appendNew(f.keys, terms[i].topology)
	}
	return f
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

func (f antiAffinityToPods) fits(n *Node) bool {
	for _, key := range f.keys {
		if d, ok := domainOf(n, key); ok && f.taken[d] {
			return false
		}
	}
	return true
}

func (f antiAffinityToPods) explain(*Node) refusal { return refusal{[]string{f.reason}, true} }
