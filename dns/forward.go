package dns

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// tryTimeout is how long one upstream may take, askTimeout how long all of them together.
	tryTimeout, askTimeout = 2 * time.Second, 5 * time.Second
	// positiveMost and negativeMost bound how long answers are kept, whatever their TTL says.
	positiveMost, negativeMost = time.Hour, 30 * time.Second
	// failureKeep is how long a failure is remembered, so that retries of many clients do not pile up.
	failureKeep = time.Second
	// inFlight bounds how many questions are out at the same time.
	inFlight = 512
)

var errLoop = errors.New("the upstream DNS servers ask this server: set others with --dns-upstream or in /etc/resolv.conf")

// exchange asks one upstream; tests replace it.
type exchange func(ctx context.Context, network, addr string, m *dns.Msg) (*dns.Msg, error)

// forwarder asks upstreams on behalf of clients: one question at a time for each name.
type forwarder struct {
	exchange  exchange
	upstreams atomic.Pointer[[]string]
	first     atomic.Uint32 // the upstream that answered last
	probe     string        // a name that only we ask for
	looping   atomic.Bool
	slots     chan struct{}

	mu    sync.Mutex
	calls map[string]*call
}

// call is a question that is out, and what came of it.
type call struct {
	done   chan struct{}
	answer *dns.Msg
	err    error
}

func newForwarder(ex exchange) *forwarder {
	if ex == nil {
		ex = func(ctx context.Context, network, addr string, m *dns.Msg) (*dns.Msg, error) {
			c := dns.Client{Net: network, Timeout: tryTimeout, UDPSize: udpMost}
			r, _, err := c.ExchangeContext(ctx, m, addr)
			return r, err
		}
	}
	var b [8]byte
	_, _ = rand.Read(b[:])
	f := &forwarder{exchange: ex, slots: make(chan struct{}, inFlight), calls: map[string]*call{}, probe: hex.EncodeToString(b[:]) + ".whalepod-loop-probe."}
	f.upstreams.Store(&[]string{})
	return f
}

// set replaces the upstreams, leaving out the server's own addresses.
func (f *forwarder) set(upstreams []string, own []net.Addr) {
	mine := map[string]bool{}
	for _, a := range own {
		mine[a.String()] = true
	}
	list := []string{}
	for _, u := range upstreams {
		if _, err := netip.ParseAddr(u); err == nil {
			u = net.JoinHostPort(u, "53")
		}
		if !mine[u] {
			list = append(list, u)
		}
	}
	f.upstreams.Store(&list)
	f.looping.Store(false)
}

// ask returns the upstreams' answer. Callers with the same question share one.
func (f *forwarder) ask(ctx context.Context, name string, qtype uint16, dnssecOK bool) (*dns.Msg, error) {
	key := fmt.Sprintf("%s %d %v", name, qtype, dnssecOK)
	f.mu.Lock()
	c := f.calls[key]
	if c == nil {
		c = &call{done: make(chan struct{})}
		f.calls[key] = c
		f.mu.Unlock()
		c.answer, c.err = f.askUpstreams(ctx, name, qtype, dnssecOK)
		f.mu.Lock()
		delete(f.calls, key)
		f.mu.Unlock()
		close(c.done)
		return c.answer, c.err
	}
	f.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
		return c.answer, c.err
	}
}

func (f *forwarder) askUpstreams(ctx context.Context, name string, qtype uint16, dnssecOK bool) (*dns.Msg, error) {
	if f.looping.Load() {
		return nil, errLoop
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.SetEdns0(udpMost, dnssecOK)
	upstreams := *f.upstreams.Load()
	if len(upstreams) == 0 {
		return nil, errors.New("no upstream DNS server is configured")
	}
	first := int(f.first.Load())
	var failed *dns.Msg
	var errs []error
	for i := range upstreams {
		at := (first + i) % len(upstreams)
		r, err := f.askOne(ctx, upstreams[at], m)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", upstreams[at], err))
		case r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError:
			f.first.Store(uint32(at))
			return r, nil
		default:
			failed = r // another may know better
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed != nil {
		return failed, nil
	}
	return nil, errors.Join(errs...)
}

// askOne asks by UDP, and by TCP when the answer did not fit.
func (f *forwarder) askOne(ctx context.Context, addr string, m *dns.Msg) (*dns.Msg, error) {
	try := func(network string) (*dns.Msg, error) {
		ctx, cancel := context.WithTimeout(ctx, tryTimeout)
		defer cancel()
		m := m.Copy()
		m.Id = dns.Id()
		r, err := f.exchange(ctx, network, addr, m)
		if err != nil {
			return nil, err
		}
		if r == nil || !r.Response || len(r.Question) != 1 || r.Question[0].Qtype != m.Question[0].Qtype ||
			!strings.EqualFold(r.Question[0].Name, m.Question[0].Name) {
			return nil, errors.New("the answer is to another question")
		}
		return r, nil
	}
	r, err := try("udp")
	if err == nil && r.Truncated {
		if whole, err := try("tcp"); err == nil {
			return whole, nil
		}
	}
	return r, err
}

// keepFor is how long an answer may be kept: its smallest TTL, or the SOA's for a negative one (RFC 2308).
func keepFor(m *dns.Msg) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError || m.Truncated {
		return failureKeep
	}
	least := positiveMost
	for _, rr := range m.Answer {
		least = min(least, time.Duration(rr.Header().Ttl)*time.Second)
	}
	negative := m.Rcode == dns.RcodeNameError || len(m.Answer) == 0
	if !negative {
		return least
	}
	keep := failureKeep
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			keep = time.Duration(min(soa.Hdr.Ttl, soa.Minttl)) * time.Second
		}
	}
	return min(keep, least, negativeMost)
}

// withoutOPT drops what belongs to one hop only.
func withoutOPT(list []dns.RR) []dns.RR {
	out := make([]dns.RR, 0, len(list))
	for _, rr := range list {
		if t := rr.Header().Rrtype; t != dns.TypeOPT && t != dns.TypeTSIG {
			out = append(out, rr)
		}
	}
	return out
}
