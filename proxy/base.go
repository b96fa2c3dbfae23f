package proxy

import (
	"fmt"
	"strings"
)

// baseRules are the chains that do not depend on Services; those that do (WP-CLUSTERIP's list of networks and so on)
// begin with what stands here. The map is table → chain → rules.
func (c *Config) baseRules() map[string]map[string]string {
	masquerade := "-j MASQUERADE"
	if c.RandomFully {
		masquerade += " --random-fully"
	}
	note := func(s string) string { return fmt.Sprintf("-m comment --comment \"whalepod: %s\"", s) }
	nat := chainSet{}
	for _, ip := range c.LocalIPs {
		nat.add(chainServices, "-d %s/32 %s -j RETURN", ip, note("answered by the node itself"))
	}
	nat.add(chainServices, "-d %s -j %s", c.ServiceCIDR, chainClusterIP)
	nat.add(chainServices, "-j %s", chainExternal)
	nat.add(chainServices, "-m addrtype --dst-type LOCAL -j %s", chainNodePorts)
	nat.add(chainClusterIP, "! -s %s %s -j MARK --set-xmark %s", c.ClusterPodCIDR, note("not from a pod"), masqMark)
	nat.add(chainNodePorts, "-j %s", chainHostPorts)
	nat.add(chainPostrouting, "-m mark --mark %s -j %s", masqMark, chainMasquerade)
	nat.add(chainPostrouting, "-s %s -d %s -m conntrack --ctstate DNAT -j %s", c.PodCIDR, c.PodCIDR, chainHairpin)
	nat.add(chainPostrouting, "-s %s ! -d %s ! -o lo %s %s", c.PodCIDR, c.ClusterPodCIDR, note("leaves the cluster"), masquerade)
	// The mark must not go on into a tunnel's outer packet.
	nat.add(chainMasquerade, "-j MARK --set-xmark %s", unmark)
	nat.add(chainMasquerade, "%s", masquerade)
	nat.add(chainHostPorts, "")
	nat.add(chainExternal, "")
	nat.add(chainHairpin, "")

	const reject = "-j REJECT --reject-with icmp-port-unreachable"
	filter := chainSet{}
	// (No apostrophes in comments: iptables-save would print a backslash before them.)
	// route_localnet lets NodePorts work on 127.0.0.1; without this rule the neighbours on the link could reach
	// what listens there only (CVE-2020-8558).
	filter.add(chainInput, "! -s 127.0.0.0/8 -d 127.0.0.0/8 %s -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP", note("guards 127.0.0.1"))
	for _, ip := range c.LocalIPs {
		filter.add(chainInput, "-s %s -d %s/32 %s -j ACCEPT", c.ClusterPodCIDR, ip, note("pods to DNS"))
		filter.add(chainOutput, "-d %s/32 -j RETURN", ip)
	}
	filter.add(chainInput, "-m conntrack --ctstate NEW -j %s", chainRefuse)
	// A packet that connection tracking cannot place would reach the client untranslated and end its connection.
	filter.add(chainForward, "-s %s -m conntrack --ctstate INVALID -j DROP", c.ClusterPodCIDR)
	filter.add(chainForward, "-m conntrack --ctstate NEW -j %s", chainRefuse)
	filter.add(chainForward, "-d %s %s %s", c.ServiceCIDR, note("no such service, or no endpoint"), reject)
	filter.add(chainForward, "-m mark --mark %s -j ACCEPT", masqMark)
	filter.add(chainForward, "-s %s -j ACCEPT", c.ClusterPodCIDR)
	filter.add(chainForward, "-d %s -j ACCEPT", c.ClusterPodCIDR)
	filter.add(chainForward, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	filter.add(chainOutput, "-m conntrack --ctstate NEW -j %s", chainRefuse)
	filter.add(chainOutput, "-d %s %s %s", c.ServiceCIDR, note("no such service, or no endpoint"), reject)
	filter.add(chainRefuse, "")
	return map[string]map[string]string{tableNat: nat, tableFilter: filter}
}

// passRules are what of baseRules a back end beside iptables needs there. They only accept: what is refused is refused elsewhere.
func (c *Config) passRules() map[string]map[string]string {
	filter := chainSet{}
	for _, ip := range c.LocalIPs {
		filter.add(chainInput, "-s %s -d %s/32 -m comment --comment \"whalepod: pods to DNS\" -j ACCEPT", c.ClusterPodCIDR, ip)
	}
	filter.add(chainForward, "-m mark --mark %s -j ACCEPT", masqMark)
	filter.add(chainForward, "-s %s -j ACCEPT", c.ClusterPodCIDR)
	filter.add(chainForward, "-d %s -j ACCEPT", c.ClusterPodCIDR)
	filter.add(chainForward, "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	return map[string]map[string]string{tableFilter: filter}
}

// chainSet is chain → rules.
type chainSet map[string]string

// add appends a rule; an empty one only makes the chain.
func (s chainSet) add(chain, format string, args ...any) {
	if format == "" {
		s[chain] += ""
		return
	}
	s[chain] += strings.TrimRight("-A "+chain+" "+fmt.Sprintf(format, args...), " ") + "\n"
}
