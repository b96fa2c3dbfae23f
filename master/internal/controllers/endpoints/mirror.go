package endpoints

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	netutils "k8s.io/utils/net"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// maxMirrored is how many addresses of a subset are mirrored (Kubernetes' --mirroring-max-endpoints-per-subset).
const maxMirrored = 1000

// mirrors plans the slices of a Service without a selector. ep are the Endpoints of its name, nil if there are none.
func (w *writes) mirrors(v registry.Viewer, svc *corev1.Service, ep *corev1.Endpoints) {
	existing, strays := slicesOf(v, svc, ep)
	if ep == nil || ep.Labels[discoveryv1.LabelSkipMirror] == "true" || ep.Annotations[leaderElection] != "" || ep.DeletionTimestamp != nil {
		w.slices.remove = append(existing, strays...)
		return
	}
	var groups []*group
	w.mirror = ep
	groups, w.invalid, w.skipped = fromSubsets(ep.Subsets)
	w.slices = planSlices(mirrorHeader(ep), groups, existing, false)
	w.slices.remove = append(w.slices.remove, strays...)
}

// mirrorHeader is that of slices made of hand-written Endpoints: these are their owner, and what they say of themselves
// the slices say.
func mirrorHeader(ep *corev1.Endpoints) header {
	labels := maps.Clone(ep.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	h := sliceHeader(ep, labels, fromMirror, *metav1.NewControllerRef(ep, corev1.SchemeGroupVersion.WithKind("Endpoints")))
	h.annotations = maps.Clone(ep.Annotations)
	delete(h.annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(h.annotations, corev1.LastAppliedConfigAnnotation)
	return h
}

// fromSubsets groups hand-written Endpoints. invalid are those of their addresses that are no IP addresses, skipped those
// that are too many.
func fromSubsets(subsets []corev1.EndpointSubset) (list []*group, invalid, skipped int) {
	groups := map[string]*group{}
	for i := range subsets {
		var ports []discoveryv1.EndpointPort
		for j := range subsets[i].Ports {
			p := &subsets[i].Ports[j]
			ports = append(ports, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
		}
		added := 0
		add := func(list []corev1.EndpointAddress, ready bool) {
			for j := range list {
				a := &list[j]
				ip := netutils.ParseIPSloppy(a.IP) // old objects may have leading zeros
				switch {
				case added >= maxMirrored:
					skipped++
					continue
				case ip == nil:
					invalid++
					continue
				}
				added++
				family := familyOf(ip.String())
				k := groupKey(family, ports)
				if groups[k] == nil {
					groups[k] = &group{family: family, ports: ports}
				}
				groups[k].addresses = append(groups[k].addresses, address{
					ip: ip.String(), ready: ready, onlyReady: true, hostname: a.Hostname, node: value(a.NodeName), target: a.TargetRef,
				})
			}
		}
		add(subsets[i].Addresses, true)
		add(subsets[i].NotReadyAddresses, false)
	}
	return sorted(groups), invalid, skipped
}
