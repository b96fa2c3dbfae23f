package proxy

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// All rules are written exactly as iptables-save prints them, so that what is read back compares equal.

// serviceRules is everything that the tables hold for one Service.
type serviceRules struct {
	chains map[string]string  // chains of its own in nat: name → rules
	shared []sharedRule       // its lines in chains it shares with others
	local  map[netip.Addr]int // endpoints on this node, for hairpins
}

// sharedRule is a Service's part of a chain that several Services are in.
type sharedRule struct{ table, chain, rules string }

// servicePort is one port of a Service while its rules are written.
type servicePort struct {
	*Port
	comment string
	out     *serviceRules
}

// rulesFor is what the tables hold for a Service.
func (c *Config) rulesFor(ports []Port) *serviceRules {
	out := &serviceRules{chains: map[string]string{}, local: c.onThisNode(ports)}
	for i := range ports {
		p := &servicePort{Port: &ports[i], out: out, comment: fmt.Sprintf("-m comment --comment \"%s\"", &ports[i])}
		c.portRules(p)
	}
	if len(ports) > 0 { // all have the same addresses; their own rules come first
		out.alone(&ports[0])
	}
	return out
}

// alone refuses what is sent to the load balancer's own addresses and to none of the ports. TCP is reset: the kernel sends few
// ICMP errors to a client, and none beside the redirects that packets get which leave by the link on which they came.
func (s *serviceRules) alone(p *Port) {
	for _, ip := range p.Alone {
		note := fmt.Sprintf("-m comment --comment \"%s\" -m addrtype ! --dst-type LOCAL -j REJECT --reject-with", clean(p.Service))
		s.share(tableFilter, chainRefuse, fmt.Sprintf("-d %s/32 -p tcp %s tcp-reset", ip, note))
		s.share(tableFilter, chainRefuse, fmt.Sprintf("-d %s/32 %s icmp-port-unreachable", ip, note))
	}
}

func (c *Config) portRules(p *servicePort) {
	reachable := p.NodePort > 0 || len(p.External)+len(p.Balanced) > 0
	if len(p.Cluster) > 0 {
		p.out.chains[p.chain(kindCluster)] = p.balance(kindCluster, p.Cluster)
	}
	if (p.InternalLocal || p.ExternalLocal && reachable) && len(p.Local) > 0 {
		p.out.chains[p.chain(kindLocal)] = p.balance(kindLocal, p.Local)
	}
	if !p.NodeAnswers && len(p.Inside()) > 0 {
		target := kindCluster
		if p.InternalLocal {
			target = kindLocal
		}
		_, _, _, chain := clusterBuckets(p.ClusterIP)
		p.share(tableNat, chain, fmt.Sprintf("-d %s/32 %s -j %s", p.ClusterIP, p.match(p.Port.Port), p.chain(target)))
	}
	if p.Dropped() {
		p.share(tableFilter, chainRefuse, fmt.Sprintf("-d %s/32 %s -j DROP", p.ClusterIP, p.match(p.Port.Port)))
	}
	if reachable {
		c.outside(p)
	}
	if p.NodePort > 0 {
		chain, _, _ := portBucket(p.Protocol, int32(p.NodePort))
		p.enter(chain, "", p.NodePort, kindOutside)
	}
	for _, ip := range p.External {
		p.enter(externalBucket(ip), ip.String(), p.Port.Port, kindOutside)
	}
	for _, ip := range p.Balanced {
		p.guarded(ip)
	}
}

// outside writes the chain for what arrives from outside the cluster.
func (c *Config) outside(p *servicePort) {
	if p.Dead() {
		return
	}
	chain := p.chain(kindOutside)
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, "-A "+chain+" "+format+"\n", args...) }
	if !p.ExternalLocal {
		// The endpoint may be on another node and must answer through this one.
		line("%s -j MARK --set-xmark %s", p.comment, masqMark)
		line("%s -j %s", p.comment, p.chain(kindCluster))
		p.out.chains[chain] = b.String()
		return
	}
	if len(p.Cluster) > 0 {
		// Pods and the node itself are inside: they reach every endpoint.
		line("-s %s %s -j %s", c.ClusterPodCIDR, p.comment, p.chain(kindCluster))
		line("%s -m addrtype --src-type LOCAL -j MARK --set-xmark %s", p.comment, masqMark)
		line("%s -m addrtype --src-type LOCAL -j %s", p.comment, p.chain(kindCluster))
	}
	if len(p.Local) > 0 {
		line("%s -j %s", p.comment, p.chain(kindLocal))
	}
	p.out.chains[chain] = b.String()
}

// enter leads from a shared chain to the Service, and refuses what finds no endpoint behind it.
func (p *servicePort) enter(chain, dst string, port uint16, kind string) {
	from := ""
	if dst != "" {
		from = "-d " + dst + "/32 "
	}
	if !p.Dead() {
		p.share(tableNat, chain, from+p.match(port)+" -j "+p.chain(kind))
	}
	where := p.comment
	if dst == "" {
		where += " -m addrtype --dst-type LOCAL"
	}
	rule := fmt.Sprintf("%s-p %s %s %s", from, p.Protocol, where, dport(p.Protocol, int(port), int(port)))
	switch {
	case p.Dead():
		p.share(tableFilter, chainRefuse, rule+" -j REJECT --reject-with icmp-port-unreachable")
	case p.ExternalLocal && len(p.Local) == 0:
		// Another node has endpoints: silence makes a load balancer in front look elsewhere, as Kubernetes promises.
		p.share(tableFilter, chainRefuse, rule+" -j DROP")
	}
}

// guarded is enter for a load balancer's address, which may be open to some ranges only.
func (p *servicePort) guarded(ip netip.Addr) {
	if !p.Guarded {
		p.enter(externalBucket(ip), ip.String(), p.Port.Port, kindOutside)
		return
	}
	p.enter(externalBucket(ip), ip.String(), p.Port.Port, kindFirewall)
	var b strings.Builder
	for _, allowed := range p.Sources {
		source := "-s " + allowed.String() + " "
		if allowed.Bits() == 0 {
			source = ""
		}
		fmt.Fprintf(&b, "-A %s %s%s -j %s\n", p.chain(kindFirewall), source, p.comment, p.chain(kindOutside))
	}
	if !p.Dead() {
		p.out.chains[p.chain(kindFirewall)] = b.String()
		// Who is not translated is not allowed.
		p.share(tableFilter, chainRefuse, fmt.Sprintf("-d %s/32 %s -j DROP", ip, p.match(p.Port.Port)))
	}
}

// balance writes the chain that spreads new connections over endpoints. Rule i of n is taken with probability
// 1/(n-i), which gives each the same share.
func (p *servicePort) balance(kind string, endpoints []netip.AddrPort) string {
	chain := p.chain(kind)
	var b strings.Builder
	sticky := p.Sticky > 0
	if sticky {
		for _, e := range endpoints {
			fmt.Fprintf(&b, "-A %s -p %s %s -m recent --update --seconds %d --reap --name %s --mask 255.255.255.255 --rsource -j DNAT --to-destination %s\n",
				chain, p.Protocol, p.comment, p.Sticky, p.memory(e), e)
		}
	}
	for i, e := range endpoints {
		fmt.Fprintf(&b, "-A %s -p %s %s", chain, p.Protocol, p.comment)
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
func (p *servicePort) memory(e netip.AddrPort) string { return hashed("R", p.id()+" "+e.String()) }

func (p *servicePort) chain(kind string) string { return hashed(kind, p.id()) }

// match selects the port; the comment stands before it so that it is seen first.
func (p *servicePort) match(port uint16) string {
	return fmt.Sprintf("-p %s %s %s", p.Protocol, p.comment, dport(p.Protocol, int(port), int(port)))
}

// dport selects the ports from lo to hi. For SCTP that is multiport's: some distributions have xt_sctp in a package of its own,
// and a rule that the kernel does not know holds up all others of its turn.
func dport(protocol string, lo, hi int) string {
	ports := strconv.Itoa(lo)
	if hi != lo {
		ports += ":" + strconv.Itoa(hi)
	}
	if protocol == "sctp" {
		return "-m multiport --dports " + ports
	}
	return "-m " + protocol + " --dport " + ports
}

func (s *serviceRules) share(table, chain, rule string) {
	s.shared = append(s.shared, sharedRule{table, chain, "-A " + chain + " " + rule + "\n"})
}

func (p *servicePort) share(table, chain, rule string) { p.out.share(table, chain, rule) }
