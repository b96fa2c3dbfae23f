package dns

import (
	"fmt"
	"hash/maphash"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/miekg/dns"
)

const (
	// specVersion is the version of the Kubernetes DNS specification that the records follow.
	specVersion = "1.1.0"
	// recordTTL in seconds is short, so that clients follow a Service that is made anew.
	recordTTL = 5
	// shardCount keeps a change cheap: it copies one shard, not the zone.
	shardCount = 256
)

// ZoneConfig says what the cluster's names look like.
type ZoneConfig struct {
	// Domain is the cluster domain, cluster.local.
	Domain string
	// ServerIP is the address of the DNS server itself (ns.dns.DOMAIN).
	ServerIP netip.Addr
	// Reverse are the ranges whose addresses belong to the cluster: unknown ones do not exist and are never forwarded.
	Reverse []netip.Prefix
}

// Snapshot is the zone at one moment. It never changes.
type Snapshot struct {
	*zoneNames
	synced     bool
	generation uint64
	services   [shardCount]map[string]*record // "namespace/name"
	pointers   [shardCount]map[netip.Addr][]pointer
	namespaces map[string]bool // those with a Service, whether it has a record or not
}

type zoneNames struct {
	ZoneConfig
	domain  string // lower case, with the final dot
	soa     *dns.SOA
	reverse []reverseZone
}

// record is what the zone knows of one Service.
type record struct {
	fqdn     string
	external string // ExternalName's target
	headless bool   // hosts are what the Service's own name leads to
	ips      []netip.Addr
	ports    []namedPort
	hosts    []host
}

// namedPort is a port; one without a name has no SRV record of its own.
type namedPort struct {
	name, proto string
	port        uint16
}

// host is an endpoint that has a name: each one of a headless Service, and of others those that are given one, as the pods of
// a StatefulSet are.
type host struct {
	name  string
	ip    netip.Addr
	ports []namedPort
}

// pointer is a name that an address leads back to, and the Service it comes from.
type pointer struct{ service, name string }

var hashSeed = maphash.MakeSeed()

func serviceShard(k string) int         { return int(maphash.String(hashSeed, k) % shardCount) }
func addressShard(ip netip.Addr) int    { return int(maphash.Comparable(hashSeed, ip) % shardCount) }
func serviceKey(ns, name string) string { return ns + "/" + name }

func newZoneNames(cfg ZoneConfig) *zoneNames {
	z := &zoneNames{ZoneConfig: cfg, domain: dns.CanonicalName(cfg.Domain)}
	z.soa = z.startOf(z.domain)
	for _, p := range cfg.Reverse {
		p = p.Masked()
		z.reverse = append(z.reverse, reverseZone{p, z.startOf(ReverseName(p))})
	}
	return z
}

// startOf is the SOA record of a zone. Resolvers that remember a negative answer want that of a zone which the name is in.
func (z *zoneNames) startOf(zone string) *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: recordTTL},
		Ns:  "ns.dns." + z.domain, Mbox: "hostmaster." + z.domain, Serial: 1, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: recordTTL,
	}
}

// newRecord reads the objects; nil when the Service has no name in DNS. A headless one without a ready endpoint has none: the
// specification wants NXDOMAIN (2.4.1).
func (z *zoneNames) newRecord(svc *corev1.Service, eps []*discoveryv1.EndpointSlice, dead map[string]bool) *record {
	r := &record{fqdn: strings.ToLower(svc.Name+"."+svc.Namespace) + ".svc." + z.domain}
	switch {
	case svc.Spec.Type == corev1.ServiceTypeExternalName:
		if _, ok := dns.IsDomainName(svc.Spec.ExternalName); !ok || svc.Spec.ExternalName == "" {
			return nil
		}
		r.external = dns.CanonicalName(svc.Spec.ExternalName)
	case svc.Spec.ClusterIP == corev1.ClusterIPNone:
		r.headless = true
		if r.hosts = hosts(svc, eps, dead); len(r.hosts) == 0 {
			return nil
		}
		seen := map[netip.Addr]bool{}
		for _, h := range r.hosts {
			if !seen[h.ip] {
				seen[h.ip] = true
				r.ips = append(r.ips, h.ip)
			}
		}
	default:
		ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
		if err != nil {
			return nil
		}
		r.ips, r.ports, r.hosts = []netip.Addr{ip}, servicePorts(svc), hosts(svc, eps, dead)
	}
	return r
}

func servicePorts(svc *corev1.Service) (out []namedPort) {
	for _, p := range svc.Spec.Ports {
		out = append(out, namedPort{strings.ToLower(p.Name), protoLabel(p.Protocol), uint16(p.Port)})
	}
	return out
}

func protoLabel(p corev1.Protocol) string {
	if p == "" {
		p = corev1.ProtocolTCP
	}
	return strings.ToLower(string(p))
}

// headless says that the Service has no address of its own. Of an ExternalName nobody asks.
func headless(svc *corev1.Service) bool { return svc.Spec.ClusterIP == corev1.ClusterIPNone }

// hosts are the endpoints that clients may be sent to. Endpoints of dead nodes are out at once. Names made of addresses are a
// headless Service's alone: those of all endpoints there are would have to be kept on every node, and every answer made anew
// whenever a pod comes or goes anywhere.
func hosts(svc *corev1.Service, eps []*discoveryv1.EndpointSlice, dead map[string]bool) (out []host) {
	type id struct {
		name string
		ip   netip.Addr
	}
	at := map[id]int{}
	for _, s := range eps {
		if s.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		var ports []namedPort
		if headless(svc) {
			ports = slicePorts(s)
		}
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			named := e.Hostname != nil && *e.Hostname != ""
			if !named && !headless(svc) {
				continue
			}
			ready := e.Conditions.Ready == nil || *e.Conditions.Ready
			if !ready && !svc.Spec.PublishNotReadyAddresses || e.NodeName != nil && dead[*e.NodeName] {
				continue
			}
			for _, a := range e.Addresses {
				ip, err := netip.ParseAddr(a)
				if err != nil {
					continue
				}
				name := strings.NewReplacer(".", "-", ":", "-").Replace(ip.String())
				if named {
					name = strings.ToLower(*e.Hostname)
				}
				if i, ok := at[id{name, ip}]; ok { // the same endpoint in another slice brings other ports
					out[i].ports = mergePorts(out[i].ports, ports)
					continue
				}
				at[id{name, ip}] = len(out)
				out = append(out, host{name, ip, ports})
			}
		}
	}
	slices.SortFunc(out, func(a, b host) int {
		if c := a.ip.Compare(b.ip); c != 0 {
			return c
		}
		return strings.Compare(a.name, b.name)
	})
	return out
}

func slicePorts(s *discoveryv1.EndpointSlice) (out []namedPort) {
	for _, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		var name string
		if p.Name != nil {
			name = strings.ToLower(*p.Name)
		}
		var proto corev1.Protocol
		if p.Protocol != nil {
			proto = *p.Protocol
		}
		out = append(out, namedPort{name, protoLabel(proto), uint16(*p.Port)})
	}
	return out
}

// mergePorts leaves both lists as they are: hosts share them.
func mergePorts(have, more []namedPort) []namedPort {
	out := slices.Clone(have)
	for _, p := range more {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}

// pointers are the addresses that lead back to the Service's names.
func (r *record) pointers(service string) map[netip.Addr][]pointer {
	out := map[netip.Addr][]pointer{}
	if r == nil || r.external != "" {
		return out
	}
	if !r.headless {
		for _, ip := range r.ips {
			out[ip] = []pointer{{service, r.fqdn}}
		}
	}
	for _, h := range r.hosts {
		out[h.ip] = append(out[h.ip], pointer{service, h.name + "." + r.fqdn})
	}
	return out
}

// record is what is known of a Service, nil if there is nothing.
func (s *Snapshot) record(ns, name string) *record {
	k := serviceKey(strings.ToLower(ns), strings.ToLower(name))
	return s.services[serviceShard(k)][k]
}

// with is the snapshot with one Service's record replaced; nil removes it. Its cost does not depend on the zone's size.
func (s *Snapshot) with(ns, name string, r *record) *Snapshot {
	k := serviceKey(strings.ToLower(ns), strings.ToLower(name))
	n := *s
	n.generation++
	i := serviceShard(k)
	old := s.services[i][k]
	if old == nil && r == nil {
		return s
	}
	shard := maps.Clone(s.services[i])
	if shard == nil {
		shard = map[string]*record{}
	}
	if r == nil {
		delete(shard, k)
	} else {
		shard[k] = r
	}
	n.services[i] = shard
	n.replacePointers(k, old.pointers(k), r.pointers(k))
	return &n
}

// withNamespace is the snapshot with a namespace that is there, or not.
func (s *Snapshot) withNamespace(ns string, there bool) *Snapshot {
	n := *s
	n.generation++
	n.namespaces = maps.Clone(s.namespaces)
	if n.namespaces == nil {
		n.namespaces = map[string]bool{}
	}
	if there {
		n.namespaces[ns] = true
	} else {
		delete(n.namespaces, ns)
	}
	return &n
}

func (s *Snapshot) replacePointers(service string, old, now map[netip.Addr][]pointer) {
	copied := map[int]bool{}
	set := func(ip netip.Addr, own []pointer) {
		i := addressShard(ip)
		if !copied[i] {
			copied[i] = true
			shard := maps.Clone(s.pointers[i])
			if shard == nil {
				shard = map[netip.Addr][]pointer{}
			}
			s.pointers[i] = shard
		}
		list := slices.DeleteFunc(slices.Clone(s.pointers[i][ip]), func(p pointer) bool { return p.service == service })
		if list = append(list, own...); len(list) == 0 {
			delete(s.pointers[i], ip)
		} else {
			s.pointers[i][ip] = list
		}
	}
	for ip, list := range now {
		if !slices.Equal(old[ip], list) {
			set(ip, list)
		}
	}
	for ip := range old {
		if _, stays := now[ip]; !stays {
			set(ip, nil)
		}
	}
}

// Build is the whole zone at once.
func Build(cfg ZoneConfig, services []*corev1.Service, eps []*discoveryv1.EndpointSlice) *Snapshot {
	z := NewZone(cfg)
	for _, s := range eps {
		z.SetSlice(s)
	}
	for _, s := range services {
		z.SetService(s)
	}
	z.Synced()
	return z.Snapshot()
}

func (s *Snapshot) String() string {
	n := 0
	for _, shard := range s.services {
		n += len(shard)
	}
	return fmt.Sprintf("%s with %d services", s.domain, n)
}
