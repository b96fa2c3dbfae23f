package proxy

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// All rules are written exactly as iptables-save prints them, so that what is read back compares equal.

// serviceRules is everything that the tables hold for one Service.
type serviceRules struct {
	chains map[string]string // chains of its own in nat: name → rules
	shared []sharedRule      // its lines in chains it shares with others
	local  []netip.Addr      // endpoints on this node, for hairpins
	udp    []udpPort
}

// sharedRule is a Service's part of a chain that several Services are in.
type sharedRule struct{ table, chain, rules string }

// udpPort is what is needed to find the connection tracking entries of a UDP port.
type udpPort struct {
	dst       []netip.AddrPort
	endpoints []netip.AddrPort
}

// servicePort is one port of a Service while its rules are written.
type servicePort struct {
	*corev1.ServicePort
	svc     *corev1.Service
	proto   string // as iptables writes it
	comment string
	id      string
	backends
	out *serviceRules
}

// rulesFor is what the tables hold for the Service: nothing when it has no address of its own or another proxy.
func (c *Config) rulesFor(svc *corev1.Service, eps []*discoveryv1.EndpointSlice, dead map[string]bool) *serviceRules {
	out := &serviceRules{chains: map[string]string{}}
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || !ip.Is4() || svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Labels["service.kubernetes.io/service-proxy-name"] != "" {
		return out
	}
	for i := range svc.Spec.Ports {
		port := &svc.Spec.Ports[i]
		proto := strings.ToLower(string(cmp.Or(port.Protocol, corev1.ProtocolTCP)))
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			continue
		}
		name := cmp.Or(port.Name, fmt.Sprint(port.Port))
		p := &servicePort{
			ServicePort: port, svc: svc, proto: proto, out: out,
			comment:  fmt.Sprintf("-m comment --comment \"%s/%s:%s\"", svc.Namespace, svc.Name, name),
			id:       svc.Namespace + "/" + svc.Name + ":" + name + "/" + proto,
			backends: backendsOf(port, eps, c.NodeName, dead),
		}
		c.portRules(p, ip)
	}
	return out
}

func (c *Config) portRules(p *servicePort, clusterIP netip.Addr) {
	internalLocal := p.svc.Spec.InternalTrafficPolicy != nil && *p.svc.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	externalLocal := p.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	external, balanced := externalAddresses(p.svc)
	nodePort := p.NodePort > 0
	reachable := nodePort || len(external)+len(balanced) > 0
	for _, e := range p.cluster {
		p.out.local = append(p.out.local, c.onThisNode(e.Addr())...)
	}
	for _, e := range p.local {
		p.out.local = append(p.out.local, c.onThisNode(e.Addr())...)
	}
	if len(p.cluster) > 0 {
		p.out.chains[p.chain(kindCluster)] = p.balance(kindCluster, p.cluster)
	}
	if (internalLocal || externalLocal && reachable) && len(p.local) > 0 {
		p.out.chains[p.chain(kindLocal)] = p.balance(kindLocal, p.local)
	}
	if !slices.Contains(c.LocalIPs, clusterIP) {
		target, n := kindCluster, len(p.cluster)
		if internalLocal {
			target, n = kindLocal, len(p.local)
		}
		if n > 0 {
			_, _, _, chain := clusterBuckets(clusterIP)
			p.share(tableNat, chain, fmt.Sprintf("-d %s/32 %s -j %s", clusterIP, p.match(p.Port), p.chain(target)))
		}
	}
	if reachable {
		c.outside(p, externalLocal)
	}
	if nodePort {
		chain, _, _ := portBucket(p.proto, p.NodePort)
		p.enter(chain, "", p.NodePort, kindOutside, externalLocal)
	}
	for _, ip := range external {
		p.enter(externalBucket(ip), ip.String(), p.Port, kindOutside, externalLocal)
	}
	for _, ip := range balanced {
		p.guarded(ip, externalLocal)
	}
	if p.proto == "udp" {
		p.rememberUDP(clusterIP, slices.Concat(external, balanced))
	}
}

// outside writes the chain for what arrives from outside the cluster.
func (c *Config) outside(p *servicePort, local bool) {
	if len(p.cluster) == 0 && len(p.local) == 0 {
		return
	}
	chain := p.chain(kindOutside)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "-A "+chain+" "+format+"\n", args...) }
	if !local {
		// The endpoint may be on another node and must answer through this one.
		line("%s -j MARK --set-xmark %s", p.comment, masqMark)
		line("%s -j %s", p.comment, p.chain(kindCluster))
		p.out.chains[chain] = b.String()
		return
	}
	if len(p.cluster) > 0 {
		// Pods and the node itself are inside: they reach every endpoint.
		line("-s %s %s -j %s", c.ClusterPodCIDR, p.comment, p.chain(kindCluster))
		line("%s -m addrtype --src-type LOCAL -j MARK --set-xmark %s", p.comment, masqMark)
		line("%s -m addrtype --src-type LOCAL -j %s", p.comment, p.chain(kindCluster))
	}
	if len(p.local) > 0 {
		line("%s -j %s", p.comment, p.chain(kindLocal))
	}
	p.out.chains[chain] = b.String()
}

// enter leads from a shared chain to the Service, and refuses what finds no endpoint behind it.
func (p *servicePort) enter(chain, dst string, port int32, kind string, local bool) {
	from := ""
	if dst != "" {
		from = "-d " + dst + "/32 "
	}
	if len(p.cluster) > 0 || len(p.local) > 0 {
		p.share(tableNat, chain, from+p.match(port)+" -j "+p.chain(kind))
	}
	where := p.comment
	if dst == "" {
		where += " -m addrtype --dst-type LOCAL"
	}
	rule := fmt.Sprintf("%s-p %s %s -m %s --dport %d", from, p.proto, where, p.proto, port)
	switch {
	case len(p.cluster) == 0 && len(p.local) == 0:
		p.share(tableFilter, chainRefuse, rule+" -j REJECT --reject-with icmp-port-unreachable")
	case local && len(p.local) == 0:
		// Another node has endpoints: silence makes a load balancer in front look elsewhere, as Kubernetes promises.
		p.share(tableFilter, chainRefuse, rule+" -j DROP")
	}
}

// guarded is enter for a load balancer's address, which may be open to some ranges only.
func (p *servicePort) guarded(ip netip.Addr, local bool) {
	if len(p.svc.Spec.LoadBalancerSourceRanges) == 0 {
		p.enter(externalBucket(ip), ip.String(), p.Port, kindOutside, local)
		return
	}
	p.enter(externalBucket(ip), ip.String(), p.Port, kindFirewall, local)
	var b strings.Builder
	for _, r := range p.svc.Spec.LoadBalancerSourceRanges {
		if allowed, err := netip.ParsePrefix(strings.TrimSpace(r)); err == nil && allowed.Addr().Is4() {
			source := "-s " + allowed.Masked().String() + " "
			if allowed.Bits() == 0 {
				source = ""
			}
			fmt.Fprintf(&b, "-A %s %s%s -j %s\n", p.chain(kindFirewall), source, p.comment, p.chain(kindOutside))
		}
	}
	if len(p.cluster) > 0 || len(p.local) > 0 {
		p.out.chains[p.chain(kindFirewall)] = b.String()
		// Who is not translated is not allowed.
		p.share(tableFilter, chainRefuse, fmt.Sprintf("-d %s/32 %s -j DROP", ip, p.match(p.Port)))
	}
}

// balance writes the chain that spreads new connections over endpoints. Rule i of n is taken with probability
// 1/(n-i), which gives each the same share.
func (p *servicePort) balance(kind string, endpoints []netip.AddrPort) string {
	chain := p.chain(kind)
	var b strings.Builder
	sticky := p.svc.Spec.SessionAffinity == corev1.ServiceAffinityClientIP
	if sticky {
		seconds := int32(10800)
		if a := p.svc.Spec.SessionAffinityConfig; a != nil && a.ClientIP != nil && a.ClientIP.TimeoutSeconds != nil {
			seconds = *a.ClientIP.TimeoutSeconds
		}
		for _, e := range endpoints {
			fmt.Fprintf(&b, "-A %s -p %s %s -m recent --update --seconds %d --reap --name %s --mask 255.255.255.255 --rsource -j DNAT --to-destination %s\n",
				chain, p.proto, p.comment, seconds, p.memory(e), e)
		}
	}
	for i, e := range endpoints {
		fmt.Fprintf(&b, "-A %s -p %s %s", chain, p.proto, p.comment)
		if left := len(endpoints) - i; left > 1 {
			b.WriteString(" -m statistic --mode random --probability " + probability(left))
		}
		if sticky {
			fmt.Fprintf(&b, " -m recent --set --name %s --mask 255.255.255.255 --rsource", p.memory(e))
		}
		fmt.Fprintf(&b, " -j DNAT --to-destination %s\n", e)
	}
	return b.String()
}

// probability is 1/n as the kernel stores it (a 31-bit fraction) and iptables-save prints it.
func probability(n int) string {
	const unit = 1 << 31
	return fmt.Sprintf("%.11f", math.Round(unit/float64(n))/unit)
}

// memory names the kernel's list of clients that an endpoint has served.
func (p *servicePort) memory(e netip.AddrPort) string { return hashed("R", p.id+" "+e.String()) }

func (p *servicePort) chain(kind string) string { return hashed(kind, p.id) }

// match selects the port; the comment stands before it so that it is seen first.
func (p *servicePort) match(port int32) string {
	return fmt.Sprintf("-p %s %s -m %s --dport %d", p.proto, p.comment, p.proto, port)
}

func (p *servicePort) share(table, chain, rule string) {
	p.out.shared = append(p.out.shared, sharedRule{table, chain, "-A " + chain + " " + rule + "\n"})
}

func (p *servicePort) rememberUDP(clusterIP netip.Addr, external []netip.Addr) {
	u := udpPort{endpoints: p.cluster, dst: []netip.AddrPort{netip.AddrPortFrom(clusterIP, uint16(p.Port))}}
	for _, ip := range external {
		u.dst = append(u.dst, netip.AddrPortFrom(ip, uint16(p.Port)))
	}
	if p.NodePort > 0 {
		u.dst = append(u.dst, netip.AddrPortFrom(netip.IPv4Unspecified(), uint16(p.NodePort)))
	}
	p.out.udp = append(p.out.udp, u)
}

// onThisNode keeps an address of this node's pod range.
func (c *Config) onThisNode(ip netip.Addr) []netip.Addr {
	if c.PodCIDR.Contains(ip) {
		return []netip.Addr{ip}
	}
	return nil
}

// externalAddresses are the Service's externalIPs, and those that a load balancer brought.
func externalAddresses(svc *corev1.Service) (external, balanced []netip.Addr) {
	parse := func(s string) []netip.Addr {
		if ip, err := netip.ParseAddr(s); err == nil && ip.Is4() {
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
