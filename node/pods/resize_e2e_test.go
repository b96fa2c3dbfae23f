//go:build e2e

package pods_test

import (
	"bytes"
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker"
)

// A container gets other limits while it runs, another is restarted for them, and none gets less memory than it uses: the
// kernel's own files tell.
func TestResizeOnDocker(t *testing.T) {
	host := startDockerd(t)
	dir := t.TempDir()
	m := &master{statuses: map[string]corev1.PodStatus{}, gone: map[string]bool{}}
	state, err := desired.Open(desired.Config{Dir: dir + "/desired"})
	if err != nil {
		t.Fatal(err)
	}
	engine, err := docker.New(docker.Config{Host: host, Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	manager := pods.New(pods.Config{NodeName: "n1", DataDir: dir, Desired: state, Engine: engine, Network: m, Report: m, Record: m,
		Cluster: func() netfiles.Cluster { return netfiles.Cluster{Domain: "cluster.local", DNS: "10.254.254.1"} },
		HostIPs: func() []string { return []string{"198.51.100.11"} }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = manager.Run(ctx) }()
	defer func() { cancel(); <-done }()

	limits := func(cpu, memory string) corev1.ResourceRequirements {
		l := corev1.ResourceList{"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory)}
		return corev1.ResourceRequirements{Requests: l, Limits: l}
	}
	grow := "x=aaaaaaaaaaaaaaaa; while [ ${#x} -lt 16777216 ]; do x=$x$x; done; while :; do sleep 1; done"
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web", Generation: 1}, Spec: corev1.PodSpec{
		NodeName: "n1", RestartPolicy: "OnFailure", DNSPolicy: "ClusterFirst", TerminationGracePeriodSeconds: ptr(int64(5)),
		Containers: []corev1.Container{
			{Name: "a", Image: "busybox:1", ImagePullPolicy: "IfNotPresent", Command: []string{"sh", "-c", grow}, Resources: limits("100m", "64Mi")},
			{Name: "b", Image: "busybox:1", ImagePullPolicy: "IfNotPresent", Command: []string{"sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"}, Resources: limits("100m", "64Mi"),
				ResizePolicy: []corev1.ContainerResizePolicy{{ResourceName: "memory", RestartPolicy: "RestartContainer"}}},
		},
	}}
	apply := func() {
		if err := state.Apply([]desired.Change{{Resource: desired.Pods, Key: "default/web", Object: pod.DeepCopy()}}); err != nil {
			t.Fatal(err)
		}
	}
	resize := func(container int, cpu, memory string) {
		pod.Generation++
		pod.Spec.Containers[container].Resources = limits(cpu, memory)
		apply()
	}
	sh := func(container, script string) string {
		f, err := manager.Running("default", "web", "", container)
		if err != nil {
			return err.Error()
		}
		var out bytes.Buffer
		if _, err := engine.Exec(t.Context(), f.ContainerID, []string{"sh", "-c", script}, runtime.Streams{Stdout: &out, Stderr: &out}); err != nil {
			return err.Error()
		}
		return strings.Join(strings.Fields(out.String()), " ")
	}
	// Memory limit, CPU quota: of cgroup v1, or v2.
	const kernel = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes cpu/cpu.cfs_quota_us 2>/dev/null || cat memory.max cpu.max"
	has := func(container, memory, quota string) func() bool {
		return func() bool { return strings.HasPrefix(sh(container, kernel), memory+" "+quota) }
	}
	conditions := func() (out []string) {
		for _, c := range m.status("uid-web").Conditions {
			if c.Type == corev1.PodResizeInProgress || c.Type == corev1.PodResizePending {
				out = append(out, string(c.Type)+" "+c.Reason+" "+c.Message)
			}
		}
		return out
	}
	defer func() {
		if t.Failed() {
			m.mu.Lock()
			t.Logf("%+v\n%s", m.statuses["uid-web"], strings.Join(m.events, "\n"))
			m.mu.Unlock()
		}
	}()
	state.Begin()
	apply()
	_ = state.Complete(1)
	eventually(t, "it has what it was made with", func() bool { return ready(m.status("uid-web")) && has("a", "67108864", "10000")() })
	before, _ := manager.Running("default", "web", "", "a")

	resize(0, "200m", "96Mi")
	eventually(t, "it has more", has("a", "100663296", "20000"))
	resize(0, "150m", "80Mi")
	eventually(t, "it has less", has("a", "83886080", "15000"))
	eventually(t, "and that is told", func() bool {
		s := m.status("uid-web")
		return len(conditions()) == 0 && s.ObservedGeneration == 3 && s.ContainerStatuses[0].Resources.Limits.Memory().String() == "80Mi"
	})
	resize(0, "150m", "4Mi")
	eventually(t, "less than it uses is refused", func() bool {
		c := conditions()
		return len(c) == 1 && strings.HasPrefix(c[0], `PodResizeInProgress Error cannot decrease memory limits: attempting to set container "a" memory limit (4194304) below current usage (`)
	})
	resize(0, "100m", "64Mi")
	eventually(t, "it is back", func() bool { return has("a", "67108864", "10000")() && len(conditions()) == 0 })
	if now, err := manager.Running("default", "web", "", "a"); err != nil || now.ContainerID != before.ContainerID {
		t.Errorf("it was restarted: %v, %v, %v", before, now, err)
	}
	resize(1, "100m", "96Mi") // b ends with 0, which its policy takes for the end
	eventually(t, "b is restarted", func() bool {
		s := m.status("uid-web")
		return has("b", "100663296", "10000")() && s.ContainerStatuses[1].RestartCount == 1 && ready(s) && len(conditions()) == 0
	})
}
