package pods

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSandboxDies(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.apply(pod("p", "init", "a"))
		n.engine.Kill(n.id("uid-p", "init"), 0, false)
		synctest.Wait()
		n.want("uid-p", "Running init=Completed:0+ a=running+")
		n.takeEvents()
		n.engine.Kill(n.id("uid-p", "POD"), 137, false)
		synctest.Wait()
		n.want("uid-p", "Pending init=running x1 a=Error:143")
		n.engine.Kill(n.id("uid-p", "init"), 0, false)
		synctest.Wait()
		n.want("uid-p", "Running init=Completed:0+ x1 a=running+ x1")
		if got := n.containers("uid-p"); !strings.HasPrefix(got, "POD#1=running a#0=exited a#1=running") {
			t.Error(got)
		}
		if n.count("SandboxChanged: Pod sandbox changed, it will be killed and re-created.") != 1 {
			t.Error(n.takeEvents())
		}
	})
}

// After a reboot pods are not what they were said to be until they run again; after a restart of the agent alone they are at once.
func TestLooked(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.apply(pod("p", "a"))
		n.want("uid-p", "Running a=running+")
		want := func(what string, all, asBefore bool) {
			t.Helper()
			if a, b := n.manager.Looked(); a != all || b != asBefore {
				t.Errorf("%s: all %v, as before %v", what, a, b)
			}
		}
		n.restart()
		want("the agent has started again", true, true)
		n.stop()
		n.engine.Down()
		n.restart()
		want("the engine is not there", false, false)
		n.stop()
		n.engine.Up()
		n.engine.Restart()
		n.net.fail(errors.New("no addresses"))
		n.restart()
		want("nothing runs", true, false)
		n.net.fail(nil)
		seconds(20)
		n.want("uid-p", "Running a=running+ x1")
		want("it runs again", true, true)
	})
}

func TestEngineRestart(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		never := pod("never", "a")
		never.Spec.RestartPolicy = "Never"
		n.apply(pod("p", "a", "b"), never)
		n.want("uid-p", "Running a=running+ b=running+")
		n.engine.Restart()
		seconds(20)
		n.want("uid-p", "Running a=running+ x1 b=running+ x1")
		n.want("uid-never", "Failed a=Error:137")
		n.engine.Down()
		seconds(300)
		if n.manager.EngineError() == nil {
			t.Error("nobody would know that the engine is down")
		}
		n.engine.Up()
		seconds(20)
		if err := n.manager.EngineError(); err != nil {
			t.Error(err)
		}
		n.want("uid-p", "Running a=running+ x1 b=running+ x1")
	})
}

func TestAgentRestartAdopts(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{PeriodSeconds: 10, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
		n.apply(p)
		seconds(1)
		n.want("uid-p", "Running a=running+")
		before := n.id("uid-p", "a")
		n.clearHistory("uid-p")
		n.restart()
		seconds(30)
		n.want("uid-p", "Running a=running+")
		if n.id("uid-p", "a") != before || n.engine.Calls("StartContainer") != 1 {
			t.Error("not adopted")
		}
		if got := fmt.Sprint(n.reports("uid-p")); got != "[Running ready]" {
			t.Error("readiness flapped:", got)
		}
		if n.status("uid-p").PodIP != "10.244.0.2" {
			t.Error("address lost")
		}
	})
}

func TestNodeRebootWithoutMaster(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.apply(pod("p", "a"))
		n.want("uid-p", "Running a=running+")
		n.stop()
		n.engine.Restart()
		n.net.attached = map[string]string{}
		_ = n.state.Close()
		n.open()
		n.start()
		synctest.Wait()
		n.want("uid-p", "Running a=running+ x1")
		if n.status("uid-p").PodIP != "10.244.0.2" {
			t.Error("the address it had before was not asked for")
		}
	})
}

func TestOrphansWaitForComplete(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		n.start()
		n.apply(pod("p", "a"), pod("q", "a"))
		n.want("uid-p", "Running a=running+")
		n.stop()
		_ = n.state.Close()
		_ = os.RemoveAll(n.dir + "/desired") // the disk forgot
		n.open()
		n.start()
		seconds(60)
		if got := n.containers("uid-p"); got != "POD#0=running a#0=running" {
			t.Fatal("ended before the master said what is wanted:", got)
		}
		n.state.Begin()
		n.apply(pod("q", "a"))
		_ = n.state.Complete(5)
		seconds(1)
		if got := n.containers("uid-p"); got != "" {
			t.Error("orphan left:", got)
		}
		if got := n.containers("uid-q"); got != "POD#0=running a#0=running" {
			t.Error("a wanted pod was not adopted:", got)
		}
		if _, err := os.Stat(n.dir + "/pods/uid-p"); err == nil {
			t.Error("directory of the orphan left")
		}
		n.stop()
	})
}

func TestNetworkFails(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.net.err = errors.New("no address free")
		n.apply(pod("p", "a"))
		n.want("uid-p", "Pending a=ContainerCreating")
		if ev := n.takeEvents(); len(ev) != 1 || !strings.HasPrefix(ev[0], "FailedCreatePodSandBox: Failed to create pod sandbox: failed to set up network for sandbox ") {
			t.Error(ev)
		}
		n.net.mu.Lock()
		n.net.err = nil
		n.net.mu.Unlock()
		seconds(2)
		n.want("uid-p", "Running a=running+")
		if n.engine.Calls("RunSandbox") != 1 {
			t.Error("another sandbox was made")
		}
	})
}

func TestIdleIsQuiet(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		for i := range 20 {
			n.apply(pod(fmt.Sprint("p", i), "a"))
		}
		seconds(1)
		before := n.engine.Calls("Pods") + n.engine.Calls("Pod") + n.engine.Calls("Inspect")
		reports := len(n.reports("uid-p0"))
		seconds(3600)
		if got := n.engine.Calls("Pods") + n.engine.Calls("Pod") + n.engine.Calls("Inspect") - before; got > 12 {
			t.Errorf("%d calls in an idle hour", got)
		}
		if len(n.reports("uid-p0")) != reports {
			t.Error("status told again though nothing changed")
		}
	})
}

func TestFirstSnapshotIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		_ = n.state.Close()
		_ = os.RemoveAll(n.dir + "/desired")
		n.open()
		n.start()
		n.state.Begin()
		p := pod("p", "a")
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}
		n.apply(p)
		seconds(5)
		n.apply(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}})
		_ = n.state.Complete(3)
		n.want("uid-p", "Running a=running+")
		if n.count(`Failed: Error: configmap "cm" not found`) != 0 {
			t.Error("told an error that was none")
		}
		n.stop()
	})
}

// An engine that stops closes its API first and ends the containers then: nobody tells of it.
func TestPodsOfAStoppedEngineAreNotReady(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.apply(pod("p", "a"))
		n.want("uid-p", "Running a=running+")
		n.engine.Down() // with live-restore its containers run on
		seconds(60)
		n.want("uid-p", "Running a=running+")
		n.mu.Lock()
		n.dead = true
		n.mu.Unlock()
		seconds(2)
		n.want("uid-p", "Running a=running")
		n.engine.Restart()
		n.mu.Lock()
		n.dead = false
		n.mu.Unlock()
		seconds(16)
		n.want("uid-p", "Running a=running+ x1")
	})
}
