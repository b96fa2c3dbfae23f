package dns

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// dialed is a connection to s without sockets. served is closed when s has done with it.
func dialed(t *testing.T, s *Server) (c *dns.Conn, served chan struct{}) {
	ours, theirs := net.Pipe()
	served = make(chan struct{})
	go func() {
		defer close(served)
		defer func() { _ = theirs.Close() }()
		s.serveConn(t.Context(), theirs)
	}()
	return &dns.Conn{Conn: ours}, served
}

// Questions that others have to be asked for do not hold up those behind them.
func TestPipelinedQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		u := &scripted{reply: func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
			<-release
			return answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")(network, addr, m)
		}}
		z := testZone()
		big(z, 1000)
		s := newServer(t, z, u, "192.0.2.53")
		c, served := dialed(t, s)
		var got []string
		read := func() {
			r, err := c.ReadMsg()
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprint(r.Id, " ", r.Question[0].Name, " ", len(r.Answer)))
		}
		for i, name := range []string{"slow.test.", "web.default.svc.cluster.local.", "big.default.svc.cluster.local."} {
			m := query(name, dns.TypeA)
			m.Id = uint16(i)
			if err := c.WriteMsg(m); err != nil {
				t.Fatal(err)
			}
			if i > 0 {
				read()
			}
		}
		close(release)
		read()
		if want := "1 web.default.svc.cluster.local. 1, 2 big.default.svc.cluster.local. 1000, 0 slow.test. 1"; strings.Join(got, ", ") != want {
			t.Errorf("answered %s, want %s", strings.Join(got, ", "), want)
		}
		// Who is silent is sent away.
		began := time.Now()
		<-served
		if time.Since(began) != tcpIdle {
			t.Errorf("silent for %s", time.Since(began))
		}
	})
}

// When too many questions are out, the next is refused at once, and the cluster's own names go on.
func TestTooManyQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		u := &scripted{reply: func(network, addr string, m *dns.Msg) (*dns.Msg, error) {
			<-release
			return answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")(network, addr, m)
		}}
		s := newServer(t, testZone(), u, "192.0.2.53")
		var out sync.WaitGroup
		var answered atomic.Int32
		for i := range inFlight {
			wire, err := query(fmt.Sprintf("n%d.test.", i), dns.TypeA).Pack()
			if err != nil {
				t.Fatal(err)
			}
			out.Go(func() {
				var q question
				q.parse(wire)
				if len(s.slowly(t.Context(), &q, make([]byte, udpMost), 0)) > len(wire) {
					answered.Add(1)
				}
			})
		}
		synctest.Wait()
		c, served := dialed(t, s)
		for name, want := range map[string]string{"more.test.": "SERVFAIL", "web.default.svc.cluster.local.": "NOERROR web.default.svc.cluster.local. 5 IN A 10.254.0.9"} {
			if err := c.WriteMsg(query(name, dns.TypeA)); err != nil {
				t.Fatal(err)
			}
			if r, err := c.ReadMsg(); err != nil || text(r) != want {
				t.Errorf("%s: %v %v", name, r, err)
			}
		}
		close(release)
		out.Wait()
		if answered.Load() != inFlight {
			t.Errorf("%d of %d answered", answered.Load(), inFlight)
		}
		_ = c.Close()
		<-served
	})
}

func TestBadStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, testZone(), &scripted{})
		for name, sent := range map[string][]byte{
			"more than a question": {0xff, 0xff}, "less than a header": {0, 3, 1, 2, 3}, "nothing": {0, 0},
			"an answer": append([]byte{0, 12, 0, 1, 0x80}, make([]byte, 9)...),
		} {
			c, served := dialed(t, s)
			go func() { _, _ = c.Conn.Write(sent) }()
			<-served
			if n, err := c.Conn.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("%s: %d %v", name, n, err)
			}
		}
		// A long question is a question still.
		m := query("web.default.svc.cluster.local.", dns.TypeA).SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_PADDING{Padding: make([]byte, 2000)})
		c, served := dialed(t, s)
		defer func() { _ = c.Close(); <-served }()
		if err := c.WriteMsg(m); err != nil {
			t.Fatal(err)
		}
		if r, err := c.ReadMsg(); err != nil || len(r.Answer) != 1 {
			t.Error(r, err)
		}
	})
}

// More connections than there are places are closed at once; places come free again.
func TestConnectionLimit(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(t, testZone(), &scripted{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.serveTCP(ctx, l) }()
	ask := func(c net.Conn) error {
		wire, err := query("web.default.svc.cluster.local.", dns.TypeA).Pack()
		if err != nil {
			return err
		}
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
			return err
		}
		_, err = io.ReadFull(c, make([]byte, 2+len(wire)))
		return err
	}
	var held []net.Conn
	for range tcpConns {
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if err := ask(c); err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	more, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = more.Close() }()
	if err := ask(more); err == nil {
		t.Error("one connection too many is served")
	}
	if err := ask(held[0]); err != nil {
		t.Errorf("those that have a place: %v", err)
	}
	cancel()
	_ = l.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	s.pending.Wait()
}
