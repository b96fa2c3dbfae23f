package endpoints

import (
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

// only is the one slice that there is.
func only(t *testing.T, e *ct.Env) *discoveryv1.EndpointSlice {
	t.Helper()
	synctest.Wait()
	list := ct.List[*discoveryv1.EndpointSlice](e, "default")
	if len(list) != 1 {
		t.Fatalf("%d slices, want one: %+v", len(list), list)
	}
	return list[0]
}

// TestSlicesOfAnEarlierService: what a Service that was deleted with --cascade=orphan left behind has its labels still, and
// who looks for endpoints goes by those. The pods that it lists are never looked at again.
func TestSlicesOfAnEarlierService(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, service("web"))
		running(e, "a", "web", "10.244.0.2", true)
		old := only(t, e)
		e.Update(func(tx *registry.Tx) error { // as the collector does it, to a Service that is being deleted
			orphan := old.DeepCopy()
			orphan.OwnerReferences = nil
			if _, err := registry.Put(tx, orphan); err != nil {
				return err
			}
			return tx.Delete(ct.Get[*corev1.Service](e, "default", "web"), registry.DeleteOptions{})
		})
		if only(t, e).UID != old.UID {
			t.Error("the orphan has gone without a Service that needs it to")
		}
		svc := ct.Create(e, service("web"))
		if s := only(t, e); len(s.OwnerReferences) != 1 || s.OwnerReferences[0].UID != svc.UID {
			t.Errorf("owners %v", s.OwnerReferences)
		}
		if got := seen(e, "web"); got != "10.244.0.2:8080" {
			t.Errorf("endpoints %q", got)
		}
	})
}

// TestSlicesWithoutOwner: as a backup brings them back, beside a Service that there is.
func TestSlicesWithoutOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, service("web"))
		running(e, "a", "web", "10.244.0.2", true)
		ct.Create(e, service("ext", func(s *corev1.Service) { s.Spec.Selector = nil }))
		ct.Create(e, service("bare", func(s *corev1.Service) { s.Spec.Selector = nil }))
		ct.Create(e, handWritten("ext", subset(3306, []string{"192.0.2.1"})))
		want := map[string]string{"web": "10.244.0.2:8080", "ext": "192.0.2.1:3306", "bare": ""}
		restored := func(service, manager string) *discoveryv1.EndpointSlice {
			s := ct.List[*discoveryv1.EndpointSlice](e, "default")[0].DeepCopy()
			s.ObjectMeta.Reset()
			s.Namespace, s.Name = "default", service+"-old"
			s.Labels = map[string]string{discoveryv1.LabelServiceName: service, discoveryv1.LabelManagedBy: manager}
			s.Endpoints[0].Addresses = []string{"10.244.9.9"}
			return s
		}
		synctest.Wait()
		for service, manager := range map[string]string{"web": fromSelector, "ext": fromMirror, "bare": fromMirror} {
			ct.Create(e, restored(service, manager))
			if got := seen(e, service); got != want[service] {
				t.Errorf("%s: endpoints %q, want %q", service, got, want[service])
			}
		}
		// Those of others are theirs.
		ct.Create(e, restored("web", "me"))
		if got := seen(e, "web"); got != "10.244.0.2:8080 10.244.9.9:3306" {
			t.Errorf("endpoints %q", got)
		}
	})
}
