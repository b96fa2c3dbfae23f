package clustertest

import (
	"context"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/node/hollow"
	"github.com/whalepod/whalepod/node/session"
)

// TestHollowNodes: nodes without containers join, take pods, say that they run, end those of Jobs, and give them back.
func TestHollowNodes(t *testing.T) {
	run(t, 0, func(c *cluster) {
		ctx, cancel := context.WithCancel(c.ctx)
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			ended <- hollow.Run(ctx, hollow.Config{
				Nodes: 20, Prefix: "hollow", Pods: 10, CPU: resource.MustParse("4"), Memory: resource.MustParse("8Gi"), Dir: t.TempDir(),
				Join: session.JoinOptions{Master: "127.0.0.1:6444", Token: token, CAHash: c.caHash()}, Dial: c.dialNodes,
			})
		}()
		c.eventually(time.Minute, "all nodes are ready", func() bool { return c.readyNodes() == 20 })
		c.deploy(deployment("web", 100))
		count := func(phase corev1.PodPhase) (n int) {
			pods, err := c.kube.CoreV1().Pods("default").List(c.ctx, metav1.ListOptions{})
			if err != nil {
				c.Fatal(err)
			}
			for _, p := range pods.Items {
				if p.Status.Phase == phase && (phase != corev1.PodRunning || strings.HasPrefix(p.Status.PodIP, "10.244.")) {
					n++
				}
			}
			return n
		}
		c.eventually(time.Minute, "all pods run", func() bool { return count(corev1.PodRunning) == 100 })
		three := int32(3)
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "batch"}, Spec: batchv1.JobSpec{
			Completions: &three, Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
				RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "nginx:1"}},
			}},
		}}
		if _, err := c.kube.BatchV1().Jobs("default").Create(c.ctx, job, metav1.CreateOptions{}); err != nil {
			c.Fatal(err)
		}
		c.eventually(time.Minute, "a Job completes", func() bool {
			j, err := c.kube.BatchV1().Jobs("default").Get(c.ctx, "batch", metav1.GetOptions{})
			return err == nil && j.Status.Succeeded == three && j.Status.CompletionTime != nil
		})
		if err := c.kube.AppsV1().Deployments("default").Delete(c.ctx, "web", metav1.DeleteOptions{}); err != nil {
			c.Fatal(err)
		}
		c.eventually(2*time.Minute, "deleted pods go", func() bool { return count(corev1.PodRunning) == 0 })
		cancel()
		if err := <-ended; err != nil {
			c.Error(err)
		}
	})
}
