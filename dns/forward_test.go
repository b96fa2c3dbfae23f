package dns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

func TestForwardingKeepsAnswersAndAgesThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &scripted{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
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
	u := &scripted{}
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
	u := &scripted{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
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
		u := &scripted{reply: func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
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

// text is an answer in one line.
func text(m *dns.Msg) string {
	return strings.TrimSpace(dns.RcodeToString[m.Rcode] + " " + strings.Join(lines(m.Answer), "|"))
}

// loops are questions that come back to s as long as back says so for the server asked.
func loops(t *testing.T, s **Server, back func(addr string) bool) func(string, string, *dns.Msg) (*dns.Msg, error) {
	return func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
		if back(addr) {
			return (*s).handle(t, m, 0), nil
		}
		return answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")(network, addr, m)
	}
}

// running is a server without sockets, which watches for loops, until the function that is returned is called.
func running(t *testing.T, s *Server) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	synctest.Wait()
	return func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestLoops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s *Server
		var logged strings.Builder
		back := atomic.Pointer[string]{}
		back.Store(new("192.0.2.53:53"))
		u := &scripted{reply: loops(t, &s, func(addr string) bool { return strings.Contains(*back.Load(), addr) })}
		var err error
		s, err = New(Config{Zone: testZone(), Forwarding: Forwarding{Upstreams: []string{"192.0.2.53", "192.0.2.54"}}, Logger: slog.New(slog.NewTextHandler(&logged, nil)), exchange: u.exchange})
		if err != nil {
			t.Fatal(err)
		}
		stop := running(t, s)
		defer stop()
		ask := func(name string) string { return text(s.handle(t, query(name, dns.TypeA), 0)) }
		// One of two asks us: the other is asked.
		if got := ask("a.test."); got != "NOERROR a.test. 60 IN A 192.0.2.1" || strings.Join(u.asked, " ") != "192.0.2.54:53/udp a.test." {
			t.Errorf("%s, asked %s", got, u.asked)
		}
		// Now both do, without anybody having been told. Questions that come back wait for themselves; then it is clear why.
		back.Store(new("192.0.2.53:53 192.0.2.54:53"))
		time.Sleep(probeAfter)
		synctest.Wait()
		if got := ask("b.test."); got != "SERVFAIL" {
			t.Error(got)
		}
		synctest.Wait()
		before := u.count()
		if got := ask("c.test."); got != "SERVFAIL" || u.count() != before {
			t.Errorf("%s after %d questions", got, u.count()-before)
		}
		if got := ask("web.default.svc.cluster.local."); got != "NOERROR web.default.svc.cluster.local. 5 IN A 10.254.0.9" {
			t.Error("the cluster's own names must go on")
		}
		if n := strings.Count(logged.String(), "DNS goes in a circle:"); n != 2 || !strings.Contains(logged.String(), "upstream=192.0.2.54:53") {
			t.Errorf("%d lines:\n%s", n, &logged)
		}
		// It is noticed when it is over, and what is new is tried at once.
		back.Store(new(""))
		time.Sleep(2 * probeAfter)
		synctest.Wait()
		if got := ask("d.test."); !strings.HasPrefix(got, "NOERROR") || strings.Count(logged.String(), "circle no more") != 2 {
			t.Errorf("%s\n%s", got, &logged)
		}
		back.Store(new("192.0.2.55:53"))
		s.SetForwarding(Forwarding{Upstreams: []string{"192.0.2.55"}})
		synctest.Wait()
		if got := ask("e.test."); got != "SERVFAIL" {
			t.Error(got)
		}
	})
}

func TestStubDomains(t *testing.T) {
	u := &scripted{}
	u.reply = func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
		return answerWith(dns.RcodeSuccess, "@ 60 IN A "+strings.TrimSuffix(addr, ":53"))(network, addr, m)
	}
	s := newServer(t, testZone(), u, "192.0.2.1")
	s.SetForwarding(Forwarding{Upstreams: []string{"192.0.2.1"}, Stubs: map[string][]string{
		"corp.example": {"192.0.2.2"}, "Lab.corp.example.": {"192.0.2.3"}, "nobody.example": nil, "svc.cluster.local": {"192.0.2.4"},
	}})
	for name, want := range map[string]string{
		"www.example.":                   "192.0.2.1",
		"corp.example.":                  "192.0.2.2",
		"WWW.Corp.Example.":              "192.0.2.2",
		"xcorp.example.":                 "192.0.2.1",
		"a.b.lab.corp.example.":          "192.0.2.3",
		"x.nobody.example.":              "",
		"web.default.svc.cluster.local.": "10.254.0.9", // the cluster's own names are nobody else's
	} {
		r := s.handle(t, query(name, dns.TypeA), 0)
		if got := text(r); want == "" && got != "SERVFAIL" || want != "" && !strings.HasSuffix(got, " A "+want) {
			t.Errorf("%s: %s", name, got)
		}
	}
	// What the old server said is not repeated.
	s.SetForwarding(Forwarding{Upstreams: []string{"192.0.2.9"}})
	if got := text(s.handle(t, query("www.example.", dns.TypeA), 0)); !strings.HasSuffix(got, "192.0.2.9") {
		t.Error(got)
	}
}

// A server that is silent costs one question a moment, and then nobody; it is asked first again when it is back.
func TestSilentServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var silent atomic.Bool
		silent.Store(true)
		u := &scripted{}
		u.reply = func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
			if addr == "192.0.2.1:53" && silent.Load() {
				time.Sleep(tryTimeout)
				return nil, errors.New("i/o timeout")
			}
			return answerWith(dns.RcodeSuccess, "@ 60 IN A "+strings.TrimSuffix(addr, ":53"))(network, addr, m)
		}
		s := newServer(t, testZone(), u, "192.0.2.1", "192.0.2.2")
		ask := func(name, want string, took time.Duration) {
			t.Helper()
			began := time.Now()
			if got := text(s.handle(t, query(name, dns.TypeA), 0)); !strings.HasSuffix(got, want) || time.Since(began) != took {
				t.Errorf("%s: %s after %s, want %s after %s", name, got, time.Since(began), want, took)
			}
		}
		ask("a.test.", "192.0.2.2", hedgeAfter)
		time.Sleep(tryTimeout - hedgeAfter + time.Millisecond) // so long it may be only slow
		ask("b.test.", "192.0.2.2", 0)
		time.Sleep(retryAfter)
		ask("c.test.", "192.0.2.2", hedgeAfter)
		ask("d.test.", "192.0.2.2", 0)
		silent.Store(false)
		time.Sleep(tryTimeout + retryAfter)
		ask("e.test.", "192.0.2.1", 0)
		ask("f.test.", "192.0.2.1", 0)
		// With one server, a datagram that is lost is sent again before the client gives up.
		s.SetForwarding(Forwarding{Upstreams: []string{"192.0.2.1"}})
		silent.Store(true)
		time.AfterFunc(hedgeAfter/2, func() { silent.Store(false) })
		ask("g.test.", "192.0.2.1", hedgeAfter)
		silent.Store(true)
		ask("h.test.", "SERVFAIL", hedgeAfter+tryTimeout)
		// Of many, as many are asked as a client has patience for; then it may be a loop.
		silentToo := []string{"192.0.2.1", "192.0.2.1:54", "192.0.2.1:55", "192.0.2.1:56", "192.0.2.1:57"}
		u.replies(func(string, string, *dns.Msg) (*dns.Msg, error) {
			time.Sleep(tryTimeout)
			return nil, errors.New("i/o timeout")
		})
		s.SetForwarding(Forwarding{Upstreams: silentToo})
		for len(s.forward.suspect) > 0 {
			<-s.forward.suspect
		}
		ask("i.test.", "SERVFAIL", askTimeout)
		if len(s.forward.suspect) != 1 {
			t.Error("nobody suspects a loop")
		}
		time.Sleep(tryTimeout)
	})
}

// The first server stays the first when it is slow for one name, or a datagram gets lost: others may not know all its names.
func TestSlowServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := &scripted{}
		u.reply = func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
			if addr == "192.0.2.1:53" {
				switch m.Question[0].Name {
				case "slow.test.":
					time.Sleep(2 * hedgeAfter)
				case "lost.test.":
					time.Sleep(tryTimeout)
					return nil, errors.New("i/o timeout")
				case "hopeless.test.":
					time.Sleep(2 * hedgeAfter)
					return answerWith(dns.RcodeServerFailure)(network, addr, m)
				}
			}
			return answerWith(dns.RcodeSuccess, "@ 60 IN A "+strings.TrimSuffix(addr, ":53"))(network, addr, m)
		}
		s := newServer(t, testZone(), u, "192.0.2.1", "192.0.2.2")
		expect := func(name, want string) {
			t.Helper()
			if got := text(s.handle(t, query(name, dns.TypeA), 0)); !strings.HasSuffix(got, want) {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
		expect("slow.test.", "192.0.2.2")
		time.Sleep(tryTimeout)
		expect("a.test.", "192.0.2.1")
		expect("lost.test.", "192.0.2.2")
		expect("b.test.", "192.0.2.1")
		time.Sleep(tryTimeout)
		expect("c.test.", "192.0.2.1")
		expect("hopeless.test.", "192.0.2.2")
		time.Sleep(tryTimeout)
		expect("d.test.", "192.0.2.2")
	})
}

// What began in the zone is not given any more once the zone has changed, whatever its TTL; an upstream's word counts on.
func TestExternalNameChanges(t *testing.T) {
	u := &scripted{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
	z := testZone()
	s := newServer(t, z, u, "192.0.2.53")
	ask := func(name string, qtype uint16) string { return text(s.handle(t, query(name, qtype), 0)) }
	const name = "ext.default.svc.cluster.local."
	want := "NOERROR " + name + " 5 IN CNAME www.example.com.|www.example.com. 60 IN A 192.0.2.1"
	if got := ask(name, dns.TypeA); got != want {
		t.Error(got)
	}
	ask("www.test.", dns.TypeA)
	ask(name, dns.TypeA)
	if u.count() != 2 {
		t.Errorf("%d questions for two names", u.count())
	}
	z.SetService(service("ext", "", externalName("other.example.com")))
	if got := ask(name, dns.TypeA); got != strings.ReplaceAll(want, "www.", "other.") {
		t.Error(got)
	}
	z.SetService(service("ext", "10.254.0.77"))
	if got := ask(name, dns.TypeA); got != "NOERROR "+name+" 5 IN A 10.254.0.77" {
		t.Error(got)
	}
	ask("www.test.", dns.TypeA)
	if u.count() != 3 {
		t.Errorf("%d questions for three names", u.count())
	}
	// A target that is not there, or has no such record: said with the alias (RFC 6604), kept as long as a negative answer is.
	z.SetService(service("ext", "", externalName("gone.example.com")))
	u.reply = answerWith(dns.RcodeNameError, "example.com. 600 IN SOA ns.test. admin.test. 1 2 3 4 10")
	if got := ask(name, dns.TypeAAAA); got != "NXDOMAIN "+name+" 5 IN CNAME gone.example.com." {
		t.Error(got)
	}
	if got := ask(name, dns.TypeCNAME); got != "NOERROR "+name+" 5 IN CNAME gone.example.com." {
		t.Error(got)
	}
}

// An answer that is too large for a datagram, and cannot be had by TCP, is said to be cut.
func TestTruncatedUpstream(t *testing.T) {
	u := &scripted{}
	u.reply = func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
		if network == "tcp" {
			return nil, errors.New("connection refused")
		}
		r, err := answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")(network, addr, m)
		r.Truncated = true
		return r, err
	}
	s := newServer(t, testZone(), u, "192.0.2.53")
	for range 2 {
		if r := s.handle(t, query("a.test.", dns.TypeA), 0); !r.Truncated || len(r.Answer) != 1 {
			t.Error(r)
		}
	}
}

func TestNegativeAnswersAreKeptAsTheySay(t *testing.T) {
	const soa = "test. 600 IN SOA ns.test. admin.test. 1 2 3 4 %d"
	for _, c := range []struct {
		rcode   int
		records []string
		qtype   uint16
		want    time.Duration
	}{
		{dns.RcodeNameError, []string{fmt.Sprintf(soa, 10)}, dns.TypeA, 10 * time.Second},
		{dns.RcodeSuccess, []string{fmt.Sprintf(soa, 10)}, dns.TypeA, 10 * time.Second},
		{dns.RcodeSuccess, []string{fmt.Sprintf(soa, 9000)}, dns.TypeA, negativeMost},
		{dns.RcodeSuccess, nil, dns.TypeA, failureKeep},
		{dns.RcodeServerFailure, nil, dns.TypeA, failureKeep},
		{dns.RcodeSuccess, []string{"@ 60 IN CNAME b.test.", fmt.Sprintf(soa, 10)}, dns.TypeA, 10 * time.Second},
		{dns.RcodeSuccess, []string{"@ 60 IN CNAME b.test."}, dns.TypeCNAME, time.Minute},
		{dns.RcodeSuccess, []string{"@ 0 IN A 192.0.2.1"}, dns.TypeA, 0},
		{dns.RcodeSuccess, []string{"@ 900000 IN A 192.0.2.1"}, dns.TypeA, positiveMost},
	} {
		m, err := answerWith(c.rcode, c.records...)("", "", query("a.test.", c.qtype))
		if err != nil {
			t.Fatal(err)
		}
		if got := keepFor(m, c.qtype); got != c.want {
			t.Errorf("%v: %s, want %s", c.records, got, c.want)
		}
	}
}

// What the servers said that are not asked any more is neither waited for nor kept, though it comes after the change.
func TestAnswersThatComeAfterAChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		u := &scripted{reply: func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
			if addr == "192.0.2.1:53" {
				<-release
			}
			return answerWith(dns.RcodeSuccess, "@ 60 IN A "+strings.TrimSuffix(addr, ":53"))(network, addr, m)
		}}
		s := newServer(t, testZone(), u, "192.0.2.1")
		expect := func(want string) {
			t.Helper()
			if got := text(s.handle(t, query("a.test.", dns.TypeA), 0)); !strings.HasSuffix(got, want) {
				t.Errorf("%s, want %s", got, want)
			}
		}
		var before sync.WaitGroup
		before.Go(func() { expect("192.0.2.1") })
		synctest.Wait()
		s.SetForwarding(Forwarding{Upstreams: []string{"192.0.2.2"}})
		began := time.Now()
		expect("192.0.2.2")
		if d := time.Since(began); d > 0 {
			t.Errorf("the answer took %s", d)
		}
		close(release)
		before.Wait()
		expect("192.0.2.2")
	})
}

// Servers that do not know EDNS say so in several ways, and are asked without it.
func TestServersWithoutEDNS(t *testing.T) {
	for name, refusal := range map[string]func(m *dns.Msg) *dns.Msg{
		"FORMERR":                    func(m *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(m, dns.RcodeFormatError) },
		"FORMERR without a question": func(m *dns.Msg) *dns.Msg { r := new(dns.Msg).SetRcodeFormatError(m); r.Question = nil; return r },
		"NOTIMP":                     func(m *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(m, dns.RcodeNotImplemented) },
		"BADVERS":                    func(m *dns.Msg) *dns.Msg { return new(dns.Msg).SetRcode(m, dns.RcodeBadVers) },
	} {
		u := &scripted{reply: func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
			if m.IsEdns0() != nil || m.Question[0].Name == "never.test." {
				return refusal(m), nil
			}
			return answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")(network, addr, m)
		}}
		s := newServer(t, testZone(), u, "192.0.2.53")
		if got := text(s.handle(t, query("a.test.", dns.TypeA), 0)); got != "NOERROR a.test. 60 IN A 192.0.2.1" {
			t.Errorf("%s: %s", name, got)
		}
		if got := text(s.handle(t, query("never.test.", dns.TypeA), 0)); got == "NOERROR" {
			t.Errorf("%s: became %s", name, got)
		}
	}
}

// A server that ends does not wait for the answers of others.
func TestEndWithSilentServers(t *testing.T) {
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Zone: testZone(), PacketConns: []net.PacketConn{pc}, Forwarding: Forwarding{Upstreams: []string{silent.LocalAddr().String()}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	wire, err := query("a.test.", dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := silent.WriteTo(wire, pc.LocalAddr()); err != nil {
		t.Fatal(err)
	}
	for asked := map[bool]bool{}; len(asked) < 2; { // a client's question and the probe
		b := make([]byte, 512)
		if _, _, err := silent.ReadFrom(b); err != nil {
			t.Fatal(err)
		}
		asked[bytes.Contains(b, []byte("loop-probe"))] = true
	}
	began := time.Now()
	cancel()
	if err := <-done; err != nil || time.Since(began) > tryTimeout/2 {
		t.Errorf("%v after %s", err, time.Since(began))
	}
}

// The name servers that somebody adds to an answer are not worth asking again by TCP.
func TestAuthorityThatDoesNotFit(t *testing.T) {
	u := &scripted{reply: func(_, _ string, m *dns.Msg) (*dns.Msg, error) {
		r, err := answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")("", "", m)
		for i := range 30 {
			ns, _ := dns.NewRR(fmt.Sprintf("test. 60 IN NS ns%d.%s.test.", i, strings.Repeat("x", 20+i)))
			r.Ns = append(r.Ns, ns)
		}
		return r, err
	}}
	s := newServer(t, testZone(), u, "192.0.2.53")
	if r := s.handle(t, query("a.test.", dns.TypeA), 0); r.Truncated || len(r.Answer) != 1 || len(r.Ns) != 0 {
		t.Error(r)
	}
	if r := s.handle(t, query("a.test.", dns.TypeA), dns.MaxMsgSize); r.Truncated || len(r.Ns) != 30 {
		t.Error(r)
	}
}
