package resource

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
)

// The fields of a Service hang together: the type says which of the others mean anything, and some are allocated. A
// client that sends its manifest again, without what was allocated, must not fail and must not lose its address; one that
// changes the type must not have to clear fields it never set. Kubernetes does this in pkg/registry/core/service; the
// outcomes here are the same for a cluster with one address family.

func prepareServiceUpdate(obj, old Object) {
	svc, before := obj.(*corev1.Service), old.(*corev1.Service)
	svc.Status = before.Status
	keepAllocated(svc, before)
	agreeOnClusterIPs(svc, before)
	defaultFamilies(svc, before)
	dropForType(svc, before)
	dropInternalPolicy(svc)
}

// keepAllocated fills in addresses and ports that the client left out and that the old Service had.
func keepAllocated(svc, old *corev1.Service) {
	if hasClusterIP(svc) && hasClusterIP(old) {
		if svc.Spec.ClusterIP == "" {
			svc.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(svc.Spec.ClusterIPs) == 0 {
			svc.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if NeedsNodePorts(svc) && NeedsNodePorts(old) {
		keepNodePorts(svc, old)
	}
	if needsHealthPort(svc) && needsHealthPort(old) && svc.Spec.HealthCheckNodePort == 0 {
		svc.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// keepNodePorts gives ports without a node port that of the old port of the same name, unless the client has put it on
// another port.
func keepNodePorts(svc, old *corev1.Service) {
	taken := nodePorts(svc)
	byName := map[string]int32{}
	for _, p := range old.Spec.Ports {
		byName[p.Name] = p.NodePort
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if port := byName[p.Name]; p.NodePort == 0 && port != 0 && !taken.Has(port) {
			p.NodePort = port
		}
	}
}

// agreeOnClusterIPs brings the singular and the plural field together when a client knows only the singular one.
func agreeOnClusterIPs(svc, old *corev1.Service) {
	samePlural := slices.Equal(svc.Spec.ClusterIPs, old.Spec.ClusterIPs)
	switch {
	case svc.Spec.ClusterIP == old.Spec.ClusterIP:
		if len(svc.Spec.ClusterIPs) == 0 {
			svc.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	case old.Spec.ClusterIP != "" && svc.Spec.ClusterIP == "":
		if samePlural {
			svc.Spec.ClusterIPs = nil
		}
	case samePlural:
		svc.Spec.ClusterIPs = []string{svc.Spec.ClusterIP}
	}
}

// dropForType drops what the new type has no use for, where the client did not change it as well (that is for
// validation to refuse).
func dropForType(svc, old *corev1.Service) {
	spec, before := &svc.Spec, &old.Spec
	if hasClusterIP(old) && !hasClusterIP(svc) {
		if spec.ClusterIP == before.ClusterIP && slices.Equal(spec.ClusterIPs, before.ClusterIPs) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if slices.Equal(spec.IPFamilies, before.IPFamilies) {
			spec.IPFamilies = nil
		}
		if same(spec.IPFamilyPolicy, before.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if offersNodePorts(old) && !offersNodePorts(svc) && nodePorts(old).IsSuperset(nodePorts(svc)) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthPort(old) && !needsHealthPort(svc) && spec.HealthCheckNodePort == before.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if isLoadBalancer(old) && !isLoadBalancer(svc) {
		if same(spec.AllocateLoadBalancerNodePorts, before.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if same(spec.LoadBalancerClass, before.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if fromOutside(old) && !fromOutside(svc) && spec.ExternalTrafficPolicy == before.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if !isLoadBalancer(svc) {
		svc.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

func same[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

func hasClusterIP(svc *corev1.Service) bool { return svc.Spec.Type != corev1.ServiceTypeExternalName }

func isLoadBalancer(svc *corev1.Service) bool { return svc.Spec.Type == corev1.ServiceTypeLoadBalancer }

// offersNodePorts says whether the type may have node ports.
func offersNodePorts(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeNodePort || isLoadBalancer(svc)
}

// NeedsNodePorts says whether every port of a Service must get a node port.
func NeedsNodePorts(svc *corev1.Service) bool {
	if isLoadBalancer(svc) {
		return svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts
	}
	return svc.Spec.Type == corev1.ServiceTypeNodePort
}

// NeedsClusterIP says whether a Service must get an address: it has a type with one and is not headless.
func NeedsClusterIP(svc *corev1.Service) bool { return hasClusterIP(svc) && !headless(svc) }

func needsHealthPort(svc *corev1.Service) bool {
	return isLoadBalancer(svc) && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// fromOutside says whether traffic can come from outside the cluster.
func fromOutside(svc *corev1.Service) bool {
	return offersNodePorts(svc) || hasClusterIP(svc) && len(svc.Spec.ExternalIPs) > 0
}

func nodePorts(svc *corev1.Service) sets.Set[int32] {
	out := sets.New[int32]()
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			out.Insert(p.NodePort)
		}
	}
	return out
}
