package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Result is the zone's answer to a question.
type Result struct {
	// Ours is false when the name is not the zone's: somebody else must be asked.
	Ours                bool
	Rcode               int
	Answer, Extra, Auth []dns.RR
	// Target is where a CNAME in Answer leads, to be followed by the caller.
	Target string
}

// Lookup answers for a canonical name: lower case, with the final dot. It does not know whether everything has been
// given yet; the answer then is SERVFAIL, since "no such name" would be believed and remembered.
func (s *Snapshot) Lookup(name string, qtype uint16) Result {
	switch {
	case name == s.domain || strings.HasSuffix(name, "."+s.domain):
		if !s.synced {
			return Result{Ours: true, Rcode: dns.RcodeServerFailure}
		}
		rel := strings.TrimSuffix(strings.TrimSuffix(name, s.domain), ".")
		rrs, extra, exists, target := s.find(name, rel, qtype)
		return s.result(rrs, extra, exists, target)
	case strings.HasSuffix(name, inAddr), strings.HasSuffix(name, ip6):
		return s.lookupReverse(name, qtype)
	}
	return Result{}
}

func (s *Snapshot) result(rrs, extra []dns.RR, exists bool, target string) Result {
	return result(rrs, extra, exists, target, s.soa)
}

func result(rrs, extra []dns.RR, exists bool, target string, soa *dns.SOA) Result {
	r := Result{Ours: true, Answer: rrs, Extra: extra, Target: target}
	if !exists {
		r.Rcode = dns.RcodeNameError
	}
	if len(rrs) == 0 {
		r.Auth = []dns.RR{soa}
	}
	return r
}

// find looks below the domain. exists tells NODATA from NXDOMAIN when there are no records.
func (s *Snapshot) find(name, rel string, qtype uint16) (rrs, extra []dns.RR, exists bool, target string) {
	if strings.Contains(rel, `\`) {
		return nil, nil, false, "" // bytes that no name of ours has
	}
	if rel == "" {
		return s.apex(qtype), nil, true, ""
	}
	labels := strings.Split(rel, ".")
	last, rest := labels[len(labels)-1], labels[:len(labels)-1]
	switch last {
	case "dns-version":
		if len(rest) == 0 && asks(qtype, dns.TypeTXT) {
			rrs = []dns.RR{&dns.TXT{Hdr: header(name, dns.TypeTXT), Txt: []string{specVersion}}}
		}
		return rrs, nil, len(rest) == 0, ""
	case "dns":
		if len(rest) == 1 && rest[0] == "ns" {
			return addresses(name, qtype, s.ServerIP), nil, true, ""
		}
		return nil, nil, len(rest) == 0, ""
	case "pod":
		return s.findPod(name, rest, qtype)
	case "svc":
		return s.findService(name, rest, qtype)
	}
	return nil, nil, false, ""
}

func (s *Snapshot) apex(qtype uint16) (rrs []dns.RR) {
	if asks(qtype, dns.TypeSOA) {
		rrs = append(rrs, s.soa)
	}
	if asks(qtype, dns.TypeNS) {
		rrs = append(rrs, &dns.NS{Hdr: header(s.domain, dns.TypeNS), Ns: s.soa.Ns})
	}
	return rrs
}

// findPod answers a-b-c-d.NAMESPACE.pod.
func (s *Snapshot) findPod(name string, rest []string, qtype uint16) (rrs, extra []dns.RR, exists bool, target string) {
	if len(rest) < 2 {
		return nil, nil, true, ""
	}
	ip, err := netip.ParseAddr(strings.ReplaceAll(rest[0], "-", "."))
	if len(rest) > 2 || err != nil || !ip.Is4() || strings.Contains(rest[0], ".") {
		return nil, nil, false, ""
	}
	return addresses(name, qtype, ip), nil, true, ""
}

// findService answers [[_PORT.]_PROTO.|HOST.]SERVICE.NAMESPACE.svc.
func (s *Snapshot) findService(name string, rest []string, qtype uint16) (rrs, extra []dns.RR, exists bool, target string) {
	n := len(rest)
	if n == 0 {
		return nil, nil, true, ""
	}
	if n == 1 {
		return nil, nil, s.namespaces[rest[0]], ""
	}
	k := serviceKey(rest[n-1], rest[n-2])
	r := s.services[serviceShard(k)][k]
	if r == nil {
		return nil, nil, false, ""
	}
	sub := rest[:n-2]
	switch {
	case len(sub) == 0 && r.external != "":
		if qtype == dns.TypeCNAME || qtype == dns.TypeANY {
			target = ""
		} else {
			target = r.external
		}
		return []dns.RR{&dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: r.external}}, nil, true, target
	case len(sub) == 0 && qtype == dns.TypeSRV:
		// Not in the specification, but kube-dns and CoreDNS have it, and books ask so: all ports of the Service.
		rrs, extra = r.services(name, func(namedPort) bool { return true })
		return rrs, extra, true, ""
	case len(sub) == 0:
		return addresses(name, qtype, r.ips...), nil, true, ""
	case r.external != "":
		return nil, nil, false, ""
	case len(sub) == 1 && !strings.HasPrefix(sub[0], "_"):
		return r.findHost(name, sub[0], qtype)
	default:
		return r.findPort(name, sub, qtype)
	}
}

func (r *record) findHost(name, hostname string, qtype uint16) (rrs, extra []dns.RR, exists bool, target string) {
	for _, h := range r.hosts {
		if h.name == hostname {
			exists = true
			rrs = append(rrs, addresses(name, qtype, h.ip)...)
		}
	}
	return rrs, nil, exists, ""
}

// findPort answers SRV. The name without the port exists too, as an empty step on the way.
func (r *record) findPort(name string, sub []string, qtype uint16) (rrs, extra []dns.RR, exists bool, target string) {
	if len(sub) > 2 || !strings.HasPrefix(sub[0], "_") || !strings.HasPrefix(sub[len(sub)-1], "_") {
		return nil, nil, false, ""
	}
	proto := sub[len(sub)-1][1:]
	rrs, extra = r.services(name, func(p namedPort) bool {
		return p.name != "" && p.proto == proto && (len(sub) == 1 || p.name == sub[0][1:])
	})
	exists = len(rrs) > 0
	if len(sub) == 1 || !asks(qtype, dns.TypeSRV) {
		return nil, nil, exists, ""
	}
	return rrs, extra, exists, ""
}

// services are the SRV records of the ports wanted, and the addresses of their targets.
func (r *record) services(name string, wanted func(namedPort) bool) (rrs, extra []dns.RR) {
	add := func(to string, p namedPort) bool {
		if !wanted(p) {
			return false
		}
		rrs = append(rrs, &dns.SRV{Hdr: header(name, dns.TypeSRV), Weight: 100, Port: p.port, Target: to})
		return true
	}
	if !r.headless {
		found := false
		for _, p := range r.ports {
			found = add(r.fqdn, p) || found
		}
		if found {
			extra = addresses(r.fqdn, dns.TypeANY, r.ips...)
		}
		return rrs, extra
	}
	for _, h := range r.hosts {
		to, found := h.name+"."+r.fqdn, false
		for _, p := range h.ports {
			found = add(to, p) || found
		}
		if found {
			extra = append(extra, addresses(to, dns.TypeANY, h.ip)...)
		}
	}
	return rrs, extra
}

// addresses are the A or AAAA records of the name that the question asks for.
func addresses(name string, qtype uint16, ips ...netip.Addr) (rrs []dns.RR) {
	for _, ip := range ips {
		switch {
		case ip.Is4() && asks(qtype, dns.TypeA):
			rrs = append(rrs, &dns.A{Hdr: header(name, dns.TypeA), A: ip.AsSlice()})
		case ip.Is6() && asks(qtype, dns.TypeAAAA):
			rrs = append(rrs, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: ip.AsSlice()})
		}
	}
	return rrs
}

func asks(qtype, rrtype uint16) bool { return qtype == rrtype || qtype == dns.TypeANY }

func header(name string, rrtype uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: rrtype, Class: dns.ClassINET, Ttl: recordTTL}
}
