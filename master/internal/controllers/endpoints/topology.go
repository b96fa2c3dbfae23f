package endpoints

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/whalepod/whalepod/master/internal/registry"
)

// Topology-aware routing (the annotation service.kubernetes.io/topology-mode: Auto) gives every zone endpoints in
// proportion to its processors, so that no zone's are overloaded by what stays in it. The numbers, the rules and the words
// are those of Kubernetes' endpointslice/topologycache; what differs is that hints are made anew from the whole each time, and
// not kept as long as they are tolerable, and that every zone really gets what it must have.

// topologyEnabled is told when hints have been given for the first time.
const topologyEnabled = "Topology Aware Hints has been enabled"

// overload is by how much more than its share an endpoint may get.
const overload = 0.2

// topologyAware says whether a Service has the annotation, by its present or its former name.
func topologyAware(svc *corev1.Service) bool {
	mode, named := svc.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if !named {
		mode = svc.Annotations[corev1.AnnotationTopologyMode]
	}
	return mode == "Auto" || mode == "auto"
}

// processors adds up the allocatable processors of the ready nodes by zone, in thousandths. It is nil when a node does not
// tell its zone or processors: then shares cannot be made.
func processors(v registry.Viewer) map[string]int64 {
	zones := map[string]int64{}
	for n := range registry.List[*corev1.Node](v, "") {
		if !carries(n) {
			continue
		}
		zone, milli := n.Labels[corev1.LabelTopologyZone], n.Status.Allocatable.Cpu().MilliValue()
		if zone == "" || milli == 0 {
			return nil
		}
		zones[zone] += milli
	}
	return zones
}

// carries says whether a node counts: it is ready and no control plane.
func carries(n *corev1.Node) bool {
	for _, role := range []string{"node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master"} {
		if _, has := n.Labels[role]; has {
			return false
		}
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// sameProcessors says that a node's change leaves the shares of the zones as they are.
func sameProcessors(a, b *corev1.Node) bool {
	return carries(a) == carries(b) && a.Labels[corev1.LabelTopologyZone] == b.Labels[corev1.LabelTopologyZone] &&
		a.Status.Allocatable.Cpu().Equal(*b.Status.Allocatable.Cpu())
}

// spread gives each ready address of one family the zone that it serves. What it returns says why it could not.
func spread(addresses []*address, zones map[string]int64) (problem string) {
	var total int64
	for _, milli := range zones {
		total += milli
	}
	numbers := fmt.Sprintf(" (%d endpoints, %d zones)", len(addresses), len(zones))
	switch {
	case len(zones) < 2:
		return "Insufficient Node information: allocatable CPU or zone not specified on one or more nodes"
	case len(addresses) < len(zones):
		return "Insufficient number of endpoints" + numbers
	}
	minimum, surplus, least := map[string]int{}, map[string]float64{}, 0
	for zone, milli := range zones {
		share := float64(milli) / float64(total) * float64(len(addresses))
		minimum[zone] = int(math.Ceil(share / (1 + overload)))
		least += minimum[zone]
		surplus[zone] = -max(share, float64(minimum[zone]))
	}
	if least > len(addresses) {
		return "Unable to allocate minimum required endpoints to each zone without exceeding overload threshold" + numbers
	}
	serving := map[string][]*address{}
	for _, a := range addresses {
		if a.zone == "" {
			return "One or more endpoints do not have a zone specified"
		}
		surplus[a.zone]++
		serving[a.zone] = append(serving[a.zone], a)
	}
	exchange(serving, surplus, minimum)
	for zone, list := range serving {
		for _, a := range list {
			a.hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: zone}}}
		}
	}
	return ""
}

// exchange has zones with more endpoints than their share give to those with fewer, one at a time, as long as that makes it
// better, and until all have what they must have.
func exchange(serving map[string][]*address, surplus map[string]float64, minimum map[string]int) {
	names := slices.Sorted(maps.Keys(surplus))
	move := func(from, to string) {
		list := serving[from]
		last := len(list) - 1
		serving[from], serving[to] = list[:last], append(serving[to], list[last])
		surplus[from]--
		surplus[to]++
	}
	more := func(of func(zone string) float64) func(a, b string) int {
		return func(a, b string) int { return cmp.Compare(of(a), of(b)) }
	}
	have := more(func(zone string) float64 { return surplus[zone] })
	for {
		from, to := slices.MaxFunc(names, have), slices.MinFunc(names, have)
		if give, need := surplus[from], -surplus[to]; give < 0.5 || need < 0.5 || give < 1 && need < 1 {
			break
		}
		move(from, to)
	}
	spare := more(func(zone string) float64 { return float64(len(serving[zone]) - minimum[zone]) })
	for {
		from, to := slices.MaxFunc(names, spare), slices.MinFunc(names, spare)
		if len(serving[to]) >= minimum[to] || len(serving[from]) <= minimum[from] {
			return
		}
		move(from, to)
	}
}

// hintZones has the addresses of a topology-aware Service spread, each family by itself.
func hintZones(groups []*group, zones map[string]int64) (problem string) {
	families := map[discoveryv1.AddressType][]*address{}
	for _, g := range groups {
		for i := range g.addresses {
			if a := &g.addresses[i]; a.ready {
				families[g.family] = append(families[g.family], a)
			}
		}
	}
	if len(families) == 0 {
		families[discoveryv1.AddressTypeIPv4] = nil
	}
	for _, family := range slices.Sorted(maps.Keys(families)) {
		if why := spread(families[family], zones); why != "" {
			problem = fmt.Sprintf("%s, addressType: %s", why, family)
		}
	}
	return problem
}

func hinted(list []*discoveryv1.EndpointSlice) bool {
	return slices.ContainsFunc(list, func(s *discoveryv1.EndpointSlice) bool {
		return slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool { return e.Hints != nil })
	})
}
