package loadbalancer

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"iter"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// Class is the spec.loadBalancerClass that means this controller, as no class does.
const Class = "whalepod.io/lb"

// HostPort is a port that the machines themselves need.
type HostPort struct {
	Port     int32
	Protocol corev1.Protocol
	// Use is what for, as in "the Kubernetes API".
	Use string
}

// facts are what a decision depends on beside the Service itself.
type facts struct {
	pool []netip.Prefix
	// nodes are the addresses of the nodes that take traffic, sorted. They matter without a pool.
	nodes []string
	// machine tells which node has an address, "" if none has.
	machine func(ip string) string
	// holders are the Services that an address is given to.
	holders func(ip string) iter.Seq[*corev1.Service]
	// own are ports of the nodes that no Service gets.
	own []HostPort
}

// ours says whether the Service's addresses are this controller's business.
func ours(svc *corev1.Service) bool {
	class := svc.Spec.LoadBalancerClass
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && (class == nil || *class == Class)
}

// verdict is which addresses a Service shall have. A failure says in words why it is not what the Service asks for; then
// the addresses are those that it may keep.
type verdict struct {
	addresses []string
	failure   string
}

// plan decides on one Service of ours.
func plan(svc *corev1.Service, f facts) verdict {
	if len(f.pool) == 0 {
		return shareNodes(svc, f)
	}
	return fromPool(svc, f)
}

// fromPool finds the address of the pool that is the Service's alone.
func fromPool(svc *corev1.Service, f facts) verdict {
	var kept []string
	for _, ip := range given(svc) {
		if inPool(f.pool, ip) && holder(svc, f.holders(ip)) == nil {
			kept = []string{ip}
			break
		}
	}
	if want := svc.Spec.LoadBalancerIP; want != "" {
		addr, err := netip.ParseAddr(want)
		if err != nil {
			return verdict{kept, fmt.Sprintf("spec.loadBalancerIP %q is no IP address", want)}
		}
		want = addr.String()
		if slices.Contains(kept, want) {
			return verdict{addresses: kept}
		}
		if why := refused(svc, want, f); why != "" {
			return verdict{kept, why}
		}
		return verdict{addresses: []string{want}}
	}
	if kept != nil {
		return verdict{addresses: kept}
	}
	if ip, ok := free(svc, f); ok {
		return verdict{addresses: []string{ip}}
	}
	return verdict{nil, "no available IPs: every address of the pool is given to another Service; give the master another --lb-pool, or delete a Service of type LoadBalancer"}
}

// refused says why a Service cannot have the address that it asks for.
func refused(svc *corev1.Service, want string, f facts) string {
	if !inPool(f.pool, want) {
		return fmt.Sprintf("spec.loadBalancerIP %s is in no --lb-pool", want)
	}
	if node := f.machine(want); node != "" {
		return fmt.Sprintf("spec.loadBalancerIP %s is the address of node %s", want, node)
	}
	if other := holder(svc, f.holders(want)); other != nil {
		return fmt.Sprintf("spec.loadBalancerIP %s is given to Service %s/%s", want, other.Namespace, other.Name)
	}
	return ""
}

func inPool(pool []netip.Prefix, ip string) bool {
	addr, err := netip.ParseAddr(ip)
	return err == nil && slices.ContainsFunc(pool, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// free is the lowest address that nobody has. Those that end with 0 or 255 come last: on many links they are the network's
// own, and some routers drop them on all.
func free(svc *corev1.Service, f facts) (string, bool) {
	for _, odd := range []bool{false, true} {
		for _, p := range f.pool {
			for addr := p.Masked().Addr(); p.Contains(addr); addr = addr.Next() {
				last := addr.As4()[3]
				if (last == 0 || last == 255) != odd {
					continue
				}
				ip := addr.String()
				if f.machine(ip) == "" && holder(svc, f.holders(ip)) == nil {
					return ip, true
				}
			}
		}
	}
	return "", false
}

// holder is the Service that keeps others from having an address. When several were given it, which no version of this
// controller does, it stays with the oldest.
func holder(svc *corev1.Service, holders iter.Seq[*corev1.Service]) (first *corev1.Service) {
	for other := range holders {
		if first == nil || older(other, first) {
			first = other
		}
	}
	if first == nil || same(first, svc) {
		return nil
	}
	return first
}

// maxShared is how many nodes' addresses a Service has at most. Every address costs rules on every node, and nobody types
// that many into a DNS.
const maxShared = 100

// shareNodes gives a Service the nodes' addresses, which it shares with all others: so its ports must be free there.
func shareNodes(svc *corev1.Service, f facts) verdict {
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		for _, own := range f.own {
			if own.Port == p.Port && own.Protocol == p.Protocol {
				return verdict{nil, fmt.Sprintf("port %d/%s of the nodes is %s; choose another spec.ports[%d].port, or give the master an --lb-pool, with which a Service has an address of its own", p.Port, p.Protocol, own.Use, i)}
			}
		}
	}
	nodes, failure := f.nodes[:min(len(f.nodes), maxShared)], ""
	if want := svc.Spec.LoadBalancerIP; slices.Contains(f.nodes, want) {
		nodes = []string{want}
	} else if want != "" {
		failure = fmt.Sprintf("spec.loadBalancerIP %s cannot be given, since the master has no --lb-pool; the Service has the nodes' addresses", want)
	}
	for _, ip := range nodes {
		for other := range f.holders(ip) {
			// Of two that have the addresses and have come to use the same port, the older stays.
			if same(other, svc) || slices.Contains(given(svc), ip) && older(svc, other) {
				continue
			}
			if p, ok := clash(svc, other); ok {
				return verdict{nil, fmt.Sprintf("port %d/%s of the nodes is given to Service %s/%s; choose another port, or give the master an --lb-pool, with which a Service has an address of its own", p.Port, p.Protocol, other.Namespace, other.Name)}
			}
		}
	}
	return verdict{nodes, failure}
}

func clash(a, b *corev1.Service) (*corev1.ServicePort, bool) {
	for i := range a.Spec.Ports {
		for j := range b.Spec.Ports {
			if p, q := &a.Spec.Ports[i], &b.Spec.Ports[j]; p.Port == q.Port && p.Protocol == q.Protocol {
				return p, true
			}
		}
	}
	return nil, false
}

func same(a, b *corev1.Service) bool { return a.Namespace == b.Namespace && a.Name == b.Name }

func older(a, b *corev1.Service) bool {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.UID, b.UID)) < 0
}

// given are the addresses that a Service has now.
func given(svc *corev1.Service) (ips []string) {
	for i := range svc.Status.LoadBalancer.Ingress {
		if ip := svc.Status.LoadBalancer.Ingress[i].IP; ip != "" {
			ips = append(ips, ip)
		}
	}
	return ips
}

// ingress writes addresses down. VIP: packets arrive with the address as their destination, so nodes answer for it.
func ingress(ips []string) []corev1.LoadBalancerIngress {
	mode := corev1.LoadBalancerIPModeVIP
	out := make([]corev1.LoadBalancerIngress, len(ips))
	for i, ip := range ips {
		out[i] = corev1.LoadBalancerIngress{IP: ip, IPMode: &mode}
	}
	return out
}

// usable is the address under which a node takes traffic from outside; "" for one that takes none: it is not ready, it is
// being deleted, or it is excluded by the label of Kubernetes' own service controller. A cordoned node does.
func usable(n *corev1.Node) string {
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded || n.DeletionTimestamp != nil || !ready(n) {
		return ""
	}
	return address(n)
}

func ready(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// address is the node's internal one: that which its packets arrive with, also behind a NAT.
func address(n *corev1.Node) string {
	for _, a := range n.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is4() && a.Type == corev1.NodeInternalIP {
			return a.Address
		}
	}
	return ""
}

// byNumber puts addresses into the order in which people count them.
func byNumber(ips []string) {
	number := func(ip string) uint32 {
		addr, _ := netip.ParseAddr(ip)
		b := addr.As4()
		return binary.BigEndian.Uint32(b[:])
	}
	slices.SortFunc(ips, func(a, b string) int { return cmp.Compare(number(a), number(b)) })
}
