package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// hardAffinityWeight is what a pod that requires the company of others counts when one of those looks for a node
// (kube-scheduler's hardPodAffinityWeight).
const hardAffinityWeight = 1

// company is what wishes about company amount to in each domain: those of the pod itself, and those of the pods that are
// there about it. Affinity counts for a domain, anti-affinity against it. nil when there are none.
func (s *Snapshot) company(pod *corev1.Pod) map[domain]int64 {
	terms := preferredPodTerms(pod)
	if len(terms) == 0 && len(s.social) == 0 {
		return nil
	}
	marks := map[domain]int64{}
	if len(terms) > 0 {
		for _, p := range s.pods {
			s.mark(marks, terms, p.node, p.pod)
		}
	}
	for _, p := range s.social {
		s.mark(marks, p.wishes, p.node, pod)
	}
	return marks
}

// mark gives a node's domains the weights of the terms that match the pod.
func (s *Snapshot) mark(marks map[domain]int64, terms []podTerm, n *Node, pod *corev1.Pod) {
	for i := range terms {
		if d, ok := domainOf(n, terms[i].topology); ok && s.termMatches(&terms[i], pod) {
			marks[d] += terms[i].weight
		}
	}
}

// wishesOf are what a pod that is there has to say about one that looks for a node.
func wishesOf(pod *corev1.Pod) []podTerm {
	wishes := preferredPodTerms(pod)
	for _, t := range requiredPodAffinity(pod) {
		t.weight = hardAffinityWeight
		wishes = append(wishes, t)
	}
	return wishes
}

// siblings counts the pods of an owner by zone, so that replicas spread over zones without being told to.
func (s *Snapshot) siblings(owner types.UID) map[string]int64 {
	zones := make(map[string]int64, len(s.zones))
	for _, n := range s.nodes {
		if k := n.owners[owner]; k > 0 {
			zones[n.obj.Labels[corev1.LabelTopologyZone]] += int64(k)
		}
	}
	return zones
}

// setZone counts the nodes of each zone; "" is none.
func (s *Snapshot) setZone(old, now string) {
	if old == now {
		return
	}
	if s.zones[old]--; s.zones[old] <= 0 {
		delete(s.zones, old)
	}
	if now != "" {
		s.zones[now]++
	}
}

func zoneOf(obj *corev1.Node) string {
	if obj == nil {
		return ""
	}
	return obj.Labels[corev1.LabelTopologyZone]
}

// softSpread are the constraints with ScheduleAnyway, with the weight that one pod in a domain has: the more domains, the
// more it counts, as in kube-scheduler, since otherwise hosts would weigh less than zones.
type softSpread struct {
	*spreadFilter
	weight float64
}

func (s *Snapshot) softSpreads(pod *corev1.Pod) (out []softSpread) {
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		if c.WhenUnsatisfiable == corev1.ScheduleAnyway {
			f := s.newSpread(pod, c)
			out = append(out, softSpread{f, math.Log(float64(len(f.counts) + 2))})
		}
	}
	return out
}

// crowd is how many pods a node's domains hold already, weighed; ok is false when it lacks one of the topologies.
func crowd(spreads []softSpread, n *Node) (marks int64, ok bool) {
	sum := 0.0
	for _, f := range spreads {
		d, has := domainOf(n, f.constraint.TopologyKey)
		if !has {
			return 0, false
		}
		sum += float64(f.counts[d.value])*f.weight + float64(f.constraint.MaxSkew-1)
	}
	return int64(math.Round(sum * resourceScale)), true
}
