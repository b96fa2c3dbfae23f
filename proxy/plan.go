package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Port is what this node has to do for one port of a Service, in no back end's words.
type Port struct {
	Service  string // namespace/name
	Name     string // the port's name, or its number when it has none
	Protocol string // tcp, udp or sctp

	ClusterIP netip.Addr
	// NodeAnswers is set where a program of the node itself listens at the ClusterIP (DNS): nothing is translated there.
	NodeAnswers bool
	Port        uint16 // at ClusterIP, External and Balanced
	NodePort    uint16 // 0: none
	External    []netip.Addr
	// Balanced are the addresses that a load balancer brought.
	Balanced []netip.Addr
	// Alone are those of them at which nobody else answers; see Config.Announced.
	Alone []netip.Addr
	// Guarded limits Balanced to clients in Sources.
	Guarded bool
	Sources []netip.Prefix

	InternalLocal, ExternalLocal bool
	// Sticky is for how many seconds a client is sent to the same endpoint again; 0: to any.
	Sticky int32

	// Cluster are the endpoints for new connections; Local those of them on this node that a policy "Local" may use.
	Cluster, Local []netip.AddrPort
	// Serving are, for UDP, all endpoints that still serve: those that had their datagrams go on to get them.
	Serving []netip.AddrPort
}

// String is what rules carry as their comment.
func (p *Port) String() string { return clean(p.Service + ":" + p.Name) }

// clean keeps what the API server allows in names: a comment stands between quotes in the text for iptables, and is not to be
// more than it takes.
func clean(s string) string {
	const most = 200
	odd := func(c rune) bool {
		return !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("-._:/", c))
	}
	if len(s) <= most && !strings.ContainsFunc(s, odd) {
		return s
	}
	s = strings.Map(func(c rune) rune {
		if odd(c) {
			return '_'
		}
		return c
	}, s)
	return s[:min(len(s), most)]
}

// id tells ports of the same name and another protocol apart.
func (p *Port) id() string { return p.Service + ":" + p.Name + "/" + p.Protocol }

// Dead tells that there is no endpoint anywhere.
func (p *Port) Dead() bool { return len(p.Cluster) == 0 && len(p.Local) == 0 }

// Inside are the endpoints behind the ClusterIP.
func (p *Port) Inside() []netip.AddrPort {
	if p.InternalLocal {
		return p.Local
	}
	return p.Cluster
}

// Dropped tells that connections to the ClusterIP get no answer, as Kubernetes promises for internalTrafficPolicy Local:
// endpoints there are, but none on this node.
func (p *Port) Dropped() bool {
	return p.InternalLocal && !p.NodeAnswers && !p.Dead() && len(p.Local) == 0
}

func (p *Port) equal(o *Port) bool {
	return p.Service == o.Service && p.Name == o.Name && p.Protocol == o.Protocol && p.ClusterIP == o.ClusterIP && p.NodeAnswers == o.NodeAnswers &&
		p.Port == o.Port && p.NodePort == o.NodePort && slices.Equal(p.External, o.External) && slices.Equal(p.Balanced, o.Balanced) && slices.Equal(p.Alone, o.Alone) &&
		p.Guarded == o.Guarded && slices.Equal(p.Sources, o.Sources) && p.InternalLocal == o.InternalLocal && p.ExternalLocal == o.ExternalLocal &&
		p.Sticky == o.Sticky && slices.Equal(p.Cluster, o.Cluster) && slices.Equal(p.Local, o.Local) && slices.Equal(p.Serving, o.Serving)
}

func equalPorts(a, b []Port) bool {
	return slices.EqualFunc(a, b, func(x, y Port) bool { return x.equal(&y) })
}

// elsewhere tells that another proxy serves the object, or none: kube-proxy does not look at objects with these labels,
// whatever their values.
func elsewhere(labels map[string]string) bool {
	_, other := labels[labelProxyName]
	_, headless := labels[corev1.IsHeadlessService]
	return other || headless
}

const labelProxyName = "service.kubernetes.io/service-proxy-name"

// compile says what the node has to do for a Service: nothing when it has no address of its own.
func (c *Config) compile(svc *corev1.Service, eps []*discoveryv1.EndpointSlice, at place) []Port {
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || !ip.Is4() || svc.Spec.Type == corev1.ServiceTypeExternalName || elsewhere(svc.Labels) {
		return nil
	}
	external, balanced := externalAddresses(svc)
	base := Port{
		Service: svc.Namespace + "/" + svc.Name, ClusterIP: ip, NodeAnswers: slices.Contains(c.LocalIPs, ip), External: external, Balanced: balanced,
		Guarded: len(sourceRanges(svc)) > 0, Sources: sources(svc),
		InternalLocal: svc.Spec.InternalTrafficPolicy != nil && *svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		ExternalLocal: svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal, Sticky: stickiness(svc),
	}
	if c.Announced != nil {
		base.Alone = slices.DeleteFunc(slices.Clone(balanced), func(a netip.Addr) bool { return !c.Announced(a) })
	}
	var out []Port
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		p := base
		p.Protocol = strings.ToLower(string(cmp.Or(port.Protocol, corev1.ProtocolTCP)))
		if p.Protocol != "tcp" && p.Protocol != "udp" && p.Protocol != "sctp" || port.Port <= 0 || port.Port >= 1<<16 {
			continue
		}
		p.Port, p.Name = uint16(port.Port), cmp.Or(port.Name, fmt.Sprint(port.Port))
		if port.NodePort > 0 && port.NodePort < 1<<16 {
			p.NodePort = uint16(port.NodePort)
		}
		b := backendsOf(port, eps, at)
		p.Cluster, p.Local, p.Serving = b.cluster, b.local, b.serving
		out = append(out, p)
	}
	return out
}

// sourceRanges is the field, or the annotation that was there before it and that load balancers of clouds still read.
func sourceRanges(svc *corev1.Service) []string {
	if len(svc.Spec.LoadBalancerSourceRanges) > 0 {
		return svc.Spec.LoadBalancerSourceRanges
	}
	if text := strings.TrimSpace(svc.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]); text != "" {
		return strings.Split(text, ",")
	}
	return nil
}

// sources are the ranges that may use the load balancer's address; what is no IPv4 range allows nobody.
func sources(svc *corev1.Service) (out []netip.Prefix) {
	for _, r := range sourceRanges(svc) {
		if p, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil && p.Addr().Is4() {
			out = append(out, p.Masked())
		}
	}
	return out
}

// stickiness is the Service's session affinity in seconds; the API server's default is three hours.
func stickiness(svc *corev1.Service) int32 {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	if a := svc.Spec.SessionAffinityConfig; a != nil && a.ClientIP != nil && a.ClientIP.TimeoutSeconds != nil && *a.ClientIP.TimeoutSeconds > 0 {
		return *a.ClientIP.TimeoutSeconds
	}
	return corev1.DefaultClientIPServiceAffinitySeconds
}

// externalAddresses are the Service's externalIPs, and those that a load balancer brought. Addresses of mode Proxy are the
// load balancer's own business.
func externalAddresses(svc *corev1.Service) (external, balanced []netip.Addr) {
	parse := func(s string) []netip.Addr {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() && !ip.IsUnspecified() {
			return []netip.Addr{ip}
		}
		return nil
	}
	for _, s := range svc.Spec.ExternalIPs {
		external = append(external, parse(s)...)
	}
	if svc.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, in := range svc.Status.LoadBalancer.Ingress {
			if in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP {
				balanced = append(balanced, parse(in.IP)...)
			}
		}
	}
	return unique(external, nil), unique(balanced, external)
}

func unique(list, without []netip.Addr) []netip.Addr {
	slices.SortFunc(list, netip.Addr.Compare)
	return slices.DeleteFunc(slices.Compact(list), func(a netip.Addr) bool { return slices.Contains(without, a) })
}
