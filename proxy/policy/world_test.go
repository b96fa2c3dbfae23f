package policy

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/whalepod/whalepod/proto/netpolicy"
)

const thisNode = "n1"

// world is the cluster as the API's words describe it.
type world struct {
	namespaces map[string]map[string]string
	pods       map[string]*corev1.Pod // by UID
	policies   map[key]*networkingv1.NetworkPolicy
}

func newWorld() *world {
	return &world{map[string]map[string]string{}, map[string]*corev1.Pod{}, map[key]*networkingv1.NetworkPolicy{}}
}

func ip(s string) netip.Addr { return netip.MustParseAddr(s) }

func (w *world) at(a netip.Addr) *corev1.Pod {
	for _, p := range w.pods {
		if p.Status.PodIP == a.String() {
			return p
		}
	}
	return nil
}

// parts are the sets as the master would send them, each in one part.
func (w *world) parts() map[string][]Member {
	out := map[string][]Member{}
	for _, p := range w.policies {
		for id, s := range netpolicy.Of(p) {
			var list []Member
			for _, pod := range w.pods {
				if s.Namespace != "" && s.Namespace != pod.Namespace || s.Namespace == "" && !netpolicy.Matches(s.Namespaces, w.namespaces[pod.Namespace]) ||
					!netpolicy.Matches(s.Pods, pod.Labels) || pod.Status.PodIP == "" {
					continue
				}
				if s.Port == "" {
					list = append(list, Member{Addr: ip(pod.Status.PodIP)})
				}
				for _, x := range netpolicy.PortsNamed(pod, s.Port, s.Protocol) {
					list = append(list, Member{ip(pod.Status.PodIP), uint8(netpolicy.Protocols[x.Protocol]), x.Number})
				}
			}
			slices.SortFunc(list, func(a, b Member) int { return a.Addr.Compare(b.Addr) })
			out[id] = list
		}
	}
	return out
}

// allowed is the specification: it knows nothing of sets and rules.
func (w *world) allowed(hook string, p packet) bool {
	if p.known || p.src == p.dst {
		return true
	}
	if from := w.at(p.src); from != nil && from.Spec.NodeName == thisNode && !w.permits(from, p, egress) {
		return false
	}
	to := w.at(p.dst)
	return hook == "INPUT" || to == nil || to.Spec.NodeName != thisNode || w.permits(to, p, ingress)
}

func (w *world) permits(pod *corev1.Pod, p packet, d direction) bool {
	isolated := false
	for _, np := range w.policies {
		in, out := netpolicy.Types(np)
		if !netpolicy.Selects(np, pod.Namespace, pod.Labels) || d == ingress && !in || d == egress && !out {
			continue
		}
		isolated = true
		if d == ingress {
			for _, r := range np.Spec.Ingress {
				if w.peer(np, r.From, p.src) && w.port(r.Ports, p, pod) {
					return true
				}
			}
			continue
		}
		for _, r := range np.Spec.Egress {
			if w.peer(np, r.To, p.dst) && w.port(r.Ports, p, w.at(p.dst)) {
				return true
			}
		}
	}
	return !isolated
}

func (w *world) peer(np *networkingv1.NetworkPolicy, peers []networkingv1.NetworkPolicyPeer, a netip.Addr) bool {
	for _, x := range peers {
		if b := x.IPBlock; b != nil {
			inside := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(a) }
			if inside(b.CIDR) && !slices.ContainsFunc(b.Except, inside) {
				return true
			}
			continue
		}
		pod := w.at(a)
		if pod == nil || !netpolicy.Matches(x.PodSelector, pod.Labels) {
			continue
		}
		if x.NamespaceSelector == nil && pod.Namespace == np.Namespace || x.NamespaceSelector != nil && netpolicy.Matches(x.NamespaceSelector, w.namespaces[pod.Namespace]) {
			return true
		}
	}
	return len(peers) == 0
}

func (w *world) port(ports []networkingv1.NetworkPolicyPort, p packet, target *corev1.Pod) bool {
	for _, x := range ports {
		proto := netpolicy.ProtocolOf(&x)
		if map[corev1.Protocol]string{"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}[proto] != p.proto {
			continue
		}
		switch {
		case x.Port == nil:
			return true
		case x.Port.Type == intstr.String:
			if target != nil && slices.Contains(netpolicy.PortsNamed(target, x.Port.StrVal, proto), netpolicy.Port{Protocol: proto, Number: p.port}) {
				return true
			}
		case x.EndPort != nil:
			if int32(p.port) >= x.Port.IntVal && int32(p.port) <= *x.EndPort {
				return true
			}
		case int32(p.port) == x.Port.IntVal:
			return true
		}
	}
	return len(ports) == 0
}

// What follows makes things at random, from so few that they often meet.

var (
	addrs  = []string{"10.244.1.5", "10.244.1.6", "10.244.1.7", "10.244.2.5", "10.244.2.6", "10.254.254.1", "198.51.100.1", "203.0.113.200"}
	blocks = []string{"0.0.0.0/0", "10.244.0.0/16", "10.244.1.0/24", "10.244.1.4/30", "10.244.1.6/32", "198.51.100.0/24", "128.0.0.0/1", "10.244.2.0/25"}
)

var word = rapid.SampledFrom([]string{"a", "b"})

func drawLabels(t *rapid.T) map[string]string {
	return rapid.MapOfN(word, word, 0, 2).Draw(t, "labels")
}

func drawSelector(t *rapid.T) *metav1.LabelSelector {
	s := &metav1.LabelSelector{MatchLabels: rapid.MapOfN(word, word, 0, 1).Draw(t, "selector")}
	if rapid.IntRange(0, 3).Draw(t, "expression") == 0 {
		s.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: word.Draw(t, "key"), Operator: metav1.LabelSelectorOpExists}}
	}
	return s
}

func drawPeers(t *rapid.T) (out []networkingv1.NetworkPolicyPeer) {
	for range rapid.IntRange(0, 3).Draw(t, "peers") {
		var p networkingv1.NetworkPolicyPeer
		switch rapid.IntRange(0, 3).Draw(t, "peer") {
		case 0:
			p.PodSelector = drawSelector(t)
		case 1:
			p.NamespaceSelector = drawSelector(t)
		case 2:
			p.PodSelector, p.NamespaceSelector = drawSelector(t), drawSelector(t)
		default:
			p.IPBlock = &networkingv1.IPBlock{CIDR: rapid.SampledFrom(blocks).Draw(t, "cidr"), Except: rapid.SliceOfN(rapid.SampledFrom(blocks), 0, 2).Draw(t, "except")}
		}
		out = append(out, p)
	}
	return out
}

func drawPorts(t *rapid.T) (out []networkingv1.NetworkPolicyPort) {
	for range rapid.IntRange(0, 2).Draw(t, "ports") {
		var p networkingv1.NetworkPolicyPort
		if proto := rapid.SampledFrom([]corev1.Protocol{"", "TCP", "UDP", "SCTP"}).Draw(t, "protocol"); proto != "" {
			p.Protocol = &proto
		}
		switch rapid.IntRange(0, 3).Draw(t, "port") {
		case 0:
			v := intstr.FromInt32(rapid.Int32Range(80, 83).Draw(t, "number"))
			p.Port = &v
		case 1:
			v := intstr.FromInt32(rapid.Int32Range(80, 81).Draw(t, "first"))
			end := v.IntVal + rapid.Int32Range(0, 2).Draw(t, "more")
			p.Port, p.EndPort = &v, &end
		case 2:
			v := intstr.FromString(word.Draw(t, "port's name"))
			p.Port = &v
		}
		out = append(out, p)
	}
	return out
}

func drawPolicy(t *rapid.T, namespace, name string) *networkingv1.NetworkPolicy {
	np := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	np.Spec.PodSelector = *drawSelector(t)
	np.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{nil, {"Ingress"}, {"Egress"}, {"Ingress", "Egress"}}).Draw(t, "types")
	for range rapid.IntRange(0, 2).Draw(t, "ingress") {
		np.Spec.Ingress = append(np.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: drawPeers(t), Ports: drawPorts(t)})
	}
	for range rapid.IntRange(0, 2).Draw(t, "egress") {
		np.Spec.Egress = append(np.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: drawPeers(t), Ports: drawPorts(t)})
	}
	return np
}

func drawPod(t *rapid.T, uid, namespace, addr string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: uid, UID: types.UID(uid), Labels: drawLabels(t)}}
	p.Status.PodIP = addr
	p.Spec.NodeName = "other"
	if netip.MustParsePrefix("10.244.1.0/24").Contains(ip(addr)) {
		p.Spec.NodeName = thisNode
	}
	for range rapid.IntRange(0, 2).Draw(t, "container ports") {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Ports: []corev1.ContainerPort{{
			Name: word.Draw(t, "port's name"), ContainerPort: rapid.Int32Range(80, 83).Draw(t, "number"), Protocol: rapid.SampledFrom([]corev1.Protocol{"TCP", "UDP"}).Draw(t, "protocol"),
		}}})
	}
	return p
}

func drawPacket(t *rapid.T) (hook string, p packet) {
	a := rapid.SampledFrom(addrs)
	p = packet{src: ip(a.Draw(t, "from")), dst: ip(a.Draw(t, "to")), proto: rapid.SampledFrom([]string{"tcp", "udp", "sctp", "icmp"}).Draw(t, "proto")}
	if p.proto != "icmp" {
		p.port = uint16(rapid.IntRange(79, 84).Draw(t, "port"))
	}
	p.known = rapid.IntRange(0, 9).Draw(t, "known") == 0
	if p.dst.String() == "10.254.254.1" {
		return "INPUT", p
	}
	return "FORWARD", p
}

func uidOf(n int) string { return fmt.Sprint("pod", n) }
