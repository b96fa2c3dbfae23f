package scheduler

import (
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// exclusiveFilter refuses all nodes while another pod, wherever it is, has a claim of this one's that is for one pod only.
type exclusiveFilter struct {
	namespace string
	claims    []string
	users     int
}

// exclusive is the filter of a pod with claims that are ReadWriteOncePod; it looks at every pod once. Without such claims in
// the cluster nothing is looked at.
func (s *Snapshot) exclusive(pod *corev1.Pod, info *podInfo) filter {
	claims := s.exclusiveClaims(pod)
	if len(claims) == 0 {
		return nil
	}
	f := &exclusiveFilter{namespace: pod.Namespace, claims: claims}
	for _, p := range s.pods {
		f.adjust(p, nil, 1)
	}
	for _, p := range s.nominated { // who comes first anywhere has the claim when it comes
		if p.uid != info.uid && p.priority >= info.priority {
			f.adjust(p, nil, 1)
		}
	}
	return f
}

func (s *Snapshot) exclusiveClaims(pod *corev1.Pod) (names []string) {
	if s.volumes.exclusive == 0 {
		return nil
	}
	for _, name := range claimNames(pod) {
		if isExclusive(s.volumes.claims[pod.Namespace+"/"+name]) {
			names = append(names, name)
		}
	}
	return names
}

func isExclusive(claim *corev1.PersistentVolumeClaim) bool {
	return claim != nil && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod)
}

func (f *exclusiveFilter) adjust(p *podInfo, _ *Node, sign int) {
	if p.pod.Namespace == f.namespace && usesClaim(p.pod, f.claims) {
		f.users += sign
	}
}

// usesClaim says that the pod has one of the claims.
func usesClaim(pod *corev1.Pod, claims []string) bool {
	for i := range pod.Spec.Volumes {
		if name := claimName(pod, &pod.Spec.Volumes[i]); name != "" && slices.Contains(claims, name) {
			return true
		}
	}
	return false
}

func (f *exclusiveFilter) fits(*Node) bool { return f.users == 0 }

func (*exclusiveFilter) blocks() Blocks { return byUsers }

func (*exclusiveFilter) explain(*Node) refusal {
	return refusal{[]string{"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"}, true}
}

// InUse says that one of the others, of the pod's namespace, is on a node and has a claim of the pod's that is for one pod
// only: for the check at the moment of binding, with what the store has.
func (s *Snapshot) InUse(pod *corev1.Pod, others iter.Seq[*corev1.Pod]) bool {
	claims := s.exclusiveClaims(pod)
	if len(claims) == 0 {
		return false
	}
	for p := range others {
		if p.UID != pod.UID && p.Spec.NodeName != "" && !Ended(p) && usesClaim(p, claims) {
			return true
		}
	}
	return false
}
