package proxy

import (
	"maps"
	"net/netip"
	"slices"
)

// UDPAddress is where clients send datagrams to, and whom the kernel may send them on to. Connection tracking entries that send
// them elsewhere, or nowhere because they are older than the rules, hold a client that keeps its port for as long as it
// keeps trying.
type UDPAddress struct {
	At        netip.AddrPort // unspecified: every address of the node
	Endpoints []netip.AddrPort
}

// udpAddresses are those of Services and host ports, and which of them changed since somebody looked at their flows. A flow is
// judged by what is there, not by what went: so it does not matter what happened while no agent ran, or which of two
// changes failed.
type udpAddresses struct {
	places  map[netip.AddrPort]map[string][]netip.AddrPort // address → who has it → endpoints
	of      map[string][]netip.AddrPort                    // who → addresses
	changed map[netip.AddrPort]struct{}
}

func newUDPAddresses() *udpAddresses {
	return &udpAddresses{places: map[netip.AddrPort]map[string][]netip.AddrPort{}, of: map[string][]netip.AddrPort{}, changed: map[netip.AddrPort]struct{}{}}
}

// set replaces what somebody has.
func (u *udpAddresses) set(who string, now map[netip.AddrPort][]netip.AddrPort) {
	for _, at := range u.of[who] {
		if _, ok := now[at]; !ok {
			u.changed[at] = struct{}{}
			if delete(u.places[at], who); len(u.places[at]) == 0 {
				delete(u.places, at)
			}
		}
	}
	for at, endpoints := range now {
		had, ok := u.places[at][who]
		if ok && slices.Equal(had, endpoints) {
			continue
		}
		if u.places[at] == nil {
			u.places[at] = map[string][]netip.AddrPort{}
		}
		u.places[at][who] = endpoints
		u.changed[at] = struct{}{}
	}
	if len(now) == 0 {
		delete(u.of, who)
	} else {
		u.of[who] = slices.Collect(maps.Keys(now))
	}
}

// take returns those that changed.
func (u *udpAddresses) take() []UDPAddress {
	var out []UDPAddress
	for _, at := range slices.SortedFunc(maps.Keys(u.changed), netip.AddrPort.Compare) {
		a := UDPAddress{At: at}
		for _, endpoints := range u.places[at] {
			a.Endpoints = append(a.Endpoints, endpoints...)
		}
		slices.SortFunc(a.Endpoints, netip.AddrPort.Compare)
		a.Endpoints = slices.Compact(a.Endpoints)
		out = append(out, a)
	}
	clear(u.changed)
	return out
}

// again has them taken once more.
func (u *udpAddresses) again(list []UDPAddress) {
	for _, a := range list {
		u.changed[a.At] = struct{}{}
	}
}

// udpOf are a Service's addresses for UDP, a NodePort on every address of the node. Flows go on to all endpoints that still serve,
// whatever new ones are sent to: a policy or a zone that changes, or a pod that has begun to end, cuts no conversation.
func udpOf(ports []Port) map[netip.AddrPort][]netip.AddrPort {
	out := map[netip.AddrPort][]netip.AddrPort{}
	for i := range ports {
		p := &ports[i]
		if p.Protocol != "udp" {
			continue
		}
		if !p.NodeAnswers {
			out[netip.AddrPortFrom(p.ClusterIP, p.Port)] = p.Serving
		}
		for _, ip := range slices.Concat(p.External, p.Balanced) {
			out[netip.AddrPortFrom(ip, p.Port)] = p.Serving
		}
		if p.NodePort > 0 {
			out[netip.AddrPortFrom(netip.IPv4Unspecified(), p.NodePort)] = p.Serving
		}
	}
	return out
}

// udpOfPod are a pod's host ports for UDP.
func udpOfPod(ports []HostPort) map[netip.AddrPort][]netip.AddrPort {
	out := map[netip.AddrPort][]netip.AddrPort{}
	for _, p := range ports {
		if p.Protocol != "UDP" {
			continue
		}
		ip := p.HostIP
		if !ip.Is4() {
			ip = netip.IPv4Unspecified()
		}
		at := netip.AddrPortFrom(ip, p.Port)
		out[at] = append(out[at], p.Pod)
	}
	return out
}
