package endpoints

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// maxEndpoints is how many endpoints a slice holds (Kubernetes' --max-endpoints-per-slice).
	maxEndpoints = 100
	// Who made a slice, as Kubernetes' controllers call themselves.
	fromSelector = "endpointslice-controller.k8s.io"
	fromMirror   = "endpointslicemirroring-controller.k8s.io"
)

// changes are what has to be written to have the slices say what the groups say.
type changes struct {
	create, update []*discoveryv1.EndpointSlice
	remove         []*discoveryv1.EndpointSlice
}

func (c *changes) empty() bool { return len(c.create)+len(c.update)+len(c.remove) == 0 }

// header is what all slices of one Service share.
type header struct {
	namespace, generateName string
	labels, annotations     map[string]string
	owner                   metav1.OwnerReference
	family                  discoveryv1.AddressType // of the placeholder
}

// ownHeader is that of slices made of a Service's pods.
func ownHeader(svc *corev1.Service) header {
	labels := maps.Clone(svc.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, serviceHeadless)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone {
		labels[serviceHeadless] = ""
	}
	return sliceHeader(svc, labels, fromSelector, *metav1.NewControllerRef(svc, corev1.SchemeGroupVersion.WithKind("Service")))
}

func sliceHeader(of metav1.Object, labels map[string]string, manager string, owner metav1.OwnerReference) header {
	labels[discoveryv1.LabelServiceName] = of.GetName()
	labels[discoveryv1.LabelManagedBy] = manager
	return header{
		namespace: of.GetNamespace(), generateName: of.GetName() + "-", labels: labels, owner: owner, family: discoveryv1.AddressTypeIPv4,
	}
}

// draft is a slice while it is being filled.
type draft struct {
	old       *discoveryv1.EndpointSlice // nil when it is new
	family    discoveryv1.AddressType
	ports     []discoveryv1.EndpointPort
	endpoints []discoveryv1.Endpoint
}

// planSlices leaves each endpoint in the slice where it is, fills gaps before it makes new slices, and uses emptied slices
// again, so that few slices change. A Service with nothing behind it keeps one empty slice, when placeholder is set.
func planSlices(h header, groups []*group, existing []*discoveryv1.EndpointSlice, placeholder bool) changes {
	existing = slices.Clone(existing)
	slices.SortFunc(existing, func(a, b *discoveryv1.EndpointSlice) int { return cmp.Compare(a.Name, b.Name) })
	drafts := map[string][]*draft{}
	for _, s := range existing {
		k := groupKey(s.AddressType, s.Ports)
		drafts[k] = append(drafts[k], &draft{old: s, family: s.AddressType, ports: s.Ports})
	}
	var filled, empty []*draft
	for _, g := range groups {
		k := groupKey(g.family, g.ports)
		f, e := fill(g, drafts[k])
		filled, empty = append(filled, f...), append(empty, e...)
		delete(drafts, k)
	}
	for _, k := range slices.Sorted(maps.Keys(drafts)) {
		empty = append(empty, drafts[k]...)
	}
	if len(filled) == 0 && placeholder {
		filled = append(filled, &draft{family: h.family})
	}
	keep, remove := reuse(filled, empty)
	return write(h, keep, remove)
}

// fill spreads a group's addresses over its slices.
func fill(g *group, have []*draft) (filled, empty []*draft) {
	todo := make(map[string]address, len(g.addresses))
	for _, a := range g.addresses {
		todo[identity(a)] = a
	}
	for _, d := range have {
		for i := range d.old.Endpoints {
			id := endpointIdentity(&d.old.Endpoints[i])
			if a, ok := todo[id]; ok && len(d.endpoints) < maxEndpoints {
				d.endpoints = append(d.endpoints, endpointOf(a))
				delete(todo, id)
			}
		}
	}
	var rest []address
	for _, a := range g.addresses {
		if _, ok := todo[identity(a)]; ok {
			rest = append(rest, a)
			delete(todo, identity(a))
		}
	}
	for _, d := range have {
		if len(d.endpoints) == 0 {
			continue // better freed than kept for a few
		}
		n := min(maxEndpoints-len(d.endpoints), len(rest))
		for _, a := range rest[:n] {
			d.endpoints = append(d.endpoints, endpointOf(a))
		}
		rest = rest[n:]
	}
	for chunk := range slices.Chunk(rest, maxEndpoints) {
		d := &draft{family: g.family, ports: g.ports}
		for _, a := range chunk {
			d.endpoints = append(d.endpoints, endpointOf(a))
		}
		filled = append(filled, d)
	}
	for _, d := range have {
		if len(d.endpoints) > 0 {
			filled = append(filled, d)
		} else {
			empty = append(empty, d)
		}
	}
	return filled, empty
}

// reuse writes new content into slices that have become empty, and returns those that are not needed any more.
func reuse(filled, empty []*draft) (keep []*draft, remove []*discoveryv1.EndpointSlice) {
	for _, d := range filled {
		if d.old != nil {
			continue
		}
		for i, e := range empty {
			if e.old.AddressType == d.family { // immutable in a slice
				d.old = e.old
				empty = slices.Delete(empty, i, i+1)
				break
			}
		}
	}
	for _, e := range empty {
		remove = append(remove, e.old)
	}
	return filled, remove
}

func write(h header, keep []*draft, remove []*discoveryv1.EndpointSlice) changes {
	c := changes{remove: remove}
	for _, d := range keep {
		s := &discoveryv1.EndpointSlice{AddressType: d.family}
		if d.old != nil {
			s = d.old.DeepCopy()
		} else {
			s.Namespace, s.GenerateName = h.namespace, h.generateName
		}
		s.Labels = maps.Clone(h.labels)
		if h.annotations != nil || d.old != nil && mirrored(d.old) {
			s.Annotations = maps.Clone(h.annotations)
		}
		s.OwnerReferences = []metav1.OwnerReference{h.owner}
		s.Ports, s.Endpoints = d.ports, d.endpoints
		switch {
		case d.old == nil:
			c.create = append(c.create, s)
		case !apiequality.Semantic.DeepEqual(s, d.old):
			c.update = append(c.update, s)
		}
	}
	return c
}

func endpointIdentity(e *discoveryv1.Endpoint) string {
	ip := ""
	if len(e.Addresses) > 0 {
		ip = e.Addresses[0]
	}
	return identity(address{ip: ip, target: e.TargetRef})
}

func endpointOf(a address) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{a.ip},
		Conditions: discoveryv1.EndpointConditions{Ready: &a.ready},
		TargetRef:  a.target, Hints: a.hints,
	}
	if !a.onlyReady {
		e.Conditions.Serving, e.Conditions.Terminating = &a.serving, &a.terminating
	}
	for _, f := range []struct {
		from string
		to   **string
	}{{a.hostname, &e.Hostname}, {a.node, &e.NodeName}, {a.zone, &e.Zone}} {
		if f.from != "" {
			*f.to = &f.from
		}
	}
	return e
}

func mirrored(s *discoveryv1.EndpointSlice) bool {
	return strings.EqualFold(s.Labels[discoveryv1.LabelManagedBy], fromMirror)
}

// own says that one of this package's two controllers made the slice.
func own(s *discoveryv1.EndpointSlice) bool {
	return strings.EqualFold(s.Labels[discoveryv1.LabelManagedBy], fromSelector) || mirrored(s)
}
