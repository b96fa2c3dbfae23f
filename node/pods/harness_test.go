package pods

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/pods/admit"
	"github.com/whalepod/whalepod/node/pods/netfiles"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// network gives addresses from memory.
type network struct {
	mu       sync.Mutex
	attached map[string]string
	serial   int
	err      error
	// busy until then, unless nothing can be seen.
	busy  time.Time
	blind bool
}

func (n *network) set(blind bool, busy time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.blind, n.busy = blind, busy
}

func (n *network) fail(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.err = err
}

func (n *network) Busy(_ context.Context, pid int) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.blind || pid == 0 {
		return false, fmt.Errorf("no such file")
	}
	return time.Now().Before(n.busy), nil
}

func (n *network) Attach(_ context.Context, pod runtime.PodRef, pid int, want string, _ []HostPort) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.err != nil {
		return "", n.err
	}
	if pid == 0 {
		return "", fmt.Errorf("no such process")
	}
	if ip, ok := n.attached[pod.UID]; ok {
		return ip, nil
	}
	if want == "" {
		n.serial++
		want = fmt.Sprintf("10.244.0.%d", n.serial+1)
	}
	n.attached[pod.UID] = want
	return want, nil
}

func (n *network) Detach(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.attached, uid)
	return nil
}

// mounter that only writes down.
type mounter struct {
	mu sync.Mutex
	at []string
}

func (m *mounter) Tmpfs(dir string, _ int64) error { return m.add(dir) }
func (m *mounter) Bind(_ *os.File, target string) error {
	return m.add(target)
}

func (m *mounter) add(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = append(m.at, dir)
	return nil
}

func (m *mounter) Unmount(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at = slices.DeleteFunc(m.at, func(s string) bool { return s == dir })
	return nil
}

func (m *mounter) Below(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for _, p := range m.at {
		if p == dir || strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	return out, nil
}

// node is everything around a Manager; a restarted agent is a new start on the same node.
type node struct {
	t       *testing.T
	dir     string
	engine  *fake.Engine
	net     *network
	mounts  *mounter
	state   *desired.State
	manager *Manager
	stop    func()
	// wrap the engine that the manager gets.
	wrap func(runtime.Engine) runtime.Engine
	// refuse every new pod.
	refuse *admit.Refusal

	mu       sync.Mutex
	dead     bool                        // the processes of the engine's containers
	statuses map[string]corev1.PodStatus // by UID, the last
	history  map[string][]string         // phases and readiness by UID, as they were reported
	gone     map[string]int
	events   []string
	counts   map[string]int
}

func newNode(t *testing.T) *node {
	n := &node{
		t: t, dir: t.TempDir(), engine: fake.New("n1"), net: &network{attached: map[string]string{}}, mounts: &mounter{},
		statuses: map[string]corev1.PodStatus{}, history: map[string][]string{}, gone: map[string]int{}, counts: map[string]int{},
	}
	n.engine.AddImage("img", "img:2")
	_ = os.WriteFile(filepath.Join(n.dir, "resolv.conf"), []byte("nameserver 198.51.100.53\n"), 0o600)
	n.open()
	n.state.Begin()
	_ = n.state.Complete(1)
	return n
}

func (n *node) open() {
	s, err := desired.Open(desired.Config{Dir: filepath.Join(n.dir, "desired")})
	if err != nil {
		n.t.Fatal(err)
	}
	n.state = s
}

func (n *node) Status(_ types.NamespacedName, uid string, s corev1.PodStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses[uid] = s
	ready := "unready"
	for _, c := range s.Conditions {
		if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			ready = "ready"
		}
	}
	n.history[uid] = append(n.history[uid], string(s.Phase)+" "+ready)
}

func (n *node) Gone(_ types.NamespacedName, uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gone[uid]++
}

func (n *node) Event(pod *corev1.Pod, eventType, reason, message, fieldPath string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	text := reason + ": " + message
	n.counts[text]++
	n.events = append(n.events, text)
}

// start an agent.
func (n *node) start() {
	var engine runtime.Engine = n.engine.As("n1")
	if n.wrap != nil {
		engine = n.wrap(engine)
	}
	n.manager = New(Config{
		NodeName: "n1", DataDir: n.dir, Desired: n.state, Engine: engine, Network: n.net, Report: n, Record: n, Mounter: n.mounts,
		Cluster: func() netfiles.Cluster { return netfiles.Cluster{Domain: "cluster.local", DNS: "10.254.254.1"} },
		HostIPs: func() []string { return []string{"198.51.100.11"} }, ResolvConf: filepath.Join(n.dir, "resolv.conf"),
		Alive: func(int) bool {
			n.mu.Lock()
			defer n.mu.Unlock()
			return !n.dead
		},
		Refuse:      func(*corev1.Pod) *admit.Refusal { return n.refuse },
		Allocatable: func() corev1.ResourceList { return corev1.ResourceList{"memory": resource.MustParse("900Mi")} },
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = n.manager.Run(ctx)
	}()
	n.stop = func() { cancel(); <-done }
	n.t.Cleanup(func() { n.stop(); _ = n.state.Close() })
}

// restart the agent, with what is on disk.
func (n *node) restart() {
	n.stop()
	_ = n.state.Close()
	n.open()
	n.start()
	synctest.Wait()
}

func (n *node) apply(objects ...desired.Object) {
	n.t.Helper()
	var changes []desired.Change
	for _, o := range objects {
		r := desired.Pods
		switch o.(type) {
		case *corev1.ConfigMap:
			r = desired.ConfigMaps
		case *corev1.Secret:
			r = desired.Secrets
		case *corev1.Node:
			r = desired.Nodes
		case *nodev1.RuntimeClass:
			r = desired.RuntimeClasses
		case *corev1.PersistentVolumeClaim:
			r = desired.Claims
		case *corev1.PersistentVolume:
			r = desired.Volumes
		}
		changes = append(changes, desired.Change{Resource: r, Key: desired.Key(o.GetNamespace(), o.GetName()), Object: o})
	}
	if err := n.state.Apply(changes); err != nil {
		n.t.Fatal(err)
	}
	synctest.Wait()
}

func (n *node) remove(r desired.Resource, namespace, name string) {
	if err := n.state.Apply([]desired.Change{{Resource: r, Key: desired.Key(namespace, name)}}); err != nil {
		n.t.Fatal(err)
	}
	synctest.Wait()
}

// delete as the API does: a timestamp first.
func (n *node) delete(p *corev1.Pod, grace int64) {
	p = p.DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	n.apply(p)
}

func (n *node) status(uid string) corev1.PodStatus {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.statuses[uid]
}

// line sums a pod's status up: phase, readiness, and of each container state, restarts.
func (n *node) line(uid string) string {
	s := n.status(uid)
	out := []string{string(s.Phase)}
	for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
		word := ""
		switch {
		case c.State.Running != nil:
			word = "running"
		case c.State.Waiting != nil:
			word = c.State.Waiting.Reason
		case c.State.Terminated != nil:
			word = fmt.Sprintf("%s:%d", c.State.Terminated.Reason, c.State.Terminated.ExitCode)
		}
		if c.Ready {
			word += "+"
		}
		if c.RestartCount > 0 {
			word += fmt.Sprintf(" x%d", c.RestartCount)
		}
		out = append(out, c.Name+"="+word)
	}
	return strings.Join(out, " ")
}

func (n *node) want(uid, line string) {
	n.t.Helper()
	synctest.Wait()
	if got := n.line(uid); got != line {
		n.t.Errorf("status is  %s\nbut not    %s\nevents: %s", got, line, strings.Join(n.takeEvents(), "\n"))
	}
}

func (n *node) takeEvents() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := n.events
	n.events = nil
	return out
}

func (n *node) wantEvents(want ...string) {
	n.t.Helper()
	synctest.Wait()
	got := n.takeEvents()
	slices.Sort(got) // containers do not wait for each other
	slices.Sort(want)
	if !slices.Equal(got, want) {
		n.t.Errorf("events:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// containers lists what the engine has of a pod: name#attempt=state, sandboxes first.
func (n *node) containers(uid string) string {
	p, err := n.engine.Pod(context.Background(), uid)
	if err != nil {
		n.t.Fatal(err)
	}
	var out []string
	for _, s := range p.Sandboxes {
		state := "exited"
		if s.Running {
			state = "running"
		}
		out = append(out, fmt.Sprintf("POD#%d=%s", s.Attempt, state))
	}
	for _, c := range p.Containers {
		out = append(out, fmt.Sprintf("%s#%d=%s", c.Name, c.Attempt, c.State))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (n *node) id(uid, container string) string {
	p, _ := n.engine.Pod(context.Background(), uid)
	for _, c := range p.Containers {
		if c.Name == container && c.State == runtime.StateRunning {
			return c.ID
		}
	}
	for _, s := range p.Sandboxes {
		if container == "POD" && s.Running {
			return s.ID
		}
	}
	n.t.Fatalf("%s does not run: %s", container, n.containers(uid))
	return ""
}

// pod with containers by name; the API's defaults are set.
func pod(name string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID("uid-" + name), Generation: 1}, Spec: corev1.PodSpec{
		NodeName: "n1", RestartPolicy: corev1.RestartPolicyAlways, DNSPolicy: corev1.DNSClusterFirst, TerminationGracePeriodSeconds: ref(int64(30)),
	}, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	for _, c := range containers {
		ctr := corev1.Container{Name: c, Image: "img", ImagePullPolicy: corev1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log", TerminationMessagePolicy: corev1.TerminationMessageReadFile}
		switch {
		case strings.HasPrefix(c, "init"):
			p.Spec.InitContainers = append(p.Spec.InitContainers, ctr)
		case strings.HasPrefix(c, "side"):
			ctr.RestartPolicy = ref(corev1.ContainerRestartPolicyAlways)
			p.Spec.InitContainers = append(p.Spec.InitContainers, ctr)
		default:
			p.Spec.Containers = append(p.Spec.Containers, ctr)
		}
	}
	return p
}

func ref[T any](v T) *T { return &v }

// program for all containers of that name.
func (n *node) script(container string, p fake.Program) {
	n.engine.Script(container, func(runtime.ContainerSpec) fake.Program { return p })
}

func seconds(n float64) { time.Sleep(time.Duration(n * float64(time.Second))); synctest.Wait() }

func (n *node) goneCount(uid string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gone[uid]
}

func (n *node) count(event string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts[event]
}

func (n *node) reports(uid string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.history[uid])
}

func (n *node) clearHistory(uid string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.history, uid)
}
