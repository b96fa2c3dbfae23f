package endpoints

import (
	"net/netip"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func start(t *testing.T) *ct.Env {
	e := ct.New(t)
	e.Start(New(Config{Registry: e.Registry, Logger: e.Logger}).Run)
	return e
}

func service(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"team": "a"}},
		Spec: corev1.ServiceSpec{
			Selector: map[string]string{"app": name},
			Ports:    []corev1.ServicePort{{Name: "http", Port: 80, Protocol: "TCP", TargetPort: intstr.FromString("web")}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func running(e *ct.Env, name, app, ip string, ready bool) {
	p := ct.Pod(name, map[string]string{"app": app})
	p.Spec.NodeName = "node1"
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{Name: "web", ContainerPort: 8080, Protocol: "TCP"}}
	ct.Create(e, p)
	ct.SetReady(e, "default", name, ip, ready)
}

func TestEndpointsFollowPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, service("web"))
		running(e, "a", "web", "10.244.0.2", true)
		running(e, "b", "web", "10.244.0.3", false)
		running(e, "c", "other", "10.244.0.4", true)
		synctest.Wait()
		ep := ct.Get[*corev1.Endpoints](e, "default", "web")
		if len(ep.Subsets) != 1 || len(ep.Subsets[0].Addresses) != 1 || len(ep.Subsets[0].NotReadyAddresses) != 1 {
			t.Fatalf("subsets %+v", ep.Subsets)
		}
		if s := ep.Subsets[0]; s.Addresses[0].IP != "10.244.0.2" || s.NotReadyAddresses[0].IP != "10.244.0.3" || s.Ports[0].Port != 8080 || s.Ports[0].Name != "http" {
			t.Errorf("subset %+v", s)
		}
		list := ct.List[*discoveryv1.EndpointSlice](e, "default")
		if len(list) != 1 || len(list[0].Endpoints) != 2 || *list[0].Ports[0].Port != 8080 || list[0].Labels["team"] != "a" {
			t.Fatalf("slices %+v", list)
		}
		// A pod that is told to end leaves Endpoints at once; its slice says that it still serves.
		ct.Delete[*corev1.Pod](e, "default", "a", registry.DeleteOptions{})
		synctest.Wait()
		if ep := ct.Get[*corev1.Endpoints](e, "default", "web"); len(ep.Subsets) != 1 || len(ep.Subsets[0].Addresses) != 0 {
			t.Errorf("subsets %+v", ep.Subsets)
		}
		slice := ct.List[*discoveryv1.EndpointSlice](e, "default")[0]
		if c := slice.Endpoints[0].Conditions; *c.Ready || !*c.Serving || !*c.Terminating {
			t.Errorf("conditions %+v", c)
		}
		zero := int64(0)
		for _, name := range []string{"a", "b"} {
			ct.Delete[*corev1.Pod](e, "default", name, registry.DeleteOptions{GracePeriodSeconds: &zero})
		}
		synctest.Wait()
		if list := ct.List[*discoveryv1.EndpointSlice](e, "default"); len(list) != 1 || list[0].Name != slice.Name || len(list[0].Endpoints) != 0 {
			t.Errorf("slices %+v, want the old one, empty", list)
		}
		ct.Delete[*corev1.Service](e, "default", "web", registry.DeleteOptions{})
		synctest.Wait()
		if n := len(ct.List[*corev1.Endpoints](e, "default")); n != 0 {
			t.Errorf("%d Endpoints outlive their Service", n)
		}
	})
}

func TestPublishNotReadyAndHeadless(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, service("db", func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.Ports, s.Spec.PublishNotReadyAddresses = corev1.ClusterIPNone, nil, true
		}))
		running(e, "a", "db", "10.244.0.2", false)
		synctest.Wait()
		ep := ct.Get[*corev1.Endpoints](e, "default", "db")
		if len(ep.Subsets) != 1 || len(ep.Subsets[0].Addresses) != 1 || ep.Subsets[0].Ports != nil {
			t.Errorf("subsets %+v", ep.Subsets)
		}
		if _, ok := ep.Labels[corev1.IsHeadlessService]; !ok {
			t.Errorf("labels %v", ep.Labels)
		}
	})
}

func TestPublishAPIServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := start(t)
		ct.Create(e, service("kubernetes", func(s *corev1.Service) { s.Spec.Selector = nil }))
		for _, addr := range []string{"198.51.100.11:6443", "198.51.100.12:6443", "198.51.100.12:6443"} {
			if err := PublishAPIServer(e.Ctx, e.Registry, []netip.AddrPort{netip.MustParseAddrPort(addr)}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		list := ct.List[*discoveryv1.EndpointSlice](e, "default")
		if len(list) != 1 || list[0].Endpoints[0].Addresses[0] != "198.51.100.12" || *list[0].Ports[0].Port != 6443 {
			t.Errorf("slices %+v", list)
		}
	})
}
