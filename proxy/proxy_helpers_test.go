package proxy

import (
	"fmt"
	"net/netip"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

func testConfig() Config {
	return Config{
		NodeName: "n1", Zone: "here", PodCIDR: netip.MustParsePrefix("10.244.1.0/24"), ClusterPodCIDR: netip.MustParsePrefix("10.244.0.0/16"),
		ServiceCIDR: netip.MustParsePrefix("10.254.0.0/16"), LocalIPs: []netip.Addr{netip.MustParseAddr("10.254.254.1")}, RandomFully: true,
		Announced: func(ip netip.Addr) bool { return ip == netip.MustParseAddr("203.0.113.200") },
	}
}

func service(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func nodePort(port int32) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, port }
}

func proto(p corev1.Protocol) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports[0].Protocol = p }
}

func external(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.ExternalIPs = ips }
}

func balancer(ips ...string) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		for _, ip := range ips {
			s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
		}
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
}

func sticky(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

func stickyFor(seconds int32) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func modeProxy(s *corev1.Service) {
	for i := range s.Status.LoadBalancer.Ingress {
		s.Status.LoadBalancer.Ingress[i].IPMode = ptr(corev1.LoadBalancerIPModeProxy)
	}
}

func label(name string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Labels = map[string]string{name: ""} }
}

// hinted gives each endpoint a zone, and with a prefix the node of its number.
func hinted(s *discoveryv1.EndpointSlice, nodes string, zones ...string) *discoveryv1.EndpointSlice {
	for i := range s.Endpoints {
		h := &discoveryv1.EndpointHints{}
		if zones[i] != "" {
			h.ForZones = []discoveryv1.ForZone{{Name: zones[i]}}
		}
		if nodes != "" {
			h.ForNodes = []discoveryv1.ForNode{{Name: nodes + strconv.Itoa(i+1)}}
		}
		s.Endpoints[i].Hints = h
	}
	return s
}

type endpoint struct {
	ip, node string
	state    string // "", "notready", "terminating", "unserving"
}

func slice(svc string, port int32, eps ...endpoint) *discoveryv1.EndpointSlice {
	return sliceOf(svc, corev1.ProtocolTCP, port, eps...)
}

func sliceOf(svc string, proto corev1.Protocol, port int32, eps ...endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: svc + "-x", Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: &proto, Port: &port}},
	}
	for _, e := range eps {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{e.ip}, NodeName: ptr(e.node),
			Conditions: discoveryv1.EndpointConditions{
				Ready: ptr(e.state == ""), Serving: ptr(e.state == "" || e.state == "terminating"),
				Terminating: ptr(e.state == "terminating" || e.state == "unserving"),
			},
		})
	}
	return s
}

// many makes n Services with e endpoints each.
func many(n, e int) (svcs []*corev1.Service, eps []*discoveryv1.EndpointSlice) {
	for i := range n {
		name := fmt.Sprintf("svc-%d", i)
		svcs = append(svcs, service(name, fmt.Sprintf("10.254.%d.%d", i/250, i%250+1)))
		eps = append(eps, slice(name, 8080, podsOf(i, e)...))
	}
	return svcs, eps
}

func podsOf(i, e int) (out []endpoint) {
	for k := range e {
		out = append(out, endpoint{ip: fmt.Sprintf("10.244.%d.%d", 2+i%200, k+2), node: fmt.Sprint("n", 2+i%200)})
	}
	return out
}

func parseFloat(s string) (float64, error) { return strconv.ParseFloat(s, 64) }
