// Package netpolicy is what the master and the nodes must agree on about network policies: whom a policy selects, and by which
// name the addresses go that one of its peers stands for. The NetworkPolicy itself travels to the nodes as it is; the addresses
// travel beside it, since only the master knows all pods. It is pure.
//
// The names are part of the protocol: a master and an agent of different versions must find the same. Never change them.
package netpolicy

import (
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// The resources' names in the protocol.
const (
	Policies = "networkpolicies.networking.k8s.io"
	Sets     = "policysets.whalepod.io"
)

// Set says which pods' addresses it has.
type Set struct {
	// Namespace of the pods; empty: those that Namespaces selects.
	Namespace  string
	Namespaces *metav1.LabelSelector
	// Pods within the namespaces; nil selects all.
	Pods *metav1.LabelSelector
	// Port, if not empty: the set has not addresses alone, but those with the port that a pod's containers call so.
	Port     string
	Protocol corev1.Protocol
}

// ID names the set; two sets of one ID have the same members. Short enough for the kernel, which allows 31 letters.
func (s Set) ID() string {
	var b strings.Builder
	if s.Namespace != "" {
		b.WriteString("n=" + s.Namespace)
	} else {
		b.WriteString("s=")
		writeSelector(&b, s.Namespaces)
	}
	b.WriteString("|p=")
	writeSelector(&b, s.Pods)
	if s.Port != "" {
		b.WriteString("|" + string(s.Protocol) + "/" + s.Port)
	}
	sum := sha256.Sum256([]byte(b.String()))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:15]))
}

// writeSelector writes equal selectors alike, in whatever order they name things. No label has these separators in it.
func writeSelector(b *strings.Builder, sel *metav1.LabelSelector) {
	if sel == nil {
		return
	}
	parts := make([]string, 0, len(sel.MatchLabels)+len(sel.MatchExpressions))
	for k, v := range sel.MatchLabels {
		parts = append(parts, k+"="+v)
	}
	for _, e := range sel.MatchExpressions {
		values := slices.Clone(e.Values)
		slices.Sort(values)
		parts = append(parts, string(e.Operator)+" "+e.Key+"("+strings.Join(slices.Compact(values), ",")+")")
	}
	slices.Sort(parts)
	b.WriteString(strings.Join(slices.Compact(parts), ";"))
}

// Matches tells whether a selector selects the labels; nil and the empty one select everything. What the API would not admit
// selects nothing.
func Matches(sel *metav1.LabelSelector, labels map[string]string) bool {
	if sel == nil {
		return true
	}
	for k, v := range sel.MatchLabels {
		if has, ok := labels[k]; !ok || has != v {
			return false
		}
	}
	for i := range sel.MatchExpressions {
		e := &sel.MatchExpressions[i]
		has, ok := labels[e.Key]
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			ok = ok && slices.Contains(e.Values, has)
		case metav1.LabelSelectorOpNotIn:
			ok = !ok || !slices.Contains(e.Values, has)
		case metav1.LabelSelectorOpExists:
		case metav1.LabelSelectorOpDoesNotExist:
			ok = !ok
		default:
			ok = false
		}
		if !ok {
			return false
		}
	}
	return true
}

// Types are the directions that a policy isolates the pods in that it selects. The API fills policyTypes in; where they are
// missing, they are what it would fill in.
func Types(p *networkingv1.NetworkPolicy) (ingress, egress bool) {
	if len(p.Spec.PolicyTypes) == 0 {
		return true, len(p.Spec.Egress) > 0
	}
	return slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress), slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
}

// Concerned tells whether policies can select the pod: it has an address of its own, and it has not ended.
func Concerned(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// Selects tells whether the policy selects a pod of these labels in its namespace.
func Selects(p *networkingv1.NetworkPolicy, namespace string, labels map[string]string) bool {
	return p.Namespace == namespace && Matches(&p.Spec.PodSelector, labels)
}

// PeerSet is the set of a peer that selects pods; false for an ipBlock.
func PeerSet(namespace string, peer *networkingv1.NetworkPolicyPeer) (Set, bool) {
	switch {
	case peer.NamespaceSelector != nil:
		return Set{Namespaces: peer.NamespaceSelector, Pods: peer.PodSelector}, true
	case peer.PodSelector != nil:
		return Set{Namespace: namespace, Pods: peer.PodSelector}, true
	}
	return Set{}, false
}

// Everywhere is the set of whatever is called by the port's name in any pod: where a rule names a port and peers that are no pods.
var Everywhere = Set{Namespaces: &metav1.LabelSelector{}}

// WithPort is the set's pods' ports of that name.
func (s Set) WithPort(port *networkingv1.NetworkPolicyPort) Set {
	s.Port, s.Protocol = port.Port.StrVal, ProtocolOf(port)
	return s
}

// Named tells whether a port is given by name.
func Named(port *networkingv1.NetworkPolicyPort) bool {
	return port.Port != nil && port.Port.Type == intstr.String
}

// ProtocolOf the port; TCP unless it says another.
func ProtocolOf(port *networkingv1.NetworkPolicyPort) corev1.Protocol {
	if port.Protocol == nil {
		return corev1.ProtocolTCP
	}
	return *port.Protocol
}

// Of lists the sets that a policy's rules refer to, by their IDs. Names of ports are those of whoever is connected to: in ingress
// rules of the selected pods, which their node knows, in egress rules of the peers.
func Of(p *networkingv1.NetworkPolicy) map[string]Set {
	out := map[string]Set{}
	add := func(s Set) { out[s.ID()] = s }
	ingress, egress := Types(p)
	for i := range p.Spec.Ingress {
		for j := range p.Spec.Ingress[i].From {
			if s, ok := PeerSet(p.Namespace, &p.Spec.Ingress[i].From[j]); ok && ingress {
				add(s)
			}
		}
	}
	for i := range p.Spec.Egress {
		if egress {
			egressSets(p.Namespace, &p.Spec.Egress[i], add)
		}
	}
	return out
}

func egressSets(namespace string, rule *networkingv1.NetworkPolicyEgressRule, add func(Set)) {
	plain := len(rule.Ports) == 0
	var named []*networkingv1.NetworkPolicyPort
	for i := range rule.Ports {
		if port := &rule.Ports[i]; Named(port) {
			named = append(named, port)
		} else {
			plain = true
		}
	}
	others := len(rule.To) == 0
	for i := range rule.To {
		s, ok := PeerSet(namespace, &rule.To[i])
		if !ok {
			others = true
			continue
		}
		if plain {
			add(s)
		}
		for _, port := range named {
			add(s.WithPort(port))
		}
	}
	for _, port := range named {
		if others {
			add(Everywhere.WithPort(port))
		}
	}
}

// Port is one that a pod's container says it listens at.
type Port struct {
	Protocol corev1.Protocol
	Number   uint16
}

// PortsNamed are the ports that the pod's containers call so.
func PortsNamed(pod *corev1.Pod, name string, protocol corev1.Protocol) (out []Port) {
	look := func(c *corev1.Container) {
		for _, p := range c.Ports {
			has := p.Protocol
			if has == "" {
				has = corev1.ProtocolTCP
			}
			if p.Name == name && has == protocol && p.ContainerPort > 0 && p.ContainerPort < 1<<16 {
				out = append(out, Port{protocol, uint16(p.ContainerPort)})
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			look(c)
		}
	}
	for i := range pod.Spec.Containers {
		look(&pod.Spec.Containers[i])
	}
	slices.SortFunc(out, func(a, b Port) int { return int(a.Number) - int(b.Number) })
	return slices.Compact(out)
}

// Protocols are the numbers of those that policies know.
var Protocols = map[corev1.Protocol]uint32{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}
