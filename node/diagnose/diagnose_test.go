package diagnose

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/whalepod/whalepod/node/diagnose/doctor"
)

func TestScope(t *testing.T) {
	s := Scope{
		Pods: netip.MustParsePrefix("10.244.0.0/16"), Services: netip.MustParsePrefix("10.254.0.0/16"),
		Nodes: []netip.Addr{netip.MustParseAddr("198.51.100.11")}, Extra: []netip.AddrPort{netip.MustParseAddrPort("203.0.113.5:80")},
	}
	for text, want := range map[string]bool{
		"10.244.1.5:22": true, "10.254.0.1:443": true, "198.51.100.11:30080": true, "203.0.113.5:80": true, "[::ffff:10.244.1.5]:80": true,
		"198.51.100.11:22": false, "198.51.100.12:30080": false, "203.0.113.5:22": false, "127.0.0.1:30080": false, "169.254.169.254:80": false,
		"192.0.2.1:80": false, "[::1]:80": false, "0.0.0.0:30080": false, "224.0.0.1:80": false,
	} {
		if got := s.Allows(netip.MustParseAddrPort(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if (Scope{}).Allows(netip.MustParseAddrPort("10.244.1.5:80")) {
		t.Error("a node that knows no cluster dials")
	}
}

func TestValidate(t *testing.T) {
	at := netip.MustParseAddrPort("10.244.1.5:80")
	for want, q := range map[string]Question{
		"":                                    {Names: []string{"web", "web.default.svc.cluster.local."}, Dial: []Target{{"TCP", at}, {"UDP", at}}},
		`cannot dial protocol "SCTP"`:         {Dial: []Target{{"SCTP", at}}},
		"an address to dial is missing":       {Dial: []Target{{Protocol: "TCP"}}},
		`not a name: ""`:                      {Names: []string{""}},
		`not a name: "a b"`:                   {Names: []string{"a b"}},
		`not a name: "a..b"`:                  {Names: []string{"a..b"}},
		"257 addresses, and 256 are the most": {Drops: make([]netip.Addr, 257)},
		"300 pods, and 256 are the most":      {Sockets: make([]Pod, 300)},
	} {
		err := q.Validate()
		if (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if (&Question{Names: []string{strings.Repeat("a", 300)}}).Validate() == nil {
		t.Error("a name of 300 letters is taken")
	}
}

func TestCandidates(t *testing.T) {
	r := ParseResolver([]byte("# a\nsearch default.svc.cluster.local svc.cluster.local\nnameserver 10.254.254.1\nnameserver bad\noptions ndots:5 rotate\n"))
	if len(r.Servers) != 1 || r.NDots != 5 {
		t.Errorf("%+v", r)
	}
	for name, want := range map[string]string{
		"web":          "web.default.svc.cluster.local. web.svc.cluster.local. web.",
		"web.prod":     "web.prod.default.svc.cluster.local. web.prod.svc.cluster.local. web.prod.",
		"a.b.c.d.e.f":  "a.b.c.d.e.f. a.b.c.d.e.f.default.svc.cluster.local. a.b.c.d.e.f.svc.cluster.local.",
		"example.org.": "example.org.",
	} {
		if got := strings.Join(r.Candidates(name), " "); got != want {
			t.Errorf("%s: %s", name, got)
		}
	}
}

// server answers DNS questions from a table: full name → address, "" for NODATA, "fail" for SERVFAIL; all else is NXDOMAIN.
func server(zone map[string]string) exchange {
	return func(_ context.Context, at netip.AddrPort, query []byte) ([]byte, error) {
		if at.Addr().String() == "10.0.0.1" {
			return nil, errors.New("i/o timeout")
		}
		var m dnsmessage.Message
		if err := m.Unpack(query); err != nil {
			return nil, err
		}
		m.Response = true
		name := m.Questions[0].Name
		switch v, ok := zone[name.String()]; {
		case !ok:
			m.RCode = dnsmessage.RCodeNameError
		case v == "fail":
			m.RCode = dnsmessage.RCodeServerFailure
		case strings.HasSuffix(v, "."):
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: name, Type: dnsmessage.TypeCNAME, Class: dnsmessage.ClassINET}, Body: &dnsmessage.CNAMEResource{CNAME: dnsmessage.MustNewName(v)}}}
		case v != "":
			m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}, Body: &dnsmessage.AResource{A: netip.MustParseAddr(v).As4()}}}
		}
		return m.Pack()
	}
}

func TestAsk(t *testing.T) {
	zone := map[string]string{"web.default.svc.cluster.local.": "10.254.0.9", "broken.default.svc.cluster.local.": "fail", "broken.": "192.0.2.1", "other.svc.cluster.local.": "other.example.org."}
	good := netip.MustParseAddr("10.254.254.1")
	for name, c := range map[string]struct {
		servers []netip.Addr
		want    string
	}{
		"web":     {[]netip.Addr{good}, "web.default.svc.cluster.local. NOERROR [10.254.0.9]  "},
		"other":   {[]netip.Addr{good}, "other.svc.cluster.local. NOERROR [] other.example.org. "},
		"nothing": {[]netip.Addr{good}, "nothing. NXDOMAIN []  "},
		"broken":  {[]netip.Addr{good}, "broken.default.svc.cluster.local. SERVFAIL []  "}, // another candidate would be another name
		"web.":    {[]netip.Addr{netip.MustParseAddr("10.0.0.1")}, "web.  []  i/o timeout"},
		"alone":   {nil, "  []  resolv.conf names no server"},
	} {
		r := Resolver{Servers: c.servers, Search: []string{"default.svc.cluster.local", "svc.cluster.local."}, NDots: 5}
		n := ask(t.Context(), r, name, server(zone))
		if got := fmt.Sprintf("%s %s %v %s %s", n.Full, n.RCode, n.Addresses, n.CNAME, n.Error); got != c.want {
			t.Errorf("%s: %q", name, got)
		}
	}
	// The second server answers where the first is silent.
	r := Resolver{Servers: []netip.Addr{netip.MustParseAddr("10.0.0.1"), good}, Search: []string{"default.svc.cluster.local"}, NDots: 5}
	if n := ask(t.Context(), r, "web", server(zone)); n.Server != good.String() || n.Error != "" || len(n.Addresses) != 1 {
		t.Errorf("%+v", n)
	}
}

func FuzzAnswer(f *testing.F) {
	query, id, err := question("web.default.svc.cluster.local.")
	if err != nil {
		f.Fatal(err)
	}
	reply, _ := server(map[string]string{"web.default.svc.cluster.local.": "10.254.0.9"})(context.Background(), netip.AddrPort{}, query)
	f.Add(reply, id)
	f.Add([]byte{}, uint16(0))
	f.Fuzz(func(_ *testing.T, reply []byte, id uint16) { _ = new(Name).read(reply, id) })
}

func TestClassify(t *testing.T) {
	for want, err := range map[string]error{
		Refused: syscall.ECONNREFUSED, Unreachable: syscall.EHOSTUNREACH, Forbidden: syscall.EPERM, TimedOut: context.DeadlineExceeded, Failed: errors.New("x"),
	} {
		if got := classify(&net.OpError{Op: "dial", Err: err}); got != want {
			t.Errorf("%v: %s, want %s", err, got, want)
		}
	}
}

// stub is a node that is asked.
type stub struct {
	refuse, hang netip.AddrPort
	looks        *int // at sockets
}

func (stub) Name() string { return "n1" }
func (stub) Scope(service string) Scope {
	s := Scope{Pods: netip.MustParsePrefix("10.244.0.0/16")}
	if service == "default/web" {
		s.Extra = []netip.AddrPort{netip.MustParseAddrPort("203.0.113.5:80")}
	}
	return s
}

func (s stub) Dial(ctx context.Context, from *Pod, network string, to netip.AddrPort) (net.Conn, error) {
	switch {
	case from != nil && from.Name == "gone":
		return nil, ErrNoPod(*from)
	case to == s.refuse:
		return nil, syscall.ECONNREFUSED
	case to == s.hang:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	here, there := net.Pipe()
	go func() {
		buf := make([]byte, 2000)
		for {
			if _, err := there.Read(buf); err != nil {
				there.Close()
				return
			}
		}
	}()
	return here, nil
}

func (stub) Ping(_ context.Context, from *Pod, to netip.Addr) (Pinged, error) {
	if from != nil {
		return Pinged{}, ErrNoPod(*from)
	}
	return Pinged{Address: to, Small: true, Size: 1500}, nil
}

func (stub) Resolver(*Pod) (Resolver, error) { return Resolver{}, errors.New("no resolv.conf") }
func (stub) Via(netip.Addr) string           { return "wp0" }
func (stub) Rules(context.Context, string) (*Rules, error) {
	return &Rules{Known: true}, nil
}

func (s stub) Sockets(p Pod) ([]Socket, error) {
	if p.Name == "gone" {
		return nil, ErrNoPod(p)
	}
	switch *s.looks++; p.Name {
	case "hangs":
		return []Socket{{Protocol: "TCP", Address: netip.MustParseAddrPort("[::]:80"), Waiting: 2 + *s.looks}}, nil
	case "busy": // at the first look
		return []Socket{{Protocol: "TCP", Address: netip.MustParseAddrPort("[::]:80"), Waiting: max(0, 4-*s.looks)}}, nil
	}
	return []Socket{{Protocol: "TCP", Address: netip.MustParseAddrPort("[::]:80")}}, nil
}

func (stub) Drops(_ context.Context, addrs []netip.Addr) ([]string, error) {
	return []string{"-A FORWARD -d " + addrs[0].String() + "/32 -j DROP"}, nil
}

func (stub) Health(context.Context) []doctor.Finding {
	return []doctor.Finding{{Check: "x", State: doctor.OK, What: "fine"}}
}

func post(t *testing.T, n Node, path string, body any) *httptest.ResponseRecorder {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	NewHandler(n).ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodPost, path, bytes.NewReader(data)))
	return w
}

func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := netip.MustParseAddrPort
		n := stub{refuse: at("10.244.1.6:80"), hang: at("10.244.1.7:80"), looks: new(int)}
		w := post(t, n, TracePath, Question{
			Service: "default/web", Rules: true, Names: []string{"web"}, Sockets: []Pod{{"default", "web", ""}, {"default", "gone", ""}, {"default", "hangs", ""}, {"default", "busy", ""}},
			Dial:  []Target{{"TCP", at("10.244.1.5:80")}, {"TCP", n.refuse}, {"TCP", n.hang}, {"TCP", at("203.0.113.5:80")}, {"TCP", at("192.0.2.1:80")}, {"UDP", at("10.244.1.5:53")}},
			Drops: []netip.Addr{netip.MustParseAddr("10.244.1.5")},
			Pings: []netip.Addr{netip.MustParseAddr("10.244.1.5"), netip.MustParseAddr("192.0.2.1")},
		})
		var a Answer
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil || w.Code != http.StatusOK {
			t.Fatal(w.Code, err, w.Body)
		}
		var results []string
		for _, d := range a.Dials {
			results = append(results, d.Result)
		}
		if want := []string{Answered, Refused, TimedOut, Answered, NotAllowed, Silent}; !slices.Equal(results, want) {
			t.Errorf("%v, want %v", results, want)
		}
		if a.Node != "n1" || a.Rules == nil || !a.Rules.Known || a.Errors["names"] != "no resolv.conf" || len(a.Drops) != 1 || a.Dials[0].Via != "wp0" {
			t.Errorf("%+v", a)
		}
		if len(a.Pings) != 2 || !a.Pings[0].Small || a.Pings[0].Size != 1500 || a.Pings[1].Small {
			t.Errorf("%+v", a.Pings)
		}
		if len(a.Sockets) != 4 || len(a.Sockets[0].Listening) != 1 || a.Sockets[1].Error != "pod default/gone does not run on this node" {
			t.Errorf("%+v", a.Sockets)
		}
		if a.Sockets[0].Listening[0].Waiting != 0 || a.Sockets[2].Listening[0].Waiting != 4 || a.Sockets[3].Listening[0].Waiting != 0 {
			t.Errorf("who hangs: %+v", a.Sockets)
		}
		w = post(t, n, DoctorPath, Exam{})
		var h Health
		if err := json.Unmarshal(w.Body.Bytes(), &h); err != nil || h.Node != "n1" || len(h.Findings) != 1 || h.Time.IsZero() {
			t.Error(err, w.Body)
		}
	})
}

// slow takes its time over an examination.
type slow struct {
	stub
	examined *int
}

func (s slow) Health(ctx context.Context) []doctor.Finding {
	*s.examined++
	<-ctx.Done()
	return nil
}

// Who waits for an examination, and goes, is not examined for.
func TestOneExaminationAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := slow{examined: new(int)}
		h := NewHandler(n)
		ask := func(ctx context.Context) {
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, http.MethodPost, DoctorPath, strings.NewReader("{}")))
		}
		began := time.Now()
		go ask(t.Context())
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		ask(ctx)
		if took := time.Since(began); took != time.Second || *n.examined != 1 {
			t.Errorf("%d examinations, after %v", *n.examined, took)
		}
		ask(t.Context())
		if took := time.Since(began); took != 2*doctor.Within || *n.examined != 2 {
			t.Errorf("%d examinations, after %v", *n.examined, took)
		}
	})
}

func TestHandlerRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		method, path, body string
		code               int
	}{
		"not JSON":        {http.MethodPost, TracePath, "{", http.StatusBadRequest},
		"another type":    {http.MethodPost, TracePath, `{"names": 3}`, http.StatusBadRequest},
		"bad address":     {http.MethodPost, TracePath, `{"dial": [{"protocol": "TCP", "address": "localhost:22"}]}`, http.StatusBadRequest},
		"bad name":        {http.MethodPost, TracePath, `{"names": ["a b"]}`, http.StatusBadRequest},
		"too large":       {http.MethodPost, TracePath, `{"service": "` + strings.Repeat("a", MaxBody) + `"}`, http.StatusBadRequest},
		"GET":             {http.MethodGet, TracePath, "", http.StatusMethodNotAllowed},
		"another version": {http.MethodPost, "/diagnose/v9/trace", "{}", http.StatusNotFound},
		"unknown fields":  {http.MethodPost, TracePath, `{"later": true}`, http.StatusOK},
	} {
		w := httptest.NewRecorder()
		NewHandler(stub{}).ServeHTTP(w, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
		if w.Code != c.code {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
}

func TestCovers(t *testing.T) {
	to := netip.MustParseAddrPort("10.244.1.5:80")
	for text, want := range map[string]bool{"0.0.0.0:80": true, "[::]:80": true, "10.244.1.5:80": true, "127.0.0.1:80": false, "0.0.0.0:81": false, "[::1]:80": false} {
		if got := (Socket{Protocol: "TCP", Address: netip.MustParseAddrPort(text)}).Covers("TCP", to); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if (Socket{Protocol: "UDP", Address: netip.MustParseAddrPort("0.0.0.0:80")}).Covers("TCP", to) {
		t.Error("UDP is not TCP")
	}
}

// Sockets on loopback are real.
func TestDialForReal(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dial := func(ctx context.Context, network string, to netip.AddrPort) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, to.String())
	}
	open := netip.MustParseAddrPort(l.Addr().String())
	if d := try(t.Context(), dial, Target{"TCP", open}); d.Result != Answered || d.Error != "" {
		t.Errorf("%+v", d)
	}
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := netip.MustParseAddrPort(u.LocalAddr().String())
	if d := try(t.Context(), dial, Target{"UDP", silent}); d.Result != Silent {
		t.Errorf("%+v", d)
	}
	u.Close()
	l.Close()
	for _, target := range []Target{{"TCP", open}, {"UDP", silent}} {
		if d := try(t.Context(), dial, target); d.Result != Refused || d.OK() {
			t.Errorf("%+v", d)
		}
	}
}
