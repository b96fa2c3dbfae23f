package resource

import (
	"context"
	"strings"
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
	const headlessBoth = "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ports: [{port: 80}]}}"
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
		{"one family less", headlessBoth, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ipFamilies: [IPv4], ports: [{port: 81}]}}", "None", []int32{0}, 1, "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family"},
		{"one family less, saying so", headlessBoth, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ipFamilyPolicy: SingleStack, ipFamilies: [IPv4], ports: [{port: 81}]}}", "None", []int32{0}, 1, ""},
		{"one family more", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ipFamilyPolicy: SingleStack, ports: [{port: 80}]}}", "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: None, ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4], ports: [{port: 81}]}}", "None", []int32{0}, 2, ""},
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

// What a cluster with IPv4 alone says of two families, in Kubernetes' words.
func TestServiceFamilies(t *testing.T) {
	for _, test := range []struct {
		name, spec string
		families   []corev1.IPFamily
		policy     corev1.IPFamilyPolicy
		invalid    string
	}{
		{"nothing said", "ports: [{port: 80}]", []corev1.IPFamily{"IPv4"}, "SingleStack", ""},
		{"preferred", "ipFamilyPolicy: PreferDualStack, ports: [{port: 80}]", []corev1.IPFamily{"IPv4"}, "PreferDualStack", ""},
		{"required", "ipFamilyPolicy: RequireDualStack, ports: [{port: 80}]", []corev1.IPFamily{"IPv4"}, "RequireDualStack",
			`spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services`},
		{"IPv6", "ipFamilies: [IPv6], ports: [{port: 80}]", []corev1.IPFamily{"IPv6"}, "SingleStack", `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"both, not saying so", "ipFamilies: [IPv4, IPv6], ports: [{port: 80}]", []corev1.IPFamily{"IPv4", "IPv6"}, "SingleStack",
			"must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified"},
		{"both", "ipFamilyPolicy: PreferDualStack, ipFamilies: [IPv4, IPv6], ports: [{port: 80}]", []corev1.IPFamily{"IPv4", "IPv6"}, "PreferDualStack",
			`spec.ipFamilies[1]: Invalid value: "IPv6": not configured on this cluster`},
		{"an IPv6 address", "clusterIP: \"2001:db8::1\", ports: [{port: 80}]", nil, "SingleStack", `spec.clusterIPs[0]: Invalid value: ["2001:db8::1"]: IPv6 is not configured on this cluster`},
		{"headless", "clusterIP: None, selector: {app: a}, ports: [{port: 80}]", []corev1.IPFamily{"IPv4"}, "SingleStack", ""},
		{"headless, endpoints by hand", "clusterIP: None, ports: [{port: 80}]", []corev1.IPFamily{"IPv4", "IPv6"}, "RequireDualStack", ""},
		{"headless, endpoints by hand, of one", "clusterIP: None, ipFamilyPolicy: SingleStack, ipFamilies: [IPv6], ports: [{port: 80}]", []corev1.IPFamily{"IPv6"}, "SingleStack", ""},
		{"headless, IPv6 pods", "clusterIP: None, ipFamilies: [IPv6], selector: {app: a}, ports: [{port: 80}]", []corev1.IPFamily{"IPv6"}, "SingleStack", `spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster`},
		{"a name", "type: ExternalName, externalName: example.com", nil, "", ""},
		{"a name of a family", "type: ExternalName, externalName: example.com, ipFamilies: [IPv4]", []corev1.IPFamily{"IPv4"}, "", "spec.ipFamilies"},
	} {
		t.Run(test.name, func(t *testing.T) {
			svc := created(t, "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: default}, spec: {"+test.spec+"}}").(*corev1.Service)
			var policy corev1.IPFamilyPolicy
			if p := svc.Spec.IPFamilyPolicy; p != nil {
				policy = *p
			}
			if diff := cmp.Diff(test.families, svc.Spec.IPFamilies); diff != "" || policy != test.policy {
				t.Errorf("policy %q, families %s", policy, diff)
			}
			errs := rulesOf(t, svc).Validate(context.Background(), svc)
			if (len(errs) == 0) != (test.invalid == "") || len(errs) > 0 && !strings.Contains(errs.ToAggregate().Error(), test.invalid) {
				t.Errorf("got %v", errs.ToAggregate())
			}
		})
	}
}

// Fields that belong to some types only, as a client sees them.
func TestServiceFieldsOfTypes(t *testing.T) {
	for _, test := range []struct{ name, spec, invalid string }{
		{"a balancer that keeps addresses needs a port for checks, which it will get", "type: LoadBalancer, externalTrafficPolicy: Local, ports: [{port: 80}]", ""},
		{"a port for checks without need", "type: LoadBalancer, healthCheckNodePort: 31000, ports: [{port: 80}]", "spec.healthCheckNodePort: Invalid value: 31000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"},
		{"a class", "type: LoadBalancer, loadBalancerClass: example.com/lb, ports: [{port: 80}]", ""},
		{"a class of no balancer", "loadBalancerClass: example.com/lb, ports: [{port: 80}]", "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"node ports of no balancer", "allocateLoadBalancerNodePorts: false, ports: [{port: 80}]", "spec.allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"ranges", "type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.0/24], ports: [{port: 80}]", ""},
		{"bad ranges", "type: LoadBalancer, loadBalancerSourceRanges: [198.51.100.1/240], ports: [{port: 80}]", "must be a valid CIDR value"},
		{"ranges of no balancer", "loadBalancerSourceRanges: [198.51.100.0/24], ports: [{port: 80}]", "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"},
		{"traffic stays near", "trafficDistribution: PreferSameNode, ports: [{port: 80}]", ""},
		{"traffic goes elsewhere", "trafficDistribution: Far, ports: [{port: 80}]", `spec.trafficDistribution: Unsupported value: "Far"`},
		{"internal policy", "internalTrafficPolicy: Local, ports: [{port: 80}]", ""},
		{"no internal policy", "internalTrafficPolicy: Far, ports: [{port: 80}]", `spec.internalTrafficPolicy: Unsupported value: "Far"`},
		{"affinity", "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 60}}, ports: [{port: 80}]", ""},
		{"affinity too long", "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 86401}}, ports: [{port: 80}]", "must be greater than 0 and less than 86400"},
		{"external addresses", "externalIPs: [203.0.113.1], ports: [{port: 80}]", ""},
		{"this machine's", "externalIPs: [127.0.0.1], ports: [{port: 80}]", "may not be in the loopback range"},
	} {
		svc := created(t, "{apiVersion: v1, kind: Service, metadata: {name: a, namespace: default}, spec: {"+test.spec+"}}").(*corev1.Service)
		errs := rulesOf(t, svc).Validate(context.Background(), svc)
		if (len(errs) == 0) != (test.invalid == "") || len(errs) > 0 && !strings.Contains(errs.ToAggregate().Error(), test.invalid) {
			t.Errorf("%s: %v", test.name, errs.ToAggregate())
		}
	}
	old := allocated(t, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 80}]}}")
	svc := update(t, "{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: example.com}}", old).(*corev1.Service)
	if svc.Spec.InternalTrafficPolicy != nil {
		t.Errorf("a name has the policy %s", *svc.Spec.InternalTrafficPolicy)
	}
}
