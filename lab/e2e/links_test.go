//go:build e2e

package e2e

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/lab"
)

const (
	linkPort  = 8080
	linkNode  = 30110
	linkTries = 24 // of three endpoints, a dead one is met with more than 99.9 %
	// linkLimit is how long a connection may take: less than TCP needs to try a dead endpoint again, and be sent to another.
	linkLimit = time.Second
	// healed is within what time everything is back after a cut, with no manual step. It takes a few seconds, which are logged.
	healed = 30 * time.Second
	// everyLimit is for everything that is sent from everywhere to everywhere.
	everyLimit = 90 * time.Second
	// datagramTries are of one second each. Who loses every datagram of a size loses all of them.
	datagramTries = 8
)

var linkSizes = []int{1, 1400, 1 << 20}

// linkPods are three pods, one on each node, that stay there while their node cannot be reached, each with a Service of its
// own, and one Service with all of them. The test itself talks in their network namespaces, with programs of its own.
func linkPods() string {
	var b strings.Builder
	ports := fmt.Sprintf("[{name: t, protocol: TCP, port: 80, targetPort: %[1]d}, {name: u, protocol: UDP, port: 80, targetPort: %[1]d}]", linkPort)
	for i, n := range cluster.Nodes() {
		fmt.Fprintf(&b, `
apiVersion: v1
kind: Pod
metadata: {name: link%[1]d, labels: {app: link, link: "%[1]d"}}
spec:
  nodeName: %[2]s
  terminationGracePeriodSeconds: 1
  tolerations: [{operator: Exists}]
  containers: [{name: sleep, image: busybox, command: [sleep, "3600"]}]
---
apiVersion: v1
kind: Service
metadata: {name: link%[1]d}
spec: {ports: %[3]s, selector: {link: "%[1]d"}}
---
`, i+1, n.Name, ports)
	}
	fmt.Fprintf(&b, `
apiVersion: v1
kind: Service
metadata: {name: links}
spec:
  type: NodePort
  ports: [{name: t, protocol: TCP, port: 80, targetPort: %[1]d, nodePort: %[2]d}, {name: u, protocol: UDP, port: 80, targetPort: %[1]d, nodePort: %[2]d}]
  selector: {app: link}
`, linkPort, linkNode)
	return b.String()
}

// spot is somewhere to talk from: a pod's network, or a machine's.
type spot struct{ name, netns string }

// linkPod is a pod that answers.
type linkPod struct {
	spot
	ip, service string
}

// answer makes the pod say its name, and then everything that it hears, by TCP and by UDP, until the test ends.
func (p linkPod) answer(t *testing.T) {
	t.Helper()
	var ln net.Listener
	var packets net.PacketConn
	err := lab.In(p.netns, func() (err error) {
		lc := new(net.ListenConfig)
		if ln, err = lc.Listen(context.Background(), "tcp4", fmt.Sprintf(":%d", linkPort)); err != nil {
			return err
		}
		packets, err = lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", linkPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close(); packets.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				fmt.Fprintf(c, "%-8s", p.name)
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := packets.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(b[:n], from)
		}
	}()
}

// sendTCP sends so many bytes and waits for them to come back. It returns who answered.
func (p spot) sendTCP(ctx context.Context, addr string, size int) (string, error) {
	c, err := lab.DialIn(ctx, p.netns, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(end)
	}
	name := make([]byte, 8)
	if _, err := io.ReadFull(c, name); err != nil {
		return "", err
	}
	var g errgroup.Group
	g.Go(func() error { _, err := c.Write(make([]byte, size)); return err })
	g.Go(func() error { _, err := io.CopyN(io.Discard, c, int64(size)); return err })
	return strings.TrimSpace(string(name)), g.Wait()
}

// sendUDP does the same with datagrams, some of which are larger than any link takes. It asks again when there is no answer,
// as clients do: between a client and a node the way may be narrower than the client knows yet.
func (p spot) sendUDP(ctx context.Context, addr string, size int) error {
	c, err := lab.DialIn(ctx, p.netns, "udp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	pieces := []int{1400, 1472, 8000, 20000}
	b := make([]byte, 65536)
	for i := 0; size > 0; i++ {
		n := min(size, pieces[i%len(pieces)])
		for try := 1; ; try++ {
			err := echo(c, b[:n], byte(i))
			if err == nil {
				break
			}
			if try == datagramTries || ctx.Err() != nil {
				return fmt.Errorf("datagram of %d bytes: %w", n, err)
			}
		}
		size -= n
	}
	return nil
}

// echo sends a datagram and waits for it; late answers to others are let pass.
func echo(c net.Conn, b []byte, number byte) error {
	b[0] = number
	_ = c.SetDeadline(time.Now().Add(time.Second))
	if _, err := c.Write(b); err != nil {
		return err
	}
	got := make([]byte, 65536)
	for {
		n, err := c.Read(got)
		if err != nil {
			return err
		}
		if n == len(b) && got[0] == number {
			return nil
		}
	}
}

// everything sends all sizes from everywhere to everywhere, and says what failed.
func everything(ctx context.Context, from []spot, to []string) error {
	ctx, cancel := context.WithTimeout(ctx, everyLimit)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(4)
	for _, p := range from {
		for _, addr := range to {
			g.Go(func() error {
				for _, size := range linkSizes {
					if _, err := p.sendTCP(ctx, addr, size); err != nil {
						return fmt.Errorf("%s to %s, TCP, %d bytes: %w", p.name, addr, size, err)
					}
					if err := p.sendUDP(ctx, addr, size); err != nil {
						return fmt.Errorf("%s to %s, UDP, %d bytes: %w", p.name, addr, size, err)
					}
				}
				return nil
			})
		}
	}
	return g.Wait()
}

// connects returns who answers a few connections one after the other; an error if one of them is not answered at once.
func (p spot) connects(ctx context.Context, addr string) (map[string]int, error) {
	who := map[string]int{}
	for range linkTries {
		ctx, cancel := context.WithTimeout(ctx, linkLimit)
		name, err := p.sendTCP(ctx, addr, 1)
		cancel()
		if err != nil {
			return who, fmt.Errorf("%s to %s: %w", p.name, addr, err)
		}
		who[name]++
	}
	return who, nil
}

// sendNonsense sends a segment of TCP that belongs to no connection and begins none.
func (p spot) sendNonsense(to netip.Addr) error {
	return lab.In(p.netns, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		segment := make([]byte, 20)
		binary.BigEndian.PutUint16(segment, 4000)
		binary.BigEndian.PutUint16(segment[2:], 4001)
		segment[12] = 5 << 4 // the header's length in words; no flags
		return unix.Sendto(fd, segment, 0, &unix.SockaddrInet4{Addr: to.As4()})
	})
}

// strictNodes makes the nodes drop what does not come from where its answer would go to, as CentOS does by default.
func strictNodes(t *testing.T) {
	t.Helper()
	for _, n := range cluster.Nodes() {
		before, err := output(n.Command(t.Context(), "sh", "-c", "cd /proc/sys/net/ipv4/conf; cat all/rp_filter; echo 1 >all/rp_filter"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
			defer cancel()
			if _, err := output(n.Command(ctx, "sh", "-c", "echo "+strings.TrimSpace(before)+" >/proc/sys/net/ipv4/conf/all/rp_filter")); err != nil {
				t.Error(err)
			}
		})
	}
}

// onlyReaches waits until all connections are answered, by these, and returns how long after a time that began.
func (p spot) onlyReaches(ctx context.Context, addr string, names []string, since time.Time) (time.Duration, error) {
	for {
		began := time.Since(since)
		who, err := p.connects(ctx, addr)
		if err == nil && len(who) == len(names) && !slices.ContainsFunc(names, func(name string) bool { return who[name] == 0 }) {
			return began, nil
		}
		if began > settle || ctx.Err() != nil {
			return began, fmt.Errorf("answered by %v: %w", who, err)
		}
	}
}

// leaks captures in the router and collects packets of pods that are not in a tunnel.
type leaks struct {
	mu       sync.Mutex
	tunneled int
	bare     map[string]int
}

func watchRouter(t *testing.T) *leaks {
	t.Helper()
	l := &leaks{bare: map[string]int{}}
	fd := -1
	err := lab.In(cluster.RouterNetNS(), func() (err error) {
		all := int(binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL)))
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, all); err != nil {
			return err
		}
		return unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000})
	})
	if err != nil {
		t.Fatal(err)
	}
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for b := make([]byte, 65536); ; {
			select {
			case <-stop:
				return
			default:
			}
			n, from, err := unix.Recvfrom(fd, b, 0)
			// What it receives. Switches flood, so not what is for other machines; and not what it sends, of which the
			// kernel shows us what others have changed in it meanwhile.
			if at, ok := from.(*unix.SockaddrLinklayer); err == nil && ok && at.Pkttype == unix.PACKET_HOST {
				l.see(b[:n])
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended; _ = unix.Close(fd) })
	return l
}

func (l *leaks) see(p []byte) {
	if len(p) < 20 || p[0]>>4 != 4 {
		return
	}
	src, _ := netip.AddrFromSlice(p[12:16])
	dst, _ := netip.AddrFromSlice(p[16:20])
	ours := netip.MustParsePrefix("10.0.0.0/8")
	l.mu.Lock()
	defer l.mu.Unlock()
	if ours.Contains(src) || ours.Contains(dst) {
		l.bare[fmt.Sprintf("%s to %s, protocol %d", src, dst, p[9])]++
	}
	if header := int(p[0]&15) * 4; p[9] == unix.IPPROTO_UDP && len(p) >= header+4 && binary.BigEndian.Uint16(p[header+2:]) == 8472 {
		l.tunneled++
	}
}

// TestTwoLinks hangs a node on another link, behind a router, cuts the links off from each other, and joins them again.
func TestTwoLinks(t *testing.T) {
	moved := cluster.Node(3)
	back := func(ctx context.Context) error { return moved.MoveTo(ctx, 1) }
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), settle)
		defer cancel()
		err := errors.Join(cluster.HealRouter(ctx), back(ctx), moved.WaitSteady(ctx, settle))
		if err != nil {
			t.Errorf("the lab is not whole again: %v", err)
		}
	})
	strictNodes(t)
	ns := namespace(t)
	k := newest.in(t, ns)
	k.feed(t, linkPods(), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "-l", "app=link", "--timeout", settle.String())
	began := time.Now()
	must(t, moved.MoveTo(t.Context(), 2))
	awaitNode(t, moved)

	pods, spots, targets := linksThere(t, k, ns)
	try := func(what string, limit time.Duration, ctx context.Context) {
		t.Helper()
		eventually(t, limit, what, func() error { return everything(ctx, spots, targets) })
	}
	try("every pod reaches every pod, Service and NodePort", settle, t.Context())
	t.Logf("a node on another link: everything reached everything %s after its cable was moved", time.Since(began).Round(time.Millisecond))
	for i, n := range cluster.Nodes() {
		out, err := output(n.Command(t.Context(), "ip", "route", "get", pods[(i+2)%3].ip))
		if tunnel := i != 1; err != nil || strings.Contains(out, "dev wpx0") != tunnel {
			t.Errorf("%s to pod %d: %v %s", n.Name, (i+2)%3+1, err, out)
		}
	}
	seen := watchRouter(t)
	t.Run("a narrow router", func(t *testing.T) {
		must(t, cluster.SetRouterMTU(t.Context(), 1400))
		began := time.Now()
		if err := everything(t.Context(), spots, targets); err != nil {
			t.Error(err)
		}
		t.Logf("%d exchanges in %s", 2*len(linkSizes)*len(spots)*len(targets), time.Since(began).Round(time.Millisecond))
	})
	// What a pod sends into the world has the node's address, what belongs to nobody does not leave, and neither does
	// what connection tracking cannot place: a segment without flags.
	for _, p := range pods {
		must(t, p.sendNonsense(cluster.RouterAddress(1)))
	}
	for _, addr := range []string{"192.0.2.1:80", "10.244.250.9:80", "10.254.250.9:80"} {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		if _, err := pods[2].sendTCP(ctx, addr, 1); err == nil || ctx.Err() != nil {
			t.Errorf("pod 3 to %s: %v; it should fail at once", addr, err)
		}
		cancel()
	}
	cutAndHeal(t, pods, spots, targets)
	seen.mu.Lock()
	defer seen.mu.Unlock()
	if seen.tunneled == 0 || len(seen.bare) > 0 {
		t.Errorf("the router saw %d packets of the tunnel and bare ones of pods: %v", seen.tunneled, seen.bare)
	}
}

// linksThere lets the pods answer, and lists from where and to where to send.
func linksThere(t *testing.T, k cli, ns string) (pods []linkPod, spots []spot, targets []string) {
	t.Helper()
	for i, n := range cluster.Nodes() {
		name := fmt.Sprintf("link%d", i+1)
		path, err := n.PodNetNS(t.Context(), ns, name)
		if err != nil {
			t.Fatal(err)
		}
		p := linkPod{
			spot:    spot{name, path},
			ip:      k.run(t, "get", "pod", name, "-o", "jsonpath={.status.podIP}"),
			service: k.run(t, "get", "service", name, "-o", "jsonpath={.spec.clusterIP}"),
		}
		p.answer(t)
		pods = append(pods, p)
		spots = append(spots, p.spot, spot{n.Name, n.NetNS()})
		targets = append(targets, fmt.Sprintf("%s:%d", p.ip, linkPort), p.service+":80", fmt.Sprintf("%s:%d", n.Address, linkNode))
	}
	return pods, spots, targets
}

// cutAndHeal cuts the router. Each side goes on with what it has; and afterwards all of it is back.
func cutAndHeal(t *testing.T, pods []linkPod, spots []spot, targets []string) {
	t.Helper()
	k := newest
	all := fmt.Sprintf("127.0.0.1:%d", linkNode)
	side := [][]string{{"link1", "link2"}, {"link1", "link2"}, {"link3"}}
	must(t, cluster.CutRouter(t.Context()))
	cut := time.Now()
	var each sync.WaitGroup
	for i, n := range cluster.Nodes() {
		each.Go(func() {
			took, err := spot{n.Name, n.NetNS()}.onlyReaches(t.Context(), all, side[i], cut)
			t.Logf("router cut: from %s on, %s sends to %v only", took.Round(time.Millisecond), n.Name, side[i])
			if err != nil || took > withdrawn {
				t.Errorf("%s goes on sending to the other side for %s: %v", n.Name, took, err)
			}
		})
	}
	each.Wait()
	// What can be reached is reached, also when the master has given the node up.
	kubectl(t, "wait", "--for=condition=Ready=Unknown", "node/"+cluster.Node(3).Name, "--timeout=2m")
	t.Logf("router cut: the node is given up after %s", time.Since(cut).Round(time.Millisecond))
	here := []spot{pods[0].spot, pods[1].spot}
	if err := everything(t.Context(), here, append([]string{targets[0], targets[1], targets[3], targets[4]}, targets[2], targets[5])); err != nil {
		t.Errorf("on the first link: %v", err)
	}
	if err := everything(t.Context(), []spot{pods[2].spot}, targets[6:]); err != nil {
		t.Errorf("on the second link: %v", err)
	}

	must(t, cluster.HealRouter(t.Context()))
	heal := time.Now()
	var routed, ready time.Duration
	eventually(t, settle, "everything is back", func() error {
		for _, n := range cluster.Nodes() {
			who, err := spot{n.Name, n.NetNS()}.connects(t.Context(), all)
			if err != nil || len(who) != len(pods) {
				return fmt.Errorf("%s: %v, %v", n.Name, who, err)
			}
		}
		if routed == 0 {
			routed = time.Since(heal)
		}
		if got := k.run(t, "get", "node", cluster.Node(3).Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`); got != string(corev1.ConditionTrue) {
			return fmt.Errorf("node: Ready is %s", got)
		}
		ready = time.Since(heal)
		return nil
	})
	t.Logf("router healed: every node sends to every pod again after %s, the node is Ready after %s", routed.Round(time.Millisecond), ready.Round(time.Millisecond))
	if max(routed, ready) > healed {
		t.Errorf("not back within %s", healed)
	}
	if err := everything(t.Context(), spots, targets); err != nil {
		t.Error(err)
	}
}
