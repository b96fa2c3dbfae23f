package resource

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/google/go-cmp/cmp"
)

// allocated is a Service after the registry gave it addresses.
func allocated(t *testing.T, text string) *corev1.Service {
	t.Helper()
	svc := created(t, text).(*corev1.Service)
	svc.ResourceVersion, svc.UID = "5", "u"
	if NeedsClusterIP(svc) && svc.Spec.ClusterIP == "" {
		svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "10.254.0.9", []string{"10.254.0.9"}
	}
	for i := range svc.Spec.Ports {
		if p := &svc.Spec.Ports[i]; NeedsNodePorts(svc) && p.NodePort == 0 {
			p.NodePort = 30100 + int32(i)
		}
	}
	return svc
}

// What kubectl replace and kubectl apply send: the manifest, without anything that was allocated.
func TestServiceUpdates(t *testing.T) {
	const nodePort = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, ports: [{name: http, port: 80}, {name: tls, port: 443}], selector: {app: a}}}"
	const clusterIP = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{name: http, port: 80}, {name: tls, port: 443}], selector: {app: a}}}"
	for _, test := range []struct {
		name, old, new string
		ip             string
		ports          []int32
		families       int
		invalid        string
	}{
		{"same again", nodePort, nodePort, "10.254.0.9", []int32{30100, 30101}, 1, ""},
		{"port moves, name stays", nodePort, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, ports: [{name: tls, port: 443}, {name: http, port: 8080}]}}", "10.254.0.9", []int32{30101, 30100}, 1, ""},
		{"node port taken for another", nodePort, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, ports: [{name: http, port: 80}, {name: tls, port: 443, nodePort: 30100}]}}", "10.254.0.9", []int32{0, 30100}, 1, ""},
		{"to ClusterIP", nodePort, clusterIP, "10.254.0.9", []int32{0, 0}, 1, ""},
		{"to NodePort", clusterIP, nodePort, "10.254.0.9", []int32{0, 0}, 1, ""},
		{"to LoadBalancer", nodePort, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: LoadBalancer, ports: [{name: http, port: 80}, {name: tls, port: 443}]}}", "10.254.0.9", []int32{30100, 30101}, 1, ""},
		{"to ExternalName", clusterIP, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: example.com}}", "", nil, 0, ""},
		{"from ExternalName", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: example.com}}", clusterIP, "", []int32{0, 0}, 1, ""},
		{"another address", clusterIP, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.254.0.10, ports: [{name: http, port: 80}]}}", "10.254.0.10", []int32{0}, 1, "spec.clusterIPs[0]: Invalid value: [\"10.254.0.10\"]: may not change once set"},
		{"to headless", clusterIP, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{name: http, port: 80}], selector: {app: a}}}", "None", []int32{0}, 1, "spec.clusterIPs[0]: Invalid value: [\"None\"]: may not change once set"},
		{"headless again", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 80}]}}", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 81}]}}", "None", []int32{0}, 2, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := allocated(t, test.old)
			svc := update(t, test.new, old).(*corev1.Service)
			if svc.Spec.ClusterIP != test.ip {
				t.Errorf("address %q", svc.Spec.ClusterIP)
			}
			var ports []int32
			for _, p := range svc.Spec.Ports {
				ports = append(ports, p.NodePort)
			}
			if diff := cmp.Diff(test.ports, ports); diff != "" {
				t.Error(diff)
			}
			if len(svc.Spec.IPFamilies) != test.families {
				t.Errorf("families %v", svc.Spec.IPFamilies)
			}
			if NeedsClusterIP(svc) && svc.Spec.ClusterIP == "" {
				svc.Spec.ClusterIP, svc.Spec.ClusterIPs = "10.254.0.11", []string{"10.254.0.11"}
			}
			errs := rulesOf(t, svc).ValidateUpdate(context.Background(), svc, old)
			if test.invalid == "" && len(errs) > 0 || test.invalid != "" && (len(errs) == 0 || errs[0].Error() != test.invalid) {
				t.Errorf("got %v", errs.ToAggregate())
			}
		})
	}
}

func TestServiceTargetPort(t *testing.T) {
	svc := created(t, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, targetPort: http}]}}").(*corev1.Service)
	if svc.Spec.Ports[0].TargetPort != intstr.FromString("http") {
		t.Errorf("%+v", svc.Spec.Ports[0])
	}
	old := svc.DeepCopy()
	old.ResourceVersion = "1"
	next := update(t, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {externalTrafficPolicy: Local, ports: [{port: 80, targetPort: http}]}}", old).(*corev1.Service)
	if next.Spec.ExternalTrafficPolicy != "" {
		t.Errorf("a ClusterIP Service keeps %q", next.Spec.ExternalTrafficPolicy)
	}
}
