package proxy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// HostPort is a port of the node that leads to a pod on it.
type HostPort struct {
	Protocol corev1.Protocol
	// HostIP limits it to one address of the node; the zero value is every address.
	HostIP netip.Addr
	Port   uint16
	Pod    netip.AddrPort
}

// overlap tells whether two pods cannot have these ports at the same time.
func overlap(a, b []HostPort) bool {
	anywhere := func(ip netip.Addr) bool { return !ip.Is4() || ip.IsUnspecified() }
	return slices.ContainsFunc(a, func(x HostPort) bool {
		return slices.ContainsFunc(b, func(y HostPort) bool {
			return x.Port == y.Port && cmp.Or(x.Protocol, corev1.ProtocolTCP) == cmp.Or(y.Protocol, corev1.ProtocolTCP) &&
				(x.HostIP == y.HostIP || anywhere(x.HostIP) || anywhere(y.HostIP))
		})
	})
}

// adoptGrace is how long host ports of an earlier agent are kept for pods that nobody has spoken of yet: pods are taken
// over one by one after a restart, and their ports should work meanwhile.
const adoptGrace = 5 * time.Minute

// HostPortNote ends the comment of a host port; before it stands the pod, as much of it as fits.
const HostPortNote = " hostPort"

// usable are the ports that IPv4 can have: one of an IPv6 address would be open where nobody asked for it.
func usable(ports []HostPort) (out []HostPort) {
	for _, p := range ports {
		if p.HostIP = p.HostIP.Unmap(); p.HostIP.Is6() && !p.HostIP.IsUnspecified() {
			continue
		}
		out = append(out, p)
	}
	return out
}

// readHostPorts takes the lines of WP-HOSTPORTS apart.
func readHostPorts(rules string) map[string][]HostPort {
	out := map[string][]HostPort{}
	for line := range strings.Lines(rules) {
		_, rest, _ := strings.Cut(line, "--comment \"")
		pod, _, ok := strings.Cut(rest, HostPortNote+"\"")
		r := parseRule(line)
		if !ok || r.target != "DNAT" || !r.dnat.IsValid() || r.port <= 0 || r.port >= 1<<16 {
			continue
		}
		p := HostPort{Protocol: corev1.Protocol(strings.ToUpper(r.proto)), Port: uint16(r.port), Pod: r.dnat}
		if r.dst.IsValid() {
			p.HostIP = r.dst.Addr()
		}
		out[pod] = append(out[pod], p)
	}
	return out
}

// rules are the port's lines in WP-HOSTPORTS. A client on 127.0.0.1 is masqueraded, since the pod could not answer it.
func (p HostPort) rules(pod string) string {
	proto := strings.ToLower(string(cmp.Or(p.Protocol, corev1.ProtocolTCP)))
	to := ""
	if p.HostIP.Is4() && !p.HostIP.IsUnspecified() {
		to = fmt.Sprintf("-d %s/32 ", p.HostIP)
	}
	match := fmt.Sprintf("-p %s -m comment --comment \"%s%s\" %s", proto, clean(pod), HostPortNote, dport(proto, int(p.Port), int(p.Port)))
	return fmt.Sprintf("-A %s -s 127.0.0.0/8 %s%s -j MARK --set-xmark %s\n-A %s %s%s -j DNAT --to-destination %s\n",
		chainHostPorts, to, match, masqMark, chainHostPorts, to, match, p.Pod)
}
