package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// upstream is a scripted server behind the forwarder.
type upstream struct {
	mu    sync.Mutex
	asked []string
	reply func(network, addr string, m *dns.Msg) (*dns.Msg, error)
}

func (u *upstream) exchange(_ context.Context, network, addr string, m *dns.Msg) (*dns.Msg, error) {
	u.mu.Lock()
	if !strings.HasSuffix(m.Question[0].Name, "loop-probe.") {
		u.asked = append(u.asked, fmt.Sprintf("%s/%s %s", addr, network, m.Question[0].Name))
	}
	u.mu.Unlock()
	return u.reply(network, addr, m)
}

func (u *upstream) count() int {
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

func newServer(t testing.TB, z *Zone, u *upstream, upstreams ...string) *Server {
	t.Helper()
	s, err := New(Config{Zone: z, Upstreams: upstreams, exchange: u.exchange})
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
	l, err := net.Listen("tcp4", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	u := &upstream{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
	s, err := New(Config{Zone: testZone(), PacketConns: []net.PacketConn{pc}, Listeners: []net.Listener{l}, Upstreams: []string{"192.0.2.53", pc.LocalAddr().String()}, exchange: u.exchange})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	for _, network := range []string{"udp", "tcp"} {
		c := dns.Client{Net: network, Timeout: 5 * time.Second}
		for name, want := range map[string]string{
			"web.default.svc.cluster.local.": "web.default.svc.cluster.local. 5 IN A 10.254.0.9",
			"WEB.default.SVC.cluster.local.": "WEB.default.SVC.cluster.local. 5 IN A 10.254.0.9",
			"www.example.com.":               "www.example.com. 60 IN A 192.0.2.1",
		} {
			r, _, err := c.ExchangeContext(t.Context(), query(name, dns.TypeA), pc.LocalAddr().String())
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
	for _, up := range *s.forward.upstreams.Load() {
		if up == pc.LocalAddr().String() {
			t.Error("the server would ask itself")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	s := newServer(t, testZone(), &upstream{})
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
	var eps []string
	sl := slice("big")
	for i := range 100 {
		ip := fmt.Sprintf("10.244.5.%d", i+1)
		eps = append(eps, ip)
		sl.Endpoints = append(sl.Endpoints, endpoint(ip, "", "n1", true))
	}
	z.SetService(service("big", "None"))
	z.SetSlice(sl)
	s := newServer(t, z, &upstream{})
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
	if r := s.handle(t, query("big.default.svc.cluster.local.", dns.TypeA), dns.MaxMsgSize); r.Truncated || len(r.Answer) != len(eps) {
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

func TestForwardingKeepsAnswersAndAgesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
		s := newServer(t, testZone(), u, "192.0.2.53")
		ask := func(name string) string {
			r := s.handle(t, query(name, dns.TypeA), 0)
			return dns.RcodeToString[r.Rcode] + " " + strings.Join(lines(r.Answer, r.Ns), " ")
		}
		expect := func(name, want string, asked int) {
			t.Helper()
			if got := ask(name); got != want || u.count() != asked {
				t.Errorf("%s after %d questions upstream: %q, want %q after %d", name, u.count(), got, want, asked)
			}
		}
		expect("a.test.", "NOERROR a.test. 60 IN A 192.0.2.1", 1)
		time.Sleep(20 * time.Second)
		expect("a.test.", "NOERROR a.test. 40 IN A 192.0.2.1", 1)
		expect("A.TEST.", "NOERROR A.TEST. 40 IN A 192.0.2.1", 1)
		time.Sleep(41 * time.Second)
		expect("a.test.", "NOERROR a.test. 60 IN A 192.0.2.1", 2)
		u.reply = answerWith(dns.RcodeNameError, "test. 600 IN SOA ns.test. admin.test. 1 2 3 4 10")
		soa := "NXDOMAIN test. %d IN SOA ns.test. admin.test. 1 2 3 4 10"
		expect("b.test.", fmt.Sprintf(soa, 600), 3)
		time.Sleep(9 * time.Second)
		expect("b.test.", fmt.Sprintf(soa, 591), 3)
		time.Sleep(2 * time.Second)
		expect("b.test.", fmt.Sprintf(soa, 600), 4)
		u.reply = func(string, string, *dns.Msg) (*dns.Msg, error) { return nil, errors.New("timeout") }
		expect("c.test.", "SERVFAIL ", 5)
		expect("c.test.", "SERVFAIL ", 5) // failures are kept for a second
		time.Sleep(2 * time.Second)
		expect("c.test.", "SERVFAIL ", 6)
	})
}

func TestForwardingTriesTheNextAndTCP(t *testing.T) {
	u := &upstream{}
	u.reply = func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
		switch {
		case addr == "192.0.2.1:53":
			return nil, errors.New("no route")
		case addr == "192.0.2.2:53":
			return answerWith(dns.RcodeRefused)(network, addr, m)
		case network == "udp":
			r, _ := answerWith(dns.RcodeSuccess)(network, addr, m)
			r.Truncated = true
			return r, nil
		}
		return answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.9")(network, addr, m)
	}
	s := newServer(t, testZone(), u, "192.0.2.1", "192.0.2.2:53", "192.0.2.3")
	for range 2 { // the one that answered is asked first the next time
		r := s.handle(t, query(fmt.Sprint("n", u.count(), ".test."), dns.TypeA), 0)
		if len(r.Answer) != 1 || r.Truncated {
			t.Error(r)
		}
	}
	want := "192.0.2.1:53/udp n0.test. 192.0.2.2:53/udp n0.test. 192.0.2.3:53/udp n0.test. 192.0.2.3:53/tcp n0.test. 192.0.2.3:53/udp n4.test. 192.0.2.3:53/tcp n4.test."
	if got := strings.Join(u.asked, " "); got != want {
		t.Errorf("asked %s\nwant %s", got, want)
	}
	u.reply = func(_, _ string, m *dns.Msg) (*dns.Msg, error) { // a forged or mixed-up answer
		return answerWith(dns.RcodeSuccess)("", "", query("other.test.", dns.TypeA))
	}
	if r := s.handle(t, query("x.test.", dns.TypeA), 0); r.Rcode != dns.RcodeServerFailure {
		t.Error(r)
	}
}

func TestExternalNames(t *testing.T) {
	u := &upstream{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
	s := newServer(t, testZone(), u, "192.0.2.53")
	for name, want := range map[string]string{
		"ext.default.svc.cluster.local.":    "NOERROR ext.default.svc.cluster.local. 5 IN CNAME www.example.com.|www.example.com. 60 IN A 192.0.2.1",
		"inner.default.svc.cluster.local.":  "NOERROR inner.default.svc.cluster.local. 5 IN CNAME web.default.svc.cluster.local.|web.default.svc.cluster.local. 5 IN A 10.254.0.9",
		"circle.default.svc.cluster.local.": "SERVFAIL ",
	} {
		r := s.handle(t, query(name, dns.TypeA), 0)
		if got := dns.RcodeToString[r.Rcode] + " " + strings.Join(lines(r.Answer), "|"); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
	}
}

func TestOneQuestionForManyClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var n atomic.Int32
		u := &upstream{reply: func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
			n.Add(1)
			<-release
			return answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")(network, addr, m)
		}}
		s := newServer(t, testZone(), u, "192.0.2.53")
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if r := s.handle(t, query("a.test.", dns.TypeA), 0); len(r.Answer) != 1 {
					t.Error(r)
				}
			})
		}
		synctest.Wait()
		close(release)
		wg.Wait()
		if n.Load() != 1 {
			t.Errorf("the upstream was asked %d times", n.Load())
		}
	})
}

func TestLoopIsNoticed(t *testing.T) {
	u := &upstream{}
	s := newServer(t, testZone(), u, "192.0.2.53")
	u.reply = func(_, _ string, m *dns.Msg) (*dns.Msg, error) { return s.handle(t, m, 0), nil } // the upstream asks us
	s.probeLoop(t.Context())
	s.pending.Wait()
	if r := s.handle(t, query("a.test.", dns.TypeA), 0); r.Rcode != dns.RcodeServerFailure || u.count() != 0 {
		t.Errorf("%v after %d questions", r, u.count())
	}
	if r := s.handle(t, query("web.default.svc.cluster.local.", dns.TypeA), 0); len(r.Answer) != 1 {
		t.Error("the cluster's own names must go on")
	}
	s.SetUpstreams([]string{"192.0.2.54"})
	u.reply = answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")
	if r := s.handle(t, query("b.test.", dns.TypeA), 0); len(r.Answer) != 1 {
		t.Error("new upstreams must be tried")
	}
}

// Upstreams that come while the server runs are probed like those it starts with.
func TestLoopOfLaterUpstreamsIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &upstream{}
		s := newServer(t, testZone(), u)
		u.reply = func(_, _ string, m *dns.Msg) (*dns.Msg, error) { return s.handle(t, m, 0), nil }
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		synctest.Wait()
		s.SetUpstreams([]string{"192.0.2.53"})
		synctest.Wait()
		if !s.forward.looping.Load() {
			t.Error("not noticed")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
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

func FuzzQuery(f *testing.F) {
	for _, m := range []*dns.Msg{query("web.default.svc.cluster.local.", dns.TypeA), query(".", dns.TypeNS), query("_http._tcp.db.default.svc.cluster.local.", dns.TypeSRV).SetEdns0(512, true)} {
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Add([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})
	f.Add(append([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, []byte(strings.Repeat("\x3f"+strings.Repeat("a", 63), 5))...))
	u := &upstream{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
	s, err := New(Config{Zone: testZone(), Upstreams: []string{"192.0.2.53"}, exchange: u.exchange})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		var q question
		out := make([]byte, udpMost)
		answer, done := s.quick(&q, msg, out, 0, time.Now())
		if !done {
			answer = s.slow(t.Context(), &q, out, 0)
		}
		if answer == nil {
			return
		}
		if len(answer) > udpMost {
			t.Errorf("%d bytes by UDP", len(answer))
		}
		if err := new(dns.Msg).Unpack(answer); err != nil {
			t.Errorf("the answer to %x cannot be read: %v: %x", msg, err, answer)
		}
	})
}

func BenchmarkHandler(b *testing.B) {
	s, err := New(Config{Zone: manyServices(5000)})
	if err != nil {
		b.Fatal(err)
	}
	var wires [][]byte
	for i := range 1000 {
		m := query(fmt.Sprintf("svc-%d.default.svc.cluster.local.", i), dns.TypeA)
		wire, _ := m.SetEdns0(1232, false).Pack()
		wires = append(wires, wire)
	}
	out := make([]byte, udpMost)
	now := time.Now()
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		var q question
		if a, done := s.quick(&q, wires[i%len(wires)], out, 0, now); !done || a == nil {
			b.Fatal("no answer")
		}
		i++
	}
}

func BenchmarkHandlerUncached(b *testing.B) {
	s, err := New(Config{Zone: manyServices(5000), CacheSize: 16})
	if err != nil {
		b.Fatal(err)
	}
	var wires [][]byte
	for i := range 1000 {
		wire, _ := query(fmt.Sprintf("svc-%d.default.svc.cluster.local.", i), dns.TypeA).Pack()
		wires = append(wires, wire)
	}
	out := make([]byte, udpMost)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		var q question
		s.quick(&q, wires[i%len(wires)], out, 0, time.Now())
		i++
	}
}

// BenchmarkUDP measures queries and answers over a loopback socket; clients and server share the cores given by -cpu.
func BenchmarkUDP(b *testing.B) {
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Config{Zone: manyServices(5000), PacketConns: []net.PacketConn{pc}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	wire, _ := query("svc-7.default.svc.cluster.local.", dns.TypeA).Pack()
	const clients, window = 4, 32
	var wg sync.WaitGroup
	b.ResetTimer()
	per := b.N/clients + 1
	to := netip.MustParseAddrPort(pc.LocalAddr().String())
	for range clients {
		wg.Go(func() {
			c, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
			if err != nil {
				b.Error(err)
				return
			}
			defer func() { _ = c.Close() }()
			pipeline(b, c, wire, per, window)
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "queries/s")
	cancel()
	<-done
}

func pipeline(b *testing.B, c *net.UDPConn, wire []byte, n, window int) {
	buf := make([]byte, 1500)
	out := 0
	for got := 0; got < n; {
		for out-got < window && out < n {
			if _, err := c.Write(wire); err != nil {
				b.Error(err)
				return
			}
			out++
		}
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.Read(buf); err != nil {
			out = got // lost: send again
			continue
		}
		got++
	}
}
