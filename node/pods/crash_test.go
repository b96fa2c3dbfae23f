package pods

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// fuse kills the agent at its n-th effect on the world: before it, or right after it. From then on this agent's calls
// have no effect any more, as those of a dead process.
type fuse struct {
	mu    sync.Mutex
	left  int
	after bool
	blown chan struct{}
	dead  bool
	used  int
}

func newFuse(n int, after bool) *fuse {
	return &fuse{left: n, after: after, blown: make(chan struct{})}
}

// effect runs fn unless the agent is dead or dies before it.
func (f *fuse) effect(ctx context.Context, fn func()) bool {
	f.mu.Lock()
	if f.dead {
		f.mu.Unlock()
		<-ctx.Done()
		return false
	}
	f.used++
	f.left--
	dies := f.left == 0
	if dies {
		f.dead = true
	}
	f.mu.Unlock()
	if !dies || f.after {
		fn()
	}
	if dies {
		close(f.blown)
		<-ctx.Done()
		return false
	}
	return true
}

// dyingEngine is an engine seen by an agent with a fuse.
type dyingEngine struct {
	runtime.Engine
	fuse *fuse
}

func (e dyingEngine) RunSandbox(ctx context.Context, spec runtime.SandboxSpec) (s runtime.Sandbox, err error) {
	if !e.fuse.effect(ctx, func() { s, err = e.Engine.RunSandbox(context.WithoutCancel(ctx), spec) }) {
		return runtime.Sandbox{}, context.Canceled
	}
	return s, err
}

func (e dyingEngine) CreateContainer(ctx context.Context, spec runtime.ContainerSpec) (id string, err error) {
	if !e.fuse.effect(ctx, func() { id, err = e.Engine.CreateContainer(context.WithoutCancel(ctx), spec) }) {
		return "", context.Canceled
	}
	return id, err
}

func (e dyingEngine) StartContainer(ctx context.Context, id string) (err error) {
	if !e.fuse.effect(ctx, func() { err = e.Engine.StartContainer(context.WithoutCancel(ctx), id) }) {
		return context.Canceled
	}
	return err
}

func (e dyingEngine) StopContainer(ctx context.Context, id string, grace time.Duration) (err error) {
	if !e.fuse.effect(ctx, func() { err = e.Engine.StopContainer(context.WithoutCancel(ctx), id, grace) }) {
		return context.Canceled
	}
	return err
}

func (e dyingEngine) RemoveContainer(ctx context.Context, id string) (err error) {
	if !e.fuse.effect(ctx, func() { err = e.Engine.RemoveContainer(context.WithoutCancel(ctx), id) }) {
		return context.Canceled
	}
	return err
}

// world checks what must never be: two attempts of one container running at a time, or a container started twice that
// must run once.
type world struct {
	mu     sync.Mutex
	starts map[string]int
}

func (w *world) watch(n *node) {
	for name, p := range map[string]fake.Program{"once": {After: 3 * time.Second}, "init": {After: time.Second}} {
		n.engine.Script(name, func(s runtime.ContainerSpec) fake.Program {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.starts[s.Pod.UID+"/"+s.Name]++
			return p
		})
	}
}

func checkNotDoubled(t *testing.T, n *node) {
	t.Helper()
	pods, err := n.engine.Pods(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		running := map[string]int{}
		for _, c := range p.Containers {
			if c.State == runtime.StateRunning {
				running[c.Name]++
			}
		}
		for _, s := range p.Sandboxes {
			if s.Running {
				running["POD"]++
			}
		}
		for name, count := range running {
			if count > 1 {
				t.Errorf("%s of %s runs %d times", name, p.Ref.Name, count)
			}
		}
	}
}

// The agent dies at each of its effects in turn; the next one must bring everything to the same end.
func TestAgentDiesAtAnyMoment(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := 1; ; k++ {
			used := 0
			t.Run(fmt.Sprintf("%d after=%v", k, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { used = dieAt(t, k, after) })
			})
			if used < k {
				if k < 20 {
					t.Errorf("only %d effects seen", used)
				}
				break
			}
		}
	}
}

func dieAt(t *testing.T, k int, after bool) (used int) {
	n := newNode(t)
	w := &world{starts: map[string]int{}}
	w.watch(n)
	f := newFuse(k, after)
	n.wrap = func(e runtime.Engine) runtime.Engine { return dyingEngine{e, f} }
	n.start()
	pause := func(s float64) {
		seconds(s)
		checkNotDoubled(t, n)
		f.mu.Lock()
		dead := f.dead
		f.mu.Unlock()
		if dead && n.wrap != nil {
			n.wrap = nil
			n.restart()
			checkNotDoubled(t, n)
		}
	}
	p, once := pod("p", "init", "side", "a", "b"), pod("once", "once")
	once.Spec.RestartPolicy = corev1.RestartPolicyNever
	n.apply(p, once)
	pause(2)
	pause(10)
	n.engine.Kill(n.idOr("uid-p", "a"), 1, false)
	pause(2)
	n.delete(p, 5)
	n.apply(pod("q", "a"))
	pause(20)
	pause(60)
	if n.goneCount("uid-p") == 0 || n.containers("uid-p") != "" {
		t.Errorf("p is not gone: %s", n.containers("uid-p"))
	}
	n.remove(desired.Pods, "default", "p")
	pause(20)
	n.want("uid-once", "Succeeded once=Completed:0")
	n.want("uid-q", "Running a=running+")
	if got := n.containers("uid-q"); got != "POD#0=running a#0=running" {
		t.Errorf("q: %s", got)
	}
	if w.starts["uid-once/once"] != 1 {
		t.Errorf("a container that must run once ran %d times", w.starts["uid-once/once"])
	}
	if got := n.containers("uid-once"); got != "once#0=exited" {
		t.Errorf("once: %s", got)
	}
	n.checkClean(t, "uid-q")
	n.stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used
}

// idOr finds a running container, or nothing.
func (n *node) idOr(uid, container string) string {
	p, _ := n.engine.Pod(context.Background(), uid)
	for _, c := range p.Containers {
		if c.Name == container && c.State == runtime.StateRunning {
			return c.ID
		}
	}
	return ""
}

// checkClean: nothing is left on the node but these pods.
func (n *node) checkClean(t *testing.T, uids ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, uid := range uids {
		want[uid] = true
	}
	for uid := range n.net.attached {
		if !want[uid] {
			t.Errorf("%s is still on the network", uid)
		}
	}
	entries, _ := os.ReadDir(n.dir + "/pods")
	for _, e := range entries {
		if !want[e.Name()] {
			t.Errorf("directory of %s left", e.Name())
		}
	}
	if len(n.mounts.at) > 0 {
		t.Errorf("mounts left: %v", n.mounts.at)
	}
}

// A hundred deaths at random while pods come and go.
func TestAgentDiesAHundredTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		w := &world{starts: map[string]int{}}
		w.watch(n)
		random := rand.New(rand.NewPCG(1, 2))
		var f *fuse
		n.wrap = func(e runtime.Engine) runtime.Engine { return dyingEngine{e, f} }
		f = newFuse(3, false)
		n.start()
		alive := map[string]*corev1.Pod{}
		serial := 0
		for deaths := 0; deaths < 100; {
			switch {
			case len(alive) < 4:
				serial++
				p := pod(fmt.Sprint("p", serial), "init", "side", "a")
				p.Spec.Volumes = []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory"}}}}
				alive[p.Name] = p
				n.apply(p)
			case random.IntN(3) == 0:
				for name, p := range alive {
					n.delete(p, int64(random.IntN(10)))
					delete(alive, name)
					break
				}
			}
			seconds(random.Float64() * 8)
			checkNotDoubled(t, n)
			for uid, times := range n.goneAll() {
				if name := strings.TrimPrefix(uid, "uid-"); times > 0 {
					if _, ok := n.state.Pod("default", name); ok {
						n.remove(desired.Pods, "default", name)
					}
				}
			}
			select {
			case <-f.blown:
				deaths++
				f = newFuse(1+random.IntN(12), random.IntN(2) == 0)
				n.restart()
			default:
			}
		}
		n.wrap = nil
		n.restart()
		seconds(300)
		var uids []string
		for name := range alive {
			uid := "uid-" + name
			uids = append(uids, uid)
			if got := n.line(uid); !strings.HasPrefix(got, "Running init=Completed:0+ side=running+ a=running+") {
				t.Errorf("%s: %s", name, got)
			}
		}
		for i := 1; i <= serial; i++ {
			if name := fmt.Sprint("p", i); alive[name] == nil {
				if got := n.containers("uid-" + name); got != "" {
					t.Errorf("%s is left: %s", name, got)
				}
			}
		}
		n.mounts.at = n.mounts.at[:0]
		n.checkClean(t, uids...)
		n.stop()
	})
}

func (n *node) goneAll() map[string]int {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := map[string]int{}
	for k, v := range n.gone {
		out[k] = v
	}
	return out
}
