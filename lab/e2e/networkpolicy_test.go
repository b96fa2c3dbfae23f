//go:build e2e

package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// policyYAML is a NetworkPolicy; what it says stands in spec.
func policyYAML(name, spec string) string {
	return fmt.Sprintf("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: %s}\nspec: {%s}\n---\n", name, spec)
}

// dialFrom starts a program in a pod that tries a TCP address until it answers, or until it does not any more three times in a
// row, with a new connection each 50 ms; what is dropped takes 200 ms to notice. It returns what waits for the program, and how long after that call it took.
func dialFrom(t *testing.T, k cli, pod, addr string, until bool) (wait func(what string)) {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	script := fmt.Sprintf(`use IO::Socket::INET; $SIG{ALRM} = sub { die }; $| = 1;
my $same = 0; for (1..1200) {
  my $c = eval { Time::HiRes::ualarm(200000); my $c = IO::Socket::INET->new(PeerAddr => %q, PeerPort => %s, Proto => "tcp"); Time::HiRes::ualarm(0); $c };
  $same = ($c ? 1 : 0) == %d ? $same + 1 : 0; exit 0 if $same == %d; select undef, undef, undef, 0.05 } exit 1`,
		host, port, map[bool]int{true: 1}[until], map[bool]int{true: 1, false: 3}[until])
	done := make(chan result, 1)
	go func() { done <- k.try(t, "exec", pod, "--", "perl", "-MTime::HiRes", "-e", script) }()
	return func(what string) {
		t.Helper()
		began := time.Now()
		r := <-done
		took := time.Since(began)
		if r.err != nil {
			t.Fatalf("%s: %s still %v: %v\n%s", what, addr, !until, r.err, r.stderr)
		}
		// It should be a few milliseconds; the machine may have much else to do, and the program has to be started.
		if t.Logf("%s: in force after %s", what, took.Round(time.Millisecond)); took > 30*time.Second {
			t.Errorf("%s: in force only after %s", what, took)
		}
	}
}

// policed is a cluster with isolated pods: srv1 to srv3 in a namespace, one a node, and a guest in another.
type policed struct {
	services
	guest   cli
	ips     map[string]string
	changed time.Time // when a change was seen to be in force on the nodes that it was waited for
}

// pair is a pod that asks another at a port.
type pair struct {
	k              cli
	from, to, port string
}

func (p *policed) at(pod, port string) string { return p.ips[pod] + ":" + port }

// change applies or runs something, and waits until all pairs are let through, or are not any more.
func (p *policed) change(t *testing.T, what string, open bool, f func(), pairs ...pair) {
	t.Helper()
	var waits []func(string)
	for _, c := range pairs {
		waits = append(waits, dialFrom(t, c.k, c.from, p.at(c.to, c.port), open))
	}
	f()
	for i, wait := range waits {
		wait(fmt.Sprintf("%s, %s to %s", what, pairs[i].from, pairs[i].to))
	}
	p.changed = time.Now()
}

const (
	// answered is within what time a pod answers whom it may: connections get lost, and machines are busy.
	answered = 30 * time.Second
	// settled is how long after a change a node that it was not waited for may still let through what it should not.
	settled = 2 * time.Second
)

// only sees who reaches srv1's port: these do, and nobody else, from the first attempt on unless there was a change just now.
func (p *policed) only(t *testing.T, when, port string, pods ...string) {
	t.Helper()
	script := fmt.Sprintf(`use IO::Socket::INET; $SIG{ALRM} = sub { print "silence"; exit }; alarm 1;
my $c = IO::Socket::INET->new(PeerAddr => %q, PeerPort => %s, Proto => "tcp") or print "$@"; print "answer" if $c`, p.ips["srv1"], port)
	var all sync.WaitGroup
	for _, from := range []string{"srv2", "srv3", "guest"} {
		k := p.k
		if from == "guest" {
			k = p.guest
		}
		want, until := "silence", p.changed.Add(settled)
		if slices.Contains(pods, from) {
			want, until = "answer", time.Now().Add(answered)
		}
		all.Go(func() {
			for {
				last := !time.Now().Before(until)
				r := k.try(t, "exec", from, "--", "perl", "-e", script)
				if r.stdout == want {
					return
				}
				if last {
					t.Errorf("%s: %s asks srv1 at %s: %q (%v %s), want %s", when, from, port, r.stdout, r.err, r.stderr, want)
					return
				}
			}
		})
	}
	all.Wait()
}

// TestNetworkPolicy is what people do with policies, in the order of tutorials.
func TestNetworkPolicy(t *testing.T) {
	p := &policed{services: startServices(t, answererService("outside", "srv: srv3", "type: NodePort, externalTrafficPolicy: Local,")), ips: map[string]string{}}
	ns := p.k.run(t, "config", "view", "--minify", "-o", "jsonpath={..namespace}")
	other := ns + "-guest"
	kubectl(t, "create", "namespace", other)
	t.Cleanup(func() { cleanUp(t, "delete", "namespace", other, "--wait=false") })
	p.guest = newest.in(t, other)
	p.guest.feed(t, answererPod("guest", "app: guest", cluster.Node(2), answererPorts, ""), "create", "-f", "-")
	p.guest.run(t, "wait", "--for=condition=Ready", "pod/guest", "--timeout", settle.String())
	for _, pod := range p.pods {
		p.ips[pod] = field(t, p.k, "pod", pod, ".status.podIP")
	}
	p.ips["guest"] = field(t, p.guest, "pod", "guest", ".status.podIP")
	p.only(t, "without policies", "8080", "srv2", "srv3", "guest")

	apply := func(yaml string) func() { return func() { p.k.feed(t, yaml, "apply", "-f", "-") } }
	// On every node: nobody hears srv1, and none of them is heard by the guest, who is not isolated.
	p.change(t, "default-deny", false, apply(policyYAML("default-deny", "podSelector: {}, policyTypes: [Ingress, Egress]")),
		pair{p.guest, "guest", "srv1", "8080"}, pair{p.k, "srv1", "guest", "8080"}, pair{p.k, "srv2", "guest", "8080"}, pair{p.k, "srv3", "guest", "8080"})
	p.only(t, "default-deny", "8080")
	eventually(t, answered, "the pod's own node reaches it", func() error {
		_, _, err := on(cluster.Node(1)).ask(t.Context(), "tcp", p.at("srv1", "8080"))
		return err
	})
	if out := p.k.try(t, "exec", "srv3", "--", "timeout", "1", "getent", "hosts", "kubernetes.default.svc.cluster.local"); out.err == nil {
		t.Error("a pod that may not send anything resolves names:", out.stdout)
	}
	policedTrace(t, ns)

	policedLabels(t, p, other, apply)
	policedDNS(t, p, apply)
	policedBlocks(t, p, apply)
	policedRestart(t, p)

	p.change(t, "policies deleted", true, func() { p.k.run(t, "delete", "networkpolicy", "--all") },
		pair{p.k, "srv2", "srv1", "8081"}, pair{p.k, "srv3", "srv1", "8081"})
	p.only(t, "policies deleted", "8081", "srv2", "srv3", "guest")
	if n := field(t, p.k, "pods", "-l=app=srv", `range .items[*]}{.status.containerStatuses[0].restartCount}{end`); n != "000" {
		t.Errorf("containers of isolated pods were restarted: %s", n)
	}
}

// policedTrace is what people see who look for the reason.
func policedTrace(t *testing.T, ns string) {
	t.Helper()
	k := wpctl.in(t, ns)
	for _, c := range []struct{ what, from, step, blamed string }{
		{"pod/srv1", "pod/srv2", "connection", "pod " + ns + "/srv2 for egress"}, {"svc/outside", "pod/srv2", "name", "to the DNS server"},
		{"pod/srv1", "node/" + cluster.Node(2).Name, "connection", "pod " + ns + "/srv1 for ingress"}, {"pod/srv1", "node/" + cluster.Node(1).Name, "", ""},
	} {
		args := []string{c.what, "--from", c.from}
		if c.what == "pod/srv1" {
			args = append(args, "--port", "8080")
		}
		eventually(t, settle, fmt.Sprintf("trace %v", args), func() error {
			out := trace(t, k, args...)
			if out.Broken != c.step || c.step != "" && !strings.Contains(out.Fix, "NetworkPolicy "+ns+"/default-deny isolates") || !strings.Contains(out.Fix, c.blamed) {
				return fmt.Errorf("%+v, want %q broken by default-deny, %q", out, c.step, c.blamed)
			}
			return nil
		})
	}
}

// policedLabels lets in whoever has a label, or is in a namespace with one, while these change.
func policedLabels(t *testing.T, p *policed, other string, apply func(string) func()) {
	t.Helper()
	apply(policyYAML("web", `podSelector: {matchLabels: {srv: srv1}}, ingress: [{from: [{podSelector: {matchLabels: {role: client}}}, {namespaceSelector: {matchLabels: {friend: "yes"}}}], ports: [{port: web}]}]`) +
		policyYAML("clients", `podSelector: {matchLabels: {role: client}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {srv: srv1}}}]}]`))()
	p.change(t, "a pod gets the label", true, func() { p.k.run(t, "label", "pod", "srv2", "role=client") }, pair{p.k, "srv2", "srv1", "8080"})
	p.only(t, "a pod has the label", "8080", "srv2")
	p.only(t, "another port", "8081")
	p.change(t, "a namespace gets the label", true, func() { kubectl(t, "label", "namespace", other, "friend=yes") }, pair{p.guest, "guest", "srv1", "8080"})
	p.only(t, "both have the label", "8080", "srv2", "guest")
	p.change(t, "the namespace loses it", false, func() { kubectl(t, "label", "namespace", other, "friend-") }, pair{p.guest, "guest", "srv1", "8080"})
}

// policedDNS is the recipe that everybody copies.
func policedDNS(t *testing.T, p *policed, apply func(string) func()) {
	t.Helper()
	apply(policyYAML("dns", `podSelector: {}, policyTypes: [Egress], egress: [{to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}], ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]}]`))()
	eventually(t, settle, "a pod that may use DNS resolves names", func() error {
		return p.k.try(t, "exec", "srv3", "--", "timeout", "1", "getent", "hosts", "kubernetes.default.svc.cluster.local").err
	})
}

// policedBlocks lets in addresses from outside, but one.
func policedBlocks(t *testing.T, p *policed, apply func(string) func()) {
	t.Helper()
	apply(policyYAML("outside", `podSelector: {matchLabels: {srv: srv3}}, ingress: [{from: [{ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.178/32]}}]}]`))()
	addr := cluster.Node(3).Address.String() + ":" + nodePorts(t, p.k, "outside")["web"]
	from(t, "198.51.100.177").reaches(t, "tcp", addr, "srv3")
	from(t, "198.51.100.178").silent(t, addr)
}

// policedRestart ends the agent of srv1's node: isolation stays, while it is away and when it comes back.
func policedRestart(t *testing.T, p *policed) {
	t.Helper()
	n := cluster.Node(1)
	must(t, n.KillAgent(t.Context()))
	p.only(t, "without the agent", "8080", "srv2")
	must(t, n.StartAgent(t.Context()))
	p.only(t, "the agent starts", "8080", "srv2") // while it looks around
	eventually(t, settle, "the agent is back", func() error {
		if s := field(t, newest, "node", n.Name, `.status.conditions[?(@.type=="Ready")].status`); s != "True" {
			return fmt.Errorf("Ready is %s", s)
		}
		return nil
	})
	p.only(t, "the agent is back", "8080", "srv2")
	// What changes now is in force as before.
	p.change(t, "the pod loses its label", false, func() { p.k.run(t, "label", "pod", "srv2", "role-") }, pair{p.k, "srv2", "srv1", "8080"})
}
