package pods

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/pods/admit"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

func disrupted(s corev1.PodStatus) *corev1.PodCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == corev1.DisruptionTarget {
			return &s.Conditions[i]
		}
	}
	return nil
}

func TestEvict(t *testing.T) {
	const why = "The node was low on resource: memory. "
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{IgnoreTERM: true})
		n.apply(pod("p", "a"))
		n.want("uid-p", "Running a=running+")
		n.takeEvents()
		began := time.Now()
		if !n.manager.Evict("uid-p", Eviction{Message: why, Grace: time.Second, Disruption: true}) || n.manager.Evict("uid-x", Eviction{}) {
			t.Error("wrong answer")
		}
		for !n.manager.Cleared("uid-p") {
			seconds(0.5)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Errorf("the pod's own grace period was given: %v", took)
		}
		n.want("uid-p", "Failed a=Error:137")
		n.wantEvents("Evicted: "+why, "Killing: Stopping container a")
		check := func() {
			t.Helper()
			s := n.status("uid-p")
			if s.Reason != "Evicted" || s.Message != why {
				t.Error(s.Reason, s.Message)
			}
			if c := disrupted(s); c == nil || c.Status != "True" || c.Reason != "TerminationByKubelet" || c.Message != why {
				t.Errorf("%+v", c)
			}
			if left := n.containers("uid-p"); left != "" {
				t.Error("left of an evicted pod:", left)
			}
		}
		check()
		n.restart()
		n.want("uid-p", "Failed a=Error:137")
		check()
		n.manager.Republish()
		synctest.Wait()
		n.want("uid-p", "Failed a=Error:137")
		check()
	})
}

// A pod that exceeds a limit of its own is no target of a disruption; one that is being deleted already is hurried.
func TestEvictForItsOwn(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		n.script("a", fake.Program{IgnoreTERM: true})
		p := pod("p", "a")
		n.apply(p)
		n.delete(p, 3600)
		seconds(10)
		n.want("uid-p", "Running a=running+")
		n.manager.Evict("uid-p", Eviction{Message: "Usage of EmptyDir volume \"x\" exceeds the limit \"1Mi\". ", Grace: time.Second})
		seconds(3)
		if c := disrupted(n.status("uid-p")); c != nil {
			t.Errorf("%+v", c)
		}
		if n.goneCount("uid-p") == 0 {
			t.Error("not gone")
		}
	})
}

func TestActive(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		p := pod("p", "a", "b")
		p.Spec.Volumes = []corev1.Volume{
			{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "ram", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}}},
		}
		done := pod("done", "c")
		done.Spec.RestartPolicy = corev1.RestartPolicyNever
		n.script("c", fake.Program{After: time.Second})
		n.apply(p, done)
		seconds(2)
		all := n.manager.Active()
		if len(all) != 1 || all[0].Pod.Name != "p" {
			t.Fatalf("%+v", all)
		}
		a := all[0]
		if a.SandboxPID == 0 || a.SandboxID == "" || len(a.Running) != 2 || a.Running[0].ID == "" || len(a.ImageIDs) != 2 || len(a.EmptyDirs) != 1 || a.EmptyDirs["disk"] == "" {
			t.Errorf("%+v", a)
		}
		if got := n.containers("uid-done"); got != "c#0=exited" {
			t.Error(got)
		}
		n.engine.Fail("RemoveContainer", errors.New("busy"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		n.manager.RemoveEnded(ctx)
		if got := n.containers("uid-done"); got != "c#0=exited" {
			t.Error("removed although the engine refused:", got)
		}
		n.manager.RemoveEnded(ctx)
		if got := n.containers("uid-done"); got != "" {
			t.Error("left:", got)
		}
		n.want("uid-done", "Succeeded c=Completed:0")
		n.want("uid-p", "Running a=running+ b=running+")
	})
}

// A pod that was bound here without asking the scheduler must fit beside the others, by what the master says of this node or,
// before that, by what the node itself has.
func TestAdmissionByAllocatable(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		big := func(name, memory string) *corev1.Pod {
			p := pod(name, "a")
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"memory": resource.MustParse(memory)}
			return p
		}
		n.apply(big("p", "800Mi"), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
		n.want("uid-p", "Running a=running+")
		n.apply(big("q", "200Mi"))
		rejected := func(uid, reason, message string) {
			t.Helper()
			if s := n.status(uid); s.Phase != corev1.PodFailed || s.Reason != reason || s.Message != message {
				t.Errorf("%s: %s %s %q", uid, s.Phase, s.Reason, s.Message)
			}
		}
		rejected("uid-q", "OutOfmemory", "Pod was rejected: Node didn't have enough resource: memory, requested: 209715200, used: 838860800, capacity: 943718400")
		own := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
		own.Status.Allocatable = corev1.ResourceList{"memory": resource.MustParse("2Gi")}
		n.apply(own)
		n.apply(big("r", "200Mi"))
		n.want("uid-r", "Running a=running+")

		n.refuse = &admit.Refusal{Reason: "Evicted", Message: "The node had condition: [DiskPressure]. "}
		n.apply(big("s", "1Ti")) // that it would not fit either is not what is said
		rejected("uid-s", "Evicted", "Pod was rejected: The node had condition: [DiskPressure]. ")
		n.restart()
		n.want("uid-r", "Running a=running+") // what runs was let in
	})
}

// What a full disk refuses is written as soon as there is room again.
func TestStatusIsSavedLater(t *testing.T) {
	test(t, func(t *testing.T, n *node) {
		// A file where the directory should be refuses as a full disk does.
		if err := os.WriteFile(filepath.Join(n.dir, "status"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		n.script("a", fake.Program{After: time.Second, ExitCode: 3})
		p := pod("p", "a")
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		n.apply(p)
		seconds(2)
		n.want("uid-p", "Failed a=Error:3")
		seconds(3600)
		if err := os.Remove(filepath.Join(n.dir, "status")); err != nil {
			t.Fatal(err)
		}
		seconds(saveRetry.Seconds())
		s, ok := n.manager.loadStatus("uid-p")
		if !ok || s.Phase != corev1.PodFailed {
			t.Errorf("%v %+v", ok, s)
		}
	})
}
