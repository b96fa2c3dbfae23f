package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

// exitRule is for one exit code.
func exitRule(action corev1.ContainerRestartRuleAction, operator corev1.ContainerRestartRuleOnExitCodesOperator, code int32) corev1.ContainerRestartRule {
	return corev1.ContainerRestartRule{Action: action, ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: operator, Values: []int32{code}}}
}

// restartsAll gives a container of the pod the rule that its exit code 42 restarts all.
func restartsAll(p *corev1.Pod, container string) *corev1.Pod {
	for _, c := range containersProper(p) {
		if c.Name == container {
			if c.RestartPolicy == nil {
				c.RestartPolicy = ref(corev1.ContainerRestartPolicyNever)
			}
			c.RestartPolicyRules = []corev1.ContainerRestartRule{exitRule("RestartAllContainers", "In", 42)}
		}
	}
	p.Spec.RestartPolicy = "Never"
	return p
}

// runs counts the starts of containers, whose programs may differ from run to run.
type runs struct {
	mu    sync.Mutex
	count map[string]int
	order []string
}

func (n *node) runs(programs map[string][]fake.Program) *runs {
	r := &runs{count: map[string]int{}}
	for name, list := range programs {
		n.engine.Script(name, func(runtime.ContainerSpec) fake.Program {
			r.mu.Lock()
			defer r.mu.Unlock()
			p := list[min(r.count[name], len(list)-1)]
			r.count[name]++
			r.order = append(r.order, name)
			return p
		})
	}
	return r
}

// String lists them in their order; the pod's regular containers do not wait for each other.
func (r *runs) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	regular := func(name string) bool { return !strings.HasPrefix(name, "init") && !strings.HasPrefix(name, "side") }
	out := slices.Clone(r.order)
	for i := 0; i < len(out); i++ {
		j := i
		for j < len(out) && regular(out[j]) {
			j++
		}
		slices.Sort(out[i:j])
		i = j
	}
	return strings.Join(out, " ")
}

func restartingAllCondition(s corev1.PodStatus) string {
	for _, c := range s.Conditions {
		if c.Type == corev1.AllContainersRestarting {
			return strings.TrimSpace(fmt.Sprint(c.Status, " ", c.Reason))
		}
	}
	return ""
}

// ends once with code 42, and then runs for good.
var endsOnce = []fake.Program{{After: 10 * time.Second, ExitCode: 42}, {}}

func TestAllContainersAreRestarted(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		r := n.runs(map[string][]fake.Program{
			"init": {{After: 2 * time.Second}}, "side": {{IgnoreTERM: true}}, "a": endsOnce, "b": {{}}, "once": {{After: time.Second}},
		})
		p := restartsAll(pod("p", "init", "side", "a", "b", "once"), "a")
		p.Spec.Containers[1].Lifecycle = preStop("hangs")
		n.apply(p)
		seconds(4)
		n.want("uid-p", "Running init=Completed:0+ side=running+ a=running+ b=running+ once=Completed:0")
		if got := restartingAllCondition(n.status("uid-p")); got != "False" {
			t.Error(got)
		}
		n.takeEvents()
		seconds(9) // it ends after 12
		n.want("uid-p", "Running init=Completed:0+ side=running+ a=RestartingAllContainers b=RestartingAllContainers once=RestartingAllContainers")
		n.wantEvents("Killing: Stopping container side, all containers of the pod will be restarted", "Killing: Stopping container b, all containers of the pod will be restarted")
		if got := restartingAllCondition(n.status("uid-p")); got != "True RestartAllContainersStarted" {
			t.Error(got)
		}
		seconds(2) // side is killed after 2 s
		n.want("uid-p", "Pending init=running x1 side=RestartingAllContainers a=RestartingAllContainers b=RestartingAllContainers once=RestartingAllContainers")
		if got := restartingAllCondition(n.status("uid-p")); got != "False" {
			t.Error(got)
		}
		seconds(5)
		n.want("uid-p", "Running init=Completed:0+ x1 side=running+ x1 a=running+ x1 b=running+ x1 once=Completed:0 x1")
		if got := r.String(); got != "init side a b once init side a b once" {
			t.Error(got)
		}
		s := n.status("uid-p")
		if last := s.ContainerStatuses[0].LastTerminationState.Terminated; last == nil || last.ExitCode != 42 || s.PodIP != "10.244.0.2" || n.engine.Calls("RunSandbox") != 1 {
			t.Error(last, s.PodIP, n.engine.Calls("RunSandbox"))
		}
		n.restart()
		seconds(60)
		n.want("uid-p", "Running init=Completed:0+ x1 side=running+ x1 a=running+ x1 b=running+ x1 once=Completed:0 x1")
	})
}

// From then on all follow their own policies again.
func TestAllContainersAreRestartedOnce(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.runs(map[string][]fake.Program{
			"a": {{After: time.Second, ExitCode: 42}, {After: 5 * time.Second}}, "b": {{}, {After: 3 * time.Second, ExitCode: 1}},
		})
		n.apply(restartsAll(pod("p", "a", "b"), "a"))
		seconds(5)
		n.want("uid-p", "Running a=running+ x1 b=Error:1 x1")
		seconds(5)
		n.want("uid-p", "Failed a=Completed:0 x1 b=Error:1 x1")
		if got := restartingAllCondition(n.status("uid-p")); got != "False PodFailed" {
			t.Error(got)
		}
	})
}

func TestInitContainerRestartsAll(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		r := n.runs(map[string][]fake.Program{
			"side": {{}}, "init1": {{After: time.Second}}, "init2": {{After: time.Second, ExitCode: 42}, {After: time.Second}}, "a": {{}},
		})
		n.apply(restartsAll(pod("p", "side", "init1", "init2", "a"), "init2"))
		seconds(10)
		n.want("uid-p", "Running side=running+ x1 init1=Completed:0+ x1 init2=Completed:0+ x1 a=running+")
		if got := r.String(); got != "side init1 init2 side init1 init2 a" {
			t.Error(got)
		}
	})
}

// The sidecar's end does not fail the init container that is killed for it.
func TestSidecarRestartsAll(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		r := n.runs(map[string][]fake.Program{"side": endsOnce, "side2": {{IgnoreTERM: true}}, "init": {{After: 15 * time.Second, StopCode: 143}}, "a": {{}}})
		n.apply(restartsAll(pod("p", "side", "side2", "init", "a"), "side"))
		seconds(11)
		n.want("uid-p", "Pending side=RestartingAllContainers side2=running+ init=RestartingAllContainers a=PodInitializing")
		seconds(2)
		n.want("uid-p", "Pending side=running+ x1 side2=running+ x1 init=running x1 a=PodInitializing")
		seconds(20)
		n.want("uid-p", "Running side=running+ x1 side2=running+ x1 init=Completed:0+ x1 a=running+")
		if got := r.String(); got != "side side2 init side side2 init a" {
			t.Error(got)
		}
	})
}

// Once begun anew, an init container may fail the pod as it may the first time.
func TestInitContainerFailsWhenAllAreRestarted(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.runs(map[string][]fake.Program{"init": {{After: time.Second}, {After: time.Second, ExitCode: 3}}, "a": endsOnce})
		n.apply(restartsAll(pod("p", "init", "a"), "a"))
		seconds(20)
		n.want("uid-p", "Failed init=Error:3 x1 a=Error:42")
	})
}

// The first rule for the code counts.
func TestRestartRuleOfTheContainerAlone(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		r := n.runs(map[string][]fake.Program{"a": {{After: time.Second, ExitCode: 42}, {After: time.Second, ExitCode: 7}, {}}, "b": {{}}})
		p := restartsAll(pod("p", "a", "b"), "a")
		p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{exitRule("Restart", "In", 42), exitRule("RestartAllContainers", "NotIn", 0)}
		n.apply(p)
		seconds(1)
		n.want("uid-p", "Running a=running+ x1 b=running+")
		seconds(20)
		n.want("uid-p", "Running a=running+ x2 b=running+ x1")
		if got := r.String(); got != "a a a b b" {
			t.Error(got)
		}
	})
}

// One that ends again and again holds up all the others.
func TestRestartsOfAllBackOff(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		r := n.runs(map[string][]fake.Program{"init": {{After: time.Second}}, "a": {{After: time.Second, ExitCode: 42}}, "b": {{}}})
		n.apply(restartsAll(pod("p", "init", "a", "b"), "a"))
		seconds(5)
		n.want("uid-p", "Running init=Completed:0+ x1 a=CrashLoopBackOff x1 b=RestartingAllContainers x1")
		seconds(55)
		// It starts at 1, after its init container, and the first time again at once; then 10 s after the end, 20, 40.
		if got := r.String(); got != "init a b init a b init a b init a b" {
			t.Error(got)
		}
	})
}

// What somebody pruned is restarted too.
func TestPrunedContainersAreRestartedWithAll(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.runs(map[string][]fake.Program{"init": {{After: time.Second}}, "once": {{After: time.Second}}, "a": endsOnce})
		n.apply(restartsAll(pod("p", "init", "once", "a"), "a"))
		seconds(5)
		p, _ := n.engine.Pod(context.Background(), "uid-p")
		for _, c := range p.Containers {
			if c.State != runtime.StateRunning {
				if err := n.engine.RemoveContainer(context.Background(), c.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		seconds(30)
		n.want("uid-p", "Running init=Completed:0+ x1 a=running+ x1 once=Completed:0 x1")
	})
}

// A container that was made and could not be started yet is made anew.
func TestUnstartedContainersAreRestartedWithAll(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		r := n.runs(map[string][]fake.Program{"init": {{After: time.Second}}, "a": endsOnce, "b": {{}}})
		n.engine.Publish("slow", fake.Published{Takes: 5 * time.Second})
		p := restartsAll(pod("p", "init", "a", "b"), "a")
		p.Spec.Containers[1].Image = "slow"
		n.apply(p)
		seconds(2)
		n.engine.Fail("StartContainer", errors.New("busy"), errors.New("busy")) // at 6 and 8 s
		seconds(8)
		if got := n.containers("uid-p"); got != "POD#0=running a#0=running b#0=created init#0=exited" {
			t.Fatal(got)
		}
		seconds(30)
		n.want("uid-p", "Running init=Completed:0+ x1 a=running+ x1 b=running+")
		if got := r.String(); got != "init a init a b" {
			t.Error(got)
		}
	})
}

// The agent dies at each of its effects in turn; whatever was done, all containers have run twice in the end.
func TestAgentDiesWhileAllAreRestarted(t *testing.T) {
	for _, after := range []bool{false, true} {
		for k := 1; ; k++ {
			used := 0
			t.Run(fmt.Sprintf("%d after=%v", k, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					n := newNode(t)
					f := newFuse(k, after)
					n.wrap = func(e runtime.Engine) runtime.Engine { return dyingEngine{e, f} }
					r := n.runs(map[string][]fake.Program{
						"init": {{After: time.Second}}, "side": {{}}, "a": endsOnce, "b": {{StopAfter: time.Second}},
					})
					n.start()
					n.apply(restartsAll(pod("p", "init", "side", "a", "b"), "a"))
					for range 35 {
						seconds(0.9)
						checkNotDoubled(t, n)
						select {
						case <-f.blown:
							if n.wrap != nil {
								n.wrap = nil
								n.restart()
							}
						default:
						}
					}
					n.want("uid-p", "Running init=Completed:0+ x1 side=running+ x1 a=running+ x1 b=running+ x1")
					if got := r.String(); got != "init side a b init side a b" {
						t.Error(got)
					}
					n.stop()
					used = f.used
				})
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
