package dns

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

func zoneConfig() ZoneConfig {
	return ZoneConfig{
		Domain: "cluster.local", ServerIP: netip.MustParseAddr("10.254.254.1"),
		Reverse: []netip.Prefix{netip.MustParsePrefix("10.254.0.0/16"), netip.MustParsePrefix("10.244.0.0/16")},
	}
}

func service(name, ip string, change ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
	s.Spec.ClusterIP = ip
	s.Spec.Ports = []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}, {Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53}}
	for _, f := range change {
		f(s)
	}
	return s
}

func externalName(to string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, to }
}

func ports(list ...corev1.ServicePort) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.Ports = list }
}

func publishNotReady(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true }

func slice(svc string, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: svc + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: svc}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr(int32(8080))}},
		Endpoints:   eps,
	}
}

func endpoint(ip, hostname, node string, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	if hostname != "" {
		e.Hostname = &hostname
	}
	return e
}

func testZone() *Zone {
	z := NewZone(zoneConfig())
	for _, s := range []*corev1.Service{
		service("web", "10.254.0.9"), service("none", corev1.ClusterIPNone), service("db", corev1.ClusterIPNone),
		service("early", corev1.ClusterIPNone, publishNotReady), service("ext", "", externalName("www.Example.com")),
		service("plain", "10.254.0.11", ports(corev1.ServicePort{Port: 9000})),
		service("inner", "", externalName("web.default.svc.cluster.local")), service("circle", "", externalName("circle.default.svc.cluster.local")),
	} {
		z.SetService(s)
	}
	z.SetSlice(slice("db", endpoint("10.244.1.5", "db-0", "n1", true), endpoint("10.244.2.6", "", "n2", true), endpoint("10.244.2.7", "db-2", "n2", false)))
	six := slice("db", endpoint("2001:db8::5", "db-6", "n1", true))
	six.Name, six.AddressType, six.Ports = "db-six", discoveryv1.AddressTypeIPv6, []discoveryv1.EndpointPort{{Port: ptr(int32(8081))}}
	z.SetSlice(six)
	z.SetService(service("outside", corev1.ClusterIPNone))
	z.SetSlice(slice("outside", endpoint("198.51.100.7", "", "", true)))
	z.SetSlice(slice("early", endpoint("10.244.1.8", "", "n1", false)))
	z.SetService(service("pets", "10.254.0.12"))
	z.SetSlice(slice("pets", endpoint("10.244.1.9", "Pets-0", "n1", true), endpoint("10.244.2.9", "", "n2", true), endpoint("10.244.2.10", "pets-2", "n2", false)))
	z.Synced()
	return z
}

// big adds a headless Service with so many endpoints.
func big(z *Zone, n int) {
	sl := slice("big")
	for i := range n {
		sl.Endpoints = append(sl.Endpoints, endpoint(fmt.Sprintf("10.244.%d.%d", i/250+5, i%250+1), "", "n1", true))
	}
	z.SetService(service("big", corev1.ClusterIPNone))
	z.SetSlice(sl)
}

// manyServices fills a zone.
func manyServices(n int) *Zone {
	z := NewZone(zoneConfig())
	for i := range n {
		z.SetService(service(fmt.Sprint("svc-", i), fmt.Sprintf("10.254.%d.%d", i/250, i%250+1)))
	}
	z.Synced()
	return z
}
