package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// Weights of the wishes, as kube-scheduler has them. Each wish is brought to 0..maxScore among the nodes that fit.
const (
	maxScore         = 100
	weightTaint      = 3
	weightAffinity   = 2
	weightSpread     = 2
	weightZones      = 4 // zones count for more than hosts: what fails together is larger
	weightCompany    = 2
	resourceScale    = 10_000 // finer than maxScore, so that nearly equal nodes still fill evenly
	imageShareOfFill = 20     // an image that is there weighs a twentieth of an empty node
)

// Score is how well a node suits a pod. Wishes (soft taints, preferred affinity, replicas apart) count first; among
// nodes equal in them, the one with the most left.
type Score struct {
	Wishes int64
	Free   int64
}

// Better says that s is preferable to o.
func (s Score) Better(o Score) bool {
	if s.Wishes != o.Wishes {
		return s.Wishes > o.Wishes
	}
	return s.Free > o.Free
}

// scorer rates the nodes that fit one pod.
type scorer struct {
	snapshot  *Snapshot
	info      *podInfo
	images    []string
	soft      []corev1.Toleration
	preferred []corev1.PreferredSchedulingTerm
	// company are the marks of the domains by the pods in them, with the topologies concerned.
	company    map[domain]int64
	topologies []string
	spreads    []softSpread
	// zones has how many of the pod's siblings are in each zone; nil in a cluster without zones.
	zones map[string]int64
}

func newScorer(s *Snapshot, pod *corev1.Pod, info *podInfo) *scorer {
	c := &scorer{snapshot: s, info: info, soft: pod.Spec.Tolerations, preferred: preferredTerms(pod)}
	c.company, c.spreads = s.company(pod), s.softSpreads(pod)
	if info.owner != "" && len(s.zones) > 1 {
		c.zones = s.siblings(info.owner)
	}
	for d := range c.company {
		c.topologies = appendNew(c.topologies, d.key)
	}
	if len(s.images) > 0 {
		for i := range pod.Spec.Containers {
			c.images = append(c.images, normalizeImage(pod.Spec.Containers[i].Image))
		}
		for i := range pod.Spec.InitContainers {
			c.images = append(c.images, normalizeImage(pod.Spec.InitContainers[i].Image))
		}
	}
	return c
}

// raw are a node's marks before they are compared with those of the other nodes.
type raw struct {
	node                     *Node
	taints, replicas, wished int64
	// siblings are those in the node's zone.
	siblings int64
	company  int64
	// crowd is for constraints with ScheduleAnyway; a node without their topologies is outside.
	crowd   int64
	outside bool
}

func (c *scorer) rate(n *Node) raw {
	r := raw{node: n}
	for i := range n.taints {
		if n.taints[i].Effect == corev1.TaintEffectPreferNoSchedule && !Tolerates(c.soft, &n.taints[i]) {
			r.taints++
		}
	}
	if c.info.owner != "" {
		r.replicas = int64(n.owners[c.info.owner])
		r.siblings = c.zones[n.obj.Labels[corev1.LabelTopologyZone]]
	}
	for _, key := range c.topologies {
		if d, ok := domainOf(n, key); ok {
			r.company += c.company[d]
		}
	}
	if len(c.spreads) > 0 {
		crowd, inside := crowd(c.spreads, n)
		r.crowd, r.outside = crowd, !inside
	}
	for i := range c.preferred {
		if matches(&c.preferred[i].Preference, n.obj) {
			r.wished += int64(c.preferred[i].Weight)
		}
	}
	return r
}

// best picks the node; the first of equals wins.
func (c *scorer) best(rated []raw) *Node {
	var best *Node
	var top Score
	maxTaints, maxReplicas, minReplicas, maxWished := int64(0), int64(0), int64(0), int64(0)
	minCompany, maxCompany := int64(0), int64(0)
	minCrowd, maxCrowd := int64(math.MaxInt64), int64(0)
	minSiblings, maxSiblings := int64(math.MaxInt64), int64(0)
	for i, r := range rated {
		if !r.outside {
			minCrowd, maxCrowd = min(minCrowd, r.crowd), max(maxCrowd, r.crowd)
		}
		if i == 0 {
			minCompany, maxCompany = r.company, r.company
		}
		minCompany, maxCompany = min(minCompany, r.company), max(maxCompany, r.company)
		maxTaints, maxWished = max(maxTaints, r.taints), max(maxWished, r.wished)
		maxReplicas = max(maxReplicas, r.replicas)
		minSiblings, maxSiblings = min(minSiblings, r.siblings), max(maxSiblings, r.siblings)
		if i == 0 || r.replicas < minReplicas {
			minReplicas = r.replicas
		}
	}
	for _, r := range rated {
		score := Score{Wishes: weightTaint*fewer(r.taints, 0, maxTaints) + weightSpread*fewer(r.replicas, minReplicas, maxReplicas)}
		if c.zones != nil {
			score.Wishes += weightZones * fewer(r.siblings, minSiblings, maxSiblings)
		}
		if maxWished > 0 {
			score.Wishes += weightAffinity * maxScore * r.wished / maxWished
		}
		if maxCompany > minCompany {
			score.Wishes += weightCompany * (maxScore - fewer(r.company, minCompany, maxCompany))
		}
		if len(c.spreads) > 0 && !r.outside {
			score.Wishes += weightSpread * fewer(r.crowd, minCrowd, maxCrowd)
		}
		if best != nil && score.Wishes < top.Wishes {
			continue
		}
		score.Free = c.free(r.node)
		if best == nil || score.Better(top) {
			best, top = r.node, score
		}
	}
	return best
}

// fewer maps least..most to maxScore..0.
func fewer(v, least, most int64) int64 {
	if most == least {
		return maxScore
	}
	return maxScore * (most - v) / (most - least)
}

// free is how empty the node would be with the pod on it, CPU and memory alike, and a little for images it has.
func (c *scorer) free(n *Node) int64 {
	left := func(have, used, want int64) int64 {
		if have <= 0 || used+want >= have {
			return 0
		}
		return int64(float64(resourceScale) * float64(have-used-want) / float64(have))
	}
	score := (left(n.allocatable.milliCPU, n.usedCPU, c.info.nonZeroCPU) + left(n.allocatable.memory, n.usedMem, c.info.nonZeroMem)) / 2
	if len(c.images) == 0 {
		return score
	}
	var bytes int64
	for _, name := range c.images {
		// Scaled by how many nodes have it, so that not all replicas run after the first pull.
		bytes += n.images[name] * int64(c.snapshot.images[name]) / int64(max(len(c.snapshot.nodes), 1))
	}
	bytes = min(max(bytes, smallImage), largeImage*int64(len(c.images)))
	return score + resourceScale/imageShareOfFill*(bytes-smallImage)/(largeImage*int64(len(c.images))-smallImage)
}
