package quota

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func TestRecount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := controllertest.New(t)
		controllertest.Create(e, &corev1.ResourceQuota{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "q"},
			Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": apiresource.MustParse("3"), "configmaps": apiresource.MustParse("1")}},
		})
		for _, name := range []string{"stays", "stuck"} {
			p := controllertest.Create(e, controllertest.Pod(name, nil))
			e.Update(func(tx *registry.Tx) error { return tx.Bind(p, "n1") })
		}
		e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
		check := func(what, want string) {
			t.Helper()
			synctest.Wait()
			used := controllertest.Get[*corev1.ResourceQuota](e, "default", "q").Status.Used["pods"]
			if got := used.String(); got != want {
				t.Errorf("%s: %s pods, want %s", what, got, want)
			}
		}
		check("at the start", "2")
		// A node that is lost never says that its pod is gone: it is charged for until twice its grace period is over.
		grace := int64(30)
		controllertest.Delete[*corev1.Pod](e, "default", "stuck", registry.DeleteOptions{GracePeriodSeconds: &grace})
		controllertest.Settle(59 * time.Second)
		check("while it may still end", "2")
		controllertest.Settle(2 * time.Second)
		check("when it should have ended", "1")
		none := int64(0)
		controllertest.Delete[*corev1.Pod](e, "default", "stuck", registry.DeleteOptions{GracePeriodSeconds: &none})
		controllertest.Settle(time.Second)
		check("when it is gone", "1")

		// What somebody wrote into the status does not last.
		controllertest.ChangeStatus(e, "default", "q", func(q *corev1.ResourceQuota) {
			q.Status.Hard = corev1.ResourceList{"pods": apiresource.MustParse("1000")}
			q.Status.Used = nil
		})
		check("after a wrong status", "1")
		if hard := controllertest.Get[*corev1.ResourceQuota](e, "default", "q").Status.Hard["pods"]; hard.String() != "3" {
			t.Errorf("status.hard is %s", hard.String())
		}
		controllertest.ChangeStatus(e, "default", "q", func(q *corev1.ResourceQuota) { q.Status.Used["pods"] = apiresource.MustParse("2") })
		controllertest.Settle(2 * 5 * time.Minute)
		check("after a wrong count", "1")

		before := controllertest.Get[*corev1.ResourceQuota](e, "default", "q").ResourceVersion
		controllertest.Settle(30 * time.Minute)
		if after := controllertest.Get[*corev1.ResourceQuota](e, "default", "q").ResourceVersion; after != before {
			t.Error("written again without need")
		}
		controllertest.Delete[*corev1.ResourceQuota](e, "default", "q", registry.DeleteOptions{})
		controllertest.Settle(10 * time.Minute) // nobody misses it
	})
}
