//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/whalepod/whalepod/lab"
)

// answerer is a server that says who it is and who asks, over HTTP at the TCP ports and in a datagram at the UDP ports that it is
// given. Told to be slow, it does not end before it is killed. It waits for no client: each is answered as soon as it has asked.
const answerer = `
use IO::Socket::INET; use IO::Select;
$SIG{TERM} = $ENV{SLOW} ? "IGNORE" : sub { exit }; $SIG{PIPE} = "IGNORE";
my $s = IO::Select->new; my (%udp, %tcp);
for (@ARGV) {
  my ($port, $proto) = split "/";
  my $l = $proto eq "udp" ? IO::Socket::INET->new(LocalPort => $port, Proto => "udp")
                          : IO::Socket::INET->new(LocalPort => $port, Listen => 1024, ReuseAddr => 1);
  $l or die "$_: $@"; $s->add($l); ($proto eq "udp" ? \%udp : \%tcp)->{fileno $l} = 1;
}
while (1) { for my $l ($s->can_read) {
  if ($udp{fileno $l}) { my $from = recv($l, my $b, 1500, 0); my (undef, $a) = sockaddr_in($from);
    send($l, "$ENV{HOSTNAME} " . inet_ntoa($a) . "\n", 0, $from); next }
  if ($tcp{fileno $l}) { my $c = $l->accept or next; $s->add($c); next }
  if (sysread $l, my $b, 4096) { my $t = "$ENV{HOSTNAME} " . ($l->peerhost // "") . "\n";
    syswrite $l, "HTTP/1.0 200 OK\r\nContent-Length: " . length($t) . "\r\n\r\n$t" }
  $s->remove($l); close $l } }
`

// answererPod is a pod with the server; more goes into its spec.
func answererPod(name, labels string, n *lab.Node, ports, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {%s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  %s
  containers:
  - name: answerer
    image: nginx:1.25
    command: [perl, -e, %q, %s]
    ports: [{name: web, containerPort: 8080}, {name: other, containerPort: 8081}, {name: datagrams, containerPort: 8080, protocol: UDP}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
`, name, labels, n.Name, more, answerer, ports)
}

const answererPorts = `"8080/tcp", "8081/tcp", "8080/udp"`

// answererService has the ports of the pods by their names.
func answererService(name, selector, more string) string {
	if selector != "" {
		selector = "selector: {" + selector + "}, "
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {%s%s ports: [{name: web, port: 80, targetPort: web}, {name: other, port: 81, targetPort: other}, {name: datagrams, port: 80, targetPort: datagrams, protocol: UDP}]}
---
`, name, selector, more)
}

// askUDP sends a datagram from a new port and returns the answer.
func (p place) askUDP(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	c, err := p.dial(ctx, "udp4", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return exchange(c)
}

// exchange sends a datagram and waits a moment for the answer.
func exchange(c net.Conn) (string, error) {
	if _, err := c.Write([]byte("?")); err != nil {
		return "", err
	}
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return "", err
	}
	b := make([]byte, 200)
	n, err := c.Read(b)
	return strings.TrimSpace(string(b[:n])), err
}

// ask fetches the answer at an address: who answers, and whom it sees.
func (p place) ask(ctx context.Context, proto, addr string) (who, sees string, err error) {
	var text string
	if proto == "udp" {
		text, err = p.askUDP(ctx, addr)
	} else {
		var got page
		client := p.client()
		client.Timeout = 3 * time.Second
		got, err = fetch(ctx, client, "http://"+addr+"/")
		text = got.body
		if err == nil && got.status != http.StatusOK {
			err = fmt.Errorf("status %d", got.status)
		}
	}
	if err != nil {
		return "", "", err
	}
	who, sees, _ = strings.Cut(strings.TrimSpace(text), " ")
	return who, sees, nil
}

// reaches waits until exactly these pods have answered at an address.
func (p place) reaches(t testing.TB, proto, addr string, pods ...string) {
	t.Helper()
	seen := map[string]bool{}
	eventually(t, settle, fmt.Sprintf("%s/%s, asked %s, is answered by %v", addr, proto, p.name, pods), func() error {
		for range 8 * len(pods) {
			who, _, err := p.ask(t.Context(), proto, addr)
			if err != nil {
				return err
			}
			seen[who] = true
			if len(seen) >= len(pods) {
				break
			}
		}
		for _, want := range pods {
			if !seen[want] {
				return fmt.Errorf("%v answered", seen)
			}
		}
		if len(seen) > len(pods) {
			seen = map[string]bool{}
			return errors.New("others answered, too")
		}
		return nil
	})
}

// refuses waits until a TCP connection is refused, and at once.
func (p place) refuses(t testing.TB, addr string) {
	t.Helper()
	eventually(t, settle, addr+", asked "+p.name+", refuses", func() error {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		c, err := p.dial(ctx, "tcp4", addr)
		if err == nil {
			c.Close()
			return errors.New("it is answered")
		}
		if took := time.Since(began); !errors.Is(err, unix.ECONNREFUSED) || took > time.Second {
			return fmt.Errorf("after %s: %w", took, err)
		}
		return nil
	})
}

// silent sees that nothing answers, not even by refusing.
func (p place) silent(t testing.TB, addr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
	defer cancel()
	c, err := p.dial(ctx, "tcp4", addr)
	if err == nil {
		c.Close()
	}
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) && !isTimeout(err) {
		t.Errorf("%s, asked %s: %v, want silence", addr, p.name, err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

// from is a machine beside the nodes with another address, which it has while the test lasts.
func from(t testing.TB, addr string) place {
	t.Helper()
	inLab(t, "ip", "addr", "add", addr+"/32", "dev", "switch")
	t.Cleanup(func() {
		if out, err := cluster.Command(context.Background(), "ip", "addr", "del", addr+"/32", "dev", "switch").CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	return boundTo(cluster.Config().Prefix+"lab", addr)
}

// boundTo is a client in a network namespace that uses one of its addresses for TCP, as curl --interface does.
func boundTo(namespace, addr string) place {
	return place{"at " + addr, func(ctx context.Context, network, to string) (net.Conn, error) {
		var c net.Conn
		err := lab.In(filepath.Join("/run/netns", namespace), func() (err error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
			c, err = d.DialContext(ctx, network, to)
			return err
		})
		return c, err
	}}
}

// inLab runs a program in the lab's network.
func inLab(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := output(cluster.Command(t.Context(), name, args...))
	if err != nil {
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}

// podAsks fetches an address several times from within a pod, and returns what was answered, one line each; "-" for nothing.
func podAsks(t testing.TB, k cli, pod, proto, addr string, times int) []string {
	t.Helper()
	host, port, _ := strings.Cut(addr, ":")
	script := fmt.Sprintf(`use IO::Socket::INET; use IO::Select; $SIG{ALRM} = sub { die "timed out\n" };
for (1..%d) {
  alarm 2; my $c = eval { IO::Socket::INET->new(PeerAddr => %q, PeerPort => %s, Proto => %q) }; alarm 0;
  if (!$c) { print "- $@ $!\n"; next }
  print $c "GET / HTTP/1.0\r\n\r\n"; $c->flush;
  my $b = "-"; IO::Select->new($c)->can_read(2) and sysread $c, $b, 4096;
  $b =~ s/.*\r\n//s; $b =~ s/\n.*//s; print "$b\n" }`, times, host, port, proto)
	return strings.Split(strings.TrimSpace(k.run(t, "exec", pod, "--", "perl", "-e", script)), "\n")
}

// podReaches is reaches from within a pod.
func podReaches(t testing.TB, k cli, pod, proto, addr string, pods ...string) {
	t.Helper()
	eventually(t, settle, fmt.Sprintf("%s/%s, asked in %s, is answered by %v", addr, proto, pod, pods), func() error {
		seen := map[string]bool{}
		answers := podAsks(t, k, pod, proto, addr, 8*len(pods))
		for _, a := range answers {
			who, _, _ := strings.Cut(a, " ")
			seen[who] = true
		}
		for _, want := range pods {
			if !seen[want] {
				return fmt.Errorf("answers: %q", answers)
			}
		}
		if len(seen) != len(pods) {
			return fmt.Errorf("answers: %q", answers)
		}
		return nil
	})
}

func field(t testing.TB, k cli, kind, name, path string) string {
	t.Helper()
	return k.run(t, "get", kind, name, "-o", "jsonpath={"+path+"}")
}

// nodePorts are the node ports of a Service by the names of its ports.
func nodePorts(t testing.TB, k cli, service string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for f := range strings.FieldsSeq(field(t, k, "service", service, `range .spec.ports[*]}{.name}={.nodePort} {end`)) {
		name, port, _ := strings.Cut(f, "=")
		out[name] = port
	}
	return out
}

// services is the namespace of one pod a node, srv1 to srv3, that answer.
type services struct {
	k    cli
	pods []string
}

func startServices(t *testing.T, manifest string) services {
	t.Helper()
	s := services{k: newest.in(t, namespace(t))}
	var b strings.Builder
	for i, n := range cluster.Nodes() {
		name := fmt.Sprintf("srv%d", i+1)
		s.pods = append(s.pods, name)
		b.WriteString(answererPod(name, "app: srv, srv: "+name, n, answererPorts, ""))
	}
	s.k.feed(t, b.String()+manifest, "create", "-f", "-")
	s.k.run(t, "wait", "--for=condition=Ready", "pod", "-l", "app=srv", "--timeout", settle.String())
	return s
}

// TestServices reaches pods in every way but by a load balancer.
func TestServices(t *testing.T) {
	t.Parallel()
	const external = "192.0.2.10"
	s := startServices(t, answererService("all", "app: srv", "type: NodePort, externalIPs: ["+external+"],")+
		answererService("local", "srv: srv2", "type: LoadBalancer, externalTrafficPolicy: Local, internalTrafficPolicy: Local,")+
		answererService("one", "srv: srv1", "type: NodePort,")+
		answererService("sticky", "app: srv", "sessionAffinity: ClientIP,")+
		answererService("forgetful", "app: srv", "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 1}},")+
		answererService("none", "app: nobody", "type: NodePort,")+
		answererService("ownlist", "", ""))
	at := func(service, port string) string {
		return field(t, s.k, "service", service, ".spec.clusterIP") + ":" + port
	}

	t.Run("ClusterIP", func(t *testing.T) {
		for _, n := range cluster.Nodes() {
			on(n).reaches(t, "tcp", at("all", "80"), s.pods...)
			on(n).reaches(t, "tcp", at("all", "81"), s.pods...)
			on(n).reaches(t, "udp", at("all", "80"), s.pods...)
		}
		podReaches(t, s.k, "srv1", "tcp", at("all", "81"), s.pods...)
		podReaches(t, s.k, "srv2", "udp", at("all", "80"), s.pods...)
		// A pod is seen with its own address.
		ip := field(t, s.k, "pod", "srv3", ".status.podIP")
		if got := podAsks(t, s.k, "srv3", "tcp", at("one", "80"), 1); got[0] != "srv1 "+ip {
			t.Errorf("a pod at %s is seen as %q", ip, got)
		}
	})
	t.Run("NodePort", func(t *testing.T) {
		port := nodePorts(t, s.k, "all")
		for _, n := range cluster.Nodes() {
			beside().reaches(t, "tcp", n.Address.String()+":"+port["web"], s.pods...)
			beside().reaches(t, "udp", n.Address.String()+":"+port["datagrams"], s.pods...)
			for _, addr := range []string{n.Address.String(), "127.0.0.1", docker0(t, n)} {
				on(n).reaches(t, "tcp", addr+":"+port["other"], s.pods...)
				on(n).reaches(t, "udp", addr+":"+port["datagrams"], s.pods...)
			}
		}
	})
	t.Run("externalIPs", func(t *testing.T) {
		inLab(t, "ip", "route", "replace", external+"/32", "via", cluster.Node(2).Address.String())
		t.Cleanup(func() { _, _ = output(cluster.Command(context.Background(), "ip", "route", "del", external+"/32")) })
		beside().reaches(t, "tcp", external+":80", s.pods...)
		on(cluster.Node(1)).reaches(t, "udp", external+":80", s.pods...)
		podReaches(t, s.k, "srv3", "tcp", external+":81", s.pods...)
	})
	t.Run("affinity", func(t *testing.T) {
		var first string
		for range 10 {
			who, _, err := on(cluster.Node(1)).ask(t.Context(), "tcp", at("sticky", "80"))
			if err != nil || first != "" && who != first {
				t.Errorf("answered by %q after %q: %v", who, first, err)
			}
			first = who
		}
		if got := slices.Compact(podAsks(t, s.k, "srv2", "udp", at("sticky", "80"), 10)); len(got) != 1 {
			t.Errorf("datagrams of one client are answered by %v", got)
		}
		seen := map[string]bool{}
		eventually(t, settle, "another pod when the client was silent for longer than the timeout", func() error {
			who, _, err := on(cluster.Node(1)).ask(t.Context(), "tcp", at("forgetful", "80"))
			seen[who] = true
			if err == nil && len(seen) < 2 {
				err = fmt.Errorf("only %s", who)
				time.Sleep(1200 * time.Millisecond)
			}
			return err
		})
	})
	t.Run("refused without endpoints", func(t *testing.T) {
		port := nodePorts(t, s.k, "none")["web"]
		beside().refuses(t, cluster.Node(2).Address.String()+":"+port)
		on(cluster.Node(1)).refuses(t, "127.0.0.1:"+port)
		on(cluster.Node(1)).refuses(t, at("none", "80"))
		if got := podAsks(t, s.k, "srv1", "tcp", at("none", "80"), 1); !strings.Contains(got[0], "refused") {
			t.Errorf("a pod: %q", got)
		}
	})
	t.Run("hairpin", func(t *testing.T) {
		podReaches(t, s.k, "srv1", "tcp", at("one", "80"), "srv1")
		podReaches(t, s.k, "srv1", "udp", at("one", "80"), "srv1")
		for _, n := range cluster.Nodes()[:2] { // by way of its own node and of another
			podReaches(t, s.k, "srv1", "tcp", n.Address.String()+":"+nodePorts(t, s.k, "one")["web"], "srv1")
		}
	})
	t.Run("Local", func(t *testing.T) { s.local(t, at("local", "80")) })
	t.Run("endpoints by hand", func(t *testing.T) {
		s.k.feed(t, fmt.Sprintf(`
apiVersion: v1
kind: Endpoints
metadata: {name: ownlist}
subsets: [{addresses: [{ip: %s}], ports: [{name: web, port: 8080}, {name: other, port: 8081}, {name: datagrams, port: 8080, protocol: UDP}]}]
`, field(t, s.k, "pod", "srv3", ".status.podIP")), "create", "-f", "-")
		on(cluster.Node(1)).reaches(t, "tcp", at("ownlist", "81"), "srv3")
		podReaches(t, s.k, "srv2", "udp", at("ownlist", "80"), "srv3")
	})
}

// local is about traffic policies: only srv2, on the second node, is behind the Service.
func (s services) local(t *testing.T, clusterIP string) {
	port := nodePorts(t, s.k, "local")["web"]
	client := cluster.Config().Subnet.Addr().Next().String()
	one, two := cluster.Node(1), cluster.Node(2)
	beside().reaches(t, "tcp", two.Address.String()+":"+port, "srv2")
	for _, proto := range []string{"web", "datagrams"} {
		network := map[string]string{"web": "tcp", "datagrams": "udp"}[proto]
		_, sees, err := beside().ask(t.Context(), network, two.Address.String()+":"+nodePorts(t, s.k, "local")[proto])
		if err != nil || sees != client {
			t.Errorf("a client at %s is seen as %q over %s: %v", client, sees, network, err)
		}
	}
	beside().silent(t, one.Address.String()+":"+port)
	// Who is inside reaches every endpoint by the node's port, but only its own node's by the ClusterIP.
	on(one).reaches(t, "tcp", one.Address.String()+":"+port, "srv2")
	podReaches(t, s.k, "srv1", "tcp", one.Address.String()+":"+port, "srv2")
	podReaches(t, s.k, "srv2", "tcp", clusterIP, "srv2")
	if got := podAsks(t, s.k, "srv1", "tcp", clusterIP, 1); !strings.HasPrefix(got[0], "-") {
		t.Errorf("internalTrafficPolicy Local leads to another node: %q", got)
	}

	check := ":" + field(t, s.k, "service", "local", ".spec.healthCheckNodePort")
	healthy := func(n *lab.Node, want int) {
		t.Helper()
		eventually(t, settle, fmt.Sprintf("health check of %s answers %d endpoints", n.Name, want), func() error {
			p, err := beside().get(t.Context(), "http://"+n.Address.String()+check+"/healthz")
			if err != nil {
				return err
			}
			status := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[want > 0]
			if p.status != status || !strings.Contains(p.body, fmt.Sprintf(`"localEndpoints": %d`, want)) || p.header.Get("X-Load-Balancing-Endpoint-Weight") != fmt.Sprint(want) {
				return fmt.Errorf("status %d, %v, %s", p.status, p.header, p.body)
			}
			return nil
		})
	}
	healthy(two, 1)
	healthy(one, 0)
	s.k.run(t, "label", "pod", "srv1", "--overwrite", "srv=srv2")
	healthy(one, 1)
	s.k.run(t, "label", "pod", "srv1", "--overwrite", "srv=srv1")
	healthy(one, 0)
	s.k.run(t, "patch", "service", "local", "-p", `{"spec":{"type":"ClusterIP","externalTrafficPolicy":null}}`)
	beside().refuses(t, two.Address.String()+check)
}

// TestTheLastEndpointServesAsItEnds: better an endpoint that ends than none.
func TestTheLastEndpointServesAsItEnds(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	n := cluster.Node(2)
	slow := strings.ReplaceAll(answererPod("slow", "app: slow", n, answererPorts, ""), "terminationGracePeriodSeconds: 1", "terminationGracePeriodSeconds: 60")
	slow = strings.ReplaceAll(slow, "    image: nginx:1.25\n", "    image: nginx:1.25\n    env: [{name: SLOW, value: \"1\"}]\n")
	k.feed(t, slow+answererService("slow", "app: slow", "type: NodePort,"), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "slow", "--timeout", settle.String())
	addr := cluster.Node(1).Address.String() + ":" + nodePorts(t, k, "slow")["web"]
	beside().reaches(t, "tcp", addr, "slow")
	k.run(t, "delete", "pod", "slow", "--wait=false")
	eventually(t, settle, "the endpoint is terminating", func() error {
		if got := k.run(t, "get", "endpointslices", "-o", "jsonpath={.items[*].endpoints[*].conditions}"); !strings.Contains(got, `"terminating":true`) {
			return errors.New(got)
		}
		return nil
	})
	for range 20 {
		if _, _, err := beside().ask(t.Context(), "tcp", addr); err != nil {
			t.Errorf("the last endpoint: %v", err)
		}
	}
	k.feed(t, answererPod("next", "app: slow", cluster.Node(1), answererPorts, ""), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "next", "--timeout", settle.String())
	beside().reachesOnly(t, addr, "next")
	k.run(t, "delete", "pod", "slow", "--force", "--grace-period=0", "--ignore-not-found") // its grace may be over
}

// reachesOnly waits until one pod has answered many times in a row.
func (p place) reachesOnly(t testing.TB, addr, pod string) {
	t.Helper()
	eventually(t, settle, addr+" is answered by "+pod+" alone", func() error {
		for range 15 {
			if who, _, err := p.ask(t.Context(), "tcp", addr); err != nil || who != pod {
				return fmt.Errorf("%q, %w", who, err)
			}
		}
		return nil
	})
}

// TestHostPorts: one port of a node is several pods', by address and protocol.
func TestHostPorts(t *testing.T) {
	t.Parallel()
	const port = "54323"
	k := newest.in(t, namespace(t))
	n := cluster.Node(2)
	hostPort := func(name, ip, proto string) string {
		return strings.ReplaceAll(answererPod(name, "app: host", n, answererPorts, ""),
			"ports: [{name: web, containerPort: 8080}", fmt.Sprintf("ports: [{name: host, containerPort: 8080, hostPort: %s, hostIP: %s, protocol: %s}, {name: web, containerPort: 8080}", port, ip, proto))
	}
	strip := func(s string) string { // no port twice in one pod
		s = strings.ReplaceAll(s, "{name: web, containerPort: 8080}, ", "")
		return strings.ReplaceAll(s, ", {name: datagrams, containerPort: 8080, protocol: UDP}", "")
	}
	k.feed(t, strip(hostPort("loopback", "127.0.0.1", "TCP")+hostPort("own", n.Address.String(), "TCP")+hostPort("datagrams", n.Address.String(), "UDP")), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout", settle.String())
	on(n).reaches(t, "tcp", "127.0.0.1:"+port, "loopback")
	boundTo(n.Name, n.Address.String()).reaches(t, "tcp", "127.0.0.1:"+port, "loopback")
	on(n).reaches(t, "tcp", n.Address.String()+":"+port, "own")
	on(n).reaches(t, "udp", n.Address.String()+":"+port, "datagrams")
	beside().reaches(t, "tcp", n.Address.String()+":"+port, "own")
	beside().reaches(t, "udp", n.Address.String()+":"+port, "datagrams")
	on(cluster.Node(1)).reaches(t, "tcp", n.Address.String()+":"+port, "own")
	podReaches(t, k, "loopback", "tcp", n.Address.String()+":"+port, "own")
}

// TestDatagramsFollowThePod: a client that keeps its port, as DNS resolvers and games do, goes on when its pod is replaced by one on
// another node.
func TestDatagramsFollowThePod(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.feed(t, answererPod("before", "app: udp", cluster.Node(2), answererPorts, "")+answererService("udp", "app: udp", "type: NodePort,"), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "before", "--timeout", settle.String())
	port := nodePorts(t, k, "udp")["datagrams"]
	conns := map[string]net.Conn{}
	for name, c := range map[string]struct {
		from place
		addr string
	}{
		"NodePort, from outside": {beside(), cluster.Node(1).Address.String() + ":" + port},
		"NodePort of the pod":    {beside(), cluster.Node(2).Address.String() + ":" + port},
		"ClusterIP, from a node": {on(cluster.Node(1)), field(t, k, "service", "udp", ".spec.clusterIP") + ":80"},
	} {
		conn, err := c.from.dial(t.Context(), "udp4", c.addr)
		must(t, err)
		defer conn.Close()
		conns[name] = conn
	}
	answeredBy := func(pod string) {
		t.Helper()
		for name, c := range conns {
			eventually(t, settle, name+": answered by "+pod, func() error {
				got, err := exchange(c)
				if who, _, _ := strings.Cut(got, " "); err != nil || who != pod {
					return fmt.Errorf("%q, %w", got, err)
				}
				return nil
			})
		}
	}
	answeredBy("before")
	k.run(t, "delete", "pod", "before", "--force", "--grace-period=0")
	for _, c := range conns { // they do not stop asking meanwhile
		_, _ = c.Write([]byte("?"))
	}
	k.feed(t, answererPod("after", "app: udp", cluster.Node(1), answererPorts, ""), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "after", "--timeout", settle.String())
	for _, c := range conns { // what the old one may still have said
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = io.Copy(io.Discard, c)
	}
	answeredBy("after")
}
