package scheduler

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// volumes is what the snapshot knows of claims and what they are bound to; all by name, claims with their namespace.
// exclusive counts the claims that are for one pod only.
type volumes struct {
	claims    map[string]*corev1.PersistentVolumeClaim
	volumes   map[string]*corev1.PersistentVolume
	classes   map[string]*storagev1.StorageClass
	exclusive int
}

func newVolumes() volumes {
	return volumes{map[string]*corev1.PersistentVolumeClaim{}, map[string]*corev1.PersistentVolume{}, map[string]*storagev1.StorageClass{}, 0}
}

// SetClaim takes over the state of a claim; the snapshot keeps it.
func (s *Snapshot) SetClaim(c *corev1.PersistentVolumeClaim) News {
	s.RemoveClaim(c.Namespace, c.Name)
	s.volumes.claims[c.Namespace+"/"+c.Name] = c
	if isExclusive(c) {
		s.volumes.exclusive++
	}
	return News{claim: c}
}

// RemoveClaim forgets a claim.
func (s *Snapshot) RemoveClaim(namespace, name string) {
	key := namespace + "/" + name
	if isExclusive(s.volumes.claims[key]) {
		s.volumes.exclusive--
	}
	delete(s.volumes.claims, key)
}

// SetVolume takes over the state of a volume; the snapshot keeps it.
func (s *Snapshot) SetVolume(v *corev1.PersistentVolume) News {
	s.volumes.volumes[v.Name] = v
	return News{volume: v}
}

// RemoveVolume forgets a volume.
func (s *Snapshot) RemoveVolume(name string) { delete(s.volumes.volumes, name) }

// SetClass takes over the state of a class; the snapshot keeps it.
func (s *Snapshot) SetClass(c *storagev1.StorageClass) News {
	s.volumes.classes[c.Name] = c
	return News{class: c}
}

// RemoveClass forgets a class.
func (s *Snapshot) RemoveClass(name string) { delete(s.volumes.classes, name) }

// Claims says whether the pod has volumes that are claims.
func Claims(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return true
		}
	}
	return false
}

// annBindCompleted on a claim says that it and its volume agree.
const annBindCompleted = "pv.kubernetes.io/bind-completed"

// claims looks at the pod's claims: what keeps it from every node, in the words of kube-scheduler's VolumeBinding, or else
// the filter for nodes; nil when there is nothing to look at.
func (s *Snapshot) claims(pod *corev1.Pod) (blocked string, f filter) {
	if len(pod.Spec.ResourceClaims) > 0 {
		return "cannot allocate all claims", nil // no node has a driver for devices
	}
	if !Claims(pod) {
		return "", nil
	}
	claims, blocked := s.claimsOf(pod)
	if blocked != "" {
		return blocked, nil
	}
	out := volumeFilter{}
	var waiting []*corev1.PersistentVolumeClaim
	for _, claim := range claims {
		switch {
		case claim.Spec.VolumeName != "" && metav1.HasAnnotation(claim.ObjectMeta, annBindCompleted):
			if v := s.volumes.volumes[claim.Spec.VolumeName]; v == nil {
				out.missing = true
			} else {
				out.bound = append(out.bound, v)
			}
		case claim.Spec.VolumeName == "" && WaitsForConsumer(s.volumes.classes[ClassOf(claim)]):
			if !slices.Contains(waiting, claim) { // two volumes may be one claim
				waiting = append(waiting, claim)
			}
		default:
			return "pod has unbound immediate PersistentVolumeClaims", nil
		}
	}
	if out.delayed = s.delay(waiting, maps.Values(s.volumes.volumes)); len(out.delayed) > 1 {
		inOrder(out.delayed) // for one any volume shows that there is one
	}
	return "", out
}

func (s *Snapshot) claimsOf(pod *corev1.Pod) (claims []*corev1.PersistentVolumeClaim, blocked string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		name := claimName(pod, v)
		if name == "" {
			continue
		}
		claim := s.volumes.claims[pod.Namespace+"/"+name]
		switch {
		case claim == nil && v.Ephemeral != nil:
			return nil, fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case claim == nil:
			return nil, fmt.Sprintf("persistentvolumeclaim %q not found", name)
		case claim.Status.Phase == corev1.ClaimLost:
			return nil, fmt.Sprintf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Sprintf("persistentvolumeclaim %q is being deleted", name)
		case v.Ephemeral != nil && !metav1.IsControlledBy(claim, pod):
			return nil, fmt.Sprintf("PVC %s/%s was not created for pod %s/%s (pod is not owner)", pod.Namespace, name, pod.Namespace, pod.Name)
		}
		claims = append(claims, claim)
	}
	return claims, ""
}

// volumeFilter refuses nodes from which the volumes of the pod's claims cannot be reached.
type volumeFilter struct {
	bound   []*corev1.PersistentVolume
	missing bool // a claim is bound to a volume that is not there
	delayed []delayed
}

func (f volumeFilter) fits(n *Node) bool { return !f.missing && f.bindable(n) && f.reachable(n) }

func (f volumeFilter) reachable(n *Node) bool {
	for _, v := range f.bound {
		if a := v.Spec.NodeAffinity; a != nil && !(affinityFilter{required: a.Required}).fits(n) {
			return false
		}
	}
	return true
}

func (volumeFilter) blocks() Blocks { return byVolumes | byNode }

func (f volumeFilter) explain(n *Node) refusal {
	var r refusal
	if !f.reachable(n) {
		r.reasons = append(r.reasons, "node(s) didn't match PersistentVolume's node affinity")
	}
	if !f.bindable(n) {
		r.reasons = append(r.reasons, "node(s) didn't find available persistent volumes to bind")
	}
	if f.missing {
		r.reasons = append(r.reasons, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
	}
	return r
}
