package pods

import (
	"fmt"
	"os"
	"testing"
	"testing/synctest"
	"time"

	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// test runs fn in virtual time on a started node.
func test(t *testing.T, fn func(t *testing.T, n *node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		synctest.Wait()
		fn(t, n)
		n.stop()
	})
}

func TestStartAndDelete(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("nginx", fake.Published{Takes: 3 * time.Second})
		p := pod("web", "a", "b")
		p.Spec.Containers[1].Image = "nginx"
		n.apply(p)
		n.want("uid-web", "Pending a=running+ b=ContainerCreating")
		seconds(3)
		n.want("uid-web", "Running a=running+ b=running+")
		n.wantEvents("Pulled: Container image \"img\" already present on machine and can be accessed by the pod", "Created: Container created", "Started: Container started",
			"Pulling: Pulling image \"nginx\"", "Pulled: Successfully pulled image \"nginx\" in 3s (3s including waiting). Image size: 10485760 bytes.", "Created: Container created", "Started: Container started")
		s := n.status("uid-web")
		if s.PodIP != "10.244.0.2" || s.HostIP != "198.51.100.11" || s.QOSClass != "BestEffort" || s.ContainerStatuses[0].ContainerID == "" || s.ObservedGeneration != 1 {
			t.Errorf("%+v", s)
		}
		if calls := fmt.Sprint(n.engine.Calls("RunSandbox"), n.engine.Calls("CreateContainer"), n.engine.Calls("StartContainer"), n.engine.Calls("Inspect"), n.engine.Calls("Pod"), n.engine.Calls("Image"), n.engine.Calls("Pods")); calls != "1 2 2 0 0 2 1" {
			t.Errorf("engine calls: %s", calls)
		}
		n.script("b", fake.Program{})
		n.delete(p, 30)
		n.want("uid-web", "Failed a=Error:143 b=Error:143")
		n.wantEvents("Killing: Stopping container a", "Killing: Stopping container b")
		if n.goneCount("uid-web") != 1 || n.containers("uid-web") != "" || len(n.net.attached) != 0 {
			t.Error(n.containers("uid-web"), n.net.attached)
		}
		if _, err := os.Stat(n.dir + "/pods/uid-web"); err == nil {
			t.Error("directory left")
		}
		n.remove(desired.Pods, "default", "web")
		if n.manager.worker("uid-web") != nil {
			t.Error("worker left")
		}
	})
}

func TestLookup(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("slow", fake.Published{Takes: time.Hour})
		p := pod("p", "a", "b")
		p.Spec.Containers[0].TTY = true
		p.Spec.Containers[1].Image = "slow"
		n.apply(p)
		m := n.manager
		f, err := m.Running("default", "p", "", "a")
		if err != nil || f.ContainerID != n.id("uid-p", "a") || !f.TTY || f.SandboxPID == 0 || f.PodIP != "10.244.0.2" {
			t.Errorf("%+v %v", f, err)
		}
		if f, err := m.Logs("default", "p", "uid-p", "a", false); err != nil || f.ContainerID != n.id("uid-p", "a") {
			t.Error(err)
		}
		for want, err := range map[string]error{
			`previous terminated container "a" in pod "p" not found`:          second(m.Logs("default", "p", "", "a", true)),
			`container "b" in pod "p" is waiting to start: ContainerCreating`: second(m.Logs("default", "p", "", "b", false)),
			`container "zz" not found in pod "p"`:                             second(m.Logs("default", "p", "", "zz", false)),
			`container not found ("b")`:                                       second(m.Running("default", "p", "", "b")),
			`pod does not exist`:                                              second(m.Sandbox("default", "q", "")),
			`pod "q" does not exist`:                                          second(m.Logs("default", "q", "", "a", false)),
		} {
			if err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
		}
		if f, err := m.Sandbox("default", "p", ""); err != nil || f.SandboxPID == 0 {
			t.Error(err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// An idle node asks the engine nothing.
// Somebody prunes ended containers, or removes a running one, with the engine's own tools.
// While the first snapshot comes in, a pod may be here before the config map that it needs.

func TestRuntimeClass(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Handlers("runsc")
		class := func(name, handler string) {
			n.apply(&nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Handler: handler})
		}
		class("gvisor", "runsc")
		class("plain", "runc")
		class("kata", "kata-qemu")
		for _, name := range []string{"gvisor", "plain", "kata", "later"} {
			p := pod(name, "a")
			p.Spec.RuntimeClassName = &name
			n.apply(p)
		}
		n.want("uid-gvisor", "Running a=running+")
		n.want("uid-plain", "Running a=running+")
		n.want("uid-kata", "Pending a=ContainerCreating")
		n.want("uid-later", "Pending a=ContainerCreating")
		for _, want := range []string{
			`FailedCreatePodSandBox: Failed to create pod sandbox: failed to get sandbox runtime: no runtime for "kata-qemu" is configured`,
			`FailedCreatePodSandBox: Failed to create pod sandbox: runtimeclass.node.k8s.io "later" not found`,
		} {
			if n.counts[want] == 0 {
				t.Errorf("no event %q in %q", want, n.events)
			}
		}
		n.engine.Handlers("runsc", "kata-qemu") // somebody installs it
		class("later", "runsc")
		seconds(10)
		n.want("uid-kata", "Running a=running+")
		n.want("uid-later", "Running a=running+")
	})
}
