package bolt

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/store"
	"github.com/whalepod/whalepod/master/internal/store/storetest"
)

// benchPod is a pod as a Deployment makes them, with its status: about 1.5 KB in protobuf.
func benchPod(i int) (store.Key, *corev1.Pod) {
	name := fmt.Sprintf("wordpress-5d59d67564-%05d", i)
	key := storetest.Key(storetest.Pods, "default", name)
	now := metav1.NewTime(time.Unix(1700000000, 0))
	condition := func(kind corev1.PodConditionType) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now}
	}
	quantities := corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}
	controller := true
	return key, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: "default", UID: types.UID(fmt.Sprintf("5f0ab3c4-7e1c-4b7e-9d4b-%012d", i)), CreationTimestamp: now,
			GenerateName: "wordpress-5d59d67564-", Labels: map[string]string{"app": "wordpress", "pod-template-hash": "5d59d67564"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "wordpress-5d59d67564", UID: "2b1c77a0-6a39-4d7e-8f7a-000000000000", Controller: &controller}},
		},
		Spec: corev1.PodSpec{
			NodeName: fmt.Sprintf("node%d", i%100), RestartPolicy: corev1.RestartPolicyAlways, ServiceAccountName: "default",
			Volumes: []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}},
			Containers: []corev1.Container{{
				Name: "wordpress", Image: "wordpress:latest", ImagePullPolicy: corev1.PullAlways,
				Ports:         []corev1.ContainerPort{{Name: "http", ContainerPort: 80, Protocol: corev1.ProtocolTCP}},
				Env:           []corev1.EnvVar{{Name: "WORDPRESS_DB_HOST", Value: "mysql:3306"}, {Name: "WORDPRESS_DB_PASSWORD", Value: "secret"}},
				Resources:     corev1.ResourceRequirements{Requests: quantities, Limits: quantities},
				VolumeMounts:  []corev1.VolumeMount{{Name: "data", MountPath: "/var/www/html"}},
				LivenessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/", Port: intstr.FromInt32(80)}}, PeriodSeconds: 10},
			}},
		},
		Status: corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "10.244.1.7", HostIP: "198.51.100.11", StartTime: &now,
			Conditions: []corev1.PodCondition{condition(corev1.PodScheduled), condition(corev1.PodInitialized), condition(corev1.ContainersReady), condition(corev1.PodReady)},
			ContainerStatuses: []corev1.ContainerStatus{{
				Name: "wordpress", Ready: true, Image: "wordpress:latest", ImageID: "docker-pullable://wordpress@sha256:" + strings.Repeat("a", 64),
				ContainerID: "docker://" + strings.Repeat("b", 64), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
			}},
		},
	}
}

func fill(tb testing.TB, s *Store, n int) {
	tb.Helper()
	for from := 0; from < n; from += 1000 {
		err := s.Update(context.Background(), func(tx store.Tx) error {
			for i := from; i < min(from+1000, n); i++ {
				if err := tx.Create(benchPod(i)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
}

func percentile(d []time.Duration, p float64) float64 {
	slices.Sort(d)
	return float64(d[int(float64(len(d)-1)*p)].Microseconds()) / 1000
}

// diskRate is how often a second the disk under dir takes 4 KB for good, as the yardstick of BenchmarkUpdate.
func diskRate(b *testing.B, dir string) float64 {
	f, err := os.Create(filepath.Join(dir, "yardstick"))
	if err != nil {
		b.Fatal(err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	page := make([]byte, 4096)
	for i := range 256 {
		if _, err := f.WriteAt(page, int64(i)*4096); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	began, n := time.Now(), 0
	for ; time.Since(began) < 200*time.Millisecond; n++ {
		if _, err := f.WriteAt(page, int64(n%256)*4096); err != nil {
			b.Fatal(err)
		}
		if err := datasync(f); err != nil {
			b.Fatal(err)
		}
	}
	return float64(n) / time.Since(began).Seconds()
}

// BenchmarkUpdate creates pods, each in an Update of its own, among 5,000.
func BenchmarkUpdate(b *testing.B) {
	for _, writers := range []int{1, 8, 64} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			cfg := config(b)
			s := start(b, cfg)
			fill(b, s, 5000)
			disk := diskRate(b, filepath.Dir(cfg.Path))
			var next atomic.Int64
			next.Store(5000)
			took := make([][]time.Duration, writers)
			b.ResetTimer()
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for {
						i := int(next.Add(1))
						if i > 5000+b.N {
							return
						}
						key, pod := benchPod(i)
						began := time.Now()
						if err := s.Update(context.Background(), func(tx store.Tx) error { return tx.Create(key, pod) }); err != nil {
							b.Error(err)
							return
						}
						took[w] = append(took[w], time.Since(began))
					}
				})
			}
			wg.Wait()
			b.StopTimer()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "writes/s")
			b.ReportMetric(percentile(slices.Concat(took...), 0.99), "p99-ms")
			b.ReportMetric(disk, "disk-syncs/s")
		})
	}
}

func BenchmarkVolatile(b *testing.B) {
	s := start(b, config(b))
	put(b, s, pod, "n1")
	for i := 0; b.Loop(); i++ {
		put(b, s, storetest.Key(storetest.Events, "default", fmt.Sprint(i%1000)), "v")
	}
}

// BenchmarkList walks 5,000 pods: now, and as they were 1,000 writes ago.
func BenchmarkList(b *testing.B) {
	s := start(b, config(b))
	fill(b, s, 5000)
	at := revision(s)
	for i := range 1000 {
		put(b, s, storetest.Key(storetest.Pods, "default", fmt.Sprint("new", i)), "n")
	}
	walk := func(want int) func(store.Reader) error {
		return func(r store.Reader) error {
			n := 0
			for range r.List(storetest.Pods, "", store.Key{}) {
				n++
			}
			if n != want {
				b.Fatalf("%d pods", n)
			}
			return nil
		}
	}
	b.Run("now", func(b *testing.B) {
		for b.Loop() {
			_ = s.View(walk(6000))
		}
	})
	b.Run("earlier", func(b *testing.B) {
		for b.Loop() {
			if err := s.ViewAt(at, walk(5000)); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkWatch is the time from the beginning of a durable write until the last of 100 watchers has its event, and the
// cost of a write that 5,000 idle watchers of another resource do not see.
func BenchmarkWatch(b *testing.B) {
	for _, c := range []struct {
		name     string
		watchers int
		resource string
	}{{"none", 0, ""}, {"watchers=100", 100, storetest.Pods}, {"idle=5000", 5000, storetest.Maps}} {
		b.Run(c.name, func(b *testing.B) {
			s := start(b, config(b))
			fill(b, s, 1000)
			ctx, cancel := context.WithCancel(context.Background())
			var watchers, round sync.WaitGroup
			for range c.watchers {
				w, err := s.Watch(store.WatchOptions{Resources: []string{c.resource}, After: revision(s)})
				if err != nil {
					b.Fatal(err)
				}
				watchers.Go(func() {
					for {
						events, err := w.Next(ctx, 0)
						if err != nil {
							return
						}
						round.Add(-len(events))
					}
				})
			}
			var took []time.Duration
			for i := 0; b.Loop(); i++ {
				if c.resource == storetest.Pods {
					round.Add(c.watchers)
				}
				began := time.Now()
				put(b, s, storetest.Key(storetest.Pods, "default", fmt.Sprint(i%100)), "n")
				round.Wait()
				took = append(took, time.Since(began))
			}
			cancel()
			watchers.Wait()
			b.ReportMetric(percentile(took, 0.5), "p50-ms")
			b.ReportMetric(percentile(took, 0.99), "p99-ms")
		})
	}
}

// BenchmarkOpen loads 20,000 pods and reports what they take.
func BenchmarkOpen(b *testing.B) {
	cfg := config(b)
	s := open(b, cfg)
	stop := run(b, s)
	fill(b, s, 20000)
	stop()
	info, err := os.Stat(cfg.Path)
	if err != nil {
		b.Fatal(err)
	}
	var before, after runtime.MemStats
	for b.Loop() {
		runtime.GC()
		runtime.ReadMemStats(&before)
		s, err := Open(cfg)
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1e6, "heap-MB")
		b.ReportMetric(rss(), "process-rss-MB")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(info.Size())/1e6, "file-MB")
}
