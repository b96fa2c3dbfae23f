package clustertest

import (
	"testing"
	"testing/synctest"
	"time"

	appsv1beta1 "k8s.io/api/apps/v1beta1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The subresource by which kubectl before 1.9 undoes a rollout.
func TestRollbackSubresource(t *testing.T) {
	run(t, 1, func(c *cluster) {
		labels := map[string]string{"app": "web"}
		old := c.kube.AppsV1beta1().Deployments("default")
		d, err := old.Create(c.ctx, &appsv1beta1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Name: "web"},
			Spec: appsv1beta1.DeploymentSpec{Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		settle := func() {
			time.Sleep(30 * time.Second)
			synctest.Wait()
		}
		settle()
		if d, err = old.Get(c.ctx, d.Name, metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		d.Spec.Template.Spec.Containers[0].Image = "httpd"
		if _, err := old.Update(c.ctx, d, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		settle()
		undo := func(url, body string) error {
			return c.kube.AppsV1beta1().RESTClient().Post().Namespace("default").Resource("deployments").Name(url).SubResource("rollback").
				Body(&appsv1beta1.DeploymentRollback{Name: body, UpdatedAnnotations: map[string]string{"why": "broken"}}).Do(c.ctx).Error()
		}
		if err := undo("web", "other"); !apierrors.IsBadRequest(err) {
			t.Errorf("of another name: %v", err)
		}
		if err := undo("web", "web"); err != nil {
			t.Fatal(err)
		}
		settle()
		if d, err = old.Get(c.ctx, d.Name, metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		if image := d.Spec.Template.Spec.Containers[0].Image; image != "nginx" || d.Spec.RollbackTo != nil {
			t.Errorf("image %s, rollbackTo %v", image, d.Spec.RollbackTo)
		}
	})
}
