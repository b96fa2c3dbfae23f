package dns

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// scripted is the servers behind the forwarder.
type scripted struct {
	mu    sync.Mutex
	asked []string
	reply func(network, addr string, m *dns.Msg) (*dns.Msg, error)
}

func (u *scripted) exchange(ctx context.Context, network, addr string, m *dns.Msg) (*dns.Msg, error) {
	u.mu.Lock()
	if !strings.HasSuffix(m.Question[0].Name, "loop-probe.") {
		u.asked = append(u.asked, fmt.Sprintf("%s/%s %s", addr, network, m.Question[0].Name))
	}
	reply := u.reply
	u.mu.Unlock()
	r, err := reply(network, addr, m)
	if ctx.Err() != nil {
		return nil, ctx.Err() // nobody listens any more
	}
	return r, err
}

// replies are another function's from now on, whoever is still being asked.
func (u *scripted) replies(reply func(network, addr string, m *dns.Msg) (*dns.Msg, error)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.reply = reply
}

func (u *scripted) count() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.asked)
}

func answerWith(rcode int, records ...string) func(string, string, *dns.Msg) (*dns.Msg, error) {
	return func(_, _ string, m *dns.Msg) (*dns.Msg, error) {
		r := new(dns.Msg)
		r.SetRcode(m, rcode)
		for _, s := range records {
			rr, err := dns.NewRR(strings.ReplaceAll(s, "@", m.Question[0].Name))
			if err != nil {
				return nil, err
			}
			if rr.Header().Rrtype == dns.TypeSOA {
				r.Ns = append(r.Ns, rr)
			} else {
				r.Answer = append(r.Answer, rr)
			}
		}
		return r, nil
	}
}

func newServer(t testing.TB, z *Zone, u *scripted, upstreams ...string) *Server {
	t.Helper()
	s, err := New(Config{Zone: z, Forwarding: Forwarding{Upstreams: upstreams}, exchange: u.exchange})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// handle asks without sockets.
func (s *Server) handle(t testing.TB, m *dns.Msg, limit int) *dns.Msg {
	t.Helper()
	wire, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var q question
	out := make([]byte, 1<<16)
	answer, done := s.quick(&q, wire, out, limit, time.Now())
	if !done {
		answer = s.slow(t.Context(), &q, out, limit)
	}
	r := new(dns.Msg)
	if err := r.Unpack(answer); err != nil {
		t.Fatalf("the answer cannot be read: %v", err)
	}
	r.Compress = true // so that Len counts what came
	if r.Id != m.Id || !r.Response || len(r.Question) != 1 || r.Question[0] != m.Question[0] || !r.RecursionAvailable {
		t.Errorf("not an answer to %v: %v", m.Question, r)
	}
	return r
}

func query(name string, qtype uint16) *dns.Msg { return new(dns.Msg).SetQuestion(name, qtype) }

func TestServerOverUDPAndTCP(t *testing.T) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &scripted{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
	s, err := New(Config{Zone: testZone(), PacketConns: []net.PacketConn{pc}, Listeners: []net.Listener{l}, Forwarding: Forwarding{Upstreams: []string{"192.0.2.53", pc.LocalAddr().String()}}, exchange: u.exchange})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for network, addr := range map[string]string{"udp": pc.LocalAddr().String(), "tcp": l.Addr().String()} {
		c := dns.Client{Net: network, Timeout: 5 * time.Second}
		for name, want := range map[string]string{
			"web.default.svc.cluster.local.": "web.default.svc.cluster.local. 5 IN A 10.254.0.9",
			"WEB.default.SVC.cluster.local.": "WEB.default.SVC.cluster.local. 5 IN A 10.254.0.9",
			"www.example.com.":               "www.example.com. 60 IN A 192.0.2.1",
		} {
			r, _, err := c.ExchangeContext(t.Context(), query(name, dns.TypeA), addr)
			if err != nil || strings.Join(lines(r.Answer), "\n") != want || !r.RecursionAvailable {
				t.Errorf("%s %s: %v %v", network, name, r, err)
			}
		}
	}
	// Garbage is survived; several queries pass over one TCP connection.
	raw, err := net.Dial("udp4", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	for _, b := range [][]byte{{}, {1}, make([]byte, 12), []byte("GET / HTTP/1.1\r\n\r\n and much more than a header")} {
		if _, err := raw.Write(b); err != nil {
			t.Fatal(err)
		}
	}
	tcp, err := dns.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tcp.Close() }()
	for range 3 {
		if err := tcp.WriteMsg(query("web.default.svc.cluster.local.", dns.TypeA)); err != nil {
			t.Fatal(err)
		}
		if r, err := tcp.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Fatal(r, err)
		}
	}
	if s.forward.routes.Load().all[pc.LocalAddr().String()] != nil {
		t.Error("the server would ask itself")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	s := newServer(t, testZone(), &scripted{})
	base := func(change func(*dns.Msg)) *dns.Msg {
		m := query("web.default.svc.cluster.local.", dns.TypeA)
		change(m)
		return m
	}
	for name, c := range map[string]struct {
		m    *dns.Msg
		want int
	}{
		"update":      {base(func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), dns.RcodeNotImplemented},
		"chaos class": {base(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), dns.RcodeRefused},
		"transfer":    {base(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR }), dns.RcodeRefused},
		"no question": {base(func(m *dns.Msg) { m.Question = nil }), dns.RcodeFormatError},
		"two":         {base(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), dns.RcodeFormatError},
		"EDNS1":       {base(func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }), dns.RcodeBadVers},
	} {
		wire, err := c.m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		var q question
		answer, done := s.quick(&q, wire, make([]byte, 512), 0, time.Now())
		r := new(dns.Msg)
		if err := r.Unpack(answer); err != nil || !done || r.Rcode != c.want || r.Id != c.m.Id {
			t.Errorf("%s: %v %v, want %s", name, r, err, dns.RcodeToString[c.want])
		}
	}
	var q question
	response := query("x.", dns.TypeA)
	response.Response = true
	wire, _ := response.Pack()
	if answer, done := s.quick(&q, wire, make([]byte, 512), 0, time.Now()); answer != nil || !done {
		t.Error("a response was answered: two servers would talk for ever")
	}
}

func TestRoundRobinTruncationAndEDNS(t *testing.T) {
	z := testZone()
	big(z, 100)
	s := newServer(t, z, &scripted{})
	first := map[string]bool{}
	for range 16 {
		r := s.handle(t, query("big.default.svc.cluster.local.", dns.TypeA), 0)
		if !r.Truncated || len(r.Answer) < 20 || r.Len() > 512 || r.IsEdns0() != nil {
			t.Fatalf("plain: %d answers, truncated %v, %d bytes", len(r.Answer), r.Truncated, r.Len())
		}
		first[lines(r.Answer)[0]] = true
	}
	if len(first) != maxVariants {
		t.Errorf("%d different first answers, want %d", len(first), maxVariants)
	}
	m := query("big.default.svc.cluster.local.", dns.TypeA)
	m.SetEdns0(4096, true)
	if r := s.handle(t, m, 0); !r.Truncated || len(r.Answer) < 60 || r.IsEdns0() == nil || !r.IsEdns0().Do() || r.IsEdns0().UDPSize() != udpMost {
		t.Errorf("EDNS: %d answers, truncated %v", len(r.Answer), r.Truncated)
	}
	if r := s.handle(t, query("big.default.svc.cluster.local.", dns.TypeA), dns.MaxMsgSize); r.Truncated || len(r.Answer) != 100 {
		t.Errorf("TCP: %d answers, truncated %v", len(r.Answer), r.Truncated)
	}
	// Additional records that do not fit are left out without a word.
	if r := s.handle(t, query("_http._tcp.db.default.svc.cluster.local.", dns.TypeSRV), 150); r.Truncated && len(r.Answer) == 2 || !r.Truncated && len(r.Answer) != 2 {
		t.Errorf("SRV: %v", r)
	}
	// The cache follows the zone.
	if r := s.handle(t, query("web.default.svc.cluster.local.", dns.TypeA), 0); lines(r.Answer)[0] != "web.default.svc.cluster.local. 5 IN A 10.254.0.9" {
		t.Error(r)
	}
	z.SetService(service("web", "10.254.0.10"))
	if r := s.handle(t, query("web.default.svc.cluster.local.", dns.TypeA), 0); lines(r.Answer)[0] != "web.default.svc.cluster.local. 5 IN A 10.254.0.10" {
		t.Error("an old answer was given after the Service changed")
	}
}

// Six thousand addresses are more than a message has room for.
func TestAnswerLargerThanAMessage(t *testing.T) {
	z := testZone()
	big(z, 6000)
	s := newServer(t, z, &scripted{})
	for range 2 {
		for name, qtype := range map[string]uint16{"big.default.svc.cluster.local.": dns.TypeA, "_http._tcp.big.default.svc.cluster.local.": dns.TypeSRV} {
			if r := s.handle(t, query(name, qtype).SetEdns0(1232, false), dns.MaxMsgSize); !r.Truncated || len(r.Answer) < 500 || r.Rcode != 0 || len(r.Extra) != 1 {
				t.Errorf("%s: %d answers, truncated %v, %d extra", name, len(r.Answer), r.Truncated, len(r.Extra))
			}
			if r := s.handle(t, query(name, qtype), 0); !r.Truncated || len(r.Answer) < 5 || r.Len() > 512 {
				t.Errorf("%s by UDP: %d answers, truncated %v", name, len(r.Answer), r.Truncated)
			}
		}
	}
}

func TestCacheIsBoundedInBytes(t *testing.T) {
	s := newServer(t, testZone(), &scripted{})
	now := time.Now()
	for i := range 3000 {
		s.cache.put([]byte(fmt.Sprint(i%500)), &packed{bytes: 20_000}, 1, now)
	}
	s.cache.put([]byte("huge"), &packed{bytes: shardBytes}, 1, now)
	all := 0
	for i := range s.cache.shards {
		kept := 0
		for k, p := range s.cache.shards[i].answers {
			kept += len(k) + p.bytes
		}
		if kept != s.cache.shards[i].bytes || kept > shardBytes {
			t.Errorf("%d bytes kept, %d counted", kept, s.cache.shards[i].bytes)
		}
		all += kept
	}
	if all < cacheBytes/2 || s.cache.get([]byte("huge"), 1, now) != nil {
		t.Errorf("%d bytes in all", all)
	}
}

func TestCacheIsBounded(t *testing.T) {
	s, err := New(Config{Zone: testZone(), CacheSize: 64})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		s.handle(t, query(fmt.Sprintf("n%d.default.svc.cluster.local.", i), dns.TypeA), 0)
	}
	if n := s.cache.len(); n > 64 {
		t.Errorf("%d answers kept, want at most 64", n)
	}
}
