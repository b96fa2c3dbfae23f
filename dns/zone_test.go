package dns

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"pgregory.net/rapid"
)

const soaLine = "cluster.local." + soaRest

const soaRest = " 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5"

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
		{"none.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"db.default.svc.cluster.local.", "AAAA", 0, []string{"db.default.svc.cluster.local. 5 IN AAAA 2001:db8::5"}},
		{"db-0.db.default.svc.cluster.local.", "AAAA", 0, []string{soaLine}},
		{"x.db-0.db.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"plain.default.svc.cluster.local.", "SRV", 0, []string{"plain.default.svc.cluster.local. 5 IN SRV 0 100 9000 plain.default.svc.cluster.local.", a("plain.default.svc.cluster.local.", "10.254.0.11")}},
		{"_tcp.plain.default.svc.cluster.local.", "SRV", dns.RcodeNameError, []string{soaLine}},
		{"_._tcp.plain.default.svc.cluster.local.", "SRV", dns.RcodeNameError, []string{soaLine}},
		{"_http._tcp.web.default.svc.cluster.local.", "A", 0, []string{soaLine}},
		{"web.default.svc.cluster.local.", "SRV", 0, []string{
			"web.default.svc.cluster.local. 5 IN SRV 0 100 80 web.default.svc.cluster.local.", "web.default.svc.cluster.local. 5 IN SRV 0 100 53 web.default.svc.cluster.local.",
			a("web.default.svc.cluster.local.", "10.254.0.9"),
		}},
		{"db.default.svc.cluster.local.", "SRV", 0, []string{
			"db.default.svc.cluster.local. 5 IN SRV 0 100 8080 db-0.db.default.svc.cluster.local.",
			"db.default.svc.cluster.local. 5 IN SRV 0 100 8080 10-244-2-6.db.default.svc.cluster.local.",
			"db.default.svc.cluster.local. 5 IN SRV 0 100 8081 db-6.db.default.svc.cluster.local.",
			a("db-0.db.default.svc.cluster.local.", "10.244.1.5"), a("10-244-2-6.db.default.svc.cluster.local.", "10.244.2.6"), "db-6.db.default.svc.cluster.local. 5 IN AAAA 2001:db8::5",
		}},
		{"early.default.svc.cluster.local.", "A", 0, []string{a("early.default.svc.cluster.local.", "10.244.1.8")}},
		// The pods of a StatefulSet have their names also when its Service has an address of its own.
		{"pets-0.pets.default.svc.cluster.local.", "A", 0, []string{a("pets-0.pets.default.svc.cluster.local.", "10.244.1.9")}},
		{"pets-0.pets.default.svc.cluster.local.", "AAAA", 0, []string{soaLine}},
		{"pets-2.pets.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"10-244-2-9.pets.default.svc.cluster.local.", "A", dns.RcodeNameError, []string{soaLine}},
		{"pets.default.svc.cluster.local.", "A", 0, []string{a("pets.default.svc.cluster.local.", "10.254.0.12")}},
		{"_http._tcp.pets.default.svc.cluster.local.", "SRV", 0, []string{"_http._tcp.pets.default.svc.cluster.local. 5 IN SRV 0 100 80 pets.default.svc.cluster.local.", a("pets.default.svc.cluster.local.", "10.254.0.12")}},
		{"12.0.254.10.in-addr.arpa.", "PTR", 0, []string{"12.0.254.10.in-addr.arpa. 5 IN PTR pets.default.svc.cluster.local."}},
		{"9.1.244.10.in-addr.arpa.", "PTR", 0, []string{"9.1.244.10.in-addr.arpa. 5 IN PTR pets-0.pets.default.svc.cluster.local."}},
		{"9.2.244.10.in-addr.arpa.", "PTR", dns.RcodeNameError, []string{"244.10.in-addr.arpa." + soaRest}},
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
		{"5.1.244.10.in-addr.arpa.", "A", 0, []string{"244.10.in-addr.arpa." + soaRest}},
		{"77.1.244.10.in-addr.arpa.", "PTR", dns.RcodeNameError, []string{"244.10.in-addr.arpa." + soaRest}},
		{"x.9.0.254.10.in-addr.arpa.", "PTR", dns.RcodeNameError, []string{"254.10.in-addr.arpa." + soaRest}},
		{"0.254.10.in-addr.arpa.", "PTR", 0, []string{"254.10.in-addr.arpa." + soaRest}},
		{"254.10.in-addr.arpa.", "SOA", 0, []string{"254.10.in-addr.arpa." + soaRest}},
		{"7.100.51.198.in-addr.arpa.", "PTR", 0, []string{"7.100.51.198.in-addr.arpa. 5 IN PTR 198-51-100-7.outside.default.svc.cluster.local."}},
		{"7.100.51.198.in-addr.arpa.", "TXT", 0, []string{"100.51.198.in-addr.arpa." + soaRest}},
		{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa.", "PTR", 0, []string{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa. 5 IN PTR db-6.db.default.svc.cluster.local."}},
	} {
		r := z.Lookup(c.name, dns.StringToType[c.qtype])
		got := lines(r.Answer, r.Auth, r.Extra)
		if !r.Ours || r.Rcode != c.rcode || !slices.Equal(got, c.want) {
			t.Errorf("%s %s: ours %v, %s\n got %q\nwant %q", c.name, c.qtype, r.Ours, dns.RcodeToString[r.Rcode], got, c.want)
		}
	}
	for _, name := range []string{"www.example.com.", "xcluster.local.", "8.8.8.8.in-addr.arpa.", "10.in-addr.arpa.", "in-addr.arpa.", "x.ip6.arpa.", "x.7.100.51.198.in-addr.arpa.", "8.100.51.198.in-addr.arpa.", "."} {
		if r := z.Lookup(name, dns.TypeA); r.Ours {
			t.Errorf("%s is not ours", name)
		}
	}
}

func TestServfailBeforeEverythingWasGiven(t *testing.T) {
	z := NewZone(zoneConfig())
	z.SetService(service("web", "10.254.0.9"))
	for _, name := range []string{"web.default.svc.cluster.local.", "x.default.svc.cluster.local.", "8.0.254.10.in-addr.arpa.", "9.0.254.10.in-addr.arpa."} {
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

// Names of single pods of a Service with an address come and go; what changes nothing in names leaves all answers good.
func TestHostsOfServicesWithAddress(t *testing.T) {
	z := NewZone(zoneConfig())
	z.SetService(service("pets", "10.254.0.12"))
	z.SetSlice(slice("pets", endpoint("10.244.1.9", "pets-0", "n1", true), endpoint("10.244.2.9", "", "n2", true)))
	z.Synced()
	want := func(what string, names int, changed bool, change func()) {
		t.Helper()
		before := z.Snapshot().generation
		change()
		s := z.Snapshot()
		if got := len(s.Lookup("pets-0.pets.default.svc.cluster.local.", dns.TypeA).Answer); got != names {
			t.Errorf("%s: %d addresses, want %d", what, got, names)
		}
		if (s.generation != before) != changed {
			t.Errorf("%s: generation %d after %d", what, s.generation, before)
		}
		if got := len(s.Lookup("pets.default.svc.cluster.local.", dns.TypeA).Answer); got != 1 {
			t.Errorf("%s: %d addresses of the Service", what, got)
		}
	}
	other := func(eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		s := slice("pets", eps...)
		s.Name = "pets-2"
		return s
	}
	want("a pod without a name", 1, false, func() { z.SetSlice(other(endpoint("10.244.1.20", "", "n1", true))) })
	want("its machine's death", 1, false, func() { z.SetDeadNodes(map[string]bool{"n2": true}) })
	want("its own machine's death", 0, true, func() { z.SetDeadNodes(map[string]bool{"n1": true}) })
	want("its return", 1, true, func() { z.SetDeadNodes(nil) })
	want("the pod made anew", 1, true, func() { z.SetSlice(slice("pets", endpoint("10.244.1.19", "pets-0", "n1", true))) })
	want("another address", 2, true, func() {
		z.SetSlice(other(endpoint("10.244.1.20", "", "n1", true), endpoint("10.244.2.21", "pets-0", "n2", true)))
	})
	want("one that is not ready", 1, true, func() { z.SetSlice(other(endpoint("10.244.2.21", "pets-0", "n2", false))) })
	want("a slice without names removed", 1, false, func() { z.DeleteSlice("default", "pets-2") })
	want("the slice removed", 0, true, func() { z.DeleteSlice("default", "pets-1") })
}

// A namespace whose Services have no records yet is there all the same: to deny its name is to deny all names below it, for as
// long as a resolver remembers.
func TestNamespacesOfServicesWithoutRecords(t *testing.T) {
	z := NewZone(zoneConfig())
	z.Synced()
	in := func(namespace string, s *corev1.Service) *corev1.Service {
		s.Namespace = namespace
		return s
	}
	want := func(what string, rcode int, change func()) {
		t.Helper()
		before := z.Snapshot()
		change()
		s := z.Snapshot()
		if r := s.Lookup("jobs.svc.cluster.local.", dns.TypeA); r.Rcode != rcode || len(r.Answer) != 0 || len(r.Auth) != 1 {
			t.Errorf("%s: %s", what, dns.RcodeToString[r.Rcode])
		}
		if was := before.Lookup("jobs.svc.cluster.local.", dns.TypeA).Rcode; (was != rcode) != (s.generation != before.generation) {
			t.Errorf("%s: generation %d after %d", what, s.generation, before.generation)
		}
	}
	z.SetService(in("other", service("db", corev1.ClusterIPNone)))
	want("another namespace alone", dns.RcodeNameError, func() {})
	want("a headless Service without pods", dns.RcodeSuccess, func() { z.SetService(in("jobs", service("db", corev1.ClusterIPNone))) })
	want("again", dns.RcodeSuccess, func() { z.SetService(in("jobs", service("db", corev1.ClusterIPNone))) })
	want("one that leads nowhere", dns.RcodeSuccess, func() { z.SetService(in("jobs", service("ext", "", externalName("..")))) })
	want("the first deleted", dns.RcodeSuccess, func() { z.DeleteService("jobs", "db") })
	want("the first deleted again", dns.RcodeSuccess, func() { z.DeleteService("jobs", "db") })
	want("the last deleted", dns.RcodeNameError, func() { z.DeleteService("jobs", "ext") })
}

// Whatever the order of changes, the zone is what Build makes of the final state.
func TestIncrementalEqualsBuild(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		z := NewZone(zoneConfig())
		z.Synced()
		svcs, eps, dead := map[string]*corev1.Service{}, map[string]*discoveryv1.EndpointSlice{}, map[string]bool{}
		for range rapid.IntRange(1, 30).Draw(r, "steps") {
			n := rapid.SampledFrom([]string{"a", "b", "C"}).Draw(r, "name")
			switch rapid.IntRange(0, 4).Draw(r, "what") {
			case 0:
				s := service(n, rapid.SampledFrom([]string{corev1.ClusterIPNone, corev1.ClusterIPNone, "10.254.0.1", "10.254.0.2", "bad"}).Draw(r, "ip"))
				s.Spec.PublishNotReadyAddresses = rapid.Bool().Draw(r, "publish")
				if rapid.IntRange(0, 5).Draw(r, "external") == 0 {
					externalName("www.example.com")(s)
				}
				svcs[n] = s
				z.SetService(s)
			case 1:
				delete(svcs, n)
				z.DeleteService("default", n)
			case 2:
				e := drawSlice(r, n)
				eps[e.Name] = e
				z.SetSlice(e)
			case 3:
				name := rapid.SampledFrom([]string{"x", "y"}).Draw(r, "slice")
				delete(eps, name)
				z.DeleteSlice("default", name)
			case 4:
				dead = map[string]bool{}
				if rapid.Bool().Draw(r, "dead") {
					dead["n2"] = true
				}
				z.SetDeadNodes(dead)
			}
		}
		whole := NewZone(zoneConfig())
		whole.SetDeadNodes(dead)
		for _, e := range eps {
			whole.SetSlice(e)
		}
		for _, s := range svcs {
			whole.SetService(s)
		}
		whole.Synced()
		got, want := zoneText(z.Snapshot()), zoneText(whole.Snapshot())
		if got != want {
			r.Fatal(cmp.Diff(want, got))
		}
	})
}

// drawSlice makes one of two slices, for one of the Services.
func drawSlice(r *rapid.T, svc string) *discoveryv1.EndpointSlice {
	var list []discoveryv1.Endpoint
	for range rapid.IntRange(0, 3).Draw(r, "endpoints") {
		list = append(list, endpoint(fmt.Sprint("10.244.1.", rapid.IntRange(1, 3).Draw(r, "last")), rapid.SampledFrom([]string{"", "h", "H2"}).Draw(r, "hostname"),
			rapid.SampledFrom([]string{"n1", "n2"}).Draw(r, "node"), rapid.Bool().Draw(r, "ready")))
	}
	e := slice(svc, list...)
	e.Name = rapid.SampledFrom([]string{"x", "y"}).Draw(r, "slice")
	return e
}

// zoneText is all that there is in a zone, whichever way it came.
func zoneText(s *Snapshot) string {
	var out []string
	for i := range s.services {
		for k, r := range s.services[i] {
			out = append(out, fmt.Sprintf("%s %+v", k, *r))
		}
		for ip, list := range s.pointers[i] {
			for _, p := range list {
				out = append(out, fmt.Sprintf("%s %+v", ip, p))
			}
		}
	}
	slices.Sort(out)
	return fmt.Sprint(strings.Join(out, "\n"), s.namespaces)
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
