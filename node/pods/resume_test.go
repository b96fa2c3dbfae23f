package pods

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime"
)

// probed gives the pod's first container a probe of each lasting kind, whose results are in the flags; only its first
// attempt is ever found dead.
func (n *node) probed(p *corev1.Pod) (ready, live *atomic.Bool) {
	ready, live = new(atomic.Bool), new(atomic.Bool)
	ready.Store(true)
	live.Store(true)
	n.engine.OnExec(func(c runtime.Container, cmd []string, _ runtime.Streams) (int, error) {
		if cmd[0] == "ready" && !ready.Load() || cmd[0] == "live" && !live.Load() && c.Attempt == 0 {
			return 1, nil
		}
		return 0, nil
	})
	probe := func(cmd string) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 5, FailureThreshold: 1, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}}
	}
	p.Spec.Containers[0].ReadinessProbe, p.Spec.Containers[0].LivenessProbe = probe("ready"), probe("live")
	return ready, live
}

// mount a volume in all containers, at its name.
func mount(p *corev1.Pod, name string, s corev1.VolumeSource) {
	p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: s})
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
	}
}

// What runs goes on with the content that it has when the ConfigMap has gone, also when the agent is started anew.
func TestAgentRestartsWithoutAVolumesSource(t *testing.T) {
	for _, kind := range []string{"configmap", "secret", "projected"} {
		t.Run(kind, func(t *testing.T) {
			test(t, func(t *testing.T, n *node) {
				p := pod("p", "a")
				ready, live := n.probed(p)
				cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Data: map[string]string{"k": "1"}}
				secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "x"}, Data: map[string][]byte{"k": []byte("1")}}
				mount(p, "v", map[string]corev1.VolumeSource{
					"configmap": {ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}},
					"secret":    {Secret: &corev1.SecretVolumeSource{SecretName: "x"}},
					"projected": {Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}}},
				}[kind])
				n.apply(cm, secret, p)
				seconds(6)
				n.want("uid-p", "Running a=running+")
				n.remove(desired.ConfigMaps, "default", "x")
				n.remove(desired.Secrets, "default", "x")
				n.clearHistory("uid-p")
				n.takeEvents()
				n.restart()
				seconds(60)
				n.want("uid-p", "Running a=running+")
				if got := n.reports("uid-p"); slices.Contains(got, "Running unready") {
					t.Error("readiness flapped:", got)
				}
				told := len(n.takeEvents())
				if told < 5 || told > 10 { // it is tried again, less and less often
					t.Errorf("%d events of what the volume lacks", told)
				}
				ready.Store(false)
				seconds(6)
				n.want("uid-p", "Running a=running")
				ready.Store(true)
				live.Store(false)
				seconds(12)
				n.want("uid-p", "Running a=running+ x1")
				file := n.dir + "/pods/uid-p/volumes/kubernetes.io~" + kind + "/v/k"
				if data, _ := os.ReadFile(file); string(data) != "1" {
					t.Errorf("content %q", data)
				}
				cm, secret = cm.DeepCopy(), secret.DeepCopy()
				cm.Data["k"], secret.Data["k"] = "2", []byte("2")
				n.apply(cm, secret)
				if data, _ := os.ReadFile(file); string(data) != "2" {
					t.Errorf("content %q after it came back", data)
				}
			})
		})
	}
}

// A volume of which nothing was left behind must be there before a container starts; what runs is still probed.
func TestAgentRestartsWithoutAHostPath(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		dir := n.dir + "/disk"
		if err := os.Mkdir(dir, 0o750); err != nil {
			t.Fatal(err)
		}
		p := pod("p", "a")
		ready, _ := n.probed(p)
		mount(p, "v", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir, Type: ref(corev1.HostPathDirectory)}})
		n.apply(p)
		seconds(6)
		n.want("uid-p", "Running a=running+")
		_ = os.Remove(dir)
		n.clearHistory("uid-p")
		n.restart()
		seconds(30)
		n.want("uid-p", "Running a=running+")
		if got := n.reports("uid-p"); slices.Contains(got, "Running unready") {
			t.Error("readiness flapped:", got)
		}
		ready.Store(false)
		seconds(6)
		n.want("uid-p", "Running a=running")
		ready.Store(true)
		n.engine.Kill(n.id("uid-p", "a"), 1, false)
		seconds(30)
		if got := n.line("uid-p"); !strings.HasPrefix(got, "Running a=Error:1") {
			t.Error("started without its volume:", got)
		}
		_ = os.Mkdir(dir, 0o750)
		seconds(130)
		n.want("uid-p", "Running a=running+ x1")
	})
}

// A network that cannot be set up again does not change what the pod was.
func TestAgentRestartsWithoutTheNetwork(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "side", "a")
		ready, _ := n.probed(p)
		n.apply(p)
		seconds(6)
		n.want("uid-p", "Running side=running+ a=running+")
		n.clearHistory("uid-p")
		n.net.fail(errors.New("netlink: busy"))
		n.restart()
		seconds(30)
		n.want("uid-p", "Running side=running+ a=running+")
		if got := n.reports("uid-p"); slices.Contains(got, "Running unready") {
			t.Error("readiness flapped:", got)
		}
		ready.Store(false)
		seconds(6)
		n.want("uid-p", "Running side=running+ a=running")
		ready.Store(true)
		n.net.fail(nil)
		seconds(20)
		n.want("uid-p", "Running side=running+ a=running+")
		if n.engine.Calls("StartContainer") != 2 {
			t.Error("not adopted")
		}
	})
}

// Anybody who may write a pod's status can put anything into it; the agent does not fall over it.
func TestStrangeContainerIDs(t *testing.T) {
	for _, id := range []string{"x", "docker:/", "docker://", "containerd://0123456789abcdef", "docker"} {
		t.Run(fmt.Sprintf("%q", id), func(t *testing.T) {
			test(t, func(t *testing.T, n *node) {
				terminated := &corev1.ContainerStateTerminated{ContainerID: id, Message: "no", ExitCode: 1}
				resources := &corev1.ResourceRequirements{}
				p := pod("p", "init", "a", "b", "c")
				p.Status = corev1.PodStatus{
					InitContainerStatuses: []corev1.ContainerStatus{{Name: "init", ContainerID: id, Resources: resources, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}},
					ContainerStatuses: []corev1.ContainerStatus{
						{Name: "a", ContainerID: id, State: corev1.ContainerState{Terminated: terminated}},
						{Name: "b", ContainerID: id, LastTerminationState: corev1.ContainerState{Terminated: terminated}},
						{Name: "c", ContainerID: id, Resources: resources, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
					},
				}
				q := p.DeepCopy()
				q.Name, q.UID, q.Status.Phase = "q", "uid-q", corev1.PodFailed // it keeps what its status says
				n.apply(p, q)
				for _, name := range []string{"p", "q"} {
					for _, c := range []string{"init", "a", "b", "c"} {
						for _, previous := range []bool{false, true} {
							if f, err := n.manager.Logs("default", name, "", c, previous); err == nil && f.ContainerID == "" {
								t.Errorf("logs of %s in %s: no container and no error", c, name)
							}
						}
						_, _ = n.manager.Running("default", name, "", c)
					}
				}
				n.engine.Kill(n.id("uid-p", "init"), 0, false)
				seconds(1)
				if got := strings.ReplaceAll(n.line("uid-p"), " x1", ""); got != "Running init=Completed:0+ a=running+ b=running+ c=running+" {
					t.Error(got) // whether it counts what nobody has seen does not matter
				}
			})
		})
	}
}
