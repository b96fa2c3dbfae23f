package pods

import (
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/node/desired"
	"github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

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
		// It is told although its object is gone, so that its status is not kept for the master for ever.
		if got := n.containers("uid-p"); got != "" || n.goneCount("uid-p") != 1 {
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

func TestSidecarsEndLast(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{StopAfter: 5 * time.Second})
		p := pod("p", "side1", "side2", "a")
		n.apply(p)
		n.want("uid-p", "Running side1=running+ side2=running+ a=running+")
		n.takeEvents()
		n.delete(p, 30)
		n.wantEvents("Killing: Stopping container a", "Killing: Stopping container side2", "Killing: Stopping container side1")
		seconds(4)
		if got := n.containers("uid-p"); got != "POD#0=running a#0=running side1#0=running side2#0=running" {
			t.Error(got)
		}
		seconds(2)
		if got := n.containers("uid-p"); got != "" {
			t.Error(got)
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

// The agent is restarted before the master has removed the object: it says the same again.
func TestFinalStatusIsNotForgotten(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.engine.Script("a", func(runtime.ContainerSpec) fake.Program { return fake.Program{StopAfter: time.Second} })
		p := pod("p", "a")
		n.apply(p)
		n.delete(p, 30)
		seconds(2)
		n.want("uid-p", "Succeeded a=Completed:0")
		n.restart()
		n.want("uid-p", "Succeeded a=Completed:0")
		if n.goneCount("uid-p") != 2 {
			t.Error(n.goneCount("uid-p"))
		}
		n.remove(desired.Pods, "default", "p")
		if entries, _ := os.ReadDir(n.dir + "/status"); len(entries) != 0 {
			t.Error(entries)
		}
	})
}
