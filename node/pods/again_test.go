package pods

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// living makes an exec probe "live" fail once when it is set to false.
func (n *node) living() *atomic.Bool {
	var live atomic.Bool
	live.Store(true)
	n.engine.OnExec(func(_ runtime.Container, cmd []string, _ runtime.Streams) (int, error) {
		if cmd[0] == "live" && !live.Swap(true) {
			return 1, nil
		}
		return 0, nil
	})
	return &live
}

func liveness(every int32) *corev1.Probe {
	return &corev1.Probe{PeriodSeconds: every, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"live"}}}}
}

// A program that hangs and ends well when it is told to end has not done its work.
func TestFailedProbeRestartsWhateverTheExitCode(t *testing.T) {
	always, onFailure, never := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever
	for _, tt := range []struct {
		policy corev1.RestartPolicy
		own    *corev1.ContainerRestartPolicy
		probe  string
		event  string
		want   string
	}{
		{"Always", nil, "liveness", ", will be restarted", "Running a=running+ x1"},
		{"OnFailure", nil, "liveness", ", will be restarted", "Running a=running+ x1"},
		{"OnFailure", nil, "startup", ", will be restarted", "Running a=running+ x1"},
		{"Never", nil, "liveness", "", "Succeeded a=Completed:0"},
		{"Never", &onFailure, "liveness", ", will be restarted", "Running a=running+ x1"},
		{"Never", &always, "liveness", ", will be restarted", "Running a=running+ x1"},
		{"OnFailure", &never, "liveness", "", "Succeeded a=Completed:0"},
	} {
		name := fmt.Sprint(tt.policy, " ", tt.probe)
		if tt.own != nil {
			name += " " + string(*tt.own)
		}
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, n *node) {
				n.script("a", fake.Program{})
				live := n.living()
				p := pod("p", "a")
				p.Spec.RestartPolicy = tt.policy
				c := &p.Spec.Containers[0]
				c.RestartPolicy = tt.own
				if tt.probe == "startup" {
					c.StartupProbe = liveness(2)
					live.Store(false)
				} else {
					c.LivenessProbe = liveness(2)
				}
				n.apply(p)
				seconds(1)
				live.Store(false)
				seconds(3)
				if n.count("Killing: Container a failed "+tt.probe+" probe"+tt.event) != 1 {
					t.Error(n.takeEvents())
				}
				n.want("uid-p", tt.want)
				if s := n.status("uid-p").ContainerStatuses[0]; s.RestartCount > 0 && s.LastTerminationState.Terminated.ExitCode != 0 {
					t.Error("it did not end well:", s.LastTerminationState)
				}
			})
		})
	}
}

// From then on the container is judged by its policy again.
func TestFailedProbeRestartsOnce(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		live := n.living()
		runs := 0
		n.engine.Script("a", func(runtime.ContainerSpec) fake.Program {
			if runs++; runs == 2 {
				return fake.Program{After: 5 * time.Second}
			}
			return fake.Program{StopAfter: 1500 * time.Millisecond}
		})
		p := pod("p", "a")
		p.Spec.RestartPolicy = "OnFailure"
		p.Spec.Containers[0].LivenessProbe = liveness(2)
		n.apply(p)
		seconds(1)
		live.Store(false)
		seconds(2)
		n.want("uid-p", "Running a=running+")
		seconds(2)
		n.want("uid-p", "Running a=running+ x1")
		seconds(6)
		n.want("uid-p", "Succeeded a=Completed:0 x1")
		n.restart()
		seconds(10)
		n.want("uid-p", "Succeeded a=Completed:0 x1")
	})
}

// The agent is restarted while a container is being ended for its failed probe: what was begun is brought to its end.
func TestAgentRestartedWhileProbeFailed(t *testing.T) {
	for name, edit := range map[string]func(*node, *corev1.Container){
		"ends by the signal": func(n *node, _ *corev1.Container) { n.script("a", fake.Program{StopAfter: 4 * time.Second}) },
		"was in its hook": func(n *node, c *corev1.Container) {
			n.script("a", fake.Program{})
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 4}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			test(t, func(t *testing.T, n *node) {
				live := n.living()
				p := pod("p", "a")
				p.Spec.RestartPolicy = "OnFailure"
				c := &p.Spec.Containers[0]
				c.LivenessProbe = liveness(2)
				edit(n, c)
				n.apply(p)
				seconds(1)
				live.Store(false)
				seconds(2)
				if n.count("Killing: Container a failed liveness probe, will be restarted") != 1 {
					t.Fatal(n.takeEvents())
				}
				n.restart()
				seconds(10)
				n.want("uid-p", "Running a=running+ x1")
			})
		})
	}
}

// The agent dies when it has made the next attempt, before it could note so: that one is not begun anew for it.
func TestAgentDiesAfterRestartForProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(t)
		f := newFuse(5, true) // sandbox, create, start, stop, create
		n.wrap = func(e runtime.Engine) runtime.Engine { return dyingEngine{e, f} }
		n.start()
		live := n.living()
		n.script("a", fake.Program{After: 5 * time.Second})
		p := pod("p", "a")
		p.Spec.RestartPolicy = "OnFailure"
		p.Spec.Containers[0].LivenessProbe = liveness(2)
		n.apply(p)
		seconds(1)
		live.Store(false)
		seconds(2)
		if got := n.containers("uid-p"); got != "POD#0=running a#0=exited a#1=created" {
			t.Fatal(got)
		}
		n.wrap = nil
		n.restart()
		seconds(10)
		n.want("uid-p", "Succeeded a=Completed:0 x1")
		n.stop()
	})
}

// A container whose image was changed runs with the new one, whatever its restart policy says of its end.
func TestImageChangedRestartsWhateverThePolicy(t *testing.T) {
	for _, policy := range []corev1.RestartPolicy{"Always", "OnFailure", "Never"} {
		for _, code := range []int{0, 143} {
			t.Run(fmt.Sprint(policy, code), func(t *testing.T) {
				test(t, func(t *testing.T, n *node) {
					n.script("a", fake.Program{StopAfter: time.Second, StopCode: code})
					p := pod("p", "a", "b")
					p.Spec.RestartPolicy = policy
					n.apply(p)
					n.want("uid-p", "Running a=running+ b=running+")
					p = p.DeepCopy()
					p.Spec.Containers[0].Image = "img:2"
					p.Generation = 2
					n.apply(p)
					seconds(2)
					n.want("uid-p", "Running a=running+ x1 b=running+")
					if n.count("Killing: Container a definition changed, will be restarted") != 1 || n.status("uid-p").ContainerStatuses[0].Image != "img:2" {
						t.Error(n.status("uid-p").ContainerStatuses[0].Image, n.takeEvents())
					}
				})
			})
		}
	}
}

// An init container at work is not disturbed when its image is changed: ending well, it would count as through.
func TestInitContainerGoesOnWhenItsImageIsChanged(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("init", fake.Program{After: 10 * time.Second})
		p := pod("p", "init", "a")
		n.apply(p)
		seconds(1)
		p = p.DeepCopy()
		p.Spec.InitContainers[0].Image = "img:2"
		p.Generation = 2
		n.apply(p)
		seconds(5)
		n.want("uid-p", "Pending init=running a=PodInitializing")
		seconds(5)
		n.want("uid-p", "Running init=Completed:0+ a=running+")
	})
}
