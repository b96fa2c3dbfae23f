package loadbalancer

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"

	ct "github.com/whalepod/whalepod/master/internal/controllers/controllertest"
	"github.com/whalepod/whalepod/master/internal/registry"
)

func start(e *ct.Env, pool ...string) (stop func()) {
	return e.Start(New(Config{Registry: e.Registry, Logger: e.Logger, Pool: prefixes(pool...)}).Run)
}

func manifest(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := balanced(name, 0, []int32{80})
	s.UID, s.Status = "", corev1.ServiceStatus{}
	for _, f := range change {
		f(s)
	}
	return s
}

func addresses(e *ct.Env, name string) string {
	e.T.Helper()
	ct.Settle(nodeDelay)
	return strings.Join(given(ct.Get[*corev1.Service](e, "default", name)), " ")
}

func wants(e *ct.Env, name, want string) {
	e.T.Helper()
	if got := addresses(e, name); got != want {
		e.T.Errorf("%s has %q, want %q", name, got, want)
	}
}

func setNode(e *ct.Env, name, ip string, status corev1.ConditionStatus) {
	ct.ChangeStatus(e, "", name, func(n *corev1.Node) {
		n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}
		n.Status.Conditions[0].Status = status
	})
}

func tells(e *ct.Env, name, text string) {
	e.T.Helper()
	if events := ct.Events(e, name); !slices.ContainsFunc(events, func(s string) bool { return strings.Contains(s, text) }) {
		e.T.Errorf("events of %s: %q, want %q", name, events, text)
	}
}

func TestNodesAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		start(e)
		ct.Create(e, manifest("web"))
		wants(e, "web", "")
		for name, ip := range map[string]string{"node1": "198.51.100.10", "node2": "198.51.100.9", "node3": "198.51.100.11"} {
			ct.Node(e, name)
			setNode(e, name, ip, corev1.ConditionTrue)
		}
		wants(e, "web", "198.51.100.9 198.51.100.10 198.51.100.11")
		if in := ct.Get[*corev1.Service](e, "default", "web").Status.LoadBalancer.Ingress[0]; in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
			t.Errorf("%+v", in)
		}
		setNode(e, "node2", "198.51.100.9", corev1.ConditionUnknown)
		wants(e, "web", "198.51.100.10 198.51.100.11")
		ct.Change(e, "", "node1", func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: "true"} })
		wants(e, "web", "198.51.100.11")
		ct.Delete[*corev1.Node](e, "", "node3", registry.DeleteOptions{})
		wants(e, "web", "")
		setNode(e, "node2", "198.51.100.9", corev1.ConditionTrue)
		wants(e, "web", "198.51.100.9")

		// The same port a second time waits, and says why, until it is free.
		ct.Create(e, manifest("second"))
		wants(e, "second", "")
		tells(e, "second", "AllocationFailed: Failed to allocate IP: port 80/TCP of the nodes is given to Service default/web")
		ct.Create(e, manifest("other", func(s *corev1.Service) { s.Spec.Ports[0].Port = 8080 }))
		wants(e, "other", "198.51.100.9")
		ct.Change(e, "default", "web", func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })
		wants(e, "second", "198.51.100.9")
		// One that comes to have another's port loses to the older.
		ct.Settle(2e9)
		ct.Create(e, manifest("young", func(s *corev1.Service) { s.Spec.Ports[0].Port = 82 }))
		wants(e, "young", "198.51.100.9")
		ct.Change(e, "default", "young", func(s *corev1.Service) { s.Spec.Ports[0].Port = 81 })
		wants(e, "young", "")
		wants(e, "web", "198.51.100.9")
		ct.Change(e, "default", "young", func(s *corev1.Service) { s.Spec.Ports[0].Port = 82 })
		wants(e, "young", "198.51.100.9")
		ct.Change(e, "default", "web", func(s *corev1.Service) { s.Spec.Ports[0].Port = 82 })
		wants(e, "young", "")
		wants(e, "web", "198.51.100.9")
		ct.Change(e, "default", "web", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeClusterIP
			s.Spec.Ports[0].NodePort = 0
		})
		wants(e, "web", "")
		wants(e, "young", "198.51.100.9")
	})
}

func TestPoolAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		ct.Node(e, "node1")
		setNode(e, "node1", "203.0.113.10", corev1.ConditionTrue) // in the pool by mistake
		stop := start(e, "203.0.113.10/31", "203.0.113.12/31")
		ct.Create(e, manifest("a"))
		wants(e, "a", "203.0.113.11")
		tells(e, "a", "IPAllocated: Assigned IP 203.0.113.11")
		ct.Create(e, manifest("b", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "203.0.113.13" }))
		wants(e, "b", "203.0.113.13")
		ct.Create(e, manifest("c"))
		wants(e, "c", "203.0.113.12")
		ct.Create(e, manifest("d"))
		ct.Create(e, manifest("e", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "203.0.113.13" }))
		ct.Create(e, manifest("f", func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.1" }))
		wants(e, "d", "")
		wants(e, "e", "")
		tells(e, "d", "AllocationFailed: Failed to allocate IP: no available IPs")
		tells(e, "e", "AllocationFailed: Failed to allocate IP: spec.loadBalancerIP 203.0.113.13 is given to Service default/b")
		tells(e, "f", "AllocationFailed: Failed to allocate IP: spec.loadBalancerIP 192.0.2.1 is in no --lb-pool")
		// A restart changes nothing, also when it looks at them in another order.
		stop()
		start(e, "203.0.113.10/31", "203.0.113.12/31")
		for name, ip := range map[string]string{"a": "203.0.113.11", "b": "203.0.113.13", "c": "203.0.113.12", "d": "", "e": "", "f": ""} {
			wants(e, name, ip)
		}
		// What is freed goes to who waits: by a deletion, and by a change of the type.
		ct.Delete[*corev1.Service](e, "default", "b", registry.DeleteOptions{})
		synctest.Wait()
		if got := addresses(e, "d") + addresses(e, "e"); got != "203.0.113.13" {
			t.Errorf("after the deletion: d and e have %q", got)
		}
		ct.Change(e, "default", "a", func(s *corev1.Service) {
			s.Spec.Type = corev1.ServiceTypeClusterIP
			s.Spec.Ports[0].NodePort = 0
		})
		wants(e, "a", "")
		ct.Delete[*corev1.Service](e, "default", "c", registry.DeleteOptions{})
		ct.Create(e, manifest("g"))
		if got := addresses(e, "g"); got != "203.0.113.11" && got != "203.0.113.12" {
			t.Errorf("g has %q", got)
		}
		// A machine's address is free when the machine has gone.
		ct.Create(e, manifest("h"))
		ct.Create(e, manifest("i"))
		synctest.Wait()
		ct.Delete[*corev1.Node](e, "", "node1", registry.DeleteOptions{})
		if got := addresses(e, "h") + " " + addresses(e, "i"); !strings.Contains(got, "203.0.113.10") {
			t.Errorf("h and i have %q", got)
		}
	})
}

// TestOtherClasses: what belongs to another load balancer is left as it is.
func TestOtherClasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := ct.New(t)
		class := func(name string) func(*corev1.Service) {
			return func(s *corev1.Service) { s.Spec.LoadBalancerClass = &name }
		}
		ct.Create(e, manifest("theirs", class("example.com/lb")))
		ct.ChangeStatus(e, "default", "theirs", func(s *corev1.Service) { s.Status.LoadBalancer.Ingress = ingress([]string{"203.0.113.1"}) })
		ct.Create(e, manifest("ours", class(Class)))
		ct.Create(e, manifest("plain", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }))
		start(e, "203.0.113.1/32", "203.0.113.2/32")
		wants(e, "ours", "203.0.113.2")
		wants(e, "theirs", "203.0.113.1")
		wants(e, "plain", "")
	})
}
