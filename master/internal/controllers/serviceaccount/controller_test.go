package serviceaccount

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func TestEveryNamespaceHasBoth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger, CA: []byte("PEM")}).Run)
		ct.Create(e, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "shop"}})
		synctest.Wait()
		check := func() {
			t.Helper()
			for _, ns := range []string{"default", "shop"} {
				ct.Get[*corev1.ServiceAccount](e, ns, "default")
				if cm := ct.Get[*corev1.ConfigMap](e, ns, "kube-root-ca.crt"); cm.Data["ca.crt"] != "PEM" {
					t.Errorf("%s: %v", ns, cm.Data)
				}
			}
		}
		check()
		ct.Delete[*corev1.ServiceAccount](e, "shop", "default", registry.DeleteOptions{})
		ct.Delete[*corev1.ConfigMap](e, "shop", "kube-root-ca.crt", registry.DeleteOptions{})
		ct.Change(e, "default", "kube-root-ca.crt", func(c *corev1.ConfigMap) { c.Data["ca.crt"] = "other" })
		synctest.Wait()
		check()
	})
}
