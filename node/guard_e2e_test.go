//go:build e2e

package node

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods"
	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/pressure"
	"github.com/whalepod/whalepod/node/pressure/meter"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/docker"
)

// smallServer is a Docker Engine, and an agent's pods and guard, that share a disk of 160 MB.
type smallServer struct {
	*testing.T
	dir     string
	api     *http.Client
	engine  *docker.Engine
	state   *desired.State
	guard   *guard
	manager *pods.Manager

	mu       sync.Mutex
	statuses map[string]corev1.PodStatus
	events   []string
	memory   *pressure.Observation // instead of the machine's
}

// gaugesOf the machine, but for its memory.
type gaugesOf struct {
	*meter.Meter
	s *smallServer
}

func (g gaugesOf) Memory() (pressure.Observation, error) {
	g.s.mu.Lock()
	defer g.s.mu.Unlock()
	if g.s.memory != nil {
		return *g.s.memory, nil
	}
	return g.Meter.Memory()
}

func (s *smallServer) Status(_ types.NamespacedName, uid string, status corev1.PodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.statuses[uid] = status
}
func (s *smallServer) Gone(types.NamespacedName, string) {}
func (s *smallServer) Event(_ *corev1.Pod, _, reason, message, _ string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, reason+": "+message)
}

func (s *smallServer) Attach(context.Context, runtime.PodRef, int, string, []pods.HostPort) (string, error) {
	return "10.244.0.2", nil
}
func (s *smallServer) Detach(context.Context, string) error { return nil }

func (s *smallServer) run(args ...string) {
	s.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		s.Fatalf("%v: %v: %s", args, err, out)
	}
}

// settle is what anything may take that is only waited for: an engine may be slow for minutes when its machine is.
const settle = 3 * time.Minute

func (s *smallServer) eventually(what string, ok func() bool) {
	s.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(settle); !ok(); {
		select {
		case <-tick.C:
		case <-end:
			s.mu.Lock()
			defer s.mu.Unlock()
			s.Fatalf("not within %v: %s\n%s", settle, what, strings.Join(s.events, "\n"))
		}
	}
}

// startDocker in a network namespace without uplink.
func (s *smallServer) startDocker() {
	dir, err := os.MkdirTemp("", "wpguard-")
	if err != nil {
		s.Fatal(err)
	}
	s.dir = dir
	ns := filepath.Base(dir)
	s.run("mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", dir)
	s.run("ip", "netns", "add", ns)
	s.run("nsenter", "--net=/run/netns/"+ns, "ip", "link", "set", "lo", "up")
	log, err := os.CreateTemp(s.TempDir(), "log")
	if err != nil {
		s.Fatal(err)
	}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+ns, "dockerd", "--data-root", dir+"/data", "--exec-root", dir+"/exec", "-H", "unix://"+dir+"/docker.sock",
		"--pidfile", dir+"/pid", "--storage-driver=overlay2", "--iptables=false", "--bridge=none", "--ip-forward=false", "--ip-masq=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = exec.Command("ip", "netns", "del", ns).Run()
		_ = syscall.Unmount(dir, syscall.MNT_DETACH)
		_ = os.RemoveAll(dir)
	})
	s.api = &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", dir+"/docker.sock")
	}}}
	defer func() {
		if s.Failed() {
			text, _ := os.ReadFile(log.Name())
			s.Log(string(text))
		}
	}()
	s.eventually("dockerd answers", func() bool {
		res, err := s.api.Get("http://docker/_ping")
		if err == nil {
			_ = res.Body.Close()
		}
		return err == nil
	})
}

// importImage of files.
func (s *smallServer) importImage(name string, files map[string][]byte) {
	s.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for path, data := range files {
		_ = w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Size: int64(len(data))})
		_, _ = w.Write(data)
	}
	for _, link := range []string{"sh", "sleep", "dd", "true"} {
		_ = w.WriteHeader(&tar.Header{Name: "bin/" + link, Typeflag: tar.TypeSymlink, Linkname: "busybox"})
	}
	for _, path := range []string{"etc", "proc", "sys", "dev", "tmp"} {
		_ = w.WriteHeader(&tar.Header{Name: path, Mode: 0o755, Typeflag: tar.TypeDir})
	}
	_ = w.Close()
	repo, tag, _ := strings.Cut(name, ":")
	query := url.Values{"fromSrc": {"-"}, "repo": {repo}, "tag": {tag}, "changes": {"ENV PATH=/bin"}}
	res, err := s.api.Post("http://docker/images/create?"+query.Encode(), "application/x-tar", &buf)
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	if out, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || bytes.Contains(out, []byte("error")) {
		s.Fatal(res.Status, string(out), err)
	}
}

func (s *smallServer) startAgent() {
	var err error
	if s.engine, err = docker.New(docker.Config{Host: "unix://" + s.dir + "/docker.sock", Node: "n1"}); err != nil {
		s.Fatal(err)
	}
	data := s.dir + "/agent"
	if s.state, err = desired.Open(desired.Config{Dir: data + "/desired"}); err != nil {
		s.Fatal(err)
	}
	policy := pressure.DefaultImagePolicy()
	policy.MinAge = 0
	s.guard = newGuard(guardConfig{
		Node: "n1", DataDir: data, Thresholds: pressure.Defaults(gib), Images: policy, Gauges: gaugesOf{meter.New(), s}, Engine: s.engine,
		Event: func(_, reason, message string) { s.Event(nil, "", reason, message, "") }, Log: slog.New(slog.DiscardHandler),
	})
	s.manager = pods.New(pods.Config{
		NodeName: "n1", DataDir: data, Desired: s.state, Engine: s.engine, Network: s, Report: s, Record: s, Refuse: s.guard.refuse,
		Cluster: func() netfiles.Cluster { return netfiles.Cluster{Domain: "cluster.local", DNS: "10.254.254.1"} },
		HostIPs: func() []string { return []string{"198.51.100.11"} },
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = s.manager.Run(ctx) })
	running.Go(func() { _ = s.guard.run(ctx) })
	s.Cleanup(func() {
		for _, a := range s.manager.Active() { // so that the engine need not wait for each
			for _, c := range a.Running {
				_ = s.engine.RemoveContainer(context.Background(), c.ID)
			}
			_ = s.engine.RemoveContainer(context.Background(), a.SandboxID)
		}
		cancel()
		running.Wait()
		_ = s.engine.Close()
		_ = s.state.Close()
	})
	s.state.Begin()
	_ = s.state.Complete(1)
	info, err := s.engine.Info(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	s.guard.found(info.RootDir)
	<-s.manager.Ready()
	s.guard.watch(s.manager)
}

// start a pod of one container.
func (s *smallServer) start(name, script string, change func(*corev1.Pod)) string {
	grace := int64(30)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name)}, Spec: corev1.PodSpec{
		NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, TerminationGracePeriodSeconds: &grace,
		Containers: []corev1.Container{{Name: "c", Image: "busybox:1", ImagePullPolicy: corev1.PullIfNotPresent, Command: []string{"sh", "-c", script}}},
	}}
	if change != nil {
		change(p)
	}
	if err := s.state.Apply([]desired.Change{{Resource: desired.Pods, Key: desired.Key("default", name), Object: p}}); err != nil {
		s.Fatal(err)
	}
	return "uid-" + name
}

func (s *smallServer) status(uid string) corev1.PodStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.statuses[uid]
}

func (s *smallServer) phase(uid string, want corev1.PodPhase) {
	s.Helper()
	s.eventually(uid+" is "+string(want), func() bool { return s.status(uid).Phase == want })
}

// fill the disk with a file until so many percent are left; the same file each time.
func (s *smallServer) fill(left int64) {
	s.Helper()
	d, err := meter.New().Disk(s.dir)
	if err != nil {
		s.Fatal(err)
	}
	var now int64
	if st, err := os.Stat(s.dir + "/filler"); err == nil {
		now = st.Size()
	}
	f, err := os.OpenFile(s.dir+"/filler", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	want := now + d.Space.Available - d.Space.Capacity*left/100
	if err := f.Truncate(0); err != nil {
		s.Fatal(err)
	}
	for chunk := make([]byte, mib); want > 0; want -= mib {
		if _, err := f.Write(chunk[:min(want, mib)]); err != nil {
			s.Fatal(err)
		}
	}
}

func (s *smallServer) images() string {
	list, err := s.engine.Images(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	var names []string
	for _, i := range list {
		names = append(names, i.Tags...)
	}
	return strings.Join(names, " ")
}

// looked returns when the guard has looked at everything since, and done what had to be done: it takes the second poke when it is
// done with the first.
func (s *smallServer) looked() {
	s.Helper()
	for range 2 {
		poke(s.guard.wake)
		s.eventually("the guard looks", func() bool { return len(s.guard.wake) == 0 })
	}
}

// evicted waits until a pod is, and checks all that is to be seen of it.
func (s *smallServer) evicted(uid, pattern string, disruption bool) {
	s.Helper()
	s.eventually(uid+" is evicted", func() bool { return s.status(uid).Reason == "Evicted" && s.manager.Cleared(uid) })
	status := s.status(uid)
	if status.Phase != corev1.PodFailed || !regexp.MustCompile("^"+pattern+"$").MatchString(status.Message) {
		s.Errorf("%s: %s %q, want %q", uid, status.Phase, status.Message, pattern)
	}
	found := false
	for _, c := range status.Conditions {
		found = found || c.Type == corev1.DisruptionTarget && c.Reason == "TerminationByKubelet" && c.Message == status.Message
	}
	if found != disruption {
		s.Errorf("%s: condition DisruptionTarget: %v, want %v", uid, found, disruption)
	}
	if p, err := s.engine.Pod(s.Context(), uid); err != nil || len(p.Containers)+len(p.Sandboxes) > 0 {
		s.Errorf("%s: left on the engine: %+v %v", uid, p, err)
	}
}

// A server whose disk fills, on a real engine: images, ended containers, then pods; and the limits of pods.
func TestGuardOnDocker(t *testing.T) {
	s := &smallServer{T: t, statuses: map[string]corev1.PodStatus{}}
	s.startDocker()
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Fatal("busybox-static is needed: ", err)
	}
	s.importImage("busybox:1", map[string][]byte{"bin/busybox": program})
	for _, name := range []string{"junk:1", "junk:2"} {
		junk := make([]byte, 15*mib)
		for i := range junk {
			junk[i] = byte(rand.Uint32())
		}
		s.importImage(name, map[string][]byte{"junk": junk})
	}
	s.startAgent()
	web := s.start("web", "sleep 10000", nil)
	done := s.start("done", "dd if=/dev/zero of=/tmp/x bs=1M count=12", func(p *corev1.Pod) { p.Spec.RestartPolicy = corev1.RestartPolicyNever })
	s.phase(web, corev1.PodRunning)
	s.phase(done, corev1.PodSucceeded)

	// 15 % is where images begin to go; nothing is short before that.
	s.fill(15)
	poke(s.guard.wake)
	s.eventually("an unused image went", func() bool { return strings.Count(s.images(), "junk") < 2 })
	s.looked()
	if got := s.images(); !strings.Contains(got, "busybox:1") || !strings.Contains(got, "pause") {
		t.Error("an image in use went: ", got)
	}
	if got := s.guard.tell(time.Now())[1]; got.Status != corev1.ConditionFalse {
		t.Errorf("%+v", got)
	}

	// Ended containers go before pods.
	s.fill(10)
	poke(s.guard.wake)
	s.eventually("the ended container went", func() bool {
		p, err := s.engine.Pod(t.Context(), done)
		return err == nil && len(p.Containers) == 0
	})
	if got := s.guard.tell(time.Now())[1]; got.Status != corev1.ConditionTrue || got.Reason != "KubeletHasDiskPressure" {
		t.Errorf("%+v", got)
	}
	s.eventually("the other unused image went after it", func() bool { return !strings.Contains(s.images(), "junk") })
	if s.status(web).Reason != "" || !strings.Contains(s.images(), "busybox:1") {
		t.Error(s.status(web), s.images())
	}

	// A pod that came before the pressure writes too much.
	s.fill(60)
	s.looked()
	s.guard.mu.Lock()
	s.guard.conditions = pressure.Conditions{}
	s.guard.mu.Unlock()
	writer := s.start("writer", "dd if=/dev/zero of=/tmp/x bs=1M count=30; sleep 10000", nil)
	s.phase(writer, corev1.PodRunning)
	s.eventually("it has written", func() bool {
		for _, a := range s.manager.Active() {
			if u := s.guard.sizeOf(t.Context(), &a); a.Pod.Name == "writer" && len(u.Containers) == 1 && u.Containers[0].Rootfs.Bytes >= 30*mib {
				return true
			}
		}
		return false
	})
	s.fill(5)
	poke(s.guard.wake)
	s.evicted(writer, `The node was low on resource: ephemeral-storage. Threshold quantity: \d+\w*, available: \d+\w*. Container c was using 30\d\d\dKi, request is 0, has larger consumption of ephemeral-storage. `, true)
	if s.status(web).Reason != "" {
		t.Error("another pod went: ", s.status(web))
	}
	late := s.start("late", "sleep 10000", nil)
	s.phase(late, corev1.PodFailed)
	if got := s.status(late); got.Reason != "Evicted" || got.Message != "Pod was rejected: The node had condition: [DiskPressure]. " {
		t.Error(got.Reason, got.Message)
	}

	// On a full disk the agent says what is the matter, and writes down later what it could not.
	s.fill(0)
	text := make([]byte, 256<<10)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "config"}, BinaryData: map[string][]byte{"k": text}}
	err = s.state.Apply([]desired.Change{{Resource: desired.ConfigMaps, Key: "default/config", Object: config}})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "no space left on device") {
		t.Error(err)
	}
	s.fill(60)
	s.eventually("the disk has it", func() bool {
		data, err := os.ReadFile(s.dir + "/agent/desired/state.journal")
		dir := t.TempDir()
		if err != nil || os.WriteFile(dir+"/state.journal", data, 0o600) != nil {
			return false
		}
		kept, err := desired.Open(desired.Config{Dir: dir})
		if err != nil {
			return false
		}
		defer func() { _ = kept.Close() }()
		_, ok := kept.ConfigMap("default", "config")
		_, podToo := kept.Pod("default", "web")
		return ok && podToo
	})

	// Limits of a pod's own need no pressure.
	s.fill(60)
	s.looked()
	s.guard.mu.Lock()
	s.guard.conditions = pressure.Conditions{}
	s.guard.mu.Unlock()
	limit := resource.MustParse("1Mi")
	volume := s.start("volume", "dd if=/dev/zero of=/v/x bs=1M count=3; sleep 10000", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "x", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &limit}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "x", MountPath: "/v"}}
	})
	logs := s.start("logs", "dd if=/dev/zero bs=1M count=2; sleep 10000", func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: limit}
	})
	s.evicted(volume, `Usage of EmptyDir volume "x" exceeds the limit "1Mi". `, false)
	s.evicted(logs, `Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. `, false)

	// Memory: what the control group says is in the message.
	hungry := s.start("hungry", "sleep 10000 & sleep 10000", nil)
	s.phase(hungry, corev1.PodRunning)
	for _, a := range s.manager.Active() {
		if u := s.guard.workingSet(&a); u == nil || u.Memory <= 0 || u.Containers[0].Memory <= 0 || u.Processes < 2 {
			t.Errorf("%s: %+v", a.Pod.Name, u)
		}
	}
	s.mu.Lock()
	s.memory = &pressure.Observation{Available: 10 * mib, Capacity: gib}
	s.mu.Unlock()
	poke(s.guard.wake)
	words := `The node was low on resource: memory. Threshold quantity: 100Mi, available: 10Mi. Container c was using \d+\w*, request is 0, has larger consumption of memory. `
	s.evicted(hungry, words, true)
	s.evicted(web, words, true)
}
