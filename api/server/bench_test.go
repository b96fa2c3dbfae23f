package server

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fullPod is a running pod of a Deployment with what the defaults and the agent fill in.
func fullPod(i int) *corev1.Pod {
	now := metav1.NewTime(time.Unix(1700000000, 0))
	name := fmt.Sprintf("web-5d8f7c9b6d-%05d", i)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, GenerateName: "web-5d8f7c9b6d-", Namespace: "default", UID: types.UID(fmt.Sprintf("6a1d8e6a-0000-4000-8000-%012d", i)),
		CreationTimestamp: now, Labels: map[string]string{"app": "web", "pod-template-hash": "5d8f7c9b6d", "tier": "front"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5d8f7c9b6d", UID: "aaaa", Controller: ptr(true), BlockOwnerDeletion: ptr(true)}}}}
	p.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Pod"))
	probe := &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Scheme: "HTTP"}}, TimeoutSeconds: 1, PeriodSeconds: 10, SuccessThreshold: 1, FailureThreshold: 3}
	p.Spec = corev1.PodSpec{RestartPolicy: "Always", DNSPolicy: "ClusterFirst", TerminationGracePeriodSeconds: ptr(int64(30)), SchedulerName: "default-scheduler", NodeName: fmt.Sprintf("node-%d", i%100),
		ServiceAccountName: "default", DeprecatedServiceAccount: "default", EnableServiceLinks: ptr(true), Priority: ptr(int32(0)), SecurityContext: &corev1.PodSecurityContext{},
		Tolerations: []corev1.Toleration{{Key: "node.kubernetes.io/not-ready", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr(int64(300))}, {Key: "node.kubernetes.io/unreachable", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr(int64(300))}},
		Volumes:     []corev1.Volume{{Name: "conf", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "conf"}, DefaultMode: ptr(int32(420))}}}},
		Containers: []corev1.Container{{Name: "web", Image: "registry.example.com/team/web:1.2.3", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080, Protocol: "TCP"}},
			Env:          []corev1.EnvVar{{Name: "DB_HOST", Value: "mysql"}, {Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "status.podIP"}}}},
			Resources:    corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m"), "memory": resource.MustParse("128Mi")}, Limits: corev1.ResourceList{"memory": resource.MustParse("256Mi")}},
			VolumeMounts: []corev1.VolumeMount{{Name: "conf", MountPath: "/etc/conf", ReadOnly: true}}, LivenessProbe: probe, ReadinessProbe: probe,
			TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File", ImagePullPolicy: "IfNotPresent"}}}
	p.Status = corev1.PodStatus{Phase: "Running", HostIP: "198.51.100.11", PodIP: fmt.Sprintf("10.244.%d.%d", i/250, i%250), PodIPs: []corev1.PodIP{{IP: fmt.Sprintf("10.244.%d.%d", i/250, i%250)}}, StartTime: &now, QOSClass: "Burstable",
		ContainerStatuses: []corev1.ContainerStatus{{Name: "web", Ready: true, Started: ptr(true), Image: "registry.example.com/team/web:1.2.3", ImageID: "docker-pullable://registry.example.com/team/web@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef",
			ContainerID: "docker://0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}}
	for _, c := range []corev1.PodConditionType{"Initialized", "Ready", "ContainersReady", "PodScheduled"} {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: c, Status: "True", LastTransitionTime: now})
	}
	return p
}

func benchServer(b *testing.B, n int) *testServer {
	s := newTestServer(b)
	r, _ := s.api.Table.ByKey("pods")
	for i := range n {
		p := fullPod(i)
		s.backend.put(r, "ADDED", nil, p)
	}
	return s
}

// discard is a ResponseWriter that counts.
type discard struct {
	h http.Header
	n int
}

func (d *discard) Header() http.Header         { return d.h }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { d.n += len(p); return len(p), nil }

// BenchmarkList5000 lists 5,000 pods without a network: what the server itself costs. (The backend of these tests
// takes some milliseconds of each.)
func BenchmarkList5000(b *testing.B) {
	s := benchServer(b, 5000)
	for _, c := range []struct{ name, accept, enc string }{
		{"JSON", "application/json", ""}, {"JSONgzip", "application/json", "gzip"}, {"Table", "application/json;as=Table;v=v1;g=meta.k8s.io", ""},
		{"Tablegzip", "application/json;as=Table;v=v1;g=meta.k8s.io", "gzip"}, {"Partial", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", ""},
		{"Protobuf", "application/vnd.kubernetes.protobuf", ""},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			cpu := cpuTime()
			defer func() { b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/op") }()
			for b.Loop() {
				req := httptest.NewRequest("GET", pods, nil)
				req.Header.Set("Authorization", "Bearer admin")
				req.Header.Set("Accept", c.accept)
				req.Header.Set("Accept-Encoding", c.enc)
				w := &discard{h: http.Header{}}
				s.api.ServeHTTP(w, req)
				b.SetBytes(int64(w.n))
			}
		})
	}
}

// cpuTime of this process: what other load on the machine does not change much.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFanOut measures from a write until each of 100 watchers on connections of their own has read its event.
func BenchmarkFanOut(b *testing.B) {
	const watchers = 100
	s := benchServer(b, 1)
	r, _ := s.api.Table.ByKey("pods")
	type seen struct{ at time.Time }
	got := make(chan seen, watchers)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	var ready sync.WaitGroup
	for range watchers {
		ready.Add(1)
		go func() {
			req, _ := http.NewRequestWithContext(ctx, "GET", s.URL+pods+"?watch=1", nil)
			req.Header.Set("Authorization", "Bearer admin")
			c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}}
			resp, err := c.Do(req)
			if err != nil {
				b.Error(err)
				ready.Done()
				return
			}
			defer resp.Body.Close()
			br := bufio.NewReaderSize(resp.Body, 64<<10)
			_, _ = br.ReadSlice('\n')
			ready.Done()
			for {
				if _, err := br.ReadSlice('\n'); err != nil {
					return
				}
				got <- seen{time.Now()}
			}
		}()
	}
	ready.Wait()
	var all []time.Duration
	cpu := cpuTime()
	for b.Loop() {
		start := time.Now()
		p := fullPod(1)
		s.backend.mu.Lock()
		s.backend.put(r, "MODIFIED", nil, p)
		s.backend.mu.Unlock()
		for range watchers {
			all = append(all, (<-got).at.Sub(start))
		}
	}
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/op")
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
}
