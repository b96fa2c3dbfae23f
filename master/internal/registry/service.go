package registry

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ClusterIPs and node ports have no allocator of their own that could disagree with the Services: what is taken is what
// the store's indexes say, inside the transaction that takes it. So allocations survive whatever the Services survive.

// How often a random address or port is tried before the range is walked from there.
const randomTries = 16

func allocatedIPs(svc *corev1.Service) []string {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	var ips []string
	for _, ip := range svc.Spec.ClusterIPs {
		if ip != "" && ip != corev1.ClusterIPNone {
			ips = append(ips, ip)
		}
	}
	return ips
}

func balancerIPs(svc *corev1.Service) (ips []string) {
	if svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	for i := range svc.Status.LoadBalancer.Ingress {
		if ip := svc.Status.LoadBalancer.Ingress[i].IP; ip != "" && !slices.Contains(ips, ip) {
			ips = append(ips, ip)
		}
	}
	return ips
}

func allocatedPorts(svc *corev1.Service) []string {
	var out []string
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			out = append(out, portKey(p.NodePort))
		}
	}
	if p := svc.Spec.HealthCheckNodePort; p != 0 {
		out = append(out, portKey(p))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// portKey leaves the protocol out: Kubernetes gives a number to one Service only, whatever it is used for.
func portKey(port int32) string { return strconv.Itoa(int(port)) }

// allocate gives a Service the cluster IP and node ports it asks for or needs; old is nil when it is new.
func (r *Registry) allocate(tx *Tx, svc, old *corev1.Service) error {
	var errs field.ErrorList
	if e := r.allocateIP(tx, svc, old); e != nil {
		errs = append(errs, e)
	}
	errs = append(errs, r.allocateNodePorts(tx, svc)...)
	if len(errs) > 0 {
		return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), svc.Name, errs)
	}
	return nil
}

func (r *Registry) allocateIP(tx *Tx, svc, old *corev1.Service) *field.Error {
	if svc.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	path := field.NewPath("spec", "clusterIPs")
	switch ip := svc.Spec.ClusterIP; {
	case ip == corev1.ClusterIPNone:
		svc.Spec.ClusterIPs = []string{ip}
		return nil
	case ip != "":
		if len(svc.Spec.ClusterIPs) == 0 {
			svc.Spec.ClusterIPs = []string{ip}
		}
		if old != nil && slices.Contains(allocatedIPs(old), ip) {
			return nil
		}
		addr, err := netip.ParseAddr(ip)
		if err != nil || !r.inRange(addr) {
			return field.Invalid(path, svc.Spec.ClusterIPs,
				fmt.Sprintf("failed to allocate IP %s: the provided IP (%s) is not in the valid range. The range of valid IPs is %s", ip, ip, r.cfg.ServiceCIDR))
		}
		if ipTaken(tx, svc, ip) {
			return field.Invalid(path, svc.Spec.ClusterIPs, fmt.Sprintf("failed to allocate IP %s: provided IP is already allocated", ip))
		}
		return nil
	}
	ip, ok := r.freeIP(tx, svc)
	if !ok {
		return field.InternalError(path, fmt.Errorf("failed to allocate a serviceIP: range %s is full", r.cfg.ServiceCIDR))
	}
	svc.Spec.ClusterIP, svc.Spec.ClusterIPs = ip, []string{ip}
	return nil
}

// inRange says whether a Service may have the address: one of the range, but not its first or last.
func (r *Registry) inRange(addr netip.Addr) bool {
	p := r.cfg.ServiceCIDR.Masked()
	return p.Contains(addr) && addr != p.Addr() && p.Contains(addr.Next())
}

func ipTaken(tx *Tx, svc *corev1.Service, ip string) bool {
	return takenByOther(tx, svc, IndexClusterIP, ip)
}

func takenByOther(tx *Tx, svc *corev1.Service, index, value string) bool {
	for other := range ByIndex[*corev1.Service](tx, index, value) {
		if other.Namespace != svc.Namespace || other.Name != svc.Name {
			return true
		}
	}
	return false
}

// The first part of a range is for those who ask for an address or a port by name: others get one of it when nothing else
// is left. It is a part of the range, but no less and no more than so many; Kubernetes' --service-cluster-ip-range and
// --service-node-port-range are divided in the same way (KEP-3070, KEP-3668).
type static struct{ part, least, most uint32 }

var (
	staticIPs   = static{part: 16, least: 16, most: 256}
	staticPorts = static{part: 32, least: 16, most: 128}
)

func (s static) of(size uint32) uint32 {
	if size <= s.least {
		return 0
	}
	return min(max(size/s.part, s.least), s.most)
}

// The last addresses of a large range are kept, too: the cluster's DNS, at 254.1 of a /16, must find its own free.
const reservedLast, largeRange = 512, 8 * reservedLast

func (r *Registry) freeIP(tx *Tx, svc *corev1.Service) (string, bool) {
	p := r.cfg.ServiceCIDR.Masked()
	base, size := ipToUint(p.Addr())+1, uint32(1)<<(32-p.Bits())-2 // without the addresses of the network itself and of broadcasts
	last := size
	if size > largeRange {
		last = size - reservedLast
	}
	first := staticIPs.of(size)
	at := func(i uint32) string { return uintToIP(base + i).String() }
	taken := func(i uint32) bool { return ipTaken(tx, svc, at(i)) }
	for _, part := range [][2]uint32{{first, last}, {last, size}, {0, first}} {
		if i, ok := pickFree(part[0], part[1], taken); ok {
			return at(i), true
		}
	}
	return "", false
}

// pickFree finds one from first to before end that is not taken: a random one, and when those tried are all taken, any.
func pickFree(first, end uint32, taken func(uint32) bool) (uint32, bool) {
	n := end - first
	if n == 0 {
		return 0, false
	}
	for range randomTries {
		if i := first + rand.Uint32N(n); !taken(i) {
			return i, true
		}
	}
	from := rand.Uint32N(n)
	for i := range n {
		if i = first + (from+i)%n; !taken(i) {
			return i, true
		}
	}
	return 0, false
}

func ipToUint(a netip.Addr) uint32 {
	b := a.As4()
	return uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
}

func uintToIP(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func needsNodePorts(svc *corev1.Service) bool {
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		return true
	case corev1.ServiceTypeLoadBalancer:
		return svc.Spec.AllocateLoadBalancerNodePorts == nil || *svc.Spec.AllocateLoadBalancerNodePorts
	}
	return false
}

func (r *Registry) allocateNodePorts(tx *Tx, svc *corev1.Service) (errs field.ErrorList) {
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		path := field.NewPath("spec", "ports").Index(i).Child("nodePort")
		switch {
		case p.NodePort != 0:
			errs = append(errs, r.checkNodePort(tx, svc, path, p.NodePort)...)
		case needsNodePorts(svc):
			port, ok := r.freeNodePort(tx, svc, i)
			if !ok {
				errs = append(errs, field.InternalError(path, fmt.Errorf("failed to allocate a nodePort: range %d-%d is full", r.cfg.NodePortFirst, r.cfg.NodePortLast)))
				continue
			}
			p.NodePort = port
		}
	}
	local := svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal && svc.Spec.Type == corev1.ServiceTypeLoadBalancer
	path := field.NewPath("spec", "healthCheckNodePort")
	switch p := svc.Spec.HealthCheckNodePort; {
	case local && p == 0:
		port, ok := r.freeNodePort(tx, svc, -1)
		if !ok {
			return append(errs, field.InternalError(path, fmt.Errorf("failed to allocate a HealthCheck NodePort: range %d-%d is full", r.cfg.NodePortFirst, r.cfg.NodePortLast)))
		}
		svc.Spec.HealthCheckNodePort = port
	case p != 0:
		bad := r.checkNodePort(tx, svc, path, p)
		if len(bad) == 0 && slices.ContainsFunc(svc.Spec.Ports, func(q corev1.ServicePort) bool { return q.NodePort == p }) {
			bad = field.ErrorList{field.Invalid(path, p, "provided port is already allocated")}
		}
		errs = append(errs, bad...)
	}
	return errs
}

func (r *Registry) checkNodePort(tx *Tx, svc *corev1.Service, path *field.Path, port int32) field.ErrorList {
	if port < r.cfg.NodePortFirst || port > r.cfg.NodePortLast {
		return field.ErrorList{field.Invalid(path, port,
			fmt.Sprintf("provided port is not in the valid range. The range of valid ports is %d-%d", r.cfg.NodePortFirst, r.cfg.NodePortLast))}
	}
	if takenByOther(tx, svc, IndexNodePort, portKey(port)) {
		return field.ErrorList{field.Invalid(path, port, "provided port is already allocated")}
	}
	return nil
}

// freeNodePort finds a port that no Service has for any protocol, and that this one has not for another of its ports; port
// i of the same number under another protocol shares it, as DNS over UDP and TCP wants it.
func (r *Registry) freeNodePort(tx *Tx, svc *corev1.Service, i int) (int32, bool) {
	if i >= 0 {
		p := &svc.Spec.Ports[i]
		for _, q := range svc.Spec.Ports {
			if q.Port == p.Port && q.Protocol != p.Protocol && q.NodePort != 0 {
				return q.NodePort, true
			}
		}
	}
	n := uint32(r.cfg.NodePortLast - r.cfg.NodePortFirst + 1)
	at := func(i uint32) int32 { return r.cfg.NodePortFirst + int32(i) }
	taken := func(i uint32) bool { return r.portInUse(tx, svc, at(i)) }
	first := staticPorts.of(n)
	free, ok := pickFree(first, n, taken)
	if !ok {
		free, ok = pickFree(0, first, taken)
	}
	return at(free), ok
}

func (r *Registry) portInUse(tx *Tx, svc *corev1.Service, port int32) bool {
	for _, p := range svc.Spec.Ports {
		if p.NodePort == port {
			return true
		}
	}
	return takenByOther(tx, svc, IndexNodePort, portKey(port)) || svc.Spec.HealthCheckNodePort == port
}
