package scheduler

import (
	"cmp"
	"iter"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

// delayed is a claim that waits for a node, and what it can have there.
type delayed struct {
	claim *corev1.PersistentVolumeClaim
	class *storagev1.StorageClass
	free  []*corev1.PersistentVolume
}

// delay looks for what claims can have: of a volume that is promised to it a claim has that one, or none.
func (s *Snapshot) delay(claims []*corev1.PersistentVolumeClaim, volumes iter.Seq[*corev1.PersistentVolume]) []delayed {
	if len(claims) == 0 {
		return nil
	}
	out := make([]delayed, 0, len(claims))
	for _, claim := range claims {
		d := delayed{claim: claim, class: s.volumes.classes[ClassOf(claim)]}
		var promised []*corev1.PersistentVolume
		for v := range volumes {
			switch {
			case !Free(v, claim):
			case v.Spec.ClaimRef != nil:
				promised = append(promised, v)
			default:
				d.free = append(d.free, v)
			}
		}
		if promised != nil {
			d.free = promised
		}
		out = append(out, d)
	}
	return out
}

// inOrder puts claims in the order in which they choose, and what they choose from in that in which it is taken.
func inOrder(claims []delayed) []delayed {
	for _, d := range claims {
		slices.SortFunc(d.free, BySize)
	}
	slices.SortStableFunc(claims, func(a, b delayed) int {
		x, y := a.claim.Spec.Resources.Requests[corev1.ResourceStorage], b.claim.Spec.Resources.Requests[corev1.ResourceStorage]
		return x.Cmp(y)
	})
	return claims
}

// BySize is the order in which volumes are given away: one that is promised to the claim first, then the smaller ones, those
// of one size by name.
func BySize(a, b *corev1.PersistentVolume) int {
	if p, q := a.Spec.ClaimRef != nil, b.Spec.ClaimRef != nil; p != q {
		if p {
			return -1
		}
		return 1
	}
	x, y := a.Spec.Capacity[corev1.ResourceStorage], b.Spec.Capacity[corev1.ResourceStorage]
	return cmp.Or(x.Cmp(y), cmp.Compare(a.Name, b.Name))
}

// Choice is the volume that a claim gets.
type Choice struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume *corev1.PersistentVolume
}

// Choose says which of the volumes claims get on a node, each claim one of its own, or that one of them can have none. As in
// Kubernetes the smallest claim chooses first, and takes the smallest that will do. Claims whose class has volumes made
// there are left out: they get one in any case.
func (s *Snapshot) Choose(claims []*corev1.PersistentVolumeClaim, volumes iter.Seq[*corev1.PersistentVolume], node *corev1.Node) ([]Choice, bool) {
	return choose(inOrder(s.delay(claims, volumes)), node)
}

func choose(claims []delayed, node *corev1.Node) (chosen []Choice, ok bool) {
	for _, d := range claims {
		if d.class != nil && provisions(d.class, node) {
			continue // volumes of its class are of no use to the others
		}
		at := slices.IndexFunc(d.free, func(v *corev1.PersistentVolume) bool {
			return !slices.ContainsFunc(chosen, func(c Choice) bool { return c.Volume.Name == v.Name }) && Reachable(v, node)
		})
		if at < 0 {
			return nil, false
		}
		chosen = append(chosen, Choice{d.claim, d.free[at]})
	}
	return chosen, true
}

func (f volumeFilter) bindable(n *Node) bool {
	if len(f.delayed) == 0 {
		return true
	}
	if n.obj == nil {
		return false
	}
	_, ok := choose(f.delayed, n.obj)
	return ok
}

// Delayed are the pod's claims that get a volume when its node is chosen.
func (s *Snapshot) Delayed(pod *corev1.Pod) []*corev1.PersistentVolumeClaim {
	_, f := s.claims(pod)
	v, _ := f.(volumeFilter)
	out := make([]*corev1.PersistentVolumeClaim, 0, len(v.delayed))
	for _, d := range v.delayed {
		out = append(out, d.claim)
	}
	return out
}
