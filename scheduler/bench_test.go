package scheduler

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// BenchmarkSchedule places pods of 100 owners and reports pods a second, the snapshot's upkeep included.
func BenchmarkSchedule(b *testing.B) {
	for _, nodes := range []int{3, 1000, 5000} {
		for _, affinity := range []bool{false, true} {
			b.Run(fmt.Sprintf("nodes=%d/affinity=%v", nodes, affinity), func(b *testing.B) {
				s := NewSnapshot()
				for i := range nodes {
					s.SetNode(testNode(fmt.Sprintf("node-%04d", i), "64", "256Gi", label("disk", []string{"ssd", "hdd"}[i%2]),
						func(n *corev1.Node) { n.Status.Allocatable[corev1.ResourcePods] = list("", "", "1000000")["pods"] }))
				}
				pods := make([]*corev1.Pod, 10_000)
				for i := range pods {
					pods[i] = testPod("1m", "1Mi", ownedBy(fmt.Sprintf("rs-%d", i%100)))
					if affinity {
						required(expression("disk", corev1.NodeSelectorOpIn, "ssd"))(pods[i])
					}
				}
				b.ReportAllocs()
				b.ResetTimer()
				for i := range b.N {
					p := pods[i%len(pods)]
					d := Schedule(s, p)
					if d.Node == "" {
						b.Fatal(d.Message)
					}
					s.Assume(p, d.Node)
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			})
		}
	}
}

// BenchmarkUnschedulable is the price of a pod that fits nowhere, its message included.
func BenchmarkUnschedulable(b *testing.B) {
	s := NewSnapshot()
	for i := range 1000 {
		s.SetNode(testNode(fmt.Sprintf("node-%04d", i), "1", "1Gi"))
	}
	p := testPod("2", "")
	for b.Loop() {
		if Schedule(s, p).Node != "" {
			b.Fatal("fits")
		}
	}
}

// BenchmarkPreempt is the price of finding victims where every node is full of pods of a lower priority.
func BenchmarkPreempt(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		b.Run(fmt.Sprintf("nodes=%d", nodes), func(b *testing.B) {
			s := NewSnapshot()
			for i := range nodes {
				name := fmt.Sprintf("node-%04d", i)
				s.SetNode(testNode(name, "10", "10Gi"))
				for j := range 10 {
					s.SetPod(bound(testPod("1", "", prio(int32(j%3)), since(i%60), ownedBy(fmt.Sprint(j))), name))
				}
			}
			p := testPod("3", "", prio(9))
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				if d := Schedule(s, p); len(d.Victims) != 3 {
					b.Fatal(d.Message)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

// BenchmarkAlike is the price of a pod that is like one that was found to fit nowhere: with the parts that pods of one
// template share in memory, and with parts of its own.
func BenchmarkAlike(b *testing.B) {
	s, p := NewSnapshot(), template()
	for name, other := range map[string]*corev1.Pod{"shared": another(p), "copied": p.DeepCopy()} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !s.Alike(p, other) {
					b.Fatal("not alike")
				}
			}
		})
	}
}
