//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

const (
	// lbPool are the addresses of load balancers in the lab, which no machine there has: the last 32 of its network but the
	// broadcast address, which a pool never gives.
	lbPool = "198.51.100.224/27"
	// takenOver is within what time another node has the addresses of a dead one. What is promised is 3 s, and what it took is
	// logged; a machine that is busy with other things needs longer to notice.
	takenOver = 10 * time.Second
	// changeLimit is when a client gives up while endpoints change: after TCP has asked for the fourth time.
	changeLimit = 20 * time.Second
)

// balancer is a Service of type LoadBalancer for the pods of a namespace; more goes into its spec.
func balancer(name, more string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: %s}
spec: {type: LoadBalancer, selector: {app: srv}, ports: [{name: web, port: 80, targetPort: web}, {name: datagrams, port: 80, targetPort: datagrams, protocol: UDP}], %s}
---
`, name, more)
}

// externalIP waits until a Service has its address.
func externalIP(t testing.TB, k cli, service string) string {
	t.Helper()
	var ip string
	eventually(t, settle, service+" has an address", func() error {
		ip = field(t, k, "service", service, ".status.loadBalancer.ingress[0].ip")
		if ip == "" {
			return errors.New("<pending>")
		}
		return nil
	})
	return ip
}

// connects tries a new connection to an address, and gives it up soon: those that wait for TCP to repeat itself count whole seconds.
func connects(t testing.TB, ip string) error {
	ctx, cancel := context.WithTimeout(t.Context(), 800*time.Millisecond)
	defer cancel()
	c, err := beside().dial(ctx, "tcp4", ip+":80")
	if err == nil {
		err = c.Close()
	}
	return err
}

// announcer waits until machines beside the nodes find an address at a node.
func announcer(t testing.TB, ip string) (at *lab.Node) {
	t.Helper()
	eventually(t, settle, ip+" is at a node", func() (err error) {
		at, err = announcedBy(t, ip)
		return err
	})
	return at
}

func announcedBy(t testing.TB, ip string) (*lab.Node, error) {
	t.Helper()
	if _, _, err := beside().ask(t.Context(), "tcp", ip+":80"); err != nil {
		return nil, err
	}
	entry := inLab(t, "ip", "neigh", "show", ip)
	for _, n := range cluster.Nodes() {
		if !n.Running() {
			continue
		}
		out, err := output(n.Command(t.Context(), "ip", "-o", "link", "show", "dev", "eth0"))
		if err != nil {
			return nil, err
		}
		_, mac, _ := strings.Cut(out, "link/ether ")
		if mac, _, _ = strings.Cut(mac, " "); mac != "" && strings.Contains(entry, mac) {
			return n, nil
		}
	}
	return nil, fmt.Errorf("%s is at no node: %s", ip, entry)
}

// TestLoadBalancers: Services with addresses of their own, reached from beside the nodes, from the nodes and from pods.
func TestLoadBalancers(t *testing.T) {
	const wanted, inside, outside = "198.51.100.250", "198.51.100.130", "198.51.100.131"
	s := startServices(t, balancer("first", "")+balancer("second", "")+balancer("third", "")+
		balancer("guarded", "loadBalancerIP: "+wanted+", loadBalancerSourceRanges: ["+inside+"/32]")+
		strings.ReplaceAll(balancer("local", "externalTrafficPolicy: Local"), "app: srv", "srv: srv2"))
	first, second, third, local := externalIP(t, s.k, "first"), externalIP(t, s.k, "second"), externalIP(t, s.k, "third"), externalIP(t, s.k, "local")

	t.Run("one port, several addresses", func(t *testing.T) {
		if first == second {
			t.Fatalf("two Services at %s", first)
		}
		for _, ip := range []string{first, second} {
			beside().reaches(t, "tcp", ip+":80", s.pods...)
			beside().reaches(t, "udp", ip+":80", s.pods...)
			for _, n := range cluster.Nodes() {
				on(n).reaches(t, "tcp", ip+":80", s.pods...)
			}
		}
		for i, pod := range s.pods {
			podReaches(t, s.k, pod, []string{"tcp", "udp", "tcp"}[i], first+":80", s.pods...)
		}
		row := table(t, s.k.run(t, "get", "services")).has(serviceColumns...).row("first")
		if row["EXTERNAL-IP"] != first {
			t.Errorf("get services shows %v", row)
		}
		n := announcer(t, first)
		eventually(t, settle, "an event says which node announces", func() error {
			if out := s.k.run(t, "describe", "service", "first"); !strings.Contains(out, fmt.Sprintf("announcing %s from node %q", first, n.Name)) {
				return errors.New(out)
			}
			return nil
		})
	})
	t.Run("source ranges", func(t *testing.T) {
		if ip := externalIP(t, s.k, "guarded"); ip != wanted {
			t.Fatalf("loadBalancerIP %s became %s", wanted, ip)
		}
		from(t, inside).reaches(t, "tcp", wanted+":80", s.pods...)
		stranger := from(t, outside)
		stranger.silent(t, wanted+":80")
		stranger.reaches(t, "tcp", first+":80", s.pods...)
		s.k.run(t, "patch", "service", "guarded", "-p", `{"spec":{"loadBalancerSourceRanges":["`+outside+`/32"]}}`)
		stranger.reaches(t, "tcp", wanted+":80", s.pods...)
	})
	t.Run("Local", func(t *testing.T) {
		client := cluster.Config().Subnet.Addr().Next().String()
		beside().reaches(t, "tcp", local+":80", "srv2")
		if who, sees, err := beside().ask(t.Context(), "tcp", local+":80"); err != nil || sees != client {
			t.Errorf("a client at %s is seen as %q by %q: %v", client, sees, who, err)
		}
		if n := announcer(t, local); n.Name != cluster.Node(2).Name {
			t.Errorf("announced by %s, which has no endpoint", n.Name)
		}
		podReaches(t, s.k, "srv3", "tcp", local+":80", "srv2")
		on(cluster.Node(1)).reaches(t, "tcp", local+":80", "srv2")
	})
	t.Run("an address that goes", func(t *testing.T) {
		s.k.run(t, "delete", "service", "second")
		eventually(t, settle, "nobody has the address any more", func() error {
			inLab(t, "ip", "neigh", "flush", "to", second)
			if connects(t, second) == nil {
				return errors.New("it is answered")
			}
			if entry := inLab(t, "ip", "neigh", "show", second); strings.Contains(entry, "lladdr") {
				return errors.New(entry)
			}
			return nil
		})
	})
	t.Run("endpoints change", s.endpointsChange)
	t.Run("power cut", func(t *testing.T) { s.announcerDies(t, first, third) })
}

// announcerDies takes the power of a node that announces; its addresses are at another within seconds.
func (s services) announcerDies(t *testing.T, ips ...string) {
	var lost *lab.Node
	var ip string
	for i := 0; lost == nil; i++ {
		if i == len(ips) { // all of them are at the first node, which has the master: make more until one is not
			name := fmt.Sprintf("more%d", i)
			s.k.feed(t, balancer(name, ""), "create", "-f", "-")
			ips = append(ips, externalIP(t, s.k, name))
			beside().reaches(t, "tcp", ips[i]+":80", s.pods...)
		}
		if n := announcer(t, ips[i]); n != cluster.Node(1) {
			lost, ip = n, ips[i]
		}
	}
	afterwards(t, lost)
	off := time.Now()
	must(t, lost.Stop(t.Context()))
	took := time.Duration(0) // to the first connection; of those after it one may stall, but ten come in a row
	for inARow := 0; inARow < 10; {
		err := connects(t, ip)
		if inARow++; err != nil {
			inARow = 0
		} else if took == 0 {
			took = time.Since(off)
		}
		if time.Since(off) > settle {
			t.Fatalf("%s is not reachable again: %v", ip, err)
		}
	}
	steady := time.Since(off)
	now := announcer(t, ip)
	t.Logf("%s announced %s; its power was cut, and %s serves it %s later, ten times in a row %s later", lost.Name, ip, now.Name,
		took.Round(10*time.Millisecond), steady.Round(10*time.Millisecond))
	if took > takenOver || now == lost {
		t.Errorf("%s is reachable again after %s, at %s", ip, took, now.Name)
	}
	must(t, lost.Start(t.Context()))
	awaitNode(t, lost)
	eventually(t, settle, "the node takes its addresses back", func() error {
		n, err := announcedBy(t, ip)
		if err == nil && n != lost {
			err = fmt.Errorf("still at %s", n.Name)
		}
		return err
	})
}

// endpointsChange: 500 new connections a second by all ways into the cluster, while the endpoints of their Service are changed 1,000
// times, lose none. The same pods are alive all the time, and one of them is always behind the Service.
func (s services) endpointsChange(t *testing.T) {
	const changes = 1000
	s.k.feed(t, `
apiVersion: v1
kind: Service
metadata: {name: changing}
spec: {type: LoadBalancer, ports: [{name: web, port: 80}]}
`, "create", "-f", "-")
	var ips []string
	for _, pod := range s.pods {
		ips = append(ips, field(t, s.k, "pod", pod, ".status.podIP"))
	}
	slice := func(which int) string { // each bit is a pod
		var b strings.Builder
		fmt.Fprintf(&b, `{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "web", "port": 8080}],
"metadata": {"name": "changing", "labels": {"kubernetes.io/service-name": "changing"}}, "endpoints": [`)
		sep := ""
		for i, ip := range ips {
			if which>>i&1 == 1 {
				fmt.Fprintf(&b, `%s{"addresses": [%q], "nodeName": %q}`, sep, ip, cluster.Node(i+1).Name)
				sep = ", "
			}
		}
		return b.String() + "]}\n---\n"
	}
	s.k.feed(t, slice(7), "create", "-f", "-")
	var all strings.Builder
	for i := range changes {
		all.WriteString(slice(1 + i*3%7))
	}
	ip := externalIP(t, s.k, "changing")
	ways := []struct {
		from place
		addr string
		rate int
	}{
		{beside(), ip + ":80", 200},
		{beside(), cluster.Node(1).Address.String() + ":" + nodePorts(t, s.k, "changing")["web"], 150},
		{on(cluster.Node(2)), field(t, s.k, "service", "changing", ".spec.clusterIP") + ":80", 150},
	}
	var loads []*load
	for _, w := range ways {
		w.from.reaches(t, "tcp", w.addr, s.pods...)
		client := &http.Client{Timeout: changeLimit, Transport: &http.Transport{DialContext: w.from.dial, DisableKeepAlives: true}}
		loads = append(loads, startLoadOf(t, client, "http://"+w.addr+"/", w.rate, func(p page) error { return p.shows("srv") }))
	}
	began := time.Now()
	out := s.k.feed(t, all.String(), "replace", "-f", "-")
	if n := strings.Count(out, "replaced"); n != changes {
		t.Errorf("%d changes", n)
	}
	t.Logf("%d changes in %s", changes, time.Since(began).Round(time.Millisecond))
	for i, l := range loads {
		t.Log(ways[i].addr)
		l.lostNone(t)
		if sent, _ := l.stop(); len(l.served) != len(s.pods) {
			t.Errorf("%d requests were answered as %v", sent, l.served)
		}
	}
}
