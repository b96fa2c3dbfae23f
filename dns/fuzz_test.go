package dns

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzAnswer: whatever comes, by UDP or TCP, the answer can be read, is to the question, and is no larger than the client takes.
func FuzzAnswer(f *testing.F) {
	ask := func(m *dns.Msg) {
		wire, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, true)
		f.Add(wire, false)
	}
	ask(query("web.default.svc.cluster.local.", dns.TypeA))
	ask(query(".", dns.TypeNS))
	ask(query("_http._tcp.db.default.svc.cluster.local.", dns.TypeSRV).SetEdns0(512, true))
	ask(query("big.default.svc.cluster.local.", dns.TypeANY).SetEdns0(1000, false))
	ask(query("ext.default.svc.cluster.local.", dns.TypeAAAA).SetEdns0(65535, true))
	ask(query("5.1.244.10.in-addr.arpa.", dns.TypePTR))
	ask(query("0.8.b.d.0.1.0.0.2.ip6.arpa.", dns.TypeSOA))
	for _, raw := range [][]byte{
		{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1},
		append([]byte{0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0}, []byte(strings.Repeat("\x3f"+strings.Repeat("a", 63), 5))...),
		{0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1},
	} {
		f.Add(raw, true)
	}
	u := &scripted{reply: answerWith(dns.RcodeSuccess, "@ 60 IN A 192.0.2.1")}
	z := testZone()
	big(z, 300)
	s, err := New(Config{Zone: z, Forwarding: Forwarding{Upstreams: []string{"192.0.2.53"}}, exchange: u.exchange})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, msg []byte, udp bool) {
		var q question
		limit := dns.MaxMsgSize
		if udp {
			limit = 0
		}
		answer, done := s.quick(&q, msg, make([]byte, udpMost), limit, time.Now())
		if !done {
			answer = s.slow(t.Context(), &q, make([]byte, udpMost), limit)
		}
		if answer == nil {
			if len(msg) >= headerLen && msg[2]&0x80 == 0 {
				t.Error("a question without an answer")
			}
			return
		}
		r := new(dns.Msg)
		if err := r.Unpack(answer); err != nil {
			t.Fatalf("the answer to %x cannot be read: %v: %x", msg, err, answer)
		}
		if !r.Response || r.Id != binary.BigEndian.Uint16(msg) {
			t.Errorf("not an answer: %v", r)
		}
		asked := new(dns.Msg)
		err := asked.Unpack(msg)
		most := dns.MaxMsgSize
		if udp {
			most = udpPlain
			if err == nil && asked.IsEdns0() != nil {
				most = min(max(udpPlain, int(asked.IsEdns0().UDPSize())), udpMost)
			}
		}
		if err == nil && len(answer) > most {
			t.Errorf("%d bytes, the client takes %d", len(answer), most)
		}
		if err == nil && r.Rcode != dns.RcodeFormatError && r.Rcode != dns.RcodeNotImplemented && !slices.Equal(r.Question, asked.Question) {
			t.Errorf("%v answered for %v", r.Question, asked.Question)
		}
	})
}
