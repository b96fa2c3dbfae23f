package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

const (
	// tryTimeout is how long one server may take, askTimeout how long all of them together: resolvers give up after 5 s.
	tryTimeout, askTimeout = 2 * time.Second, 4500 * time.Millisecond
	// hedgeAfter this time without an answer the next server is asked too, or the only one again: datagrams get lost.
	hedgeAfter = 800 * time.Millisecond
	// tries bounds how often servers are asked for one question.
	tries = 6
	// positiveMost and negativeMost bound how long answers are kept, whatever their TTL says.
	positiveMost, negativeMost = time.Hour, 30 * time.Second
	// failureKeep is how long a failure is remembered, so that retries of many clients do not pile up.
	failureKeep = time.Second
	// inFlight bounds how many questions are out at the same time.
	inFlight = 512
)

var (
	errLoop       = errors.New("the name servers for it ask this server")
	errNoUpstream = errors.New("no name server for it is configured")
)

// exchange asks one server; tests replace it.
type exchange func(ctx context.Context, network, addr string, m *dns.Msg) (*dns.Msg, error)

// forwarder asks other servers on behalf of clients: one question at a time for each name.
type forwarder struct {
	exchange exchange
	log      *slog.Logger
	routes   atomic.Pointer[routes]
	slots    chan struct{}
	suspect  chan struct{} // nobody answered: it may be a loop

	mu    sync.Mutex
	calls map[callKey]*call
}

// callKey is a question to those whom the routes name: who asks after they have changed does not wait for what others say.
type callKey struct {
	routes   *routes
	name     string
	qtype    uint16
	dnssecOK bool
}

// call is a question that is out, and what came of it.
type call struct {
	done   chan struct{}
	answer *dns.Msg
	err    error
}

func newForwarder(ex exchange, log *slog.Logger) *forwarder {
	if ex == nil {
		ex = exchangeOver
	}
	f := &forwarder{exchange: ex, log: log, slots: make(chan struct{}, inFlight), suspect: make(chan struct{}, 1), calls: map[callKey]*call{}}
	f.routes.Store(&routes{})
	return f
}

// exchangeOver the network. The library does not notice that ctx ends while it reads.
func exchangeOver(ctx context.Context, network, addr string, m *dns.Msg) (*dns.Msg, error) {
	c := dns.Client{Net: network, Timeout: tryTimeout, UDPSize: udpMost}
	conn, err := c.DialContext(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	r, _, err := c.ExchangeWithConnContext(ctx, m, conn)
	return r, err
}

// ask returns what the servers for the name say. Callers with the same question share one.
func (f *forwarder) ask(ctx context.Context, r *routes, name string, qtype uint16, dnssecOK bool) (*dns.Msg, error) {
	key := callKey{r, name, qtype, dnssecOK}
	f.mu.Lock()
	c := f.calls[key]
	if c == nil {
		c = &call{done: make(chan struct{})}
		f.calls[key] = c
		f.mu.Unlock()
		c.answer, c.err = f.askServers(ctx, r.serversFor(name), newQuestion(name, qtype, dnssecOK))
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

func newQuestion(name string, qtype uint16, dnssecOK bool) *dns.Msg {
	m := new(dns.Msg)
	m.SetQuestion(name, qtype)
	m.SetEdns0(udpMost, dnssecOK)
	return m
}

// reply is what came of asking one server.
type reply struct {
	from *upstream
	m    *dns.Msg
	err  error
}

// askServers asks one server after the other, those that work first, and does not wait long for any: the first good answer counts.
// The others are listened to for a while, to know whether they are only slow.
func (f *forwarder) askServers(ctx context.Context, servers []*upstream, m *dns.Msg) (*dns.Msg, error) {
	if len(servers) == 0 {
		return nil, errNoUpstream
	}
	order := inOrder(servers, time.Now())
	if len(order) == 0 {
		return nil, errLoop
	}
	replies := make(chan reply, tries)
	started, waiting := 0, 0
	begin := func() {
		u := order[started%len(order)]
		started++
		waiting++
		go func() {
			longer, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
			defer cancel()
			began := time.Now()
			r, err := f.askOne(longer, u.addr, m)
			u.judge(r, err, began, time.Now())
			replies <- reply{u, r, err}
		}()
	}
	begin()
	hedge := time.NewTimer(hedgeAfter)
	defer hedge.Stop()
	var failed *dns.Msg
	var errs []error
	for waiting > 0 {
		select {
		case <-ctx.Done():
			errs = append(errs, ctx.Err())
			waiting = 0
		case r := <-replies:
			waiting--
			switch {
			case r.err != nil:
				errs = append(errs, fmt.Errorf("%s: %w", r.from.addr, r.err))
			case believed(r.m):
				return r.m, nil
			default: // another may know better
				failed = r.m
			}
			if started < len(order) && started < tries {
				begin()
				hedge.Reset(hedgeAfter)
			}
		case <-hedge.C:
			if started < min(2*len(order), tries) {
				begin()
				hedge.Reset(hedgeAfter)
			}
		}
	}
	if failed != nil {
		return failed, nil
	}
	select {
	case f.suspect <- struct{}{}:
	default:
	}
	return nil, errors.Join(errs...)
}

// askOne asks by UDP, and by TCP when the answer did not fit. A server that does not know EDNS is asked without it.
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
		if !answersTo(r, m) {
			return nil, errors.New("the answer is to another question")
		}
		return r, nil
	}
	r, err := try("udp")
	if err == nil && noEDNS(r.Rcode) {
		m = m.Copy()
		m.Extra = nil
		r, err = try("udp")
	}
	if err == nil && r.Truncated {
		if whole, err := try("tcp"); err == nil {
			return whole, nil
		}
	}
	return r, err
}

// noEDNS are the ways in which servers say that they do not know it (RFC 6891, 7), or not our version.
func noEDNS(rcode int) bool {
	return rcode == dns.RcodeFormatError || rcode == dns.RcodeNotImplemented || rcode == dns.RcodeBadVers
}

// answersTo tells whether r is a response to the question of m, which servers that could not read it need not repeat.
func answersTo(r, m *dns.Msg) bool {
	if r == nil || !r.Response {
		return false
	}
	if len(r.Question) == 0 {
		return r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeNotImplemented
	}
	return len(r.Question) == 1 && r.Question[0].Qtype == m.Question[0].Qtype && strings.EqualFold(r.Question[0].Name, m.Question[0].Name)
}

// keepFor is how long an answer may be kept: its smallest TTL, or the SOA's for a negative one (RFC 2308).
func keepFor(m *dns.Msg, qtype uint16) time.Duration {
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError || m.Truncated {
		return failureKeep
	}
	least := positiveMost
	for _, rr := range m.Answer {
		least = min(least, time.Duration(rr.Header().Ttl)*time.Second)
	}
	if m.Rcode == dns.RcodeSuccess && answers(m, qtype) {
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

// answers tells whether there is more than aliases: a chain of them that ends in nothing is a negative answer too.
func answers(m *dns.Msg, qtype uint16) bool {
	return slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype != dns.TypeCNAME || qtype == dns.TypeCNAME })
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
