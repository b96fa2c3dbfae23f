package pods

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime"
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

func TestCrashLoopBackOff(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{After: time.Second, ExitCode: 3})
		start := time.Now()
		n.apply(pod("p", "a"))
		var at []int
		last := 0
		for time.Since(start) < 30*time.Minute {
			seconds(1)
			if got := n.engine.Calls("StartContainer"); got > last {
				last = got
				at = append(at, int(time.Since(start).Seconds()))
			}
		}
		// It starts at 0 and, the first time, again at once; then 10 s after the end, 20, 40, 80, 160, and every 300.
		if got := fmt.Sprint(at); got != "[1 12 33 74 155 316 617 918 1219 1520]" {
			t.Error(got)
		}
		n.want("uid-p", "Running a=CrashLoopBackOff x10")
		s := n.status("uid-p").ContainerStatuses[0]
		if s.State.Waiting.Message != "back-off 5m0s restarting failed container=a pod=p_default(uid-p)" || s.LastTerminationState.Terminated.ExitCode != 3 {
			t.Errorf("%+v", s)
		}
		if n.count("BackOff: Back-off restarting failed container a in pod p_default(uid-p)") != 10 {
			t.Error(n.takeEvents())
		}
		if got := n.containers("uid-p"); got != "POD#0=running a#10=exited a#9=exited" {
			t.Error(got)
		}
	})
}

func TestBackOffIsForgottenAfterRunningWell(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{After: 11 * time.Minute, ExitCode: 1})
		n.apply(pod("p", "a"))
		seconds(60*60 + 2)
		n.want("uid-p", "Running a=running+ x5") // every 11 minutes, with no pause
	})
}

func TestRestartPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy corev1.RestartPolicy
		code   int
		want   string
	}{
		{"Never", 0, "Succeeded a=Completed:0"},
		{"Never", 4, "Failed a=Error:4"},
		{"OnFailure", 0, "Succeeded a=Completed:0"},
		{"OnFailure", 4, "Running a=CrashLoopBackOff x1"},
		{"Always", 0, "Running a=CrashLoopBackOff x1"},
	} {
		t.Run(fmt.Sprint(tt.policy, tt.code), func(t *testing.T) {
			test(t, func(t *testing.T, n *node) {
				n.script("a", fake.Program{After: time.Second, ExitCode: tt.code})
				p := pod("p", "a")
				p.Spec.RestartPolicy = tt.policy
				n.apply(p)
				seconds(5)
				n.want("uid-p", tt.want)
				if tt.policy == "Never" {
					if got := n.containers("uid-p"); got != "a#0=exited" || len(n.net.attached) != 0 {
						t.Error("an ended pod keeps its containers and nothing else:", got)
					}
					if f, err := n.manager.Logs("default", "p", "", "a", false); err != nil || f.ContainerID == "" {
						t.Error(err)
					}
					n.restart()
					n.want("uid-p", tt.want)
					if n.engine.Calls("StartContainer") != 1 {
						t.Error("an ended pod was run again")
					}
				}
			})
		})
	}
}

func TestOOMAndTerminationMessage(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Script("a", func(s runtime.ContainerSpec) fake.Program {
			for _, m := range s.Mounts {
				if m.ContainerPath == "/dev/termination-log" {
					_ = os.WriteFile(m.HostPath, []byte("last words"), 0o600)
				}
			}
			return fake.Program{After: time.Second, OOM: true}
		})
		n.script("b", fake.Program{After: time.Second, ExitCode: 1, Output: []string{"line 1", "line 2"}})
		p := pod("p", "a", "b")
		p.Spec.RestartPolicy = "Never"
		p.Spec.Containers[1].TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
		n.apply(p)
		seconds(2)
		n.want("uid-p", "Failed a=OOMKilled:137 b=Error:1")
		s := n.status("uid-p").ContainerStatuses
		if s[0].State.Terminated.Message != "last words" || s[1].State.Terminated.Message != "line 1\nline 2\n" {
			t.Errorf("%q %q", s[0].State.Terminated.Message, s[1].State.Terminated.Message)
		}
	})
}

func TestCommandThatCannotBeExecuted(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Containers[0].Command = []string{"no-such-thing"}
		n.apply(p)
		seconds(0.5)
		n.want("uid-p", "Running a=RunContainerError")
		if m := n.status("uid-p").ContainerStatuses[0].State.Waiting.Message; !strings.Contains(m, `exec: "no-such-thing": executable file not found in $PATH`) {
			t.Error(m)
		}
		seconds(5)
		if s := n.status("uid-p").ContainerStatuses[0]; s.RestartCount != 1 || s.LastTerminationState.Terminated.Reason != "StartError" {
			t.Errorf("%+v", s)
		}
	})
}

func TestConfigErrors(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}}
		n.apply(p)
		n.want("uid-p", "Pending a=CreateContainerConfigError")
		if m := n.status("uid-p").ContainerStatuses[0].State.Waiting.Message; m != `configmap "cm" not found` {
			t.Error(m)
		}
		n.apply(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "cm"}, Data: map[string]string{"K": "v"}})
		n.want("uid-p", "Running a=running+")
		if n.count(`Failed: Error: configmap "cm" not found`) != 1 {
			t.Error(n.takeEvents())
		}

		q := pod("q", "a")
		q.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ref(true)}
		n.apply(q)
		n.want("uid-q", "Pending a=CreateContainerConfigError")
		if m := n.status("uid-q").ContainerStatuses[0].State.Waiting.Message; m != `container has runAsNonRoot and image will run as root (pod: "q_default(uid-q)", container: a)` {
			t.Error(m)
		}
	})
}

func TestVolumeAppearsAndChanges(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
		n.apply(p)
		n.want("uid-p", "Pending a=ContainerCreating")
		n.wantEvents(`FailedMount: MountVolume.SetUp failed for volume "v" : secret "s" not found`)
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, Data: map[string][]byte{"k": []byte("1")}}
		n.apply(secret)
		n.want("uid-p", "Running a=running+")
		file := n.dir + "/pods/uid-p/volumes/kubernetes.io~secret/v/k"
		if data, err := os.ReadFile(file); err != nil || string(data) != "1" {
			t.Error(string(data), err)
		}
		secret = secret.DeepCopy()
		secret.Data["k"] = []byte("2")
		n.apply(secret)
		if data, _ := os.ReadFile(file); string(data) != "2" || n.engine.Calls("StartContainer") != 1 {
			t.Error(string(data))
		}
		data, _ := os.ReadFile(n.dir + "/pods/uid-p/resolv.conf")
		if string(data) != "search default.svc.cluster.local svc.cluster.local cluster.local\nnameserver 10.254.254.1\nnameserver 198.51.100.53\noptions ndots:5\n" {
			t.Error(string(data))
		}
		if data, _ = os.ReadFile(n.dir + "/pods/uid-p/etc-hosts"); !strings.Contains(string(data), "10.244.0.2\tp\n") {
			t.Error(string(data))
		}
	})
}

func TestImageErrors(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Containers[0].Image = "no/such"
		n.apply(p)
		n.want("uid-p", "Pending a=ErrImagePull")
		seconds(4)
		n.want("uid-p", "Pending a=ImagePullBackOff")
		n.engine.Publish("no/such", fake.Published{})
		seconds(7)
		n.want("uid-p", "Running a=running+")
		if n.count("Failed: Error: ErrImagePull") != 1 || n.count("BackOff: Back-off pulling image \"no/such\"") != 1 {
			t.Error(n.takeEvents())
		}
	})
}

func TestImageRemovedBehindOurBack(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("app", fake.Published{})
		for _, name := range []string{"p", "q"} {
			p := pod(name, "a")
			p.Spec.Containers[0].Image = "app"
			n.apply(p)
			n.want("uid-"+name, "Running a=running+")
			n.delete(p, 0)
			image, _ := n.engine.Image(context.Background(), "app")
			if err := n.engine.RemoveImage(context.Background(), image.ID); err != nil {
				t.Fatal(err)
			}
		}
		p := pod("r", "a")
		p.Spec.Containers[0].Image = "app"
		n.apply(p)
		seconds(5)
		n.want("uid-r", "Running a=running+")
	})
}

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
		n.engine.Up()
		seconds(20)
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

func TestForceDeleteAndSameName(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{IgnoreTERM: true})
		n.apply(pod("p", "a"))
		again := pod("p", "a")
		again.UID = "uid-new"
		n.apply(again) // the old one is gone from the API, the new one has its name
		n.want("uid-new", "Running a=running+")
		if got := n.containers("uid-p"); got != "POD#0=running a#0=running" {
			t.Error("no grace for the old one:", got)
		}
		seconds(31)
		if got := n.containers("uid-p"); got != "" || n.goneCount("uid-p") != 0 {
			t.Error(got, n.goneCount("uid-p"))
		}
		n.want("uid-new", "Running a=running+")
	})
}

func TestDeletionHurried(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{IgnoreTERM: true})
		p := pod("p", "a")
		n.apply(p)
		n.delete(p, 3600)
		seconds(10)
		if n.goneCount("uid-p") != 0 {
			t.Fatal("killed at once")
		}
		n.delete(p, 5)
		seconds(6)
		if n.goneCount("uid-p") != 1 || n.count("Killing: Stopping container a") != 1 {
			t.Error(n.takeEvents(), n.containers("uid-p"))
		}
	})
}

func TestDeletedWhilePulling(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Publish("big", fake.Published{Takes: time.Hour})
		p := pod("p", "a")
		p.Spec.Containers[0].Image = "big"
		n.apply(p)
		seconds(5)
		n.delete(p, 30)
		n.want("uid-p", "Failed a=ContainerStatusUnknown:137")
		if n.goneCount("uid-p") != 1 || n.containers("uid-p") != "" {
			t.Error(n.containers("uid-p"))
		}
	})
}

func TestHooks(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{
			PostStart: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 5}},
			PreStop:   &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 8}},
		}
		n.apply(p)
		n.want("uid-p", "Pending a=ContainerCreating")
		seconds(5)
		n.want("uid-p", "Running a=running+")
		n.delete(p, 30)
		seconds(7)
		if n.goneCount("uid-p") != 0 {
			t.Error("preStop was not waited for")
		}
		seconds(2)
		if n.goneCount("uid-p") != 1 {
			t.Error("not gone after preStop")
		}

		q := pod("q", "a") // a preStop hook that hangs gets the grace period and no more
		q.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1000}}}
		n.apply(q)
		n.delete(q, 10)
		seconds(13)
		if n.goneCount("uid-q") != 1 {
			t.Error("a hanging hook holds the pod")
		}

		r := pod("r", "a")
		r.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"false"}}}}
		n.apply(r)
		seconds(1)
		if n.count("FailedPostStartHook: PostStartHook failed") == 0 || n.count("Killing: FailedPostStartHook") == 0 {
			t.Error(n.takeEvents())
		}
	})
}

func TestInitContainersAndSidecars(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("init1", fake.Program{After: 2 * time.Second})
		n.script("init2", fake.Program{After: 2 * time.Second})
		n.script("a", fake.Program{After: 10 * time.Second})
		p := pod("p", "init1", "side", "init2", "a")
		p.Spec.RestartPolicy = "Never"
		n.apply(p)
		n.want("uid-p", "Pending init1=running side=PodInitializing init2=PodInitializing a=PodInitializing")
		seconds(2)
		n.want("uid-p", "Pending init1=Completed:0+ side=running+ init2=running a=PodInitializing")
		seconds(2)
		n.want("uid-p", "Running init1=Completed:0+ side=running+ init2=Completed:0+ a=running+")
		n.engine.Kill(n.id("uid-p", "side"), 1, false)
		synctest.Wait()
		n.want("uid-p", "Running init1=Completed:0+ side=running+ x1 init2=Completed:0+ a=running+")
		seconds(10)
		n.want("uid-p", "Succeeded init1=Completed:0+ side=Error:143 x1 init2=Completed:0+ a=Completed:0")

		n.script("init1", fake.Program{After: time.Second, ExitCode: 7})
		q := pod("q", "init1", "a")
		q.Spec.RestartPolicy = "Never"
		n.apply(q, pod("r", "init1", "a"))
		seconds(3)
		n.want("uid-q", "Failed init1=Error:7 a=PodInitializing")
		n.want("uid-r", "Pending init1=CrashLoopBackOff x1 a=PodInitializing")
	})
}

func TestSidecarsEndLast(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{StopAfter: 5 * time.Second})
		p := pod("p", "side1", "side2", "a")
		n.apply(p)
		n.want("uid-p", "Running side1=running+ side2=running+ a=running+")
		n.takeEvents()
		n.delete(p, 30)
		n.wantEvents("Killing: Stopping container a")
		seconds(6)
		n.wantEvents("Killing: Stopping container side2", "Killing: Stopping container side1")
	})
}

func TestProbesRestartAndReadiness(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		var healthy, live atomic.Bool
		healthy.Store(true)
		live.Store(true)
		n.engine.OnExec(func(_ runtime.Container, cmd []string, _ runtime.Streams) (int, error) {
			if cmd[0] == "ready" && !healthy.Load() || cmd[0] == "live" && !live.Load() {
				return 1, nil
			}
			return 0, nil
		})
		probe := func(cmd string) *corev1.Probe {
			return &corev1.Probe{PeriodSeconds: 10, FailureThreshold: 3, InitialDelaySeconds: 5, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}}
		}
		p := pod("p", "a")
		p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = probe("ready"), probe("live")
		n.apply(p)
		seconds(4)
		n.want("uid-p", "Running a=running")
		seconds(2)
		n.want("uid-p", "Running a=running+")
		healthy.Store(false)
		seconds(20)
		n.want("uid-p", "Running a=running+")
		seconds(10)
		n.want("uid-p", "Running a=running")
		healthy.Store(true)
		live.Store(false)
		n.takeEvents()
		seconds(25)
		n.wantEvents("Unhealthy: Liveness probe failed: ", "Unhealthy: Liveness probe failed: ")
		seconds(5)
		n.wantEvents("Unhealthy: Liveness probe failed: ", "Killing: Container a failed liveness probe, will be restarted",
			"Pulled: Container image \"img\" already present on machine and can be accessed by the pod", "Created: Container created", "Started: Container started")
		n.want("uid-p", "Running a=running x1")
		live.Store(true)
		seconds(6)
		n.want("uid-p", "Running a=running+ x1")
	})
}

func TestStartupProbe(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		var up atomic.Bool
		n.engine.OnExec(func(_ runtime.Container, cmd []string, _ runtime.Streams) (int, error) {
			if !up.Load() {
				return 1, nil
			}
			return 0, nil
		})
		p := pod("p", "a")
		exec := corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}
		p.Spec.Containers[0].StartupProbe = &corev1.Probe{PeriodSeconds: 5, FailureThreshold: 4, ProbeHandler: exec}
		p.Spec.Containers[0].LivenessProbe = &corev1.Probe{PeriodSeconds: 1, FailureThreshold: 1, ProbeHandler: exec}
		n.apply(p)
		seconds(12)
		n.want("uid-p", "Running a=running")
		up.Store(true)
		seconds(4)
		n.want("uid-p", "Running a=running+")
		up.Store(false)
		seconds(20)
		if n.count("Killing: Container a failed liveness probe, will be restarted") != 1 || n.count("Killing: Container a failed startup probe, will be restarted") != 1 {
			t.Error(n.takeEvents())
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.ActiveDeadlineSeconds = ref(int64(30))
		n.apply(p)
		seconds(29)
		n.want("uid-p", "Running a=running+")
		seconds(2)
		n.want("uid-p", "Failed a=Error:143")
		if s := n.status("uid-p"); s.Reason != "DeadlineExceeded" || s.Message != "Pod was active on the node longer than the specified deadline" {
			t.Error(s.Reason, s.Message)
		}
	})
}

func TestAdmission(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.apply(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": resource.MustParse("1")}}})
		big := func(name string) *corev1.Pod {
			p := pod(name, "a")
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("700m")}
			return p
		}
		n.apply(big("p"))
		n.apply(big("q"))
		n.want("uid-p", "Running a=running+")
		n.want("uid-q", "Failed")
		if s := n.status("uid-q"); s.Reason != "OutOfcpu" || s.Message != "Pod was rejected: Node didn't have enough resource: cpu, requested: 700, used: 700, capacity: 1000" {
			t.Error(s.Reason, s.Message)
		}
		n.delete(big("p"), 0)
		n.apply(big("r"))
		n.want("uid-r", "Running a=running+")
	})
}

func TestImageChangedInPlace(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		n.apply(p)
		n.want("uid-p", "Running a=running+")
		p = p.DeepCopy()
		p.Spec.Containers[0].Image = "img:2"
		p.Generation = 2
		n.apply(p)
		seconds(1)
		n.want("uid-p", "Running a=running+ x1")
		if n.count("Killing: Container a definition changed, will be restarted") != 1 || n.status("uid-p").ObservedGeneration != 2 {
			t.Error(n.takeEvents())
		}
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
			`container "zz" in pod "p" is not available`:                      second(m.Logs("default", "p", "", "zz", false)),
			`container not found ("b")`:                                       second(m.Running("default", "p", "", "b")),
			`pod "default/q" not found on this node`:                          second(m.Sandbox("default", "q", "")),
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

func TestHostNetworkAndRepublish(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.HostNetwork = true
		n.apply(p)
		n.want("uid-p", "Running a=running+")
		if s := n.status("uid-p"); s.PodIP != "198.51.100.11" || len(n.net.attached) != 0 {
			t.Error(s.PodIP, n.net.attached)
		}
		if data, _ := os.ReadFile(n.dir + "/pods/uid-p/etc-hosts"); !strings.HasPrefix(string(data), "# Kubernetes-managed hosts file (host network).") {
			t.Error(string(data))
		}
		before := len(n.reports("uid-p"))
		n.manager.Republish()
		synctest.Wait()
		if got := len(n.reports("uid-p")); got != before+1 {
			t.Error(before, got)
		}
	})
}

func TestMemoryVolumesAndSubPathsAreCleanedUp(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a")
		p.Spec.Volumes = []corev1.Volume{{Name: "m", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: "Memory"}}}}
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "WHO", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "m", MountPath: "/m", SubPathExpr: "of/$(WHO)"}}
		n.apply(p)
		n.want("uid-p", "Running a=running+")
		if len(n.mounts.at) != 2 {
			t.Error(n.mounts.at)
		}
		if _, err := os.Stat(n.dir + "/pods/uid-p/volumes/kubernetes.io~empty-dir/m/of/p"); err != nil {
			t.Error(err)
		}
		n.delete(p, 0)
		seconds(3)
		if len(n.mounts.at) != 0 || n.goneCount("uid-p") != 1 {
			t.Error(n.mounts.at)
		}
	})
}

// Somebody prunes ended containers, or removes a running one, with the engine's own tools.
func TestContainersRemovedByHand(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("once", fake.Program{After: time.Second})
		p := pod("p", "once", "a")
		p.Spec.RestartPolicy = "OnFailure"
		n.apply(p)
		seconds(2)
		n.want("uid-p", "Running a=running+ once=Completed:0")
		pods, _ := n.engine.Pod(context.Background(), "uid-p")
		for _, c := range pods.Containers {
			if err := n.engine.RemoveContainer(context.Background(), c.ID); err != nil {
				t.Fatal(err)
			}
		}
		seconds(2)
		n.want("uid-p", "Running a=running+ x1 once=Completed:0")
		if got := n.containers("uid-p"); got != "POD#0=running a#1=running" {
			t.Error(got)
		}
	})
}

// While the first snapshot comes in, a pod may be here before the config map that it needs.
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
