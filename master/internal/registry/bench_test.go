package registry_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/api/server"
)

// Durable creations of pods, defaults, admission and validation included, by several clients at once.
func BenchmarkCreatePod(b *testing.B) {
	for _, clients := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			e := start(b)
			var next atomic.Int64
			took := make([]time.Duration, b.N)
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for range clients {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						began := time.Now()
						if _, err := e.create(pod(fmt.Sprintf("p%d", i))); err != nil {
							b.Error(err)
						}
						took[i-1] = time.Since(began)
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			slices.Sort(took)
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

func BenchmarkListPods(b *testing.B) {
	e := start(b)
	var wg sync.WaitGroup
	for w := range 50 {
		wg.Go(func() {
			for i := range 100 {
				mustCreate(e, pod(fmt.Sprintf("p%d-%d", w, i)))
			}
		})
	}
	wg.Wait()
	b.Run("5000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			out, err := e.List(e.ctx, res("pods"), server.ListQuery{})
			if err != nil || len(out.Items) != 5000 {
				b.Fatal(len(out.Items), err)
			}
		}
	})
	b.Run("pages-of-500", func(b *testing.B) {
		for b.Loop() {
			n, token := 0, ""
			for {
				out, err := e.List(e.ctx, res("pods"), server.ListQuery{Limit: 500, Continue: token})
				if err != nil {
					b.Fatal(err)
				}
				n += len(out.Items)
				if token = out.Continue; token == "" {
					break
				}
			}
			if n != 5000 {
				b.Fatal(n)
			}
		}
	})
}

// Deleting a namespace's worth of objects.
func BenchmarkDeleteCollection(b *testing.B) {
	e := start(b)
	for b.Loop() {
		b.StopTimer()
		var wg sync.WaitGroup
		for w := range 50 {
			wg.Go(func() {
				for i := range 20 {
					mustCreate[*corev1.ConfigMap](e, configMap(fmt.Sprintf("c%d-%d", w, i)))
				}
			})
		}
		wg.Wait()
		b.StartTimer()
		if _, err := e.DeleteCollection(e.ctx, res("configmaps"), server.ListQuery{Namespace: "default"}, server.DeleteOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}
