package nft

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/whalepod/whalepod/proxy"
)

// at is where something is served: an address of a Service, or 0.0.0.0 for a port of the node. Without a protocol and a port it is
// all of an address that is not served otherwise.
type at struct {
	addr  [4]byte
	proto uint8
	port  uint16
}

var protocols = map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}

func (a at) key() (k [maxKey]byte) {
	copy(k[:], a.addr[:])
	k[4] = a.proto
	binary.BigEndian.PutUint16(k[8:], a.port)
	return k
}

// target is an endpoint in eight bytes; a netip.AddrPort has 32.
type target uint64

func packed(list []netip.AddrPort) []target {
	out := make([]target, 0, len(list))
	for _, e := range list {
		if e.Addr().Is4() {
			b := e.Addr().As4()
			out = append(out, target(binary.BigEndian.Uint32(b[:]))<<16|target(e.Port()))
		}
	}
	return out
}

func (t target) bytes() (b [8]byte) {
	binary.BigEndian.PutUint32(b[:], uint32(t>>16))
	binary.BigEndian.PutUint16(b[4:], uint16(t))
	return b
}

func targetOf(b []byte) target {
	return target(binary.BigEndian.Uint32(b))<<16 | target(binary.BigEndian.Uint16(b[4:]))
}

func (t target) addrPort() netip.AddrPort {
	b := t.bytes()
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[:4])), uint16(t))
}

// entry is what the maps hold for one place.
type entry struct {
	comment        string
	way            way // zero: nothing is translated
	refuse         string
	cluster, local []target
	sources        []netip.Prefix
	memories       []*memory
}

// What refused leads to.
const (
	refuseReject = "reject" // a chain
	refuseClosed = "closed" // another
	refuseDrop   = "drop"   // a verdict
)

// claim is somebody's wish for a place. When several want the same, the one of the lowest rank and the first name gets it, as
// the first rule of a chain would.
type claim struct {
	rank  uint8
	who   string
	entry *entry
}

const (
	rankCluster = iota
	rankExternal
	rankHostPort
	rankNodePort
)

func (c claim) before(o claim) int {
	if c.rank != o.rank {
		return int(c.rank) - int(o.rank)
	}
	if c.who != o.who {
		if c.who < o.who {
			return -1
		}
		return 1
	}
	return 0
}

// claimsOf are the places that a Service wants.
func claimsOf(ports []proxy.Port, yield func(at, claim)) {
	for i := range ports {
		p := &ports[i]
		place := func(ip netip.Addr, port uint16) at { return at{ip.As4(), protocols[p.Protocol], port} }
		comment := short(p.String())
		cluster, local := packed(p.Cluster), packed(p.Local)
		var all, here *memory
		if p.Sticky > 0 {
			all, here = newMemory(p.Service+":"+p.Name+"/"+p.Protocol, p.Sticky, cluster), newMemory(p.Service+":"+p.Name+"/"+p.Protocol, p.Sticky, local)
		}
		if inside := p.Inside(); !p.NodeAnswers && len(inside) > 0 {
			list, memory := cluster, all
			if p.InternalLocal {
				list, memory = local, here
			}
			e := &entry{comment: comment, way: way{kind: wayCluster, n: len(list)}, cluster: list}
			e.remember(memory, nil)
			yield(place(p.ClusterIP, p.Port), claim{rankCluster, p.Service, e})
		}
		if p.Dropped() {
			yield(place(p.ClusterIP, p.Port), claim{rankCluster, p.Service, &entry{comment: comment, refuse: refuseDrop}})
		}
		outside := entry{comment: comment}
		switch {
		case p.Dead():
			outside.refuse = refuseReject
		case !p.ExternalLocal:
			outside.way, outside.cluster = way{kind: wayExternal, n: len(cluster)}, cluster
			outside.remember(all, nil)
		default:
			outside.way = way{kind: wayLocal, n: len(cluster), local: len(local)}
			outside.cluster, outside.local = cluster, local
			outside.remember(all, here)
			if len(local) == 0 {
				// Another node has endpoints: silence makes a load balancer in front look elsewhere, as Kubernetes promises.
				outside.refuse = refuseDrop
			}
		}
		if p.NodePort > 0 {
			node := outside
			node.way.node = true
			yield(place(netip.IPv4Unspecified(), p.NodePort), claim{rankNodePort, p.Service, &node})
		}
		for _, ip := range p.External {
			e := outside
			yield(place(ip, p.Port), claim{rankExternal, p.Service, &e})
		}
		for _, ip := range p.Balanced {
			e := outside
			if p.Guarded && !p.Dead() {
				// Who is not translated is not allowed.
				e.way.guarded, e.sources, e.refuse = true, disjoint(p.Sources), refuseDrop
			}
			yield(place(ip, p.Port), claim{rankExternal, p.Service, &e})
		}
	}
	if len(ports) > 0 { // all have the same addresses
		for _, ip := range ports[0].Alone {
			e := &entry{comment: short(ports[0].Service), refuse: refuseClosed}
			yield(at{addr: ip.As4()}, claim{rankNodePort, ports[0].Service, e})
		}
	}
}

// disjoint leaves out what is part of another: the kernel takes no ranges that overlap.
func disjoint(list []netip.Prefix) (out []netip.Prefix) {
	for i, p := range list {
		if !slices.ContainsFunc(list, func(o netip.Prefix) bool { return o.Bits() < p.Bits() && o.Contains(p.Addr()) }) && !slices.Contains(list[:i], p) {
			out = append(out, p)
		}
	}
	return out
}

// short is as much as a comment may be.
func short(s string) string { return s[:min(len(s), maxNote)] }

// claimOf is the place that a host port wants.
func claimOf(pod string, p proxy.HostPort) (at, claim) {
	ip, node := p.HostIP, false
	if !ip.Is4() || ip.IsUnspecified() {
		ip, node = netip.IPv4Unspecified(), true
	}
	e := &entry{comment: pod[:min(len(pod), maxNote-len(proxy.HostPortNote))] + proxy.HostPortNote, way: way{kind: wayHost, node: node}, cluster: packed([]netip.AddrPort{p.Pod})}
	return at{ip.As4(), protocols[protocolOf(p)], p.Port}, claim{rankHostPort, pod + proxy.HostPortNote, e}
}

// arranged puts a list so that endpoints stay at the numbers that they have: then only what came and went has to be written.
func arranged(old, want []target) []target {
	if len(old) == 0 || slices.Equal(old, want) {
		return want
	}
	left := make(map[target]bool, len(want))
	for _, e := range want {
		left[e] = true
	}
	out := make([]target, len(want))
	var holes []int
	for i := range out {
		if i < len(old) && left[old[i]] {
			out[i] = old[i]
			delete(left, old[i])
		} else {
			holes = append(holes, i)
		}
	}
	for _, e := range want {
		if left[e] {
			out[holes[0]], holes = e, holes[1:]
			delete(left, e)
		}
	}
	return out
}

// maxKey is the longest key of an element.
const maxKey = 20

// id names an element: its set and key. last is where a range ends.
type id struct {
	set  uint8
	key  [maxKey]byte
	last [4]byte
}

// content is what an element says.
type content struct {
	to      [8]byte
	verdict string // a chain, or refuseDrop
	comment string
}

// elements of an entry at a place.
func (e *entry) elements(place at, yield func(id, content)) {
	key := place.key()
	if e.way != (way{}) {
		yield(id{set: setServices, key: key}, content{verdict: e.way.String(), comment: e.comment})
	}
	if e.refuse != "" {
		yield(id{set: setRefused, key: key}, content{verdict: e.refuse, comment: e.comment})
	}
	list := func(targets []target, first uint32) {
		for i, t := range targets {
			k := key
			binary.NativeEndian.PutUint32(k[12:], first+uint32(i))
			yield(id{set: setEndpoints, key: k}, content{to: t.bytes(), comment: e.comment})
		}
	}
	list(e.cluster, 0)
	list(e.local, localList)
	for _, r := range e.sources {
		i := id{set: setAllowed, key: key}
		first := r.Masked().Addr().As4()
		copy(i.key[12:], first[:])
		mask := uint32(1)<<(32-r.Bits()) - 1
		if r.Bits() == 0 {
			mask = ^uint32(0)
		}
		binary.BigEndian.PutUint32(i.last[:], binary.BigEndian.Uint32(first[:])|mask)
		yield(i, content{comment: e.comment})
	}
}
