package endpoints

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

const (
	// An Endpoints object lists so many addresses at most; EndpointSlices have no such bound.
	maxAddresses = 1000
	// Labels and annotations of Endpoints as Kubernetes' controller sets them.
	labelManagedBy  = "endpoints.kubernetes.io/managed-by"
	managedBy       = "endpoint-controller"
	overCapacity    = corev1.EndpointsOverCapacity
	truncated       = "truncated"
	serviceHeadless = corev1.IsHeadlessService
)

// endpointsLabels are the Service's own and those that say who made the object.
func endpointsLabels(svc *corev1.Service) map[string]string {
	labels := make(map[string]string, len(svc.Labels)+2)
	for k, v := range svc.Labels {
		labels[k] = v
	}
	labels[labelManagedBy] = managedBy
	delete(labels, serviceHeadless)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[serviceHeadless] = ""
	}
	return labels
}

// subsets turns the groups into those of an Endpoints object. Pods that are being deleted are left out there, unless the
// Service wants to publish what is not ready.
func subsets(svc *corev1.Service, groups []*group) (out []corev1.EndpointSubset, cut bool) {
	for _, g := range groups {
		if len(g.ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue // none of the Service's named ports exists in these pods
		}
		var s corev1.EndpointSubset
		for _, p := range g.ports {
			s.Ports = append(s.Ports, corev1.EndpointPort{Name: *p.Name, Port: *p.Port, Protocol: *p.Protocol, AppProtocol: p.AppProtocol})
		}
		for _, a := range g.addresses {
			if a.terminating && !svc.Spec.PublishNotReadyAddresses {
				continue
			}
			ea := corev1.EndpointAddress{IP: a.ip, Hostname: a.hostname, TargetRef: a.target}
			if a.node != "" {
				ea.NodeName = &a.node
			}
			if a.ready {
				s.Addresses = append(s.Addresses, ea)
			} else {
				s.NotReadyAddresses = append(s.NotReadyAddresses, ea)
			}
		}
		out = append(out, s)
	}
	cut = truncate(out)
	out = slices.DeleteFunc(out, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
	slices.SortFunc(out, func(a, b corev1.EndpointSubset) int { return cmp.Compare(portsText(a), portsText(b)) })
	return out, cut
}

// truncate leaves no more addresses than an Endpoints object may have: ready ones before others.
func truncate(subsets []corev1.EndpointSubset) (cut bool) {
	left := maxAddresses
	for i := range subsets {
		s := &subsets[i]
		s.Addresses, left, cut = take(s.Addresses, left, cut)
	}
	for i := range subsets {
		s := &subsets[i]
		s.NotReadyAddresses, left, cut = take(s.NotReadyAddresses, left, cut)
	}
	return cut
}

func take(list []corev1.EndpointAddress, left int, cut bool) ([]corev1.EndpointAddress, int, bool) {
	if len(list) > left {
		return list[:left:left], 0, true
	}
	return list, left - len(list), cut
}

func portsText(s corev1.EndpointSubset) string {
	var b strings.Builder
	for _, p := range s.Ports {
		b.WriteString(p.Name)
		b.WriteString(string(p.Protocol))
		b.WriteRune(rune(p.Port))
	}
	return b.String()
}
