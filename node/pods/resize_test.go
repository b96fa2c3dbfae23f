package pods

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

func requirements(cpu, memory string) corev1.ResourceRequirements {
	list := corev1.ResourceList{}
	if cpu != "" {
		list["cpu"] = resource.MustParse(cpu)
	}
	if memory != "" {
		list["memory"] = resource.MustParse(memory)
	}
	return corev1.ResourceRequirements{Requests: list, Limits: list}
}

// sized is a pod whose containers ask for, and may use, as much.
func sized(name, cpu, memory string, containers ...string) *corev1.Pod {
	p := pod(name, containers...)
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].Resources = requirements(cpu, memory)
	}
	return p
}

// resize is the pod's next version, in which a container asks for something else.
func resize(p *corev1.Pod, container int, cpu, memory string) *corev1.Pod {
	p = p.DeepCopy()
	p.Generation++
	p.Spec.Containers[container].Resources = requirements(cpu, memory)
	return p
}

func allocatable(cpu, memory string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
		"cpu": resource.MustParse(cpu), "memory": resource.MustParse(memory), "pods": resource.MustParse("100"),
	}}}
}

// resizes tells of a pod: what it was granted, what runs, and the conditions.
func (n *node) resizes(uid string) string {
	s := n.status(uid)
	var out []string
	for _, c := range s.ContainerStatuses {
		has := "-"
		if c.Resources != nil {
			has = fmt.Sprintf("%s/%s", c.Resources.Limits.Cpu(), c.Resources.Limits.Memory())
		}
		out = append(out, fmt.Sprintf("%s=%s granted %s/%s", c.Name, has, c.AllocatedResources.Cpu(), c.AllocatedResources.Memory()))
	}
	for _, c := range s.Conditions {
		if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
			out = append(out, strings.TrimSpace(fmt.Sprintf("%s(%d) %s %s", c.Type, c.ObservedGeneration, c.Reason, c.Message)))
		}
	}
	return strings.Join(out, "; ")
}

func (n *node) wantResizes(uid, want string) {
	n.t.Helper()
	if got := n.resizes(uid); got != want {
		n.t.Errorf("%s:\n got %s\nwant %s", uid, got, want)
	}
}

func (n *node) resources(uid, container string) runtime.Resources {
	return n.engine.Resources(n.id(uid, container))
}

func TestResizeInPlace(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := sized("web", "100m", "64Mi", "a", "b")
		n.apply(allocatable("1", "1Gi"), p)
		n.wantResizes("uid-web", "a=100m/64Mi granted 100m/64Mi; b=100m/64Mi granted 100m/64Mi")
		id := n.id("uid-web", "a")
		n.takeEvents()
		p = resize(p, 0, "200m", "96Mi")
		n.apply(p)
		n.wantResizes("uid-web", "a=200m/96Mi granted 200m/96Mi; b=100m/64Mi granted 100m/64Mi")
		want := runtime.Resources{MemoryBytes: 96 << 20, CPUShares: 204, CPUQuota: 20000, CPUPeriod: 100000, OOMScoreAdj: -997}
		if diff := cmp.Diff(want, n.resources("uid-web", "a")); diff != "" || n.id("uid-web", "a") != id {
			t.Error(diff, n.id("uid-web", "a"), id)
		}
		if n.engine.Calls("Resize") != 1 || n.status("uid-web").ObservedGeneration != 2 {
			t.Errorf("%d calls, generation %d", n.engine.Calls("Resize"), n.status("uid-web").ObservedGeneration)
		}
		text := `{"containers":[{"name":"a","resources":{"limits":{"cpu":"200m","memory":"96Mi"},"requests":{"cpu":"200m","memory":"96Mi"}}},{"name":"b","resources":{"limits":{"cpu":"100m","memory":"64Mi"},"requests":{"cpu":"100m","memory":"64Mi"}}}],"generation":2}`
		n.wantEvents("ResizeStarted: Pod resize started: "+text, "ResizeCompleted: Pod resize completed: "+text)
		n.restart() // and nothing happens
		n.wantResizes("uid-web", "a=200m/96Mi granted 200m/96Mi; b=100m/64Mi granted 100m/64Mi")
		if n.engine.Calls("Resize") != 1 || len(n.takeEvents()) != 0 {
			t.Errorf("after a restart %d calls", n.engine.Calls("Resize"))
		}
		n.apply(resize(p, 0, "50m", "32Mi"))
		n.wantResizes("uid-web", "a=50m/32Mi granted 50m/32Mi; b=100m/64Mi granted 100m/64Mi")
	})
}

// A resize that came while the agent was away is made up for.
func TestResizeWhileAway(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := sized("web", "100m", "64Mi", "a")
		n.apply(allocatable("1", "1Gi"), p)
		n.stop()
		n.apply(resize(p, 0, "200m", "96Mi"))
		n.restart()
		n.wantResizes("uid-web", "a=200m/96Mi granted 200m/96Mi")
		if got := n.resources("uid-web", "a").MemoryBytes; got != 96<<20 {
			t.Errorf("memory %d", got)
		}
	})
}

// The container ends with code 0 and the pod's policy is not to restart it then; for the resize it is.
func TestResizeByRestart(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := sized("web", "100m", "64Mi", "a")
		p.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
		p.Spec.Containers[0].ResizePolicy = []corev1.ContainerResizePolicy{{ResourceName: "memory", RestartPolicy: corev1.RestartContainer}}
		n.script("a", fake.Program{StopAfter: time.Second})
		n.apply(allocatable("1", "1Gi"), p)
		p = resize(p, 0, "200m", "64Mi") // the CPU needs no restart
		n.apply(p)
		n.want("uid-web", "Running a=running+")
		n.takeEvents()
		p = resize(p, 0, "200m", "96Mi")
		n.apply(p)
		n.wantResizes("uid-web", "a=200m/64Mi granted 200m/96Mi; PodResizeInProgress(3)")
		n.restart() // an agent that dies in between must not lose what it was about
		seconds(3)
		n.want("uid-web", "Running a=running+ x1")
		n.wantResizes("uid-web", "a=200m/96Mi granted 200m/96Mi")
		if n.count("Killing: Container a resize requires restart") == 0 || n.resources("uid-web", "a").MemoryBytes != 96<<20 {
			t.Errorf("%q, %+v", n.events, n.resources("uid-web", "a"))
		}
		for _, r := range n.reports("uid-web") {
			if strings.HasPrefix(r, "Succeeded") {
				t.Errorf("reported %q", n.reports("uid-web"))
			}
		}
	})
}

func TestResizeDeferred(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		big := sized("big", "600m", "64Mi", "a")
		low, high := sized("low", "100m", "64Mi", "a"), sized("high", "100m", "64Mi", "a")
		priority := int32(10)
		high.Spec.Priority = &priority
		n.apply(allocatable("1", "1Gi"), big, low, high)
		n.takeEvents()
		low, high = resize(low, 0, "500m", "32Mi"), resize(high, 0, "700m", "64Mi")
		n.apply(low)
		n.apply(high)
		waits := "Node didn't have enough resource: cpu, requested: %d, used: 700, capacity: 1000"
		n.wantResizes("uid-low", "a=100m/64Mi granted 100m/64Mi; PodResizePending(2) Deferred "+fmt.Sprintf(waits, 500))
		n.wantResizes("uid-high", "a=100m/64Mi granted 100m/64Mi; PodResizePending(2) Deferred "+fmt.Sprintf(waits, 700))
		if got := n.takeEvents(); len(got) != 2 || !strings.HasPrefix(got[0], `ResizeDeferred: Pod resize OutOfcpu: {"containers":[{"name":"a"`) ||
			!strings.HasSuffix(got[0], `"generation":2,"error":"`+fmt.Sprintf(waits, 500)+`"}`) {
			t.Errorf("events %q", got)
		}
		if n.engine.Calls("Resize") != 0 {
			t.Error("resized without room")
		}
		n.restart()
		n.wantResizes("uid-low", "a=100m/64Mi granted 100m/64Mi; PodResizePending(2) Deferred "+fmt.Sprintf(waits, 500))
		if got := n.takeEvents(); len(got) != 0 {
			t.Errorf("events after a restart %q", got)
		}
		// Room for one of them: it goes to the pod of higher priority, though it asked later.
		n.delete(big, 0)
		n.remove(desired.Pods, "default", "big")
		seconds(3)
		n.wantResizes("uid-high", "a=700m/64Mi granted 700m/64Mi")
		n.wantResizes("uid-low", "a=100m/64Mi granted 100m/64Mi; PodResizePending(2) Deferred "+fmt.Sprintf(waits, 500))
		// The other takes its wish back, and asks for what there is.
		n.apply(resize(low, 0, "100m", "64Mi"))
		n.wantResizes("uid-low", "a=100m/64Mi granted 100m/64Mi")
		low.Generation++
		n.apply(resize(low, 0, "300m", "64Mi"))
		n.wantResizes("uid-low", "a=300m/64Mi granted 300m/64Mi")
		// A new pod finds the place taken that resizes took.
		n.apply(sized("late", "1m", "1Mi", "a"))
		n.want("uid-late", "Failed")
	})
}

// A pod that shrinks makes room for one that waits.
func TestResizeMakesRoom(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		one, two := sized("one", "500m", "64Mi", "a"), sized("two", "500m", "64Mi", "a")
		n.apply(allocatable("1", "1Gi"), one, two)
		n.apply(resize(one, 0, "800m", "64Mi"))
		if !strings.Contains(n.resizes("uid-one"), "Deferred") {
			t.Error(n.resizes("uid-one"))
		}
		n.apply(resize(two, 0, "200m", "64Mi"))
		synctest.Wait()
		n.wantResizes("uid-one", "a=800m/64Mi granted 800m/64Mi")
		n.wantResizes("uid-two", "a=200m/64Mi granted 200m/64Mi")
	})
}

func TestResizeBelowUsage(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := sized("web", "100m", "64Mi", "a")
		n.apply(allocatable("1", "1Gi"), p)
		n.engine.SetUsage("a", 40<<20)
		n.takeEvents()
		p = resize(p, 0, "200m", "32Mi")
		n.apply(p)
		failed := `cannot decrease memory limits: attempting to set container "a" memory limit (33554432) below current usage (41943040)`
		n.wantResizes("uid-web", "a=100m/64Mi granted 200m/32Mi; PodResizeInProgress(2) Error "+failed)
		if n.count("ResizeError: "+resizeMessage("Pod resize error", p, 2, failed)) != 1 || n.engine.Calls("Resize") != 0 {
			t.Errorf("%d calls, %q", n.engine.Calls("Resize"), n.events)
		}
		n.restart()
		n.wantResizes("uid-web", "a=100m/64Mi granted 200m/32Mi; PodResizeInProgress(2) Error "+failed)
		seconds(300)
		n.engine.SetUsage("a", 20<<20)
		seconds(60)
		n.wantResizes("uid-web", "a=200m/32Mi granted 200m/32Mi")
		if n.count("ResizeError: "+resizeMessage("Pod resize error", p, 2, failed)) != 1 {
			t.Errorf("%q", n.events)
		}
	})
}

// What the engine refuses is said in its words, and tried again.
func TestResizeRefused(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := sized("web", "100m", "64Mi", "a")
		n.apply(allocatable("1", "1Gi"), p)
		n.engine.Fail("Resize", fmt.Errorf("device or resource busy"))
		n.apply(resize(p, 0, "200m", "96Mi"))
		n.wantResizes("uid-web", "a=100m/64Mi granted 200m/96Mi; PodResizeInProgress(2) Error device or resource busy")
		seconds(6)
		n.wantResizes("uid-web", "a=200m/96Mi granted 200m/96Mi")
	})
}

// A sidecar and an init container that runs are resized as well.
func TestResizeInit(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := sized("web", "100m", "64Mi", "a")
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []corev1.Container{
			{Name: "side", Image: "img", RestartPolicy: &always, Resources: requirements("10m", "16Mi")},
			{Name: "init", Image: "img", Resources: requirements("10m", "16Mi")},
		}
		n.apply(allocatable("1", "1Gi"), p)
		p = p.DeepCopy()
		p.Generation++
		p.Spec.InitContainers[0].Resources, p.Spec.InitContainers[1].Resources = requirements("20m", "16Mi"), requirements("30m", "16Mi")
		n.apply(p)
		if side, init := n.resources("uid-web", "side"), n.resources("uid-web", "init"); side.CPUQuota != 2000 || init.CPUQuota != 3000 {
			t.Errorf("sidecar %+v, init %+v", side, init)
		}
	})
}
