package pressure

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
)

// Evicted is the reason of a pod that the node ends, or does not let in, to save itself.
const Evicted = "Evicted"

// Message says why a pod is evicted for a threshold, in the kubelet's words.
func Message(met Threshold, o Observations, c Candidate) string {
	name := met.Signal.Resource()
	text := fmt.Sprintf("The node was low on resource: %v. ", name)
	if seen, ok := o[met.Signal]; ok {
		quantity := met.Of(seen.Capacity)
		format := resource.BinarySI
		if name == inodes || name == pids {
			format = resource.DecimalSI
		}
		text += fmt.Sprintf("Threshold quantity: %v, available: %v. ", &quantity, resource.NewQuantity(seen.Available, format))
	}
	if c.Usage == nil {
		return text
	}
	if r := c.Pod.Spec.Resources; r != nil && name == corev1.ResourceMemory {
		if asked, ok := r.Requests[name]; ok {
			text += fmt.Sprintf("Pod %s was using %s, request is %s, has larger consumption of %v. ", c.Pod.Name, bytesOf(c.Usage.Memory), asked.String(), name)
		}
	}
	for _, u := range c.Usage.Containers {
		spec := containerOf(c.Pod, u.Name)
		var used int64
		switch name {
		case corev1.ResourceMemory:
			used = u.Memory
		case corev1.ResourceEphemeralStorage:
			used = u.Rootfs.Bytes + u.Logs.Bytes
		default:
			continue
		}
		if spec == nil {
			continue
		}
		if asked := spec.Resources.Requests[name]; used > asked.Value() {
			text += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %v. ", u.Name, bytesOf(used), asked.String(), name)
		}
	}
	return text
}

// containerOf a pod by name; ephemeral ones have no requests to be measured by.
func containerOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		if i := slices.IndexFunc(list, func(c corev1.Container) bool { return c.Name == name }); i >= 0 {
			return &list[i]
		}
	}
	return nil
}

// Limited tells whether the pod may only use so much of the disk, so that it must be measured.
func Limited(pod *corev1.Pod) bool {
	if _, ok := podLimit(pod); ok {
		return true
	}
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool { return sizeLimit(&v) != nil })
}

func podLimit(pod *corev1.Pod) (resource.Quantity, bool) {
	q, ok := helper.PodLimits(pod, helper.PodResourcesOptions{})[corev1.ResourceEphemeralStorage]
	return q, ok
}

// sizeLimit of an emptyDir on disk. One in memory cannot grow beyond its limit.
func sizeLimit(v *corev1.Volume) *resource.Quantity {
	if e := v.EmptyDir; e != nil && e.Medium != corev1.StorageMediumMemory && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
		return e.SizeLimit
	}
	return nil
}

// Exceeds tells in the kubelet's words which limit of its own the pod exceeds; empty when none. A container's layer counts
// against its limit wherever the engine keeps it (the kubelet leaves it out when images have a file system of their own).
func Exceeds(pod *corev1.Pod, u *Usage) string {
	for i := range pod.Spec.Volumes {
		limit := sizeLimit(&pod.Spec.Volumes[i])
		for _, v := range u.Volumes {
			if limit != nil && v.Name == pod.Spec.Volumes[i].Name && v.Size.Bytes > limit.Value() {
				return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, limit.String())
			}
		}
	}
	if limit, ok := podLimit(pod); ok && u.Disk(true, true).Bytes > limit.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
	}
	for _, c := range u.Containers {
		spec := containerOf(pod, c.Name)
		if spec == nil {
			continue
		}
		if limit, ok := spec.Resources.Limits[corev1.ResourceEphemeralStorage]; ok && !limit.IsZero() && c.Rootfs.Bytes+c.Logs.Bytes > limit.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return ""
}
