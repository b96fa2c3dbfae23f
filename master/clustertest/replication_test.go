package clustertest

import (
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReplicationController: pods run, the scale subresource changes their number, orphaned pods stay when their
// controller is deleted and are the next one's, and background deletion takes them along.
func TestReplicationController(t *testing.T) {
	run(t, 2, func(c *cluster) {
		controllers := c.kube.CoreV1().ReplicationControllers("default")
		create := func() {
			c.Helper()
			template := deployment("web", 0).Spec.Template
			_, err := controllers.Create(c.ctx, &corev1.ReplicationController{
				ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: corev1.ReplicationControllerSpec{Template: &template},
			}, metav1.CreateOptions{})
			if err != nil {
				c.Fatal(err)
			}
		}
		ready := func() (n int) {
			for _, on := range c.ready("web") {
				n += on
			}
			return n
		}
		remove := func(how metav1.DeletionPropagation) {
			c.Helper()
			if err := controllers.Delete(c.ctx, "web", metav1.DeleteOptions{PropagationPolicy: &how}); err != nil {
				c.Fatal(err)
			}
		}
		create()
		c.eventually(time.Minute, "one pod is ready", func() bool { return ready() == 1 })
		_, err := controllers.UpdateScale(c.ctx, "web", &autoscalingv1.Scale{
			ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: autoscalingv1.ScaleSpec{Replicas: 3},
		}, metav1.UpdateOptions{})
		if err != nil {
			c.Fatal(err)
		}
		c.eventually(time.Minute, "the status counts three", func() bool {
			rc, err := controllers.Get(c.ctx, "web", metav1.GetOptions{})
			return err == nil && rc.Status.ReadyReplicas == 3 && ready() == 3
		})
		scale, err := controllers.GetScale(c.ctx, "web", metav1.GetOptions{})
		if err != nil || scale.Status.Replicas != 3 || scale.Status.Selector != "app=web" {
			c.Errorf("scale %+v, %v", scale, err)
		}

		remove(metav1.DeletePropagationOrphan)
		c.eventually(time.Minute, "the pods are nobody's", func() bool {
			for _, p := range c.podsOf("web") {
				if len(p.OwnerReferences) > 0 {
					return false
				}
			}
			return ready() == 3
		})
		create()
		c.eventually(time.Minute, "all are adopted and two removed", func() bool {
			pods := c.podsOf("web")
			return len(pods) == 1 && metav1.GetControllerOf(&pods[0]) != nil
		})
		remove(metav1.DeletePropagationBackground)
		c.eventually(2*time.Minute, "the pod goes with its controller", func() bool { return len(c.podsOf("web")) == 0 })
	})
}
