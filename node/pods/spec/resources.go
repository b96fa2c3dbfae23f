package spec

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/pods/status"
	"github.com/whalepod/whalepod/node/runtime"
)

// Numbers of the kernel's scheduler, as in Documentation/scheduler/sched-bwc.rst.
const (
	cpuPeriod    = 100_000
	minQuota     = 1_000
	minShares    = 2
	maxShares    = 262_144
	sharesPerCPU = 1024
)

// oom_score_adj by class: who asked for nothing goes first.
const (
	oomGuaranteed = -997
	oomBestEffort = 1000
)

// Resources of a container as control groups have them.
func Resources(pod *corev1.Pod, c *corev1.Container, nodeMemory int64) runtime.Resources {
	limits, requests := c.Resources.Limits, c.Resources.Requests
	r := runtime.Resources{
		MemoryBytes: limits.Memory().Value(),
		OOMScoreAdj: oomScore(pod, c, nodeMemory),
	}
	cpu := requests.Cpu().MilliValue()
	if _, asked := requests[corev1.ResourceCPU]; !asked {
		cpu = limits.Cpu().MilliValue()
	}
	r.CPUShares = min(max(cpu*sharesPerCPU/1000, minShares), maxShares)
	if limit := limits.Cpu().MilliValue(); limit > 0 {
		r.CPUPeriod, r.CPUQuota = cpuPeriod, max(limit*cpuPeriod/1000, minQuota)
	}
	return r
}

// oomScore: a Burstable container is the safer the more of the node's memory it asked for.
func oomScore(pod *corev1.Pod, c *corev1.Container, nodeMemory int64) int {
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= 2_000_000_000 { // system-critical
		return oomGuaranteed
	}
	switch status.QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return oomGuaranteed
	case corev1.PodQOSBestEffort:
		return oomBestEffort
	}
	if nodeMemory <= 0 {
		return oomBestEffort - 1
	}
	score := int(1000 - 1000*c.Resources.Requests.Memory().Value()/nodeMemory)
	return min(max(score, 1000+oomGuaranteed), oomBestEffort-1)
}
