package clustertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	noderuntime "github.com/whalepod/whalepod/node/runtime"
	"github.com/whalepod/whalepod/node/runtime/fake"
)

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "nginx:1"}}},
			},
		},
	}
}

func (c *cluster) deploy(d *appsv1.Deployment) {
	c.Helper()
	if _, err := c.kube.AppsV1().Deployments("default").Create(c.ctx, d, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) podsOf(app string) []corev1.Pod {
	c.Helper()
	list, err := c.kube.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		c.Fatal(err)
	}
	return list.Items
}

func isReady(p *corev1.Pod) bool {
	for _, cond := range p.Status.Conditions {
		if cond.Type == corev1.PodReady {
			return cond.Status == corev1.ConditionTrue
		}
	}
	return false
}

// ready counts ready pods that nobody deletes, by node.
func (c *cluster) ready(app string) map[string]int {
	out := map[string]int{}
	for _, p := range c.podsOf(app) {
		if isReady(&p) && p.DeletionTimestamp == nil {
			out[p.Spec.NodeName]++
		}
	}
	return out
}

func total(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func TestDeploymentSpreadsAndHeals(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.deploy(deployment("web", 6))
		c.eventually(10*time.Second, "six ready pods", func() bool { return total(c.ready("web")) == 6 })
		for node, n := range c.ready("web") {
			if n != 2 {
				t.Errorf("%d pods on %s", n, node)
			}
		}
		for _, p := range c.podsOf("web") {
			if p.Status.PodIP == "" || p.Status.HostIP == "" || p.Status.Phase != corev1.PodRunning || len(p.Status.ContainerStatuses) != 1 {
				t.Errorf("status of %s: %+v", p.Name, p.Status)
			}
		}
		victim := c.podsOf("web")[0]
		if err := c.kube.CoreV1().Pods("default").Delete(c.ctx, victim.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(40*time.Second, "six others", func() bool {
			all := c.podsOf("web")
			for _, p := range all {
				if p.UID == victim.UID {
					return false
				}
			}
			return len(all) == 6 && total(c.ready("web")) == 6
		})
	})
}

func TestRollingUpdateKeepsServing(t *testing.T) {
	run(t, 3, func(c *cluster) {
		d := deployment("web", 4)
		zero, one := intstr.FromInt32(0), intstr.FromInt32(1)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxUnavailable: &zero, MaxSurge: &one}
		c.deploy(d)
		c.eventually(10*time.Second, "four ready pods", func() bool { return total(c.ready("web")) == 4 })
		patch := `{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"nginx:2"}]}}}}`
		if _, err := c.kube.AppsV1().Deployments("default").Patch(c.ctx, "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(2*time.Minute, "all new", func() bool {
			all := c.podsOf("web")
			if n := total(c.ready("web")); n < 4 || len(all) > 4+1+4 {
				t.Errorf("%d ready pods of %d in the middle of the update", n, len(all))
			}
			for _, p := range all {
				if p.Spec.Containers[0].Image != "nginx:2" {
					return false
				}
			}
			return total(c.ready("web")) == 4 && len(all) == 4
		})
		sets, err := c.kube.AppsV1().ReplicaSets("default").List(c.ctx, metav1.ListOptions{})
		if err != nil || len(sets.Items) != 2 {
			t.Error(len(sets.Items), err)
		}
	})
}

func TestMasterRestartLosesNothing(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(deployment("web", 4))
		c.eventually(10*time.Second, "four ready pods", func() bool { return total(c.ready("web")) == 4 })
		before := uids(c.podsOf("web"))
		made := c.agents["n1"].engine.Calls("CreateContainer") + c.agents["n2"].engine.Calls("CreateContainer")
		// A container dies while nobody is there to see it; its agent starts it again by itself.
		c.stopMaster()
		a := c.agents["n1"]
		all, err := a.engine.Pods(c.ctx)
		if err != nil {
			t.Fatal(err)
		}
		a.engine.Kill(all[0].Containers[0].ID, 1, false)
		time.Sleep(30 * time.Second)
		c.startMaster()
		c.eventually(20*time.Second, "four ready pods, one restarted", func() bool {
			restarts := 0
			for _, p := range c.podsOf("web") {
				for _, s := range p.Status.ContainerStatuses {
					restarts += int(s.RestartCount)
				}
			}
			return total(c.ready("web")) == 4 && restarts == 1
		})
		time.Sleep(5 * time.Minute)
		if after := uids(c.podsOf("web")); after != before {
			t.Errorf("pods\n%s became\n%s", before, after)
		}
		if n := c.agents["n1"].engine.Calls("CreateContainer") + c.agents["n2"].engine.Calls("CreateContainer") - made; n != 1 {
			t.Errorf("%d containers were made, one died", n)
		}
	})
}

func uids(all []corev1.Pod) (out string) {
	for _, p := range all {
		out += p.Name + " " + string(p.UID) + " " + p.Status.PodIP + "\n"
	}
	return out
}

func TestAgentRestartAdopts(t *testing.T) {
	run(t, 1, func(c *cluster) {
		c.deploy(deployment("web", 3))
		c.eventually(10*time.Second, "three ready pods", func() bool { return total(c.ready("web")) == 3 })
		a := c.agents["n1"]
		before, made := uids(c.podsOf("web")), a.engine.Calls("CreateContainer")
		a.stop()
		time.Sleep(2 * time.Second)
		c.start(a)
		time.Sleep(time.Minute)
		synctest.Wait()
		if after := uids(c.podsOf("web")); after != before || total(c.ready("web")) != 3 || a.engine.Calls("CreateContainer") != made {
			t.Errorf("pods\n%s became\n%s, %d ready, %d containers made", before, after, total(c.ready("web")), a.engine.Calls("CreateContainer")-made)
		}
		// Also without the master.
		a.stop()
		c.stopMaster()
		c.start(a)
		time.Sleep(time.Minute)
		if a.engine.Calls("CreateContainer") != made {
			t.Error("without a master the agent made containers anew")
		}
		c.startMaster()
		c.eventually(20*time.Second, "three ready pods", func() bool { return total(c.ready("web")) == 3 })
	})
}

func TestDeleteWithGrace(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		a.engine.Script("web", func(noderuntime.ContainerSpec) fake.Program { return fake.Program{StopAfter: 4 * time.Second} })
		c.createPod(pinned("p1", "n1"))
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("p1") })
		c.deletePod("p1", 10)
		time.Sleep(3 * time.Second)
		p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "p1", metav1.GetOptions{})
		if err != nil || p.DeletionTimestamp == nil || p.Status.ContainerStatuses[0].State.Running == nil {
			t.Errorf("after 3 of 4 seconds: %+v %v", p.Status, err)
		}
		c.eventually(4*time.Second, "it is gone", func() bool {
			_, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "p1", metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		})
		c.eventually(5*time.Second, "nothing is left on the node", func() bool {
			all, err := a.engine.Pods(c.ctx)
			return err == nil && len(all) == 0 && a.told() == ""
		})
	})
}

func TestStatusOfWhatFails(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		a.engine.Script("crash", func(noderuntime.ContainerSpec) fake.Program { return fake.Program{After: time.Second, ExitCode: 3} })
		crash := pinned("crash", "n1")
		crash.Spec.Containers[0].Name = "crash"
		c.createPod(crash)
		bad := pinned("bad", "n1")
		bad.Spec.Containers[0].Image = "nowhere:9"
		c.createPod(bad)
		waiting := func(name string) string {
			p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
			if err != nil || len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Waiting == nil {
				return ""
			}
			return p.Status.ContainerStatuses[0].State.Waiting.Reason
		}
		c.eventually(time.Minute, "CrashLoopBackOff", func() bool { return waiting("crash") == "CrashLoopBackOff" })
		c.eventually(time.Minute, "ErrImagePull", func() bool { return waiting("bad") == "ErrImagePull" })
		c.eventually(time.Minute, "ImagePullBackOff", func() bool { return waiting("bad") == "ImagePullBackOff" })
		time.Sleep(5 * time.Minute)
		p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "crash", metav1.GetOptions{})
		if err != nil || p.Status.ContainerStatuses[0].RestartCount < 4 || p.Status.ContainerStatuses[0].LastTerminationState.Terminated.ExitCode != 3 {
			t.Errorf("%+v %v", p.Status.ContainerStatuses, err)
		}
		events, err := c.kube.CoreV1().Events("default").List(c.ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=crash,reason=BackOff"})
		if err != nil || len(events.Items) != 1 || events.Items[0].Count < 3 {
			t.Errorf("%d events of the back-off, %v: repeats are to be folded", len(events.Items), err)
		}
		// A pod that fits nowhere says why.
		big := pinned("big", "")
		big.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64")}
		c.createPod(big)
		c.eventually(10*time.Second, "the scheduler's words", func() bool {
			p, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "big", metav1.GetOptions{})
			return err == nil && len(p.Status.Conditions) > 0 && strings.Contains(p.Status.Conditions[0].Message, "0/1 nodes are available: 1 Insufficient cpu.")
		})
	})
}

func TestConfigMapReachesTheNode(t *testing.T) {
	run(t, 1, func(c *cluster) {
		a := c.agents["n1"]
		cm, err := c.kube.CoreV1().ConfigMaps("default").Create(c.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "page"}, Data: map[string]string{"index.html": "one"}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p := pinned("p1", "n1")
		p.Spec.Volumes = []corev1.Volume{{Name: "page", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "page"}}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "page", MountPath: "/page"}}
		p = c.createPod(p)
		c.eventually(10*time.Second, "it runs", func() bool { return c.running("p1") })
		content := func() string {
			files, _ := filepath.Glob(filepath.Join(a.dir, "pods", string(p.UID), "volumes", "*", "page", "index.html"))
			if len(files) != 1 {
				return fmt.Sprint(files)
			}
			data, _ := os.ReadFile(files[0])
			return string(data)
		}
		c.eventually(time.Second, "the first page", func() bool { return content() == "one" })
		cm.Data["index.html"] = "two"
		if _, err := c.kube.CoreV1().ConfigMaps("default").Update(c.ctx, cm, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(2*time.Minute, "the second page, not "+content(), func() bool { return content() == "two" })
	})
}
