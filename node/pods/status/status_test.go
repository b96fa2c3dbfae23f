package status

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func ref[T any](v T) *T { return &v }

func pod(policy corev1.RestartPolicy, names ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Generation: 3}, Spec: corev1.PodSpec{RestartPolicy: policy}}
	for _, n := range names {
		c := corev1.Container{Name: n, Image: "img"}
		switch {
		case strings.HasPrefix(n, "init"):
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		case strings.HasPrefix(n, "side"):
			c.RestartPolicy = ref(corev1.ContainerRestartPolicyAlways)
			p.Spec.InitContainers = append(p.Spec.InitContainers, c)
		default:
			p.Spec.Containers = append(p.Spec.Containers, c)
		}
	}
	return p
}

// observed is written as name[#attempt]=running | created | code | oom | start-error.
func observed(words ...string) runtime.Pod {
	var out runtime.Pod
	for _, w := range words {
		name, state, _ := strings.Cut(w, "=")
		c := runtime.Container{CreatedAt: t0, StartedAt: t0, State: runtime.StateExited, FinishedAt: t0.Add(time.Minute)}
		if n, attempt, ok := strings.Cut(name, "#"); ok {
			name = n
			fmt.Sscan(attempt, &c.Attempt)
		}
		c.Name, c.ID = name, fmt.Sprintf("%s-%d", name, c.Attempt)
		switch state {
		case "running":
			c.State, c.FinishedAt = runtime.StateRunning, time.Time{}
		case "created":
			c.State, c.StartedAt, c.FinishedAt = runtime.StateCreated, time.Time{}, time.Time{}
		case "oom":
			c.OOMKilled, c.ExitCode = true, 137
		case "start-error":
			c.State, c.StartedAt, c.FinishedAt, c.Error, c.ExitCode = runtime.StateCreated, time.Time{}, time.Time{}, "exec: not found", 127
		default:
			fmt.Sscan(state, &c.ExitCode)
		}
		out.Containers = append(out.Containers, c)
	}
	return out
}

func yes(string) bool { return true }

// short writes a state in one word.
func short(s corev1.ContainerStatus) string {
	word := func(s corev1.ContainerState) string {
		switch {
		case s.Running != nil:
			return "running"
		case s.Waiting != nil:
			return "waiting:" + s.Waiting.Reason
		case s.Terminated != nil:
			return fmt.Sprintf("%s:%d", s.Terminated.Reason, s.Terminated.ExitCode)
		}
		return ""
	}
	out := s.Name + " " + word(s.State)
	if last := word(s.LastTerminationState); last != "" {
		out += " last " + last
	}
	if s.Ready {
		out += " ready"
	}
	if s.RestartCount > 0 {
		out += fmt.Sprintf(" x%d", s.RestartCount)
	}
	return out
}

func TestCompute(t *testing.T) {
	always, never, onFailure := corev1.RestartPolicyAlways, corev1.RestartPolicyNever, corev1.RestartPolicyOnFailure
	tests := []struct {
		name  string
		pod   *corev1.Pod
		have  []string
		edit  func(*Input)
		phase corev1.PodPhase
		want  string
	}{
		{"nothing yet", pod(always, "a", "b"), nil, nil, "Pending", "a waiting:ContainerCreating, b waiting:ContainerCreating"},
		{"one of two", pod(always, "a", "b"), []string{"a=running"}, nil, "Pending", "a running ready, b waiting:ContainerCreating"},
		{"runs", pod(always, "a"), []string{"a=running"}, nil, "Running", "a running ready"},
		{"created only", pod(always, "a"), []string{"a=created"}, nil, "Pending", "a waiting:ContainerCreating"},
		{"not ready", pod(always, "a"), []string{"a=running"}, func(in *Input) { in.Ready = func(string) bool { return false } }, "Running", "a running"},
		{"postStart hook runs", pod(always, "a"), []string{"a=running"}, func(in *Input) { in.Starting = map[string]bool{"a-0": true} }, "Pending", "a waiting:ContainerCreating"},
		{"ended, will restart", pod(always, "a"), []string{"a=0"}, nil, "Running", "a Completed:0"},
		{"crash loop", pod(always, "a"), []string{"a#2=1", "a#1=1"}, func(in *Input) { in.Waiting = map[string]Reason{"a": {"CrashLoopBackOff", "m"}} }, "Running", "a waiting:CrashLoopBackOff last Error:1 x2"},
		{"runs again", pod(always, "a"), []string{"a#1=running", "a=oom"}, nil, "Running", "a running last OOMKilled:137 ready x1"},
		{"succeeded", pod(never, "a", "b"), []string{"a=0", "b=0"}, nil, "Succeeded", "a Completed:0, b Completed:0"},
		{"failed", pod(never, "a", "b"), []string{"a=0", "b=3"}, nil, "Failed", "a Completed:0, b Error:3"},
		{"one still runs", pod(never, "a", "b"), []string{"a=3", "b=running"}, nil, "Running", "a Error:3, b running ready"},
		{"on failure", pod(onFailure, "a"), []string{"a=3"}, nil, "Running", "a Error:3"},
		{"on failure, good", pod(onFailure, "a"), []string{"a#1=0", "a=3"}, nil, "Succeeded", "a Completed:0 last Error:3 x1"},
		{"cannot be started", pod(never, "a"), []string{"a=start-error"}, nil, "Failed", "a StartError:127"},
		{"image", pod(always, "a"), nil, func(in *Input) { in.Waiting = map[string]Reason{"a": {"ErrImagePull", "m"}} }, "Pending", "a waiting:ErrImagePull"},
		{"init first", pod(always, "init", "a"), nil, nil, "Pending", "init waiting:PodInitializing, a waiting:PodInitializing"},
		{"init runs", pod(always, "init", "a"), []string{"init=running"}, nil, "Pending", "init running, a waiting:PodInitializing"},
		{"init through", pod(always, "init", "a"), []string{"init=0", "a=running"}, nil, "Running", "init Completed:0 ready, a running ready"},
		{"init failed for good", pod(never, "init", "a"), []string{"init=1"}, nil, "Failed", "init Error:1, a waiting:PodInitializing"},
		{"init fails and is tried again", pod(always, "init", "a"), []string{"init=1"}, func(in *Input) { in.Waiting = map[string]Reason{"init": {"CrashLoopBackOff", ""}} }, "Pending", "init waiting:CrashLoopBackOff last Error:1, a waiting:PodInitializing"},
		{"init container removed", pod(always, "init", "a"), []string{"a=running"}, nil, "Running", "init Completed:0 ready, a running ready"},
		{"sidecar", pod(always, "side", "a"), []string{"side=running"}, nil, "Pending", "side running ready, a waiting:PodInitializing"},
		{"sidecar outlives", pod(never, "side", "a"), []string{"side=0", "a=0"}, nil, "Succeeded", "side Completed:0, a Completed:0"},
		{"all gone from the engine", pod(always, "a"), nil, func(in *Input) {
			in.Old.ContainerStatuses = []corev1.ContainerStatus{{Name: "a", RestartCount: 4, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
		}, "Running", "a waiting:ContainerCreating last ContainerStatusUnknown:137 x4"},
		{"over stays over", pod(never, "a"), nil, func(in *Input) { in.Old.Phase = "Succeeded" }, "Succeeded", "a waiting:ContainerCreating"},
		{"verdict", pod(always, "a"), []string{"a=137"}, func(in *Input) { in.Verdict = &Reason{"DeadlineExceeded", "m"} }, "Failed", "a Error:137"},
		{"deleted and ended well", pod(always, "a"), []string{"a=0"}, func(in *Input) { in.Final = true }, "Succeeded", "a Completed:0"},
		{"deleted before it began", pod(always, "a"), nil, func(in *Input) { in.Final = true }, "Failed", "a ContainerStatusUnknown:137"},
		{"deleted in a crash loop", pod(always, "a"), []string{"a=2"}, func(in *Input) { in.Final, in.Waiting = true, map[string]Reason{"a": {"CrashLoopBackOff", ""}} }, "Failed", "a Error:2"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := Input{Pod: tt.pod, Observed: observed(tt.have...), Ready: yes, Started: yes, Now: t0, HostIPs: []string{"h"}}
			if tt.edit != nil {
				tt.edit(&in)
			}
			s := Compute(in)
			var words []string
			for _, c := range append(s.InitContainerStatuses, s.ContainerStatuses...) {
				words = append(words, short(c))
			}
			if got := strings.Join(words, ", "); got != tt.want || s.Phase != tt.phase {
				t.Errorf("got  %s %s\nwant %s %s", s.Phase, got, tt.phase, tt.want)
			}
		})
	}
}

func conditions(s corev1.PodStatus) string {
	var out []string
	for _, c := range s.Conditions {
		out = append(out, strings.TrimSpace(fmt.Sprintf("%s=%s %s %s", c.Type, c.Status, c.Reason, c.Message)))
	}
	return strings.Join(out, "; ")
}

func TestConditions(t *testing.T) {
	p := pod("Always", "init", "a", "b")
	p.Status.Conditions = []corev1.PodCondition{{Type: "PodScheduled", Status: "True", LastTransitionTime: metav1.NewTime(t0.Add(-time.Hour))}, {Type: "mine", Status: "True"}}
	in := Input{Pod: p, Ready: yes, Started: yes, Now: t0}
	s := Compute(in)
	if got, want := conditions(s), "mine=True; PodReadyToStartContainers=False; Initialized=False ContainersNotInitialized containers with incomplete status: [init]; Ready=False ContainersNotReady containers with unready status: [a b]; ContainersReady=False ContainersNotReady containers with unready status: [a b]; PodScheduled=True"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if at := s.Conditions[5].LastTransitionTime; !at.Equal(ref(metav1.NewTime(t0.Add(-time.Hour)))) {
		t.Error("the time of scheduling was lost:", at)
	}
	in.Old, in.Observed, in.SandboxReady, in.Now = s, observed("init=0", "a=running", "b=running"), true, t0.Add(time.Minute)
	p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "mine"}, {ConditionType: "lb"}}
	s = Compute(in)
	if got, want := conditions(s), `mine=True; PodReadyToStartContainers=True; Initialized=True; Ready=False ReadinessGatesNotReady corresponding condition of pod readiness gate "lb" does not exist.; ContainersReady=True; PodScheduled=True`; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if !s.Conditions[4].LastTransitionTime.Equal(ref(metav1.NewTime(in.Now))) || !s.Conditions[3].LastTransitionTime.Equal(ref(metav1.NewTime(t0))) {
		t.Error("transition times:", s.Conditions)
	}
	if s.ObservedGeneration != 3 || s.Conditions[1].ObservedGeneration != 3 || !s.StartTime.Equal(ref(metav1.NewTime(t0))) {
		t.Error(s.ObservedGeneration, s.StartTime)
	}
	q := pod("Never", "a")
	s = Compute(Input{Pod: q, Observed: observed("a=0"), Ready: yes, Started: yes, Now: t0})
	if got, want := conditions(s), "PodReadyToStartContainers=False; Initialized=True PodCompleted; Ready=False PodCompleted; ContainersReady=False PodCompleted; PodScheduled=True"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestQOS(t *testing.T) {
	r := func(words ...string) corev1.ResourceRequirements {
		out := corev1.ResourceRequirements{Requests: corev1.ResourceList{}, Limits: corev1.ResourceList{}}
		for _, w := range words {
			name, v, _ := strings.Cut(w, "=")
			kind, name, _ := strings.Cut(name, ".")
			if kind == "r" {
				out.Requests[corev1.ResourceName(name)] = resource.MustParse(v)
			} else {
				out.Limits[corev1.ResourceName(name)] = resource.MustParse(v)
			}
		}
		return out
	}
	for want, all := range map[corev1.PodQOSClass][][]corev1.ResourceRequirements{
		"BestEffort": {{r()}, {r("r.ephemeral-storage=1")}},
		"Burstable":  {{r("r.cpu=1")}, {r("l.cpu=1")}, {r("r.cpu=1", "l.cpu=2", "l.memory=1")}, {r("l.cpu=1", "l.memory=1"), r()}},
		"Guaranteed": {{r("l.cpu=1", "l.memory=1")}, {r("r.cpu=1000m", "l.cpu=1", "r.memory=1", "l.memory=1")}},
	} {
		for _, rs := range all {
			p := &corev1.Pod{}
			for _, x := range rs {
				p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Resources: x})
			}
			if got := QOS(p); got != want {
				t.Errorf("%v: %s, want %s", rs, got, want)
			}
		}
	}
}

func TestRestartRules(t *testing.T) {
	p := pod("Never", "a")
	c := &p.Spec.Containers[0]
	c.RestartPolicy = ref(corev1.ContainerRestartPolicyNever)
	c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: "Restart", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{42}}}}
	if !Restarts(p, c, 42) || Restarts(p, c, 1) {
		t.Error("rule by exit code")
	}
	c.RestartPolicyRules[0].ExitCodes.Operator = "NotIn"
	if Restarts(p, c, 42) || !Restarts(p, c, 1) {
		t.Error("rule by other exit codes")
	}
	c.RestartPolicyRules = append(c.RestartPolicyRules, corev1.ContainerRestartRule{Action: "RestartAllContainers", ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: "In", Values: []int32{1, 42}}})
	if MayRestartAll(pod("Never", "a")) || !MayRestartAll(p) {
		t.Error("a rule that restarts all is there or not")
	}
	if !RestartsAll(c, 42) || RestartsAll(c, 1) || RestartsAll(c, 0) {
		t.Error("the first rule for a code counts")
	}
}

func TestMayRestart(t *testing.T) {
	for _, tt := range []struct {
		pod  corev1.RestartPolicy
		own  *corev1.ContainerRestartPolicy
		want bool
	}{
		{"Always", nil, true}, {"OnFailure", nil, true}, {"Never", nil, false},
		{"Never", ref(corev1.ContainerRestartPolicyOnFailure), true}, {"Always", ref(corev1.ContainerRestartPolicyNever), false},
	} {
		p := pod(tt.pod, "a")
		p.Spec.Containers[0].RestartPolicy = tt.own
		if got := MayRestart(p, &p.Spec.Containers[0]); got != tt.want {
			t.Errorf("%s: %v", tt.pod, got)
		}
	}
}
