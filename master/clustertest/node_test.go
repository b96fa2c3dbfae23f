package clustertest

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A machine dies: its endpoints go in seconds, its pods serve elsewhere after the grace period, and when it comes back it
// ends what it has no more.
func TestNodeLost(t *testing.T) {
	run(t, 3, func(c *cluster) {
		c.deploy(deployment("web", 6))
		if _, err := c.kube.CoreV1().Services("default").Create(c.ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(10*time.Second, "six ready endpoints", func() bool { return c.endpoints("web") == 6 })
		lost := c.agents["n2"]
		began := time.Now()
		lost.cable(false)
		c.gossip.set("n2", false)
		c.eventually(3*time.Second, "its endpoints withdrawn", func() bool { return c.endpoints("web") == 4 })
		t.Log("endpoints withdrawn after", time.Since(began))
		c.eventually(30*time.Second, "six pods on two nodes", func() bool {
			by := c.ready("web")
			return by["n2"] == 0 && by["n1"]+by["n3"] == 6 && c.endpoints("web") == 6
		})
		t.Log("all serve elsewhere after", time.Since(began))
		time.Sleep(time.Minute)
		lost.cable(true)
		c.gossip.set("n2", true)
		c.eventually(time.Minute, "n2 is ready and holds nothing", func() bool {
			all, err := lost.engine.Pods(c.ctx)
			return err == nil && len(all) == 0 && lost.told() == "" && c.readyNodes() == 3
		})
		if total(c.ready("web")) != 6 {
			t.Error(c.ready("web"))
		}
	})
}

// Silence alone moves nothing: gossip still sees the machine, its pods go on.
func TestSessionLostIsNotNodeLost(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(deployment("web", 4))
		c.eventually(10*time.Second, "four ready pods", func() bool { return total(c.ready("web")) == 4 })
		before := uids(c.podsOf("web"))
		c.agents["n2"].cable(false)
		time.Sleep(20 * time.Second)
		c.agents["n2"].cable(true)
		time.Sleep(20 * time.Second)
		if after := uids(c.podsOf("web")); after != before {
			t.Errorf("pods\n%s became\n%s", before, after)
		}
		c.eventually(time.Minute, "all ready", func() bool { return total(c.ready("web")) == 4 && c.readyNodes() == 2 })
	})
}

// Somebody deletes the Node of a machine that lives: it is there again at once, with its range of pods, and its pods stay.
func TestNodeDeletedByMistake(t *testing.T) {
	run(t, 2, func(c *cluster) {
		c.deploy(deployment("web", 4))
		c.eventually(10*time.Second, "four ready pods", func() bool { return total(c.ready("web")) == 4 })
		before := uids(c.podsOf("web"))
		node, err := c.kube.CoreV1().Nodes().Get(c.ctx, "n2", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.kube.CoreV1().Nodes().Delete(c.ctx, "n2", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(10*time.Second, "n2 has registered again", func() bool {
			again, err := c.kube.CoreV1().Nodes().Get(c.ctx, "n2", metav1.GetOptions{})
			return err == nil && again.UID != node.UID && again.Spec.PodCIDR == node.Spec.PodCIDR && c.readyNodes() == 2
		})
		time.Sleep(2 * time.Minute)
		if after := uids(c.podsOf("web")); after != before {
			t.Errorf("pods\n%s became\n%s", before, after)
		}
	})
}

func (c *cluster) endpoints(service string) (n int) {
	c.Helper()
	list, err := c.kube.DiscoveryV1().EndpointSlices("default").List(c.ctx, metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
	if err != nil {
		c.Fatal(err)
	}
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				n++
			}
		}
	}
	return n
}

// Deleting a Deployment or a namespace takes everything below it away, from the nodes too.
func TestDeletionCascades(t *testing.T) {
	run(t, 2, func(c *cluster) {
		empty := func(what string) {
			t.Helper()
			c.eventually(90*time.Second, what, func() bool {
				for _, a := range c.agents {
					if all, err := a.engine.Pods(c.ctx); err != nil || len(all) > 0 || a.told() != "" {
						return false
					}
				}
				sets, err := c.kube.AppsV1().ReplicaSets("").List(c.ctx, metav1.ListOptions{})
				return err == nil && len(sets.Items) == 0
			})
		}
		for _, policy := range []metav1.DeletionPropagation{metav1.DeletePropagationBackground, metav1.DeletePropagationForeground} {
			c.deploy(deployment("web", 4))
			c.eventually(10*time.Second, "four ready pods", func() bool { return total(c.ready("web")) == 4 })
			if err := c.kube.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
				t.Fatal(err)
			}
			empty(string(policy))
		}
		if _, err := c.kube.CoreV1().Namespaces().Create(c.ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		d := deployment("web", 2)
		if _, err := c.kube.AppsV1().Deployments("team").Create(c.ctx, d, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		c.eventually(10*time.Second, "two pods there", func() bool {
			list, err := c.kube.CoreV1().Pods("team").List(c.ctx, metav1.ListOptions{FieldSelector: "status.phase=Running"})
			return err == nil && len(list.Items) == 2
		})
		if err := c.kube.CoreV1().Namespaces().Delete(c.ctx, "team", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		empty("namespace")
		c.eventually(30*time.Second, "no namespace", func() bool {
			list, err := c.kube.CoreV1().Namespaces().List(c.ctx, metav1.ListOptions{FieldSelector: "metadata.name=team"})
			return err == nil && len(list.Items) == 0
		})
	})
}
