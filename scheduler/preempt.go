package scheduler

import (
	"cmp"
	"math"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// candidatesEnough is how many nodes are weighed on which somebody could go, kube-scheduler's least; it weighs a tenth of
// large clusters, which costs time and finds hardly less harm.
const candidatesEnough = 100

// Words of kube-scheduler.
const (
	notHelpful     = "Preemption is not helpful for scheduling"
	noVictims      = "No preemption victims found for incoming pod"
	neverPreempts  = "not eligible due to preemptionPolicy=Never."
	alreadyWaiting = "not eligible due to a terminating pod on the nominated node."
)

// candidate is a node that would take the pod if the victims left it.
type candidate struct {
	node *Node
	// victims are in the order of their importance, the most important first.
	victims []*podInfo
	// violations is how many of them a disruption budget protects.
	violations int
}

// preempt finds who has to go so that the pod fits somewhere; or why it is of no use. potential are the nodes from which
// anybody's leaving might help.
func (q *query) preempt(potential []*Node) (best *candidate, outcomes map[string]int) {
	outcomes = map[string]int{}
	if rest := len(q.s.nodes) - len(potential); rest > 0 {
		outcomes[notHelpful] = rest
	}
	if !q.s.anyBelow(q.info.priority) {
		if len(potential) > 0 {
			outcomes[noVictims] = len(potential)
		}
		return nil, outcomes
	}
	found, harmless := 0, false
	start := 0
	if len(potential) > candidatesEnough {
		start = int(hash(q.s.Seed, string(q.info.uid)) % uint64(len(potential)))
	}
	for i := range potential {
		n := potential[(start+i)%len(potential)]
		c, r := q.victimsOn(n)
		if c == nil {
			for _, reason := range r.reasons {
				outcomes[reason]++
			}
			continue
		}
		if best == nil || c.better(best) {
			best = c
		}
		harmless = harmless || c.violations == 0
		if found++; found >= candidatesEnough && harmless {
			break
		}
	}
	return best, outcomes
}

// anyBelow says whether there is any pod of a lower priority.
func (s *Snapshot) anyBelow(priority int32) bool {
	for p := range s.priorities {
		if p < priority {
			return true
		}
	}
	return false
}

// victimsOn finds the fewest and least important pods of a node whose leaving makes room. All of a lower priority are taken
// away in thought; then one after the other may stay if the pod fits beside it, those first that a disruption budget
// protects, and the important before the others.
func (q *query) victimsOn(n *Node) (*candidate, refusal) {
	var below []*podInfo
	for _, p := range n.pods {
		if p.priority < q.info.priority {
			below = append(below, p)
		}
	}
	if len(below) == 0 {
		return nil, refuse(noVictims)
	}
	left := n.scratch()
	q.count(left, below, -1)
	var why refusal
	if q.refusing(left, &why) != nil {
		q.count(left, below, 1)
		return nil, why
	}
	slices.SortFunc(below, byImportance)
	protected, others := q.s.byBudgets(below)
	c := &candidate{node: n}
	stay := func(p *podInfo) bool {
		one := []*podInfo{p}
		q.count(left, one, 1)
		if q.fits(left) {
			return true
		}
		q.count(left, one, -1)
		c.victims = append(c.victims, p)
		return false
	}
	for _, p := range protected {
		if !stay(p) {
			c.violations++
		}
	}
	for _, p := range others {
		stay(p)
	}
	q.count(left, c.victims, 1) // the filters know them again
	if len(c.victims) == 0 {
		return nil, refuse(noVictims)
	}
	slices.SortFunc(c.victims, byImportance)
	return c, refusal{}
}

// byImportance orders pods by priority, then by how long they have been running.
func byImportance(a, b *podInfo) int {
	if c := cmp.Compare(b.priority, a.priority); c != 0 {
		return c
	}
	if c := startOf(a.pod).Compare(startOf(b.pod)); c != 0 {
		return c
	}
	return cmp.Compare(a.uid, b.uid)
}

// startOf is when a pod began to run; of one that has not begun, so late that it is the least important.
func startOf(pod *corev1.Pod) time.Time {
	if t := pod.Status.StartTime; t != nil {
		return t.Time
	}
	return time.Unix(math.MaxInt32, 0)
}

// better says which of two candidates does less harm, by kube-scheduler's criteria in their order: fewer violations of
// budgets, a less important highest victim, a smaller sum of priorities, fewer victims, those that began later.
func (c *candidate) better(o *candidate) bool {
	if c.violations != o.violations {
		return c.violations < o.violations
	}
	if a, b := c.victims[0].priority, o.victims[0].priority; a != b {
		return a < b
	}
	if a, b := c.sum(), o.sum(); a != b {
		return a < b
	}
	if a, b := len(c.victims), len(o.victims); a != b {
		return a < b
	}
	return c.earliest().After(o.earliest())
}

// sum of the priorities, raised so that none is negative: a few pods below zero must not count for less than one.
func (c *candidate) sum() (sum int64) {
	for _, p := range c.victims {
		sum += int64(p.priority) + math.MaxInt32 + 1
	}
	return sum
}

// earliest start of the victims of the highest priority: the first, by their order.
func (c *candidate) earliest() time.Time { return startOf(c.victims[0].pod) }

// waitsForVictims says that the pod has been nominated to a node from which pods are on their way out for its sake.
func (q *query) waitsForVictims() bool {
	reserved := q.s.nominated[q.info.uid]
	if reserved == nil || reserved.node.obj == nil {
		return false
	}
	var why refusal
	if q.refusing(reserved.node, &why) != nil && !why.preemptible {
		return false // nobody's leaving will help there any more
	}
	for _, p := range reserved.node.pods {
		if p.priority < q.info.priority && leavesForOthers(p.pod) {
			return true
		}
	}
	return false
}

func leavesForOthers(pod *corev1.Pod) bool {
	if pod.DeletionTimestamp == nil {
		return false
	}
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.DisruptionTarget {
			return c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
		}
	}
	return false
}
