package namespace

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func TestDeletionEmptiesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		ct.Create(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
		running := ct.Pod("running", nil)
		running.Namespace, running.Spec.NodeName = "shop", "node1"
		ct.Create(e, running)
		waiting := ct.Pod("waiting", nil)
		waiting.Namespace = "shop"
		ct.Create(e, waiting)
		ct.Create(e, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "config"}})
		ct.Create(e, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "config"}})
		ct.Delete[*corev1.Namespace](e, "", "shop", registry.DeleteOptions{})
		ct.Settle(time.Second)
		// The running pod ends first; what it may need stays.
		if pods := ct.List[*corev1.Pod](e, "shop"); len(pods) != 1 || pods[0].DeletionTimestamp == nil {
			t.Fatalf("pods %v", pods)
		}
		if n := len(ct.List[*corev1.ConfigMap](e, "shop")); n != 1 {
			t.Errorf("%d ConfigMaps while a pod still ends", n)
		}
		ns := ct.Get[*corev1.Namespace](e, "", "shop")
		said := ""
		for _, c := range ns.Status.Conditions {
			if c.Type == corev1.NamespaceContentRemaining {
				said = string(c.Status) + " " + c.Message
			}
		}
		if ns.Status.Phase != corev1.NamespaceTerminating || !strings.Contains(said, "True Some resources are remaining: configmaps. has 1 resource instances, pods. has 1 resource instances") {
			t.Errorf("%s: %q", ns.Status.Phase, said)
		}
		zero := int64(0)
		ct.Delete[*corev1.Pod](e, "shop", "running", registry.DeleteOptions{GracePeriodSeconds: &zero})
		ct.Settle(time.Second)
		if _, err := ct.Find[*corev1.Namespace](e, "", "shop"); !apierrors.IsNotFound(err) {
			t.Errorf("the namespace is still there: %v", err)
		}
		ct.Get[*corev1.ConfigMap](e, "default", "config")
	})
}
