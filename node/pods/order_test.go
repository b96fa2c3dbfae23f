package pods

import (
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// Whoever debugs a pod that does not get through its init containers needs it then.
func TestEphemeralContainerBesideInit(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "init", "a")
		n.apply(p)
		n.want("uid-p", "Pending init=running a=PodInitializing")
		p = p.DeepCopy()
		common := corev1.EphemeralContainerCommon{Name: "debug", Image: "img", ImagePullPolicy: corev1.PullIfNotPresent}
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: common, TargetContainerName: "init"}}
		p.Generation = 2
		n.apply(p)
		debug := func() bool {
			s := n.status("uid-p").EphemeralContainerStatuses
			return len(s) == 1 && s[0].State.Running != nil
		}
		n.want("uid-p", "Pending init=running a=PodInitializing")
		if !debug() {
			t.Errorf("does not run: %s", n.containers("uid-p"))
		}
		n.engine.Kill(n.id("uid-p", "init"), 1, false)
		seconds(2)
		n.engine.Kill(n.id("uid-p", "init"), 1, false)
		seconds(2)
		n.want("uid-p", "Pending init=CrashLoopBackOff x1 a=PodInitializing")
		if !debug() {
			t.Errorf("does not run beside the back-off: %s", n.containers("uid-p"))
		}
		seconds(30)
		n.engine.Kill(n.id("uid-p", "init"), 0, false)
		seconds(1)
		n.want("uid-p", "Running init=Completed:0+ x2 a=running+")
		n.engine.Kill(n.id("uid-p", "debug"), 0, false)
		seconds(30)
		if n.engine.Calls("StartContainer") != 5 || debug() {
			t.Errorf("it runs once: %s", n.containers("uid-p"))
		}
	})
}

// postStart gives a container of the pod a hook.
func postStart(p *corev1.Pod, i int, h corev1.LifecycleHandler) {
	p.Spec.Containers[i].Lifecycle = &corev1.Lifecycle{PostStart: &h}
}

func sleepHook(s int64) corev1.LifecycleHandler {
	return corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: s}}
}

// A proxy that is named first, with a hook that waits until it works, is there before the app, as meshes count on it. What the
// later containers need is fetched meanwhile.
func TestContainersStartInOrder(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("proxy", fake.Published{Takes: 10 * time.Second})
		n.engine.Publish("app", fake.Published{Takes: 20 * time.Second})
		p := pod("p", "proxy", "app", "z")
		p.Spec.Containers[0].Image, p.Spec.Containers[1].Image = "proxy", "app"
		postStart(p, 0, sleepHook(15))
		n.apply(p)
		n.want("uid-p", "Pending app=ContainerCreating proxy=ContainerCreating z=ContainerCreating")
		seconds(9)
		if got := n.containers("uid-p"); got != "POD#0=running" {
			t.Error("before the first one's image is there:", got)
		}
		seconds(2)
		if got := n.containers("uid-p"); got != "POD#0=running proxy#0=running" {
			t.Error("while its hook runs:", got)
		}
		n.want("uid-p", "Pending app=ContainerCreating proxy=ContainerCreating z=ContainerCreating")
		seconds(13)
		if got := n.containers("uid-p"); got != "POD#0=running proxy#0=running" {
			t.Error("while its hook runs:", got)
		}
		seconds(1)
		n.want("uid-p", "Running app=running+ proxy=running+ z=running+")
		// From now on they do not wait for each other.
		n.engine.Kill(n.id("uid-p", "proxy"), 1, false)
		n.engine.Kill(n.id("uid-p", "z"), 1, false)
		synctest.Wait()
		n.want("uid-p", "Running app=running+ proxy=ContainerCreating x1 z=running+ x1")
	})
}

// starts of these containers, in their order.
func (n *node) starts(containers ...string) func() string {
	var mu sync.Mutex
	var order []string
	for _, name := range containers {
		n.engine.Script(name, func(runtime.ContainerSpec) fake.Program {
			mu.Lock()
			defer mu.Unlock()
			order = append(order, name)
			return fake.Program{}
		})
	}
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(order, " ")
	}
}

// While a container waits for the one before it somebody removes its image; it is still started before the next one.
func TestContainersWaitForALostImage(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("app", fake.Published{Takes: 5 * time.Second})
		p := pod("p", "a", "b", "c")
		p.Spec.Containers[1].Image = "app"
		postStart(p, 0, sleepHook(10))
		order := n.starts("a", "b", "c")
		n.apply(p)
		seconds(6)
		image, err := n.engine.Image(t.Context(), "app")
		if err == nil {
			err = n.engine.RemoveImage(t.Context(), image.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		seconds(5)
		n.want("uid-p", "Pending a=running+ b=ContainerCreating c=ContainerCreating")
		seconds(5)
		n.want("uid-p", "Running a=running+ b=running+ c=running+")
		if got := order(); got != "a b c" {
			t.Error(got)
		}
	})
}

// An image volume is a part of its container.
func TestContainersWaitForImageVolumes(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("files:1", fake.Published{Takes: 10 * time.Second})
		n.engine.SetFiles("files:1", map[string]string{"data.json": "kitten"})
		p := pod("p", "a", "b")
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "files:1", PullPolicy: corev1.PullIfNotPresent}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		order := n.starts("a", "b")
		n.apply(p)
		seconds(9)
		n.want("uid-p", "Pending a=ContainerCreating b=ContainerCreating")
		seconds(2)
		n.want("uid-p", "Running a=running+ b=running+")
		if got := order(); got != "a b" {
			t.Error(got)
		}
	})
}

// What cannot be started, or fails, does not hold up the others.
func TestFailedStartsDoNotHoldUpOthers(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(n *node, p *corev1.Pod)
		want  string
	}{
		"no image": {func(_ *node, p *corev1.Pod) { p.Spec.Containers[0].Image = "no/such" }, "Pending a=ImagePullBackOff b=running+"},
		"no configuration": {func(_ *node, p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}
		}, "Pending a=CreateContainerConfigError b=running+"},
		"no command": {func(_ *node, p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"no-such-thing"} }, "Running a=CrashLoopBackOff x1 b=running+"},
		"crash":      {func(n *node, _ *corev1.Pod) { n.script("a", fake.Program{After: time.Second, ExitCode: 1}) }, "Running a=CrashLoopBackOff x1 b=running+"},
		"crash in a hook": {func(n *node, p *corev1.Pod) {
			n.script("a", fake.Program{After: time.Second, ExitCode: 1})
			postStart(p, 0, sleepHook(1000))
		}, "Running a=CrashLoopBackOff x1 b=running+"},
		"failed hook": {func(_ *node, p *corev1.Pod) {
			postStart(p, 0, corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}})
		}, "Running a=CrashLoopBackOff x1 b=running+"},
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, n *node) {
				p := pod("p", "a", "b")
				tt.spoil(n, p)
				n.apply(p)
				seconds(5)
				n.want("uid-p", tt.want)
			})
		})
	}
}

// A hook that never ends holds up the start of what comes after it, and nothing else: neither what came before, nor the end.
func TestHangingHook(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "side", "a", "b", "c")
		_, live := n.probed(p)
		postStart(p, 1, sleepHook(1_000_000))
		n.apply(p)
		seconds(3600)
		n.want("uid-p", "Pending side=running+ a=running+ b=PodInitializing c=PodInitializing")
		n.engine.Kill(n.id("uid-p", "side"), 1, false)
		seconds(1)
		n.want("uid-p", "Pending side=running+ x1 a=running+ b=PodInitializing c=PodInitializing")
		live.Store(false)
		seconds(6)
		n.want("uid-p", "Pending side=running+ x1 a=running+ x1 b=PodInitializing c=PodInitializing")
		n.delete(p, 30)
		seconds(1)
		if n.goneCount("uid-p") != 1 || n.containers("uid-p") != "" {
			t.Errorf("not gone: %s", n.containers("uid-p"))
		}
	})
}

// An agent that takes over containers finds those that run where they are, however the others are.
func TestOrderAfterAgentRestart(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a", "b", "c")
		p.Spec.Containers[0].ImagePullPolicy = corev1.PullAlways
		postStart(p, 1, sleepHook(60))
		n.engine.Publish("img", fake.Published{})
		n.apply(p)
		seconds(70)
		n.want("uid-p", "Running a=running+ b=running+ c=running+")
		n.stop()
		n.engine.Kill(n.id("uid-p", "a"), 1, false)
		n.engine.Publish("img", fake.Published{Takes: time.Hour})
		n.clearHistory("uid-p")
		n.restart()
		seconds(10)
		n.want("uid-p", "Running a=Error:1 b=running+ c=running+")
		n.engine.Kill(n.id("uid-p", "c"), 1, false)
		seconds(1)
		n.want("uid-p", "Running a=Error:1 b=running+ c=running+ x1")
		n.stop()
		n.engine.Publish("img", fake.Published{})
		n.restart()
		seconds(5)
		n.want("uid-p", "Running a=running+ x1 b=running+ c=running+ x1")
		n.engine.Restart() // a new sandbox has the order again
		seconds(30)
		n.want("uid-p", "Running a=running+ x2 b=ContainerCreating x1 c=Error:137 x1")
		seconds(60)
		n.want("uid-p", "Running a=running+ x2 b=running+ x1 c=running+ x2")
	})
}
