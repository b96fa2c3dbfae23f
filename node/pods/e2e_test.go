//go:build e2e

package pods_test

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker"
)

// startDockerd runs a Docker Engine of the test's own, in a network namespace without uplink.
func startDockerd(t *testing.T) (host string) {
	dir, err := os.MkdirTemp("", "wppods-")
	if err != nil {
		t.Fatal(err)
	}
	ns := filepath.Base(dir)
	run := func(args ...string) {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	run("ip", "netns", "add", ns)
	run("nsenter", "--net=/run/netns/"+ns, "ip", "link", "set", "lo", "up")
	host = "unix://" + dir + "/docker.sock"
	log, err := os.Create(dir + "/log")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+ns, "dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "-H", host,
		"--pidfile", dir+"/pid", "--iptables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = exec.Command("ip", "netns", "del", ns).Run()
		_ = os.RemoveAll(dir)
	})
	engine := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", dir+"/docker.sock")
	}}}
	eventually(t, "dockerd answers", func() bool {
		res, err := engine.Get("http://docker/_ping")
		if err == nil {
			_ = res.Body.Close()
		}
		return err == nil
	})
	query := url.Values{"fromSrc": {"-"}, "repo": {"busybox"}, "tag": {"1"}, "changes": {`CMD ["sh"]`, "ENV PATH=/bin"}}
	res, err := engine.Post("http://docker/images/create?"+query.Encode(), "application/x-tar", busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if out, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || bytes.Contains(out, []byte("error")) {
		t.Fatal(res.Status, string(out), err)
	}
	return host
}

// busybox is an image of one static program.
func busybox(t *testing.T) *bytes.Buffer {
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	_ = w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))})
	_, _ = w.Write(program)
	for _, name := range []string{"sh", "cat", "sleep", "ls", "id", "hostname", "test", "true"} {
		_ = w.WriteHeader(&tar.Header{Name: "bin/" + name, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	for _, name := range []string{"etc", "proc", "sys", "dev", "tmp"} {
		_ = w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeDir})
	}
	_ = w.Close()
	return &buf
}

// settle is what anything may take that is only waited for: an engine may be slow for minutes when its machine is.
const settle = 3 * time.Minute

func eventually(t *testing.T, what string, fn func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.After(settle)
	for !fn() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", settle, what)
		}
	}
}

// master is who is told.
type master struct {
	mu       sync.Mutex
	statuses map[string]corev1.PodStatus
	gone     map[string]bool
	events   []string
}

func (m *master) Status(_ types.NamespacedName, uid string, s corev1.PodStatus) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.statuses[uid] = s
}

func (m *master) Gone(_ types.NamespacedName, uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.gone[uid] = true
}

func (m *master) Event(_ *corev1.Pod, _, reason, message, _ string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, reason+": "+message)
}

func (m *master) Attach(context.Context, runtime.PodRef, int, string, []pods.HostPort) (string, error) {
	return "10.244.0.2", nil
}
func (m *master) Detach(context.Context, string) error { return nil }

func (m *master) status(uid string) corev1.PodStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.statuses[uid]
}

func (m *master) isGone(uid string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gone[uid]
}

func ready(s corev1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func ptr[T any](v T) *T { return &v }

// A pod with everything, on a real engine: what it sees, what is reported, an agent that comes back, and the end.
func TestOnDocker(t *testing.T) {
	host := startDockerd(t)
	dir := t.TempDir()
	m := &master{statuses: map[string]corev1.PodStatus{}, gone: map[string]bool{}}
	state, err := desired.Open(desired.Config{Dir: dir + "/desired"})
	if err != nil {
		t.Fatal(err)
	}
	start := func() (manager *pods.Manager, engine *docker.Engine, stop func()) {
		engine, err := docker.New(docker.Config{Host: host, Node: "n1"})
		if err != nil {
			t.Fatal(err)
		}
		manager = pods.New(pods.Config{NodeName: "n1", DataDir: dir, Desired: state, Engine: engine, Network: m, Report: m, Record: m,
			Cluster: func() netfiles.Cluster { return netfiles.Cluster{Domain: "cluster.local", DNS: "10.254.254.1"} },
			HostIPs: func() []string { return []string{"198.51.100.11"} }})
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() { defer close(done); _ = manager.Run(ctx) }()
		return manager, engine, func() { cancel(); <-done }
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: "uid-web", Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{
		NodeName: "n1", RestartPolicy: "Always", DNSPolicy: "ClusterFirst", TerminationGracePeriodSeconds: ptr(int64(5)), Subdomain: "sub",
		Volumes: []corev1.Volume{
			{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
			{Name: "mem", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory"}}},
			{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
		InitContainers: []corev1.Container{{Name: "init", Image: "busybox:1", ImagePullPolicy: "IfNotPresent", Command: []string{"sh", "-c", "echo made > /disk/x"}, VolumeMounts: []corev1.VolumeMount{{Name: "disk", MountPath: "/disk", SubPath: "deep"}}}},
		Containers: []corev1.Container{
			{Name: "a", Image: "busybox:1", ImagePullPolicy: "IfNotPresent", Command: []string{"sh", "-c", "trap 'exit 0' TERM; echo up; while :; do sleep 1; done"},
				Env:            []corev1.EnvVar{{Name: "IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}}},
				VolumeMounts:   []corev1.VolumeMount{{Name: "cm", MountPath: "/cm"}, {Name: "mem", MountPath: "/mem"}, {Name: "disk", MountPath: "/disk"}, {Name: "cm", MountPath: "/one", SubPath: "k"}},
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, TimeoutSeconds: 5, SuccessThreshold: 1, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"test", "-f", "/disk/deep/x"}}}}},
			{Name: "crash", Image: "busybox:1", ImagePullPolicy: "IfNotPresent", Command: []string{"sh", "-c", "echo bye > /dev/termination-log; test -f /mem/go || exit 3; while :; do sleep 1; done"},
				TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: "File", VolumeMounts: []corev1.VolumeMount{{Name: "mem", MountPath: "/mem"}}},
		},
	}}
	manager, engine, stop := start()
	state.Begin()
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"k": "one"}}
	apply := func(r desired.Resource, o desired.Object) {
		if err := state.Apply([]desired.Change{{Resource: r, Key: desired.Key(o.GetNamespace(), o.GetName()), Object: o}}); err != nil {
			t.Fatal(err)
		}
	}
	apply(desired.ConfigMaps, cm)
	apply(desired.Pods, pod)
	_ = state.Complete(1)

	crashed := func() *corev1.ContainerStatus {
		s := m.status("uid-web")
		for i := range s.ContainerStatuses {
			if c := &s.ContainerStatuses[i]; c.Name == "crash" && c.RestartCount == 1 && c.State.Waiting != nil && c.LastTerminationState.Terminated != nil {
				return c
			}
		}
		return nil
	}
	defer func() {
		if t.Failed() {
			m.mu.Lock()
			t.Logf("%+v\n%s", m.statuses["uid-web"], strings.Join(m.events, "\n"))
			m.mu.Unlock()
		}
	}()
	eventually(t, "second crash", func() bool { return crashed() != nil })
	if c := crashed(); c.LastTerminationState.Terminated.Message != "bye\n" || c.LastTerminationState.Terminated.ExitCode != 3 || c.State.Waiting.Reason != "CrashLoopBackOff" {
		t.Errorf("%+v", c)
	}
	sh := func(script string) string {
		f, err := manager.Running("default", "web", "", "a")
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		code, err := engine.Exec(t.Context(), f.ContainerID, []string{"sh", "-c", script}, runtime.Streams{Stdout: &out, Stderr: &out})
		if err != nil || code != 0 {
			t.Errorf("%s: %d %v %s", script, code, err, out.String())
		}
		return strings.TrimSpace(out.String())
	}
	for script, want := range map[string]string{
		"cat /cm/k":             "one",
		"cat /one":              "one",
		"cat /disk/deep/x":      "made",
		"echo $IP":              "10.244.0.2",
		"hostname":              "web",
		"cat /etc/hosts":        "10.244.0.2\tweb.sub.default.svc.cluster.local\tweb",
		"cat /etc/resolv.conf":  "search default.svc.cluster.local svc.cluster.local cluster.local",
		"cat /proc/self/mounts": " /mem tmpfs ",
	} {
		if got := sh(script); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	cm = cm.DeepCopy()
	cm.Data["k"] = "two"
	apply(desired.ConfigMaps, cm)
	eventually(t, "changed config map", func() bool { return sh("cat /cm/k") == "two" })

	before, _ := manager.Running("default", "web", "", "a")
	stop()
	manager, engine, stop = start()
	defer stop()
	sh2 := func() bool {
		f, err := manager.Running("default", "web", "", "a")
		return err == nil && f.ContainerID == before.ContainerID
	}
	eventually(t, "adopted", sh2)
	sh("echo > /mem/go")
	eventually(t, "pod ready", func() bool { return ready(m.status("uid-web")) })
	began := time.Now()
	deleted := pod.DeepCopy()
	deleted.DeletionTimestamp, deleted.DeletionGracePeriodSeconds = ptr(metav1.Now()), ptr(int64(5))
	apply(desired.Pods, deleted)
	eventually(t, "gone", func() bool { return m.isGone("uid-web") })
	t.Logf("gone after %v", time.Since(began))
	if p, err := engine.Pod(t.Context(), "uid-web"); err != nil || len(p.Containers)+len(p.Sandboxes) > 0 {
		t.Errorf("left: %+v %v", p, err)
	}
	if _, err := os.Stat(dir + "/pods/uid-web"); err == nil {
		t.Error("directory left")
	}
	if data, _ := os.ReadFile("/proc/self/mountinfo"); bytes.Contains(data, []byte(dir)) {
		t.Error("mounts left")
	}
}
