package endpoints

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/whalepod/whalepod/master/internal/controllers/podstate"
)

// address is one pod (or one hand-written address) behind a Service.
type address struct {
	ip                          string
	ready, serving, terminating bool
	// onlyReady: nothing is known but whether it is ready.
	onlyReady            bool
	hostname, node, zone string
	hints                *discoveryv1.EndpointHints
	target               *corev1.ObjectReference
}

// group is a set of addresses that share the same ports.
type group struct {
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	addresses []address
}

// key identifies a group by its family and ports.
func groupKey(family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) string {
	var b strings.Builder
	b.WriteString(string(family))
	for _, p := range ports {
		fmt.Fprintf(&b, "|%s/%s/%d/%s", value(p.Name), value(p.Protocol), value(p.Port), value(p.AppProtocol))
	}
	return b.String()
}

func value[T any](p *T) T {
	if p == nil {
		var none T
		return none
	}
	return *p
}

// fromPods groups the pods that a Service's selector matches by the ports that the Service's ports mean in each of them.
func fromPods(svc *corev1.Service, pods []*corev1.Pod, zoneOf func(node string) string) []*group {
	groups := map[string]*group{}
	for _, pod := range pods {
		if pod.Status.PodIP == "" || podstate.Ended(pod) {
			continue
		}
		ports := targetPorts(svc, pod)
		family := familyOf(pod.Status.PodIP)
		k := groupKey(family, ports)
		g := groups[k]
		if g == nil {
			g = &group{family: family, ports: ports}
			groups[k] = g
		}
		serving := podstate.Ready(pod)
		terminating := pod.DeletionTimestamp != nil
		a := address{
			ip: pod.Status.PodIP, node: pod.Spec.NodeName, zone: zoneOf(pod.Spec.NodeName),
			ready:   svc.Spec.PublishNotReadyAddresses || serving && !terminating,
			serving: serving, terminating: terminating,
			target: &corev1.ObjectReference{Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		}
		if pod.Spec.Hostname != "" && pod.Spec.Subdomain == svc.Name {
			a.hostname = pod.Spec.Hostname
		}
		a.hints = hints(svc, &a)
		g.addresses = append(g.addresses, a)
	}
	return sorted(groups)
}

// hints say for whom an endpoint is meant before others, by the Service's trafficDistribution. Topology-aware routing, if
// the Service has it, comes first and needs to see all endpoints; see hintZones.
func hints(svc *corev1.Service, a *address) *discoveryv1.EndpointHints {
	if !a.ready || topologyAware(svc) {
		return nil
	}
	var h discoveryv1.EndpointHints
	switch value(svc.Spec.TrafficDistribution) {
	case corev1.ServiceTrafficDistributionPreferSameNode:
		if a.node != "" {
			h.ForNodes = []discoveryv1.ForNode{{Name: a.node}}
		}
	case corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone:
	default:
		return nil
	}
	if a.zone != "" {
		h.ForZones = []discoveryv1.ForZone{{Name: a.zone}}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}

// sorted puts groups and their addresses into a stable order, so that equal states give equal objects.
func sorted(groups map[string]*group) []*group {
	keys := make([]string, 0, len(groups))
	for k, g := range groups {
		keys = append(keys, k)
		slices.SortFunc(g.addresses, func(a, b address) int {
			return cmp.Or(strings.Compare(a.ip, b.ip), strings.Compare(identity(a), identity(b)))
		})
	}
	slices.Sort(keys)
	out := make([]*group, 0, len(keys))
	for _, k := range keys {
		out = append(out, groups[k])
	}
	return out
}

// identity tells addresses apart: a host-network pod shares its IP with others.
func identity(a address) string {
	if a.target != nil {
		return string(a.target.UID) + "/" + a.ip
	}
	return "/" + a.ip
}

func familyOf(ip string) discoveryv1.AddressType {
	if a, err := netip.ParseAddr(ip); err == nil && a.Is6() && !a.Is4In6() {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// targetPorts are the Service's ports as numbers in this pod; a named port that the pod does not have is left out.
func targetPorts(svc *corev1.Service, pod *corev1.Pod) []discoveryv1.EndpointPort {
	var ports []discoveryv1.EndpointPort
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		number, found := targetPort(p, pod)
		if !found {
			continue
		}
		ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &number, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(ports, func(a, b discoveryv1.EndpointPort) int {
		return cmp.Or(strings.Compare(*a.Name, *b.Name), strings.Compare(string(*a.Protocol), string(*b.Protocol)), cmp.Compare(*a.Port, *b.Port))
	})
	return ports
}

func targetPort(p *corev1.ServicePort, pod *corev1.Pod) (int32, bool) {
	if p.TargetPort.Type == intstr.Int {
		if p.TargetPort.IntVal == 0 {
			return p.Port, true
		}
		return p.TargetPort.IntVal, true
	}
	find := func(containers []corev1.Container, sidecarsOnly bool) (int32, bool) {
		for i := range containers {
			c := &containers[i]
			if sidecarsOnly && value(c.RestartPolicy) != corev1.ContainerRestartPolicyAlways {
				continue
			}
			for j := range c.Ports {
				if c.Ports[j].Name == p.TargetPort.StrVal && c.Ports[j].Protocol == p.Protocol {
					return c.Ports[j].ContainerPort, true
				}
			}
		}
		return 0, false
	}
	if n, ok := find(pod.Spec.Containers, false); ok {
		return n, true
	}
	return find(pod.Spec.InitContainers, true)
}
