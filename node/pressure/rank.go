package pressure

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
)

// Size on a disk.
type Size struct{ Bytes, Inodes int64 }

// Plus another.
func (s Size) Plus(o Size) Size { return Size{s.Bytes + o.Bytes, s.Inodes + o.Inodes} }

// ContainerUsage is what one container uses.
type ContainerUsage struct {
	Name string
	// Memory is the working set in bytes.
	Memory int64
	// Rootfs is the writable layer.
	Rootfs, Logs Size
}

// VolumeUsage of an emptyDir on disk.
type VolumeUsage struct {
	Name string
	Size Size
}

// Usage of a pod, as far as the question at hand needs it.
type Usage struct {
	// Memory is that of all containers and of the sandbox.
	Memory     int64
	Processes  int64
	Containers []ContainerUsage
	Volumes    []VolumeUsage
}

// Disk is what the pod has in its volumes, and in its containers' layers and logs.
func (u *Usage) Disk(volumes, containers bool) (s Size) {
	for _, v := range u.Volumes {
		if volumes {
			s = s.Plus(v.Size)
		}
	}
	for _, c := range u.Containers {
		if containers {
			s = s.Plus(c.Rootfs).Plus(c.Logs)
		}
	}
	return s
}

// Candidate for eviction. Usage is nil when it could not be measured.
type Candidate struct {
	Pod   *corev1.Pod
	Usage *Usage
}

// Rank puts those first that are to be evicted first when a threshold of the signal is met: who uses more than it asked for,
// then who has the lower priority, then who uses the most beyond what it asked for. For process IDs only the last two
// count. Pods that could not be measured come before the others. split tells that images and containers are on another
// file system than volumes; containers' logs are with the containers, since the engine keeps them.
func Rank(signal Signal, split bool, pods []Candidate) {
	used, requested := measure(signal, split)
	exceeds := func(c Candidate) bool { return used(c.Usage) > requested(c.Pod) }
	slices.SortStableFunc(pods, func(a, b Candidate) int {
		if a.Usage == nil || b.Usage == nil {
			return cmp.Or(trueFirst(a.Usage == nil, b.Usage == nil), cmp.Compare(priority(a.Pod), priority(b.Pod)))
		}
		first := 0
		if signal != PIDAvailable {
			first = trueFirst(exceeds(a), exceeds(b))
		}
		return cmp.Or(first, cmp.Compare(priority(a.Pod), priority(b.Pod)),
			cmp.Compare(used(b.Usage)-requested(b.Pod), used(a.Usage)-requested(a.Pod)))
	})
}

// measure is how much of what the signal is about a pod uses, and how much it asked for.
func measure(signal Signal, split bool) (used func(*Usage) int64, requested func(*corev1.Pod) int64) {
	volumes := !split || signal == NodeFsAvailable || signal == NodeFsInodesFree
	containers := !split || signal == ImageFsAvailable || signal == ImageFsInodesFree
	none := func(*corev1.Pod) int64 { return 0 }
	switch signal.Resource() {
	case corev1.ResourceMemory:
		return func(u *Usage) int64 { return u.Memory }, func(p *corev1.Pod) int64 { return request(p, corev1.ResourceMemory) }
	case corev1.ResourceEphemeralStorage:
		return func(u *Usage) int64 { return u.Disk(volumes, containers).Bytes },
			func(p *corev1.Pod) int64 { return request(p, corev1.ResourceEphemeralStorage) }
	case inodes:
		return func(u *Usage) int64 { return u.Disk(volumes, containers).Inodes }, none
	}
	return func(u *Usage) int64 { return u.Processes }, none
}

func request(pod *corev1.Pod, name corev1.ResourceName) int64 {
	q := helper.PodRequests(pod, helper.PodResourcesOptions{})[name]
	return q.Value()
}

func priority(pod *corev1.Pod) int32 {
	if pod.Spec.Priority != nil {
		return *pod.Spec.Priority
	}
	return 0
}

func trueFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func bytesOf(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
