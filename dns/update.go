package dns

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Zone takes changes and keeps the current Snapshot. Objects given to it must not be changed afterwards.
type Zone struct {
	current atomic.Pointer[Snapshot]

	mu       sync.Mutex
	services map[string]*corev1.Service
	counts   map[string]int                                   // of Services, by namespace
	slices   map[string]map[string]*discoveryv1.EndpointSlice // by Service, then by the slice's name
	sliceOf  map[string]string
	dead     map[string]bool
}

// NewZone makes an empty zone, which answers SERVFAIL until Synced is called.
func NewZone(cfg ZoneConfig) *Zone {
	z := &Zone{
		services: map[string]*corev1.Service{}, counts: map[string]int{},
		slices: map[string]map[string]*discoveryv1.EndpointSlice{}, sliceOf: map[string]string{},
	}
	z.current.Store(&Snapshot{zoneNames: newZoneNames(cfg), generation: 1})
	return z
}

// Snapshot is the zone as it is now.
func (z *Zone) Snapshot() *Snapshot { return z.current.Load() }

// Synced says that everything there is has been given.
func (z *Zone) Synced() {
	z.mu.Lock()
	defer z.mu.Unlock()
	if s := z.current.Load(); !s.synced {
		n := *s
		n.synced = true
		n.generation++
		z.current.Store(&n)
	}
}

// SetService adds a Service or replaces it.
func (z *Zone) SetService(svc *corev1.Service) {
	z.mu.Lock()
	defer z.mu.Unlock()
	k := serviceKey(svc.Namespace, svc.Name)
	if z.services[k] == nil {
		z.count(svc.Namespace, 1)
	}
	z.services[k] = svc
	z.refresh(k)
}

// DeleteService removes a Service.
func (z *Zone) DeleteService(namespace, name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	k := serviceKey(namespace, name)
	if svc := z.services[k]; svc != nil {
		delete(z.services, k)
		z.count(namespace, -1)
		z.current.Store(z.current.Load().with(namespace, name, nil))
	}
}

// count the Services of a namespace. Only the first and the last make a difference.
func (z *Zone) count(namespace string, by int) {
	namespace = strings.ToLower(namespace)
	was := z.counts[namespace]
	z.counts[namespace] = was + by
	switch {
	case was == 0:
		z.current.Store(z.current.Load().withNamespace(namespace, true))
	case was+by == 0:
		delete(z.counts, namespace)
		z.current.Store(z.current.Load().withNamespace(namespace, false))
	}
}

// SetSlice adds an EndpointSlice or replaces it.
func (z *Zone) SetSlice(s *discoveryv1.EndpointSlice) {
	z.mu.Lock()
	defer z.mu.Unlock()
	self, owner := serviceKey(s.Namespace, s.Name), serviceKey(s.Namespace, s.Labels[discoveryv1.LabelServiceName])
	if was, ok := z.sliceOf[self]; ok && was != owner {
		z.drop(self, s.Name, was)
	}
	if s.Labels[discoveryv1.LabelServiceName] == "" {
		return
	}
	if z.slices[owner] == nil {
		z.slices[owner] = map[string]*discoveryv1.EndpointSlice{}
	}
	z.slices[owner][s.Name], z.sliceOf[self] = s, owner
	z.refreshHosts(owner)
}

// DeleteSlice removes an EndpointSlice.
func (z *Zone) DeleteSlice(namespace, name string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	self := serviceKey(namespace, name)
	if owner, ok := z.sliceOf[self]; ok {
		z.drop(self, name, owner)
	}
}

func (z *Zone) drop(self, name, owner string) {
	delete(z.sliceOf, self)
	delete(z.slices[owner], name)
	if len(z.slices[owner]) == 0 {
		delete(z.slices, owner)
	}
	z.refreshHosts(owner)
}

// SetDeadNodes leaves the endpoints on these nodes out at once, whatever the API still says of them.
// Each call replaces the whole set.
func (z *Zone) SetDeadNodes(dead map[string]bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	old := z.dead
	if maps.Equal(old, dead) {
		return // whoever tells does so whenever anything about machines changes
	}
	z.dead = maps.Clone(dead)
	for owner, list := range z.slices {
		for _, s := range list {
			if slices.ContainsFunc(s.Endpoints, func(e discoveryv1.Endpoint) bool {
				return e.NodeName != nil && old[*e.NodeName] != dead[*e.NodeName]
			}) {
				z.refreshHosts(owner)
				break
			}
		}
	}
}

// refreshHosts leaves Services alone whose records do not depend on endpoints, or not on what has changed about them: a new
// record makes all finished answers stale.
func (z *Zone) refreshHosts(k string) {
	svc := z.services[k]
	switch {
	case svc == nil || svc.Spec.Type == corev1.ServiceTypeExternalName:
		return
	case !headless(svc):
		r := z.current.Load().record(svc.Namespace, svc.Name)
		now := hosts(svc, slices.Collect(maps.Values(z.slices[k])), z.dead)
		if r == nil || slices.EqualFunc(r.hosts, now, func(a, b host) bool { return a.name == b.name && a.ip == b.ip }) {
			return
		}
	}
	z.refresh(k)
}

func (z *Zone) refresh(k string) {
	svc := z.services[k]
	s := z.current.Load()
	r := s.newRecord(svc, slices.Collect(maps.Values(z.slices[k])), z.dead)
	z.current.Store(s.with(svc.Namespace, svc.Name, r))
}
