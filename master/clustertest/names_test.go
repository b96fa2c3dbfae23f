package clustertest

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/dns"
)

var recordTypes = map[string]dnsmessage.Type{
	"A": dnsmessage.TypeA, "AAAA": dnsmessage.TypeAAAA, "SRV": dnsmessage.TypeSRV, "PTR": dnsmessage.TypePTR, "CNAME": dnsmessage.TypeCNAME,
}

// resolve answers "TYPE NAME" of what the agent knows: the records' data, or NODATA, NXDOMAIN or SERVFAIL.
func (a *agent) resolve(question string) string {
	z := dns.NewZone(dns.ZoneConfig{Domain: "cluster.local", ServerIP: netip.MustParseAddr("10.254.254.1"), Reverse: []netip.Prefix{
		netip.MustParsePrefix("10.254.0.0/16"), netip.MustParsePrefix("10.244.0.0/16"),
	}})
	for _, s := range a.state.Services() {
		z.SetService(s)
	}
	for _, s := range a.state.EndpointSlices() {
		z.SetSlice(s)
	}
	if a.state.Completed() {
		z.Synced()
	}
	rrtype, name, _ := strings.Cut(question, " ")
	if !strings.HasSuffix(name, ".arpa.") {
		name += ".default.svc.cluster.local."
	}
	r := z.Snapshot().Lookup(name, uint16(recordTypes[rrtype]))
	switch {
	case r.Rcode == int(dnsmessage.RCodeServerFailure):
		return "SERVFAIL"
	case r.Rcode == int(dnsmessage.RCodeNameError):
		return "NXDOMAIN"
	case len(r.Answer) == 0:
		return "NODATA"
	}
	var out []string
	for _, rr := range r.Answer {
		_, data, _ := strings.Cut(rr.String(), "IN\t"+rrtype+"\t")
		out = append(out, strings.TrimSuffix(data, ".default.svc.cluster.local."))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func (c *cluster) service(name string, spec corev1.ServiceSpec) {
	c.Helper()
	if spec.Type != corev1.ServiceTypeExternalName && spec.Ports == nil {
		spec.Ports = []corev1.ServicePort{{Name: "pg", Port: 5432}}
	}
	if _, err := c.kube.CoreV1().Services("default").Create(c.ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
}

// reverse is the name of an address.
func reverse(ip string) string {
	b := netip.MustParseAddr(ip).As4()
	return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa.", b[3], b[2], b[1], b[0])
}

// Every node can answer for what the API has, and goes on from its disk when the master is away.
func TestNames(t *testing.T) {
	run(t, 2, func(c *cluster) {
		db := map[string]string{"app": "db"}
		c.service("web", corev1.ServiceSpec{ClusterIP: "10.254.7.7", Selector: map[string]string{"app": "nobody"}})
		c.service("db", corev1.ServiceSpec{ClusterIP: "None", Selector: db})
		c.service("early", corev1.ServiceSpec{ClusterIP: "None", Selector: map[string]string{"app": "slow"}, PublishNotReadyAddresses: true})
		c.service("late", corev1.ServiceSpec{ClusterIP: "None", Selector: map[string]string{"app": "slow"}})
		c.service("ext", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "db.example.com"})
		c.service("own", corev1.ServiceSpec{ClusterIP: "None"})
		own := &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{Name: "own-1", Labels: map[string]string{discoveryv1.LabelServiceName: "own"}}, AddressType: discoveryv1.AddressTypeIPv4,
			Ports: []discoveryv1.EndpointPort{{Name: new("pg"), Port: new(int32(5432))}}, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"198.51.100.77"}, Hostname: new("elder")}},
		}
		if _, err := c.kube.DiscoveryV1().EndpointSlices("default").Create(c.ctx, own, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		ip := map[string]string{}
		for i, name := range []string{"db-0", "db-1", "slow"} {
			p := pinned(name, []string{"n1", "n2"}[i%2])
			if name == "slow" {
				p.Spec.Containers[0].ReadinessProbe = &corev1.Probe{InitialDelaySeconds: 3000, ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}
			} else {
				p.Labels = db
			}
			if name == "db-0" {
				p.Spec.Hostname, p.Spec.Subdomain = name, "db"
			}
			c.createPod(p)
			c.eventually(10*time.Second, name+" has an address", func() bool {
				got, err := c.kube.CoreV1().Pods("default").Get(c.ctx, name, metav1.GetOptions{})
				ip[name] = got.Status.PodIP
				return err == nil && ip[name] != ""
			})
		}
		dashed := strings.ReplaceAll(ip["db-1"], ".", "-")
		both := []string{ip["db-0"], ip["db-1"]}
		slices.Sort(both)
		want := map[string]string{
			"A web": "10.254.7.7", "AAAA web": "NODATA", "SRV _pg._tcp.web": "0 100 5432 web", "PTR " + reverse("10.254.7.7"): "web",
			"A db": strings.Join(both, ", "), "AAAA db": "NODATA", "A db-0.db": ip["db-0"], "A db-1.db": "NXDOMAIN", "A " + dashed + ".db": ip["db-1"],
			"SRV _pg._tcp.db": "0 100 5432 " + dashed + ".db, 0 100 5432 db-0.db", "PTR " + reverse(ip["db-0"]): "db-0.db",
			"A early": ip["slow"], "A late": "NXDOMAIN", "A own": "198.51.100.77", "A elder.own": "198.51.100.77", "PTR " + reverse("198.51.100.77"): "elder.own",
			"CNAME ext": "db.example.com.", "A nothing": "NXDOMAIN", "PTR " + reverse("10.254.7.8"): "NXDOMAIN",
		}
		if strings.Compare(dashed, "db-0") > 0 {
			want["SRV _pg._tcp.db"] = "0 100 5432 db-0.db, 0 100 5432 " + dashed + ".db"
		}
		expect := func(when string) {
			t.Helper()
			for _, a := range c.agents {
				for question, answer := range want {
					c.eventually(10*time.Second, fmt.Sprintf("%s: on %s %s is %s", when, a.name, question, answer), func() bool { return a.resolve(question) == answer })
				}
			}
		}
		expect("at first")

		// Who is asked for other names is told to all nodes, though no pod refers to it.
		config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kube-dns"}, Data: map[string]string{"stubDomains": `{"corp.example": ["198.51.100.9"]}`}}
		if _, err := c.kube.CoreV1().ConfigMaps("kube-system").Create(c.ctx, config, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		configured := func(is bool) {
			t.Helper()
			for _, a := range c.agents {
				c.eventually(5*time.Second, "told of kube-dns", func() bool {
					cm, ok := a.state.ConfigMap("kube-system", "kube-dns")
					return ok == is && (!is || cm.Data["stubDomains"] == config.Data["stubDomains"])
				})
			}
		}
		configured(true)

		c.stopMaster()
		for _, a := range c.agents {
			a.stop()
			c.start(a)
		}
		expect("without a master")
		configured(true)
		c.startMaster()
		c.eventually(time.Minute, "all nodes ready", func() bool { return c.readyNodes() == 2 })
		configured(true)
		expect("with a new master")
		if err := c.kube.CoreV1().ConfigMaps("kube-system").Delete(c.ctx, "kube-dns", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		configured(false)
		// A ready endpoint less, and none.
		c.deletePod("db-0", 0)
		want = map[string]string{"A db": ip["db-1"], "A db-0.db": "NXDOMAIN", "PTR " + reverse(ip["db-0"]): "NXDOMAIN"}
		expect("one pod less")
		c.deletePod("db-1", 0)
		want = map[string]string{"A db": "NXDOMAIN", "SRV _pg._tcp.db": "NXDOMAIN"}
		expect("no pod")
	})
}
