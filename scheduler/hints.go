package scheduler

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// News is what changed in a snapshot that somebody may have waited for. The zero value is no news.
type News struct {
	// node has room that it did not have: it came, changed, or a pod left it. set says that it came or changed, before is
	// what it was then.
	node   *Node
	set    bool
	before *Node
	// domains: nodes came, went or have other labels. taints: one has other taints.
	domains, taints bool
	// left and came are a pod that went and one that came; both, of one whose labels changed or that began to end.
	left, came *corev1.Pod
	namespaces bool
	claim      *corev1.PersistentVolumeClaim
	volume     *corev1.PersistentVolume
	class      *storagev1.StorageClass
}

// Any says that there is news.
func (n *News) Any() bool { return *n != News{} }

// Came is the news that a pod has been placed.
func Came(pod *corev1.Pod) News { return News{came: pod} }

// Waiting is a pod for which no node was found, with what is to be known to tell whether news concern it.
type Waiting struct {
	info    *podInfo
	blocked Blocks
	local   []filter
	company []podTerm
	// apart are its anti-affinity's terms, spreads the selectors of its constraints.
	apart   []podTerm
	spreads []labels.Selector
	// tainted: a constraint leaves out nodes for their taints.
	tainted bool
	never   bool
}

// NewWaiting notes by what a decision was blocked.
func NewWaiting(pod *corev1.Pod, d *Decision) *Waiting {
	w := &Waiting{info: newPodInfo(pod), blocked: d.Blocked}
	w.local = newFilters(nil, pod, w.info)
	w.company, w.apart = requiredPodAffinity(pod), w.info.anti
	for i := range pod.Spec.TopologySpreadConstraints {
		if c := &pod.Spec.TopologySpreadConstraints[i]; c.WhenUnsatisfiable == corev1.DoNotSchedule {
			w.spreads = append(w.spreads, spreadSelector(pod, c))
			w.tainted = w.tainted || honorsTaints(c)
		}
	}
	w.never = pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever
	return w
}

// WaitingForClaims is a pod that has a node as soon as its claims have their volumes.
func WaitingForClaims(pod *corev1.Pod) *Waiting {
	return NewWaiting(pod, &Decision{Blocked: byVolumes})
}

// Concerns says whether the news can be what the pod waits for: then it is worth another try.
func (s *Snapshot) Concerns(n *News, w *Waiting) bool {
	pod := w.info.pod
	has := func(b Blocks) bool { return w.blocked&b != 0 }
	switch {
	case w.blocked == 0: // there was no node at all
		return n.set
	case n.node != nil && n.set && w.mayFit(n.node) && (n.before == nil || !w.mayFit(n.before)):
		return true
	case n.node != nil && !n.set && has(byResources|byPorts) && w.mayFit(n.node):
		return true
	case n.domains && (has(bySpread|byAffinity|byAntiAffinity|byLoners) || has(byVolumes) && has(byNode)):
		return true
	case n.taints && w.tainted && has(bySpread):
		return true
	case n.namespaces && (has(byLoners) || anySelector(w.company) && has(byAffinity) || anySelector(w.apart) && has(byAntiAffinity)):
		return true
	}
	if n.claim != nil && has(byVolumes|byUsers) && n.claim.Namespace == pod.Namespace && slices.Contains(claimNames(pod), n.claim.Name) {
		return true
	}
	if gone := n.left; gone != nil && n.came == nil && has(byUsers) && gone.Namespace == pod.Namespace && usesClaim(gone, claimNames(pod)) {
		return true
	}
	if n.volume != nil || n.class != nil {
		return has(byVolumes)
	}
	return s.concernsCompany(n, w)
}

// concernsCompany is Concerns for pods that come, go, or change their labels.
func (s *Snapshot) concernsCompany(n *News, w *Waiting) bool {
	matches := func(pod *corev1.Pod, terms []podTerm) bool {
		return pod != nil && slices.ContainsFunc(terms, func(t podTerm) bool { return s.termMatches(&t, pod) })
	}
	counts := func(pod *corev1.Pod) bool {
		return pod != nil && pod.Namespace == w.info.pod.Namespace &&
			slices.ContainsFunc(w.spreads, func(sel labels.Selector) bool { return sel.Matches(labels.Set(pod.Labels)) })
	}
	switch {
	case w.blocked&byAffinity != 0 && (matches(n.came, w.company) || matches(n.left, w.company)):
		return true // also when one leaves: the pod may be the first of its company then
	case w.blocked&byAntiAffinity != 0 && matches(n.left, w.apart):
		return true
	case w.blocked&byLoners != 0 && n.left != nil && matches(w.info.pod, requiredPodAntiAffinity(n.left)):
		return true
	}
	return w.blocked&bySpread != 0 && (counts(n.came) || counts(n.left))
}

func anySelector(terms []podTerm) bool {
	return slices.ContainsFunc(terms, func(t podTerm) bool { return t.anywhere != nil })
}

// mayFit says whether a node could take the pod, as far as the node alone can tell, if those that the pod may drive away
// left it.
func (w *Waiting) mayFit(n *Node) bool {
	if n.obj == nil {
		return false
	}
	var why refusal
	if first(w.local, n, &why) == nil {
		return true
	}
	if w.never || !why.preemptible || !slices.ContainsFunc(n.pods, func(p *podInfo) bool { return p.priority < w.info.priority }) {
		return false
	}
	left := n.scratch()
	for _, p := range n.pods {
		if p.priority < w.info.priority {
			left.count(p, -1)
		}
	}
	return first(w.local, left, nil) == nil
}

func claimNames(pod *corev1.Pod) (names []string) {
	for i := range pod.Spec.Volumes {
		if name := claimName(pod, &pod.Spec.Volumes[i]); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// claimName is the claim that a volume of a pod is; empty when it is something else.
func claimName(pod *corev1.Pod, v *corev1.Volume) string {
	switch {
	case v.PersistentVolumeClaim != nil:
		return v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		return pod.Name + "-" + v.Name // as Kubernetes' ephemeral volume controller names it
	}
	return ""
}

// OnlyCame: a pod was placed, and that is all; it concerns those who wait for company or spread.
func (n *News) OnlyCame() bool { return n.came != nil && *n == News{came: n.came} }

// Shows: what was found for a pod reads differently now, even if it is as hopeless.
func (n *News) Shows() bool { return n.set || n.domains }

// Social: it matters to the pod where others come to.
func (w *Waiting) Social() bool { return w.blocked&(byAffinity|bySpread) != 0 }
