package registry_test

import (
	"fmt"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/api/server"
)

// Nothing is ever given twice, whoever creates and deletes at the same time, and a restart remembers all of it.
func TestAllocationNeverCollides(t *testing.T) {
	e := open(t, options{cidr: "10.254.0.0/23", ports: 300})
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := range 16 {
				s := service(fmt.Sprintf("s%d-%d", w, i), corev1.ServiceTypeNodePort, 80)
				if _, err := e.create(s); err != nil {
					t.Error(err)
				}
				if i%4 == 3 {
					if _, err := e.delete(s, server.DeleteOptions{}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	check := func(e *env) map[string]string {
		t.Helper()
		list, err := e.List(e.ctx, res("services"), server.ListQuery{})
		if err != nil || len(list.Items) != 16*12 {
			t.Fatal(len(list.Items), err)
		}
		ips, ports, by := map[string]bool{}, map[int32]bool{}, map[string]string{}
		for _, o := range list.Items {
			s := o.(*corev1.Service)
			ip, port := s.Spec.ClusterIP, s.Spec.Ports[0].NodePort
			if ips[ip] || ports[port] || ip == "" || port == 0 {
				t.Errorf("%s: %s and %d are given twice or not at all", s.Name, ip, port)
			}
			ips[ip], ports[port], by[s.Name] = true, true, fmt.Sprint(ip, port)
		}
		return by
	}
	before := check(e)
	e.stop()
	e = open(t, options{cidr: "10.254.0.0/23", ports: 300, path: e.path})
	for name, was := range check(e) {
		if before[name] != was {
			t.Errorf("%s had %s, has %s", name, before[name], was)
		}
	}
	list, _ := e.List(e.ctx, res("services"), server.ListQuery{Limit: 1})
	taken := list.Items[0].(*corev1.Service).Spec.ClusterIP
	fixed := service("fixed", corev1.ServiceTypeClusterIP, 80)
	fixed.Spec.ClusterIP = taken
	_, err := e.create(fixed)
	wantErr(t, err, metav1.StatusReasonInvalid, "failed to allocate IP "+taken+": provided IP is already allocated")
}

func TestAllocationFull(t *testing.T) {
	e := open(t, options{cidr: "10.254.0.0/29", ports: 4})
	for i := range 6 {
		mustCreate(e, service(fmt.Sprint("s", i), corev1.ServiceTypeClusterIP, 80))
	}
	_, err := e.create(service("more", corev1.ServiceTypeClusterIP, 80))
	if err == nil {
		t.Fatal("a seventh address of six")
	}
	wantErr(t, err, metav1.StatusReasonInvalid, "range 10.254.0.0/29 is full")
	if _, err := e.delete(service("s0", ""), server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	mustCreate(e, service("four", corev1.ServiceTypeNodePort, 1, 2, 3, 4))
	if _, err := e.delete(service("s1", ""), server.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = e.create(service("five", corev1.ServiceTypeNodePort, 1))
	wantErr(t, err, metav1.StatusReasonInvalid, "range 30000-30003 is full")
}

func TestAllocationAsked(t *testing.T) {
	e := start(t)
	ask := func(name, ip string, nodePort int32) (*corev1.Service, error) {
		s := service(name, corev1.ServiceTypeNodePort, 80)
		s.Spec.ClusterIP, s.Spec.Ports[0].NodePort = ip, nodePort
		out, err := e.create(s)
		if err != nil {
			return nil, err
		}
		return out.(*corev1.Service), nil
	}
	if s, err := ask("dns", "10.254.254.1", 30080); err != nil || s.Spec.ClusterIP != "10.254.254.1" || s.Spec.ClusterIPs[0] != "10.254.254.1" || s.Spec.Ports[0].NodePort != 30080 {
		t.Fatal(s, err)
	}
	for _, c := range []struct {
		ip   string
		port int32
		want string
	}{
		{"10.254.254.1", 0, `Service "bad" is invalid: spec.clusterIPs: Invalid value: ["10.254.254.1"]: failed to allocate IP 10.254.254.1: provided IP is already allocated`},
		{"10.96.0.1", 0, "failed to allocate IP 10.96.0.1: the provided IP (10.96.0.1) is not in the valid range. The range of valid IPs is 10.254.0.0/16"},
		{"10.254.0.0", 0, "is not in the valid range"},
		{"10.254.255.255", 0, "is not in the valid range"},
		{"", 30080, `Service "bad" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated`},
		{"", 80, "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"},
		{"x", 0, "spec.clusterIPs[0]"},
	} {
		_, err := ask("bad", c.ip, c.port)
		wantErr(t, err, metav1.StatusReasonInvalid, c.want)
	}
	// What was refused has taken nothing.
	if _, err := ask("good", "10.254.0.1", 30081); err != nil {
		t.Error(err)
	}
	// A new port on an old Service collides like one on a new Service.
	_, err := change(e, "", service("good", ""), func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30080 })
	wantErr(t, err, metav1.StatusReasonInvalid, "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated")
	headless := service("headless", corev1.ServiceTypeClusterIP, 80)
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	if got := mustCreate(e, headless); got.Spec.ClusterIPs[0] != corev1.ClusterIPNone {
		t.Errorf("headless: %+v", got.Spec)
	}
}

// Random addresses stay out of what Services ask for by name, as DNS does.
func TestAllocationReserves(t *testing.T) {
	e := open(t, options{cidr: "10.254.0.0/20"}) // 4,096 addresses: the last 512 are a good part
	for i := range 300 {
		s := mustCreate(e, service(fmt.Sprint("s", i), corev1.ServiceTypeClusterIP, 80))
		var a, b, c, d int
		if _, err := fmt.Sscanf(s.Spec.ClusterIP, "%d.%d.%d.%d", &a, &b, &c, &d); err != nil || c == 0 && d < 16 {
			t.Errorf("%s is reserved", s.Spec.ClusterIP)
		}
	}
	big := start(t)
	for i := range 500 {
		s := mustCreate(big, service(fmt.Sprint("s", i), corev1.ServiceTypeClusterIP, 80))
		var a, b, c, d int
		if _, err := fmt.Sscanf(s.Spec.ClusterIP, "%d.%d.%d.%d", &a, &b, &c, &d); err != nil || c >= 254 {
			t.Errorf("%s is reserved", s.Spec.ClusterIP)
		}
	}
}

func TestServiceTypeChanges(t *testing.T) {
	e := start(t)
	s := mustCreate(e, service("web", corev1.ServiceTypeNodePort, 80))
	ip, port := s.Spec.ClusterIP, s.Spec.Ports[0].NodePort
	to := func(fn func(*corev1.Service)) *corev1.Service {
		t.Helper()
		return mustChange(e, "", s, fn)
	}
	got := to(func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	if got.Spec.ClusterIP != ip || got.Spec.Ports[0].NodePort != 0 {
		t.Errorf("NodePort → ClusterIP: %+v", got.Spec)
	}
	other := service("other", corev1.ServiceTypeNodePort, 80)
	other.Spec.Ports[0].NodePort = port
	mustCreate(e, other) // it is free again
	got = to(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.Selector = corev1.ServiceTypeExternalName, "example.com", nil
	})
	if got.Spec.ClusterIP != "" || len(got.Spec.ClusterIPs) != 0 {
		t.Errorf("ClusterIP → ExternalName: %+v", got.Spec)
	}
	fixed := service("fixed", corev1.ServiceTypeClusterIP, 80)
	fixed.Spec.ClusterIP = ip
	mustCreate(e, fixed)
	got = to(func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalName, s.Spec.Selector = corev1.ServiceTypeLoadBalancer, "", map[string]string{"app": "web"}
	})
	if got.Spec.ClusterIP == "" || got.Spec.ClusterIP == ip || got.Spec.Ports[0].NodePort == 0 || got.Spec.Ports[0].NodePort == port {
		t.Errorf("ExternalName → LoadBalancer: %+v", got.Spec)
	}
	_, err := change(e, "", s, func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.254.9.9", []string{"10.254.9.9"} })
	wantErr(t, err, metav1.StatusReasonInvalid, "may not change once set")

	dns := service("dns", corev1.ServiceTypeNodePort)
	dns.Spec.Ports = []corev1.ServicePort{{Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP}, {Name: "tcp", Port: 53, Protocol: corev1.ProtocolTCP}, {Name: "metrics", Port: 9153}}
	got = mustCreate(e, dns)
	if p := got.Spec.Ports; p[0].NodePort == 0 || p[0].NodePort != p[1].NodePort || p[2].NodePort == p[0].NodePort {
		t.Errorf("node ports: %+v", p)
	}
	udp := service("udp", corev1.ServiceTypeNodePort)
	udp.Spec.Ports = []corev1.ServicePort{{Port: 53, Protocol: corev1.ProtocolUDP, NodePort: got.Spec.Ports[2].NodePort}}
	_, err = e.create(udp)
	wantErr(t, err, metav1.StatusReasonInvalid, "provided port is already allocated") // though the other is TCP
}

func balancer(name string, change ...func(*corev1.Service)) *corev1.Service {
	s := service(name, corev1.ServiceTypeLoadBalancer, 80)
	for _, f := range change {
		f(s)
	}
	return s
}

func local(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func both(f, g func(*corev1.Service)) func(*corev1.Service) {
	return func(s *corev1.Service) {
		f(s)
		g(s)
	}
}

func TestHealthCheckNodePort(t *testing.T) {
	e := start(t)
	healthPort := func(port int32) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.HealthCheckNodePort = port }
	}
	web := mustCreate(e, balancer("web", local))
	port := web.Spec.HealthCheckNodePort
	if port < 30000 || port > 32767 || port == web.Spec.Ports[0].NodePort {
		t.Fatalf("port %d beside %d", port, web.Spec.Ports[0].NodePort)
	}
	mustCreate(e, balancer("asked", local, healthPort(31500)))
	for name, bad := range map[string]*corev1.Service{
		"spec.healthCheckNodePort: Invalid value: 31500: provided port is already allocated":   balancer("bad", local, healthPort(31500)),
		"provided port is already allocated":                                                   balancer("bad", local, healthPort(31600), func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 31600 }),
		"spec.ports[0].nodePort: Invalid value: 31500: provided port is already allocated":     balancer("bad", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 31500 }),
		"spec.healthCheckNodePort: Invalid value: 80: provided port is not in the valid range": balancer("bad", local, healthPort(80)),
		"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'": balancer("bad", healthPort(31700)),
	} {
		_, err := e.create(bad)
		wantErr(t, err, metav1.StatusReasonInvalid, name)
	}
	// It does not change, and whoever sends the manifest again keeps it.
	_, err := change(e, "", web, healthPort(31800))
	wantErr(t, err, metav1.StatusReasonInvalid, "spec.healthCheckNodePort: Forbidden: field is immutable")
	if got := mustChange(e, "", web, healthPort(0)); got.Spec.HealthCheckNodePort != port {
		t.Errorf("%d has become %d", port, got.Spec.HealthCheckNodePort)
	}
	// It goes with the policy, is free then, and comes back when asked for.
	got := mustChange(e, "", web, func(s *corev1.Service) { s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster })
	if got.Spec.HealthCheckNodePort != 0 {
		t.Errorf("port %d", got.Spec.HealthCheckNodePort)
	}
	other := mustCreate(e, balancer("other", local, healthPort(port)))
	_, err = change(e, "", web, both(local, healthPort(port)))
	wantErr(t, err, metav1.StatusReasonInvalid, "provided port is already allocated")
	mustChange(e, "", other, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP })
	if got = mustChange(e, "", web, both(local, healthPort(port))); got.Spec.HealthCheckNodePort != port {
		t.Errorf("port %d, want %d", got.Spec.HealthCheckNodePort, port)
	}
}

func TestNodePortsOfLoadBalancers(t *testing.T) {
	e := start(t)
	without := func(s *corev1.Service) { s.Spec.AllocateLoadBalancerNodePorts = ptr(false) }
	if s := mustCreate(e, balancer("none", without)); s.Spec.Ports[0].NodePort != 0 {
		t.Errorf("%+v", s.Spec.Ports)
	}
	asked := mustCreate(e, balancer("asked", without, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 31000 }))
	if asked.Spec.Ports[0].NodePort != 31000 {
		t.Errorf("%+v", asked.Spec.Ports)
	}
	// Those that are there stay, unless the client leaves them out; new ports get none.
	some := mustCreate(e, balancer("some"))
	port := some.Spec.Ports[0].NodePort
	got := mustChange(e, "", some, func(s *corev1.Service) {
		without(s)
		s.Spec.Ports[0].Name = "http"
		s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Name: "tls", Port: 443, Protocol: corev1.ProtocolTCP})
	})
	if port == 0 || got.Spec.Ports[0].NodePort != port || got.Spec.Ports[1].NodePort != 0 {
		t.Errorf("%+v, had %d", got.Spec.Ports, port)
	}
	got = mustChange(e, "", some, func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 0 })
	if got.Spec.Ports[0].NodePort != 0 {
		t.Errorf("%+v", got.Spec.Ports)
	}
	// One that a later port of the same number asks for is shared.
	dns := service("dns", corev1.ServiceTypeNodePort)
	dns.Spec.Ports = []corev1.ServicePort{{Name: "tcp", Port: 53}, {Name: "udp", Port: 53, Protocol: corev1.ProtocolUDP, NodePort: 30053}}
	if got := mustCreate(e, dns).Spec.Ports; got[0].NodePort != 30053 || got[1].NodePort != 30053 {
		t.Errorf("%+v", got)
	}
}

// Ports and addresses that people write into manifests are not taken by those who want any, as long as there are others.
func TestStaticPartsOfRanges(t *testing.T) {
	e := open(t, options{cidr: "10.254.0.0/26", ports: 40}) // 62 addresses, 16 of them static; 16 static ports
	for i := range 62 {
		kind := corev1.ServiceTypeClusterIP
		if i < 40 {
			kind = corev1.ServiceTypeNodePort
		}
		s := mustCreate(e, service(fmt.Sprint("s", i), kind, 80))
		var last int
		if _, err := fmt.Sscanf(s.Spec.ClusterIP, "10.254.0.%d", &last); err != nil || (last <= 16) != (i >= 46) {
			t.Errorf("Service %d has %s", i, s.Spec.ClusterIP)
		}
		if port := s.Spec.Ports[0].NodePort; i < 40 && (port < 30016) != (i >= 24) {
			t.Errorf("Service %d has port %d", i, port)
		}
	}
}
