package resource

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// runningPods look like those of a Deployment on a cluster.
func runningPods(t testing.TB, n int) []Object {
	pod := created(t, strings.ReplaceAll(`{apiVersion: v1, kind: Pod, metadata: {name: web, namespace: default, labels: {app: web, pod-template-hash: 5f59c6698b}},
 spec: {nodeName: node1, containers: [{name: web, image: "nginx:1.27", env: [{name: A, value: b}, {name: C, value: d}], ports: [{containerPort: 80}],
 resources: {requests: {cpu: 100m, memory: 64Mi}}, readinessProbe: {httpGet: {path: /, port: 80}}}]}}`, "\n", "")).(*corev1.Pod)
	now := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	pod.CreationTimestamp = now
	pod.ResourceVersion = "12345"
	controller := true
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-5f59c6698b", UID: "0f0c9a0e-0000-4000-8000-000000000000", Controller: &controller}}
	pod.Status.Phase, pod.Status.PodIP, pod.Status.HostIP = corev1.PodRunning, "10.244.1.7", "198.51.100.11"
	pod.Status.PodIPs, pod.Status.StartTime = []corev1.PodIP{{IP: "10.244.1.7"}}, &now
	for _, c := range []corev1.PodConditionType{corev1.PodScheduled, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: c, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "web", Ready: true, Image: "nginx:1.27", ImageID: "docker-pullable://nginx@sha256:0", ContainerID: "docker://0",
		State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}}}}
	out := make([]Object, n)
	for i := range out {
		p := pod.DeepCopy()
		p.Name = fmt.Sprintf("web-5f59c6698b-%05d", i)
		p.UID = types.UID(fmt.Sprintf("0f0c9a0e-0000-4000-8000-%012d", i))
		out[i] = p
	}
	return out
}

func BenchmarkTable5000Pods(b *testing.B) {
	pods := runningPods(b, 5000)
	r, _ := table.ByKey("pods")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := table.Table(r, pods, TableOptions{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTable5000PodsJSON(b *testing.B) {
	pods := runningPods(b, 5000)
	r, _ := table.ByKey("pods")
	b.ReportAllocs()
	for b.Loop() {
		out, err := table.Table(r, pods, TableOptions{})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := json.Marshal(out); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncodePod(b *testing.B) {
	pod, codec := runningPods(b, 1)[0], table.StorageCodec()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codec.Encode("pods", pod); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodePod(b *testing.B) {
	codec := table.StorageCodec()
	data, err := codec.Encode("pods", runningPods(b, 1)[0])
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := codec.Decode("pods", data); err != nil {
			b.Fatal(err)
		}
	}
}

// The way of a created pod through the table, without names and UIDs.
func BenchmarkCreatePod(b *testing.B) {
	pod := runningPods(b, 1)[0].(*corev1.Pod)
	rules := rulesOf(b, pod)
	b.ReportAllocs()
	for b.Loop() {
		obj, err := table.ToStorage(pod.DeepCopy())
		if err != nil {
			b.Fatal(err)
		}
		rules.PrepareCreate(obj)
		if errs := rules.Validate(b.Context(), obj); len(errs) > 0 {
			b.Fatal(errs)
		}
		rules.Warnings(b.Context(), obj, nil)
	}
}

func BenchmarkPodStatus(b *testing.B) {
	old := runningPods(b, 1)[0].(*corev1.Pod)
	rules := rulesOf(b, old)
	b.ReportAllocs()
	for b.Loop() {
		pod := old.DeepCopy()
		pod.Status.Message = "changed"
		rules.PrepareStatus(pod, old)
		if errs := rules.ValidateStatus(b.Context(), pod, old); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}

func BenchmarkFromStorageOldGroup(b *testing.B) {
	d := stored(b, "{apiVersion: extensions/v1beta1, kind: Deployment, metadata: {name: a}, spec: {template: {metadata: {labels: {app: a}}, spec: {containers: [{name: c, image: i}]}}}}")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := table.FromStorage(d, extensionsV1); err != nil {
			b.Fatal(err)
		}
	}
}
