package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	"pgregory.net/rapid"
)

const soaLine = "cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"

func lines(lists ...[]dns.RR) (out []string) {
	for _, l := range lists {
		for _, rr := range l {
			out = append(out, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	return out
}

func TestAnswers(t *testing.T) {
	z := testZone().Snapshot()
	a := func(name, ip string) string { return name + " 5 IN A " + ip }
	for _, c := range []struct {
		name, qtype string
		rcode       int
		want        []string
	}{
		{"dns-version.cluster.local.", "TXT", 0, []string{`dns-version.cluster.local. 5 IN TXT "1.1.0"`}},
		{"cluster.local.", "SOA", 0, []string{soaLine}},
		{"cluster.local.", "NS", 0, []string{"cluster.local. 5 IN NS ns.dns.cluster.local."}},
		{"ns.dns.cluster.local.", "A", 0, []string{a("ns.dns.cluster.local.", "10.254.254.1")}},
		{"web.default.svc.cluster.local.", "A", 0, []string{a("web.default.svc.cluster.local.", "10.254.0.9")}},
		{"web.default.svc.cluster.local.", "AAAA", 0, []string{soaLine}},
		{"web.default.svc.cluster.local.", "MX", 0, []string{soaLine}},
		{"_http._tcp.web.default.svc.cluster.local.", "SRV", 0, []string{"_http._tcp.web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local.", a("web.default.svc.cluster.local.", "10.254.0.9")}},
		{"_http._udp.web.default.svc.cluster.local.", "SRV", dns.RcodeNameError, []string{soaLine}},
		{"_tcp.web.default.svc.cluster.local.", "SRV", 0, []string{soaLine}},
		{"_sctp.web.default.svc.cluster.local.", "SRV", dns.RcodeNameError, []string{soaLine}},
		{"x.y.z.web.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"x.web.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"missing.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"default.svc.cluster.local.", "A", 0, []string{soaLine}},
		{"other.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"svc.cluster.local.", "A", 0, []string{soaLine}},
		{"nonsense.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{`we\.b.default.svc.cluster.local.`, "A", dns.RcodeNameError, []string{soaLine}},
		{"db.default.svc.cluster.local.", "A", 0, []string{a("db.default.svc.cluster.local.", "10.244.1.5"), a("db.default.svc.cluster.local.", "10.244.2.6")}},
		{"db-0.db.default.svc.cluster.local.", "A", 0, []string{a("db-0.db.default.svc.cluster.local.", "10.244.1.5")}},
		{"10-244-2-6.db.default.svc.cluster.local.", "A", 0, []string{a("10-244-2-6.db.default.svc.cluster.local.", "10.244.2.6")}},
		{"db-2.db.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"_http._tcp.db.default.svc.cluster.local.", "SRV", 0, []string{
			"_http._tcp.db.default.svc.cluster.local. 5 IN SRV 0 100 8080 db-0.db.default.svc.cluster.local.",
			"_http._tcp.db.default.svc.cluster.local. 5 IN SRV 0 100 8080 10-244-2-6.db.default.svc.cluster.local.",
			a("db-0.db.default.svc.cluster.local.", "10.244.1.5"), a("10-244-2-6.db.default.svc.cluster.local.", "10.244.2.6"),
		}},
		{"none.default.svc.cluster.local.", "A", 0, []string{soaLine}},
		{"early.default.svc.cluster.local.", "A", 0, []string{a("early.default.svc.cluster.local.", "10.244.1.8")}},
		{"ext.default.svc.cluster.local.", "A", 0, []string{"ext.default.svc.cluster.local. 5 IN CNAME www.example.com."}},
		{"ext.default.svc.cluster.local.", "CNAME", 0, []string{"ext.default.svc.cluster.local. 5 IN CNAME www.example.com."}},
		{"x.ext.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"10-244-1-5.default.pod.cluster.local.", "A", 0, []string{a("10-244-1-5.default.pod.cluster.local.", "10.244.1.5")}},
		{"10-244-1-5.default.pod.cluster.local.", "AAAA", 0, []string{soaLine}},
		{"10-244-1-500.default.pod.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"a.10-244-1-5.default.pod.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"default.pod.cluster.local.", "A", 0, []string{soaLine}},
		{"9.0.254.10.in-addr.arpa.", "PTR", 0, []string{"9.0.254.10.in-addr.arpa. 5 IN PTR web.default.svc.cluster.local."}},
		{"5.1.244.10.in-addr.arpa.", "PTR", 0, []string{"5.1.244.10.in-addr.arpa. 5 IN PTR db-0.db.default.svc.cluster.local."}},
		{"1.254.254.10.in-addr.arpa.", "PTR", 0, []string{"1.254.254.10.in-addr.arpa. 5 IN PTR ns.dns.cluster.local."}},
		{"5.1.244.10.in-addr.arpa.", "A", 0, []string{soaLine}},
		{"77.1.244.10.in-addr.arpa.", "PTR", dns.RcodeNameError, []string{soaLine}},
	} {
		r := z.Lookup(c.name, dns.StringToType[c.qtype])
		got := lines(r.Answer, r.Auth, r.Extra)
		if !r.Ours || r.Rcode != c.rcode || !slices.Equal(got, c.want) {
			t.Errorf("%s %s: ours %v, %s\n got %q\nwant %q", c.name, c.qtype, r.Ours, dns.RcodeToString[r.Rcode], got, c.want)
		}
	}
	for _, name := range []string{"www.example.com.", "xcluster.local.", "8.8.8.8.in-addr.arpa.", "254.10.in-addr.arpa.", "."} {
		if r := z.Lookup(name, dns.TypeA); r.Ours {
			t.Errorf("%s is not ours", name)
		}
	}
}

func TestServfailBeforeEverythingWasGiven(t *testing.T) {
	z := NewZone(zoneConfig())
	z.SetService(service("web", "10.254.0.9"))
	for _, name := range []string{"web.default.svc.cluster.local.", "x.default.svc.cluster.local.", "8.0.254.10.in-addr.arpa."} {
		if r := z.Snapshot().Lookup(name, dns.TypeA); !r.Ours || r.Rcode != dns.RcodeServerFailure {
			t.Errorf("%s: %s, want SERVFAIL", name, dns.RcodeToString[r.Rcode])
		}
	}
}

func TestDeadNodesLeaveHeadlessServices(t *testing.T) {
	z := testZone()
	ask := func() string {
		return strings.Join(lines(z.Snapshot().Lookup("db.default.svc.cluster.local.", dns.TypeA).Answer), " ")
	}
	z.SetDeadNodes(map[string]bool{"n2": true})
	if got := ask(); strings.Contains(got, "10.244.2.6") || !strings.Contains(got, "10.244.1.5") {
		t.Errorf("after n2's death: %s", got)
	}
	z.SetDeadNodes(nil)
	if got := ask(); !strings.Contains(got, "10.244.2.6") {
		t.Errorf("after n2 came back: %s", got)
	}
}

// Whatever the order of changes, the zone is what Build makes of the final state.
func TestIncrementalEqualsBuild(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		z := NewZone(zoneConfig())
		z.Synced()
		names := []string{"a", "b", "c"}
		svcs, eps := map[string]*corev1.Service{}, map[string]bool{}
		var alive []func(*Zone)
		state := map[string]func(*Zone){}
		for range rapid.IntRange(1, 25).Draw(r, "steps") {
			n := rapid.SampledFrom(names).Draw(r, "name")
			switch rapid.IntRange(0, 3).Draw(r, "what") {
			case 0:
				ip := rapid.SampledFrom([]string{corev1.ClusterIPNone, "10.254.0.1", "10.254.0.2", "bad"}).Draw(r, "ip")
				s := service(n, ip)
				svcs[n] = s
				z.SetService(s)
			case 1:
				delete(svcs, n)
				z.DeleteService("default", n)
			case 2:
				e := slice(n, endpoint(fmt.Sprint("10.244.1.", rapid.IntRange(1, 3).Draw(r, "last")), "", "n1", rapid.Bool().Draw(r, "ready")))
				eps[n] = true
				state[n] = func(z *Zone) { z.SetSlice(e) }
				z.SetSlice(e)
			case 3:
				delete(eps, n)
				delete(state, n)
				z.DeleteSlice("default", n+"-1")
			}
		}
		for _, f := range state {
			alive = append(alive, f)
		}
		whole := NewZone(zoneConfig())
		for _, f := range alive {
			f(whole)
		}
		for _, s := range svcs {
			whole.SetService(s)
		}
		whole.Synced()
		for _, q := range []string{"a.default.svc.cluster.local.", "b.default.svc.cluster.local.", "c.default.svc.cluster.local.", "default.svc.cluster.local.",
			"1.0.254.10.in-addr.arpa.", "2.0.254.10.in-addr.arpa.", "1.1.244.10.in-addr.arpa.", "2.1.244.10.in-addr.arpa.", "3.1.244.10.in-addr.arpa."} {
			got, want := z.Snapshot().Lookup(q, dns.TypeANY), whole.Snapshot().Lookup(q, dns.TypeANY)
			g, w := lines(got.Answer), lines(want.Answer)
			slices.Sort(g)
			slices.Sort(w)
			if got.Rcode != want.Rcode || !slices.Equal(g, w) {
				r.Fatalf("%s: %s", q, cmp.Diff(w, g))
			}
		}
	})
}

func BenchmarkZoneUpdate(b *testing.B) {
	for _, n := range []int{10, 1000, 5000} {
		b.Run(fmt.Sprint(n, "services"), func(b *testing.B) {
			z := manyServices(n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				z.SetService(service("svc-3", fmt.Sprintf("10.254.200.%d", i%250+1)))
			}
		})
	}
}
