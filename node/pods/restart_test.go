package pods

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

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

// What is kept of a container's attempts is bounded, however often it crashes.
func TestCrashesLeaveNothingBehind(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{After: time.Second, ExitCode: 1})
		n.apply(pod("p", "a"))
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if r := n.status("uid-p").ContainerStatuses[0].RestartCount; r < 20 {
			t.Fatalf("%d restarts", r)
		}
		n.stop()
		logs, err := os.ReadDir(n.dir + "/pods/uid-p/containers/a")
		if err != nil || len(logs) > 2 {
			t.Errorf("%d termination logs, %v", len(logs), err)
		}
		if kept := len(n.manager.worker("uid-p").messages); kept > 2 {
			t.Errorf("%d messages are remembered", kept)
		}
	})
}
