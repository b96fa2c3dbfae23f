//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/whalepod/whalepod/lab"
)

const tracedPort = 30083

// tracedManifest: two pods that serve on two nodes, one that serves only itself, and one to ask from.
func tracedManifest() string {
	var b strings.Builder
	for i, p := range []struct{ name, app, listen string }{{"web1", "web", "8080"}, {"web2", "web", "8080"}, {"shy", "shy", "127.0.0.1:8080"}} {
		fmt.Fprintf(&b, `
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox
    command: [httpd, -f, -p, "%s", -h, /etc]
    ports: [{name: http, containerPort: 8080}]
---
`, p.name, p.app, cluster.Node(i%nodes+1).Name, p.listen)
	}
	return b.String() + fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, ports: [{name: http, port: 80, targetPort: http, nodePort: %d}], selector: {app: web}}
---
apiVersion: v1
kind: Service
metadata: {name: shy}
spec: {ports: [{port: 80, targetPort: 8080}], selector: {app: shy}}
`, tracedPort)
}

// traced is what wpctl trace -o json prints.
type traced struct {
	From        []string
	Broken, Fix string
	Steps       []struct {
		Name, State, What string
		Details           []string
	}
}

// trace runs it; the exit code must say the same as the report.
func trace(t testing.TB, k cli, args ...string) (out traced) {
	t.Helper()
	r := k.try(t, append([]string{"trace", "-o", "json"}, args...)...)
	if err := json.Unmarshal([]byte(r.stdout), &out); err != nil {
		t.Fatalf("trace %v: %v\n%s%s", args, err, r.stdout, r.stderr)
	}
	var exit *exec.ExitError
	if failed := errors.As(r.err, &exit) && exit.ExitCode() == 1; failed != (out.Broken != "") {
		t.Errorf("trace %v: %v, and broken is %q", args, r.err, out.Broken)
	}
	return out
}

// TestTrace: a Service that works, and four in which one thing is wrong: that is what is named.
func TestTrace(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	k := wpctl.in(t, ns)
	k.feed(t, tracedManifest(), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "--all", "--timeout", settle.String())
	breaks := func(what, step string, args []string, words ...string) {
		t.Helper()
		eventually(t, settle, what, func() error {
			out := trace(t, k, args...)
			if out.Broken != step {
				return fmt.Errorf("broken: %q, not %q: %+v", out.Broken, step, out)
			}
			for _, w := range words {
				if text := fmt.Sprintf("%+v", out); !strings.Contains(text, w) {
					return fmt.Errorf("no %q in %s", w, text)
				}
			}
			return nil
		})
	}
	for _, args := range [][]string{{"service", "web", "--from", "pod/shy", "--port", "http"}, {"pod/web2"}} {
		breaks("healthy", "", args, "listens on 8080/TCP", "directly")
	}
	// What people see.
	healthy := []string{"service " + ns + "/web, tried from " + cluster.Node(1).Name, "✓ selector    app=web matches 2 pods", "✓ name        web." + ns + ".svc.cluster.local → ",
		"✓ rules ", "to 2 endpoints", "✓ container   listens on 8080/TCP", "✓ connection  all 2 endpoints answer", "✓ address ", fmt.Sprintf("✓ outside     node port %d answers", tracedPort), "Nothing is broken on this way."}
	eventually(t, settle, "a healthy Service is shown as such", func() error {
		text := k.try(t, "trace", "svc/web").stdout
		for _, want := range healthy {
			if !strings.Contains(text, want) {
				return fmt.Errorf("no %q in:\n%s", want, text)
			}
		}
		for _, mark := range []string{"✗", "!", "–"} {
			if strings.Contains(text, mark) {
				return fmt.Errorf("it has %s:\n%s", mark, text)
			}
		}
		return nil
	})
	tells(t, "no such Service", k.try(t, "trace", "svc/wbe").stdout, "did you mean web?")

	patch := func(what string) { k.run(t, "patch", "service", "web", "-p", what) }
	patch(`{"spec": {"selector": {"app": "wbe"}}}`)
	breaks("a typo in the selector", "selector", []string{"web"}, "pod web1 has app=web", `{"app": "web"}`)
	patch(`{"spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8081}]}}`)
	breaks("a wrong targetPort", "targetPort", []string{"web"}, "no process listens on 8081/TCP, but on 8080/TCP", "set targetPort: 8080")
	patch(`{"spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}`)
	breaks("a server that listens on 127.0.0.1", "container", []string{"shy"}, "pod shy listens on 127.0.0.1:8080 only", "0.0.0.0:8080")

	two := cluster.Node(2)
	// The kernel goes on to answer for a program that is paused.
	on := func(verb string) {
		t.Helper()
		for id, name := range containers(t, two) {
			if strings.Contains(name, "/k8s_web_web2_"+ns+"_") {
				must(t, two.Engine(t.Context(), "POST", "/containers/"+id+"/"+verb, nil, nil))
			}
		}
	}
	func() {
		on("pause")
		defer on("unpause")
		eventually(t, settle, "a program that is paused, and no other, is blamed", func() error {
			if text := fmt.Sprintf("%+v", trace(t, k, "web", "--from", "node/"+two.Name)); !strings.Contains(text, "pod web2 has not taken") || strings.Contains(text, "pod web1 has not taken") {
				return errors.New(text)
			}
			return nil
		})
	}()

	ip := k.run(t, "get", "pod", "web2", "-o", "jsonpath={.status.podIP}")
	ruled(t, two, "FORWARD", "-d", ip, "-p", "tcp", "-j", "DROP")
	breaks("a rule that drops", "connection", []string{"svc/web", "--from", "node/" + cluster.Node(1).Name}, "no answer", "a rule on "+two.Name+" drops it: iptables -A FORWARD -d "+ip+"/32 -p tcp -j DROP")
}

// ruled puts a rule into a node's table until the test ends.
func ruled(t testing.TB, n *lab.Node, chain string, rule ...string) {
	t.Helper()
	run := func(ctx context.Context, verb string) error {
		_, err := output(n.Command(ctx, "iptables", append([]string{"-w", "10", verb, chain}, rule...)...))
		return err
	}
	must(t, run(t.Context(), "-I"))
	t.Cleanup(func() {
		if err := run(context.Background(), "-D"); err != nil {
			t.Error(err)
		}
	})
}

// TestDoctor finds a port that a node's firewall keeps shut, and a link that loses large packets, from both sides.
func TestDoctor(t *testing.T) {
	one, two, three := cluster.Node(1), cluster.Node(2), cluster.Node(3)
	type finding struct{ Check, State, What, Fix string }
	examine := func() map[string][]finding {
		r := wpctl.try(t, "doctor", "-o", "json") // this machine's disk may be full, for instance
		var out struct{ Nodes map[string][]finding }
		if err := json.Unmarshal([]byte(r.stdout), &out); err != nil || len(out.Nodes) != nodes {
			t.Fatalf("%v\n%s%s", err, r.stdout, r.stderr)
		}
		return out.Nodes
	}
	find := func(list []finding, check, state string, words ...string) error {
		for _, f := range list {
			text := f.What + " → " + f.Fix
			ok := f.Check == check && f.State == state
			for _, w := range words {
				ok = ok && strings.Contains(text, w)
			}
			if ok {
				return nil
			}
		}
		return fmt.Errorf("no %s finding of %s with %q in %+v", state, check, words, list)
	}
	// A probe that gets no answer within its time on a busy machine is a finding, too, so doctor is asked again.
	eventually(t, settle, "healthy nodes are found so", func() error {
		var errs []error
		for _, list := range examine() {
			for _, check := range []string{"session", "docker", "network", "firewall", "ports", "reach", "gossip", "mtu", "addresses", "certificates"} {
				errs = append(errs, find(list, check, "ok"))
			}
			for _, check := range []string{"docker", "network", "firewall", "ports", "reach", "gossip", "mtu", "addresses", "kernel", "certificates"} {
				if find(list, check, "bad") == nil {
					errs = append(errs, fmt.Errorf("healthy nodes have a bad finding of %s: %+v", check, list))
				}
			}
		}
		return errors.Join(errs...)
	})
	ruled(t, two, "INPUT", "-p", "tcp", "--dport", "7946", "-j", "DROP")
	link := func(mtu string) error {
		_, err := output(three.Command(context.Background(), "ip", "link", "set", "dev", "eth0", "mtu", mtu))
		return err
	}
	must(t, link("1400"))
	t.Cleanup(func() {
		if err := link("1500"); err != nil {
			t.Error(err)
		}
	})
	eventually(t, settle, "what is wrong is found from both sides", func() error {
		found := examine()
		return errors.Join(
			find(found[two.Name], "firewall", "bad", "7946/tcp (gossip) is blocked: iptables: -A INPUT -p tcp -m tcp --dport 7946 -j DROP", "--dport 7946 -j ACCEPT"),
			find(found[one.Name], "reach", "bad", two.Name+" cannot be reached at "+two.Address.String()+":7946", "open 7946/tcp on "+two.Name),
			find(found[one.Name], "mtu", "bad", "packets of more than 140", "bytes to "+three.Name+" are lost", "--mtu 1400"),
			find(found[two.Name], "mtu", "bad", three.Name))
	})
}
