package dns

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// retryAfter this time a server that did not answer is asked first again, once.
	retryAfter = 10 * time.Second
	// probeAfter this time servers are probed again that loop, or that nobody hears of.
	probeAfter = 30 * time.Second
	// probeZone is below a name that there is not; a server's probe is a random name in it.
	probeZone = ".whalepod-loop-probe."
)

// Forwarding says who is asked for names outside the cluster. Addresses may have a port.
type Forwarding struct {
	// Upstreams are asked in this order, as resolvers do.
	Upstreams []string
	// Stubs are servers for a domain and all below it, instead.
	Stubs map[string][]string
}

// upstream is one server that questions are sent on to.
type upstream struct {
	addr  string
	probe string // a name that is asked of this server alone
	// retryAt is 0, or until when others are asked before it, in nanoseconds since 1970.
	retryAt atomic.Int64
	worked  atomic.Int64 // when it last gave a good answer, likewise
	// looping: it asks us what we ask it. cameBack: the probe under way did.
	looping, cameBack atomic.Bool
}

func newUpstream(addr string) *upstream {
	var b [8]byte
	_, _ = rand.Read(b[:])
	return &upstream{addr: addr, probe: hex.EncodeToString(b[:]) + probeZone}
}

// judge what came of one question, asked when it began. One that is lost is no failure if a later one was answered, nor is an
// answer for which somebody else was quicker: the servers behind it may not know all the names that it knows.
func (u *upstream) judge(m *dns.Msg, err error, began, now time.Time) {
	switch {
	case err == nil && believed(m):
		u.worked.Store(now.UnixNano())
		u.retryAt.Store(0)
	case err != nil && u.worked.Load() > began.UnixNano():
	case err != nil, m.Rcode == dns.RcodeRefused, m.Rcode == dns.RcodeNotImplemented, now.Sub(began) >= hedgeAfter:
		u.retryAt.Store(now.Add(retryAfter).UnixNano())
	}
}

// believed answers are not asked about elsewhere.
func believed(m *dns.Msg) bool { return m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError }

// first tells whether the server is to be asked before those that failed. When its time has come, one question tries it.
func (u *upstream) first(now time.Time) bool {
	at := u.retryAt.Load()
	return at == 0 || at <= now.UnixNano() && u.retryAt.CompareAndSwap(at, now.Add(retryAfter).UnixNano())
}

// inOrder are the servers worth asking: in their order, but those that failed lately at the end.
func inOrder(servers []*upstream, now time.Time) []*upstream {
	order, last := make([]*upstream, 0, len(servers)), []*upstream(nil)
	for _, u := range servers {
		switch {
		case u.looping.Load():
		case u.first(now):
			order = append(order, u)
		default:
			last = append(last, u)
		}
	}
	return append(order, last...)
}

// routes says which servers are for which names. It does not change.
type routes struct {
	all   map[string]*upstream // by address
	rest  []*upstream
	stubs []stub // the longest domain first
}

type stub struct {
	domain  string
	servers []*upstream
}

func (r *routes) serversFor(name string) []*upstream {
	for _, s := range r.stubs {
		if dns.IsSubDomain(s.domain, name) {
			return s.servers
		}
	}
	return r.rest
}

// set replaces the servers, leaving out our own addresses. What is known of those that stay is kept.
func (f *forwarder) set(to Forwarding, own []net.Addr) {
	mine := map[string]bool{}
	for _, a := range own {
		mine[a.String()] = true
	}
	old := f.routes.Load()
	r := &routes{all: map[string]*upstream{}}
	servers := func(addrs []string) (out []*upstream) {
		for _, a := range addrs {
			if _, err := netip.ParseAddr(a); err == nil {
				a = net.JoinHostPort(a, "53")
			}
			if mine[a] {
				continue
			}
			u := r.all[a]
			if u == nil {
				if u = old.all[a]; u == nil {
					u = newUpstream(a)
				}
				r.all[a] = u
			}
			if !slices.Contains(out, u) {
				out = append(out, u)
			}
		}
		return out
	}
	r.rest = servers(to.Upstreams)
	for _, domain := range slices.Sorted(maps.Keys(to.Stubs)) {
		r.stubs = append(r.stubs, stub{dns.CanonicalName(domain), servers(to.Stubs[domain])})
	}
	slices.SortStableFunc(r.stubs, func(a, b stub) int { return cmp.Compare(len(b.domain), len(a.domain)) })
	f.routes.Store(r)
}

// arrived tells whether a question is a probe of ours that a server has sent back to us.
func (f *forwarder) arrived(name string) bool {
	if !strings.HasSuffix(name, probeZone) {
		return false
	}
	for _, u := range f.routes.Load().all {
		if u.probe != name {
			continue
		}
		u.cameBack.Store(true)
		if !u.looping.Swap(true) {
			f.log.Error("DNS goes in a circle: the name server that names outside the cluster are asked of asks this server. It is not asked any more as long as it does. Name another one in the machine's /etc/resolv.conf (wp-agent run --resolv-conf) or in the ConfigMap kube-system/kube-dns, or stop it from asking "+
				"the cluster's DNS for all names", "upstream", u.addr)
		}
		return true
	}
	return false
}

// probe asks each server for a name that nobody else knows. Those from which it comes back loop.
func (f *forwarder) probe(ctx context.Context) {
	for _, u := range f.routes.Load().all {
		u.cameBack.Store(false)
		_, err := f.askOne(ctx, u.addr, newQuestion(u.probe, dns.TypeHINFO, false))
		if err == nil && !u.cameBack.Load() && u.looping.Swap(false) {
			f.log.Info("DNS goes in a circle no more", "upstream", u.addr)
		}
	}
}

func (f *forwarder) looping() bool {
	for _, u := range f.routes.Load().all {
		if u.looping.Load() {
			return true
		}
	}
	return false
}
