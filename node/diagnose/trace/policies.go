package trace

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/whalepod/whalepod/node/diagnose"
)

// Network policies drop what they do not allow: then nothing is broken, and nobody answers. Here they are read from the API as nodes
// read them (proxy/policy), so that a policy is only blamed for what it does stop.

// collectPolicies of the namespaces of both ends. Not everybody may read them: then none is suspected.
func (f *facts) collectPolicies(ctx context.Context, c kubernetes.Interface) {
	names := []string{f.Namespace}
	if f.FromPod != "" && f.FromPodNamespace != "" {
		names = append(names, f.FromPodNamespace)
	}
	slices.Sort(names)
	for _, ns := range slices.Compact(names) {
		if list, err := c.NetworkingV1().NetworkPolicies(ns).List(ctx, metav1.ListOptions{}); err == nil {
			f.policies = append(f.policies, list.Items...)
		}
	}
	if len(f.policies) == 0 {
		return
	}
	f.namespaces = map[string]map[string]string{}
	if list, err := c.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil {
		for _, ns := range list.Items {
			f.namespaces[ns.Name] = ns.Labels
		}
	}
}

// labelsOf a namespace; of one that may not be read, the label that all have.
func (f *facts) labelsOf(namespace string) labels.Set {
	if l, ok := f.namespaces[namespace]; ok {
		return l
	}
	return labels.Set{corev1.LabelMetadataName: namespace}
}

// side of a connection.
type side struct {
	addr netip.Addr
	pod  *corev1.Pod // nil: none that policies know
}

func sideOf(addr netip.Addr, pod *corev1.Pod) side {
	if pod != nil && pod.Spec.HostNetwork {
		pod = nil // it is its node
	}
	return side{addr, pod}
}

// source is how others see the view. A node shows those behind the tunnel the first address of its pods' range.
func (f *facts) source(v *view, via string) side {
	if v.pod != nil && !v.pod.Spec.HostNetwork {
		addr, _ := netip.ParseAddr(v.pod.Status.PodIP)
		return side{addr, v.pod}
	}
	if n := f.nodes[v.node]; n != nil && via == tunnel {
		if r, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil {
			return side{r.Addr(), nil}
		}
	}
	return side{v.ip, nil}
}

// tunnel is the link to nodes that are not on one link with this one.
const tunnel = "wpx0"

// stopped names the policies that keep a view from an endpoint, and says what to do; it is empty when none does. What a node sends to
// its own pods passes always.
func (f *facts) stopped(v *view, e endpoint, d diagnose.Dialed) string {
	from, to := f.source(v, d.Via), sideOf(e.at.Addr(), e.pod)
	if d.Result != diagnose.TimedOut && d.Result != diagnose.Silent || from.pod != nil && to.pod != nil && from.pod.UID == to.pod.UID {
		return ""
	}
	if why := f.stoppedOut(v, to, e.protocol, e.at.Port(), podName(e)); why != "" {
		return why
	}
	if to.pod == nil || from.pod == nil && v.node == e.node {
		return ""
	}
	return f.stoppedIn(v, from, to, e.protocol, e.at.Port())
}

// stoppedOut: the view is a pod that may not send there.
func (f *facts) stoppedOut(v *view, to side, protocol string, port uint16, whom string) string {
	if v.pod == nil || v.pod.Spec.HostNetwork {
		return ""
	}
	names := f.isolating(networkingv1.PolicyTypeEgress, v.pod, to, to.pod, protocol, port)
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("NetworkPolicy %s isolates pod %s/%s for egress, and no rule lets it out to %s at %d/%s: add an egress rule (wpctl describe networkpolicy -n %[2]s shows what there is)",
		strings.Join(names, ", "), v.pod.Namespace, v.pod.Name, whom, port, protocol)
}

func (f *facts) stoppedIn(v *view, from, to side, protocol string, port uint16) string {
	names := f.isolating(networkingv1.PolicyTypeIngress, to.pod, from, to.pod, protocol, port)
	if len(names) == 0 {
		return ""
	}
	who, fix := "", "add an ingress rule"
	if from.pod != nil {
		who = "pod " + from.pod.Namespace + "/" + from.pod.Name
	} else {
		who = fmt.Sprintf("server %s (%s), nor what comes from outside through it,", v.node, from.addr)
		fix = fmt.Sprintf("if that is meant to pass, add an ingress rule with ipBlock %s/32; to see what a pod reaches: --from pod/NAME", from.addr)
	}
	return fmt.Sprintf("NetworkPolicy %s isolates pod %s/%s for ingress, and no rule lets %s in at %d/%s: %s (wpctl describe networkpolicy -n %[2]s shows what there is)",
		strings.Join(names, ", "), to.pod.Namespace, to.pod.Name, who, port, protocol, fix)
}

// stoppedDNS: the view is a pod that may not ask the cluster's DNS, which counts as a pod k8s-app=kube-dns in kube-system.
func (f *facts) stoppedDNS(v *view, server string) string {
	addr, err := netip.ParseAddr(server)
	if err != nil || v.pod == nil {
		return ""
	}
	dns := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: "kube-dns", Labels: map[string]string{"k8s-app": "kube-dns"}}}
	dns.Spec.Containers = []corev1.Container{{Ports: []corev1.ContainerPort{{Name: "dns", ContainerPort: 53, Protocol: corev1.ProtocolUDP}, {Name: "dns-tcp", ContainerPort: 53}}}}
	why := f.stoppedOut(v, side{addr, dns}, "UDP", 53, "the DNS server "+server)
	if why != "" {
		why += "; docs/NETWORK.md has the rule that lets pods ask names"
	}
	return why
}

// isolating are the policies that isolate a pod in a direction, if none of them allows the connection. target is who is connected to,
// for the names of ports.
func (f *facts) isolating(direction networkingv1.PolicyType, pod *corev1.Pod, peer side, target *corev1.Pod, protocol string, port uint16) (names []string) {
	for i := range f.policies {
		p := &f.policies[i]
		if p.Namespace != pod.Namespace || !selects(&p.Spec.PodSelector, pod.Labels) || !hasType(p, direction) {
			continue
		}
		allows := func(peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) bool {
			return (len(peers) == 0 || slices.ContainsFunc(peers, func(x networkingv1.NetworkPolicyPeer) bool { return f.isPeer(p.Namespace, x, peer) })) &&
				(len(ports) == 0 || slices.ContainsFunc(ports, func(x networkingv1.NetworkPolicyPort) bool { return isPort(x, target, protocol, port) }))
		}
		if direction == networkingv1.PolicyTypeIngress && slices.ContainsFunc(p.Spec.Ingress, func(r networkingv1.NetworkPolicyIngressRule) bool { return allows(r.From, r.Ports) }) ||
			direction == networkingv1.PolicyTypeEgress && slices.ContainsFunc(p.Spec.Egress, func(r networkingv1.NetworkPolicyEgressRule) bool { return allows(r.To, r.Ports) }) {
			return nil
		}
		names = append(names, p.Namespace+"/"+p.Name)
	}
	slices.Sort(names)
	return names
}

func hasType(p *networkingv1.NetworkPolicy, direction networkingv1.PolicyType) bool {
	if len(p.Spec.PolicyTypes) == 0 { // the API fills them in
		return direction == networkingv1.PolicyTypeIngress || len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, direction)
}

// selects: no selector selects everything.
func selects(sel *metav1.LabelSelector, set labels.Set) bool {
	if sel == nil {
		return true
	}
	s, err := metav1.LabelSelectorAsSelector(sel)
	return err == nil && s.Matches(set)
}

func (f *facts) isPeer(namespace string, p networkingv1.NetworkPolicyPeer, who side) bool {
	if p.IPBlock != nil {
		return within(p.IPBlock.CIDR, who.addr) && !slices.ContainsFunc(p.IPBlock.Except, func(e string) bool { return within(e, who.addr) })
	}
	if who.pod == nil || !selects(p.PodSelector, who.pod.Labels) {
		return false
	}
	if p.NamespaceSelector == nil {
		return who.pod.Namespace == namespace
	}
	return selects(p.NamespaceSelector, f.labelsOf(who.pod.Namespace))
}

func within(cidr string, a netip.Addr) bool {
	p, err := netip.ParsePrefix(cidr)
	return err == nil && p.Contains(a)
}

func isPort(p networkingv1.NetworkPolicyPort, target *corev1.Pod, protocol string, port uint16) bool {
	has := corev1.ProtocolTCP
	if p.Protocol != nil {
		has = *p.Protocol
	}
	switch {
	case string(has) != protocol:
		return false
	case p.Port == nil:
		return true
	case p.Port.Type == intstr.Int && p.EndPort == nil:
		return int32(port) == p.Port.IntVal
	case p.Port.Type == intstr.Int:
		return int32(port) >= p.Port.IntVal && int32(port) <= *p.EndPort
	case target == nil:
		return false
	}
	return slices.ContainsFunc(slices.Concat(target.Spec.Containers, target.Spec.InitContainers), func(c corev1.Container) bool {
		return slices.ContainsFunc(c.Ports, func(cp corev1.ContainerPort) bool {
			return cp.Name == p.Port.StrVal && cp.ContainerPort == int32(port) && protocolOf(cp.Protocol) == protocol
		})
	})
}
