package pods

import (
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/runtime"
)

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
