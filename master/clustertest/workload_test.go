package clustertest

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
