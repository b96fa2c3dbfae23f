package clustertest

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	noderuntime "github.com/whalepod/whalepod/node/runtime"
)

func statefulSet(name string, replicas int32) *appsv1.StatefulSet {
	d := deployment(name, replicas)
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.StatefulSetSpec{Replicas: d.Spec.Replicas, ServiceName: name, Selector: d.Spec.Selector, Template: d.Spec.Template},
	}
}

func (c *cluster) createSet(set *appsv1.StatefulSet) {
	c.Helper()
	if _, err := c.kube.AppsV1().StatefulSets("default").Create(c.ctx, set, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

// readyNames of an app's pods, as in "db-0 db-1".
func (c *cluster) readyNames(app string) string {
	c.Helper()
	var names []string
	for _, p := range c.podsOf(app) {
		if isReady(&p) && p.DeletionTimestamp == nil {
			names = append(names, p.Name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// copies counts the pods of this name that any engine runs, whatever the master believes.
func (c *cluster) copies(name string) (n int) {
	c.Helper()
	for _, a := range c.agents {
		all, err := a.engine.Pods(c.ctx)
		if err != nil {
			c.Fatal(err)
		}
		for _, p := range all {
			if p.Ref.Name == name && slices.ContainsFunc(p.Containers, func(k noderuntime.Container) bool { return k.State == noderuntime.StateRunning }) {
				n++
			}
		}
	}
	return n
}

func TestStatefulSet(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.createSet(statefulSet("db", 3))
		c.eventually(20*time.Second, "three ready pods", func() bool { return c.readyNames("db") == "db-0 db-1 db-2" })
		pods := c.podsOf("db")
		slices.SortFunc(pods, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
		for i := 1; i < len(pods); i++ {
			before, _ := time.Parse(time.RFC3339, pods[i-1].Status.StartTime.Format(time.RFC3339))
			if pods[i].CreationTimestamp.Time.Before(before) {
				t.Errorf("%s was made before %s had started", pods[i].Name, pods[i-1].Name)
			}
		}
		sets := c.kube.AppsV1().StatefulSets("default")
		patch := `{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"nginx:2"}]}}}}`
		if _, err := sets.Patch(c.ctx, "db", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(3*time.Minute, "all of the new image", func() bool {
			set, err := sets.Get(c.ctx, "db", metav1.GetOptions{})
			for _, p := range c.podsOf("db") {
				if p.Spec.Containers[0].Image != "nginx:2" || !isReady(&p) {
					return false
				}
			}
			return err == nil && set.Status.UpdatedReplicas == 3 && set.Status.CurrentRevision == set.Status.UpdateRevision
		})
		scale, err := sets.GetScale(c.ctx, "db", metav1.GetOptions{})
		if err != nil || scale.Spec.Replicas != 3 || scale.Status.Replicas != 3 || scale.Status.Selector != "app=db" {
			t.Fatalf("scale %+v, %v", scale, err)
		}
		scale.Spec.Replicas = 1
		if _, err := sets.UpdateScale(c.ctx, "db", scale, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(2*time.Minute, "db-0 alone", func() bool { return len(c.podsOf("db")) == 1 && c.readyNames("db") == "db-0" })
		revisions, err := c.kube.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{LabelSelector: "app=db"})
		if err != nil || len(revisions.Items) != 2 {
			t.Errorf("%d revisions, %v", len(revisions.Items), err)
		}
		foreground := metav1.DeletePropagationForeground
		if err := sets.Delete(c.ctx, "db", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
			t.Fatal(err)
		}
		c.eventually(2*time.Minute, "nothing is left", func() bool {
			left, err := sets.List(c.ctx, metav1.ListOptions{})
			revisions, errRevisions := c.kube.AppsV1().ControllerRevisions("default").List(c.ctx, metav1.ListOptions{})
			return err == nil && errRevisions == nil && len(left.Items)+len(revisions.Items)+len(c.podsOf("db"))+c.copies("db-0") == 0
		})
	})
}

// A node that does not answer but that gossip still sees keeps its pods, also those that somebody has deleted: never do two
// machines run one ordinal.
func TestStatefulSetRunsAnOrdinalOnce(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.createSet(statefulSet("db", 2))
		c.eventually(20*time.Second, "two ready pods", func() bool { return c.readyNames("db") == "db-0 db-1" })
		pod, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "db-1", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		silent := c.agents[pod.Spec.NodeName]
		silent.cable(false)
		if err := c.kube.CoreV1().Pods("default").Delete(c.ctx, "db-1", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		for range 60 {
			time.Sleep(5 * time.Second)
			if now, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "db-1", metav1.GetOptions{}); err != nil || now.UID != pod.UID {
				t.Fatalf("db-1 was replaced while its node may run it: %v", err)
			}
			if n := c.copies("db-1"); n != 1 {
				t.Fatalf("%d run as db-1", n)
			}
		}
		silent.cable(true)
		c.eventually(2*time.Minute, "db-1 is another", func() bool {
			if n := c.copies("db-1"); n > 1 {
				t.Fatalf("%d run as db-1", n)
			}
			now, err := c.kube.CoreV1().Pods("default").Get(c.ctx, "db-1", metav1.GetOptions{})
			return err == nil && now.UID != pod.UID && c.readyNames("db") == "db-0 db-1"
		})
	})
}
