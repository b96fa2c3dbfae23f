package pressure

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// What is kept for the engine, the agent and the system when nobody says. Measured on servers of 1 GB: dockerd with containerd
// 115 MB, the agent 32 MB, sshd, journald and other daemons 40 to 60 MB. Larger machines run more containers, each with a shim
// of the engine (4 MB), and keep larger tables in the kernel. (GKE keeps 255 MiB of a machine of 1 GB; what pods may use
// is then less by the threshold of eviction, there and here.)
const (
	reserveBase   = 192 << 20
	reserveShare  = 20 // one part in so many
	reserveMost   = 512 << 20
	reserveAtMost = 2 // and never more than one part in so many: a machine too small is still a node
)

// DefaultReserve of memory in bytes, on a machine that has that much.
func DefaultReserve(memory int64) int64 {
	return min(reserveBase+memory/reserveShare, reserveMost, memory/reserveAtMost)
}

// reservable are what --system-reserved and --kube-reserved may name.
var reservable = map[corev1.ResourceName]bool{
	corev1.ResourceCPU: true, corev1.ResourceMemory: true, corev1.ResourceEphemeralStorage: true, "pid": true,
}

// ParseReserved reads the value of --system-reserved or --kube-reserved, as in cpu=100m,memory=200Mi.
func ParseReserved(text string) (corev1.ResourceList, error) {
	out := corev1.ResourceList{}
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, ok := strings.Cut(part, "=")
		key := corev1.ResourceName(strings.TrimSpace(name))
		if !ok {
			return nil, fmt.Errorf("%q is not resource=quantity", part)
		}
		if !reservable[key] {
			return nil, fmt.Errorf("cannot reserve %q resource", key)
		}
		q, err := resource.ParseQuantity(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", key, value, err)
		}
		if q.Sign() < 0 {
			return nil, fmt.Errorf("resource quantity for %q cannot be negative: %v", key, value)
		}
		out[key] = q
	}
	return out, nil
}

// Allocatable is what pods may ask for in sum: the capacity less what is reserved, and less what must stay free for nobody to
// be evicted. reserved are the sums of what was said; memory that nobody spoke of has a default.
func Allocatable(capacity, reserved corev1.ResourceList, thresholds []Threshold) corev1.ResourceList {
	out := capacity.DeepCopy()
	take := func(name corev1.ResourceName, n resource.Quantity) {
		have, ok := out[name]
		if !ok {
			return
		}
		format := have.Format
		have.Sub(n)
		if have.Sign() < 0 {
			have = *resource.NewQuantity(0, format)
		}
		out[name] = have
	}
	for name, q := range reserved {
		take(name, q)
	}
	if _, said := reserved[corev1.ResourceMemory]; !said {
		take(corev1.ResourceMemory, *resource.NewQuantity(DefaultReserve(capacity.Memory().Value()), resource.BinarySI))
	}
	for _, t := range thresholds {
		switch t.Signal {
		case MemoryAvailable:
			take(corev1.ResourceMemory, t.Of(capacity.Memory().Value()))
		case NodeFsAvailable:
			take(corev1.ResourceEphemeralStorage, t.Of(capacity.StorageEphemeral().Value()))
		}
	}
	// Whole units: a pod's requests rarely are anything else, and people read this.
	if memory, ok := out[corev1.ResourceMemory]; ok {
		out[corev1.ResourceMemory] = *resource.NewQuantity(memory.Value()>>20<<20, resource.BinarySI)
	}
	if disk, ok := out[corev1.ResourceEphemeralStorage]; ok {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(disk.Value(), resource.DecimalSI)
	}
	return out
}

// Sum of what several flags reserve.
func Sum(lists ...corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for _, list := range lists {
		for name, q := range list {
			have := out[name]
			have.Add(q)
			out[name] = have
		}
	}
	return out
}
