//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The shop is a server that ends the moment it is told to, whatever it is doing, as many programs do that know nothing of
// signals. Its manifest has no preStop hook. Beside it is one that thinks for a second and a half about each answer.
const shopManifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: nginx}
data:
  nginx.conf: |
    daemon off;
    pid /tmp/nginx.pid;
    events {}
    http {
      access_log off;
      server {
        listen 80 backlog=1024;
        root /srv;
        location / { try_files /index =404; }
      }
    }
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: shop}
spec:
  replicas: 6
  selector: {matchLabels: {app: shop}}
  template:
    metadata: {labels: {app: shop}}
    spec:
      containers:
      - name: nginx
        image: nginx:1.25
        env: [{name: EDITION, value: "first"}]
        command: [sh, -c]
        args:
        - |
          echo "shop, edition $EDITION" >/srv/index
          nginx -c /etc/shop/nginx.conf &
          trap 'exit 0' TERM QUIT
          wait
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1, timeoutSeconds: 5}
        volumeMounts: [{name: conf, mountPath: /etc/shop}]
      - name: slow
        image: busybox
        command: [sh, -c]
        args:
        - |
          mkdir -p /srv/cgi-bin
          printf '#!/bin/sh\nsleep 1.5\necho; echo slow shop\n' >/srv/cgi-bin/slow
          chmod +x /srv/cgi-bin/slow
          httpd -f -p 81 -h /srv &
          trap 'exit 0' TERM
          wait
        readinessProbe: {tcpSocket: {port: 81}, periodSeconds: 1, timeoutSeconds: 5}
      volumes: [{name: conf, configMap: {name: nginx}}]
---
apiVersion: v1
kind: Service
metadata: {name: shop}
spec:
  type: NodePort
  ports: [{name: fast, port: 80, nodePort: 30094}, {name: slow, port: 81, nodePort: 30095}]
  selector: {app: shop}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: shop}
spec:
  maxUnavailable: 2
  selector: {matchLabels: {app: shop}}
---
apiVersion: v1
kind: Pod
metadata: {name: neighbour}
spec:
  terminationGracePeriodSeconds: 0
  nodeName: %s
  containers:
  - name: nc
    image: busybox
    command: [sh, -c]
    args:
    - |
      n=0
      ask() { echo "GET /" | nc -w 10 $SHOP_SERVICE_HOST 80 | grep -q edition; }
      until ask 2>/dev/null; do sleep 1; done
      while :; do
        ask || echo "lost $(date)"
        n=$((n+1)); [ $((n %% 200)) != 0 ] || echo "sent $n"
        usleep 50000
      done
`

const (
	// Requests a second on new connections: of this program and of hey, each through the NodePort of another node.
	shopRate, heyRate = 150, 150
	slowRate          = 4
	keptRate          = 20
)

// shop is the Deployment under load from every side.
type shop struct{ k cli }

// TestLoadOfAShop is 300 new connections a second through NodePorts, beside clients that keep their connections, that fetch
// slowly, and that live in a pod: while the shop is updated, rolled back, scaled and its nodes are drained, nobody loses a
// request. WP_E2E_LONG=1 makes it twenty updates and twenty rollbacks.
func TestLoadOfAShop(t *testing.T) {
	rounds := 3
	if os.Getenv("WP_E2E_LONG") != "" {
		rounds = 20
	}
	s := openShop(t)
	t.Run("updates and rollbacks", func(t *testing.T) {
		s.underLoad(t, func() {
			began := time.Now()
			for i := range rounds {
				s.k.run(t, "set", "env", "deployment/shop", fmt.Sprintf("EDITION=round %d", i))
				s.rolledOut(t)
				s.k.run(t, "rollout", "undo", "deployment/shop")
				s.rolledOut(t)
			}
			t.Logf("%d updates and as many rollbacks in %s", rounds, time.Since(began).Round(time.Second))
		})
	})
	t.Run("scale 1, 20, 1", func(t *testing.T) {
		s.underLoad(t, func() {
			for _, n := range []int{1, 20, 1} {
				s.scale(t, n)
			}
		})
		s.scale(t, 6)
	})
	t.Run("a drained node", func(t *testing.T) {
		n := cluster.Node(3)
		t.Cleanup(func() { cleanUp(t, "uncordon", n.Name) })
		s.underLoad(t, func() {
			s.k.run(t, "cordon", n.Name)
			s.k.run(t, "drain", n.Name, "--pod-selector=app=shop", "--timeout", settle.String())
			if left := s.k.run(t, "get", "pods", "-l", "app=shop", "--field-selector", "spec.nodeName="+n.Name, "-o", "name"); left != "" {
				t.Errorf("left on the drained node: %s", left)
			}
			s.rolledOut(t)
			s.k.run(t, "uncordon", n.Name)
		})
	})
}

func openShop(t *testing.T) *shop {
	t.Helper()
	s := &shop{k: newest.in(t, namespace(t))}
	s.k.feed(t, fmt.Sprintf(shopManifest, cluster.Node(3).Name), "create", "-f", "-")
	s.rolledOut(t)
	s.k.run(t, "wait", "--for=condition=Ready", "pod/neighbour", "--timeout", settle.String())
	for _, n := range cluster.Nodes() {
		pageShows(t, beside(), nodeURL(n, 30094), "shop, edition first")
	}
	return s
}

func (s *shop) rolledOut(t *testing.T) {
	t.Helper()
	s.k.run(t, "rollout", "status", "deployment/shop", "--timeout", settle.String())
}

func (s *shop) scale(t *testing.T, n int) {
	t.Helper()
	s.k.run(t, "scale", "deployment/shop", "--replicas", strconv.Itoa(n))
	podsReady(t, s.k, "app=shop", n)
}

// underLoad does something while requests come from everywhere, and counts those that were lost.
func (s *shop) underLoad(t *testing.T, do func()) {
	t.Helper()
	good := func(p page) error { return p.shows("shop, edition") }
	slow := func(p page) error { return p.shows("slow shop") }
	kept := &http.Client{Timeout: requestLimit, Transport: &http.Transport{DialContext: beside().dial, MaxIdleConnsPerHost: keptRate}}
	one, two := nodeURL(cluster.Node(1), 30094), nodeURL(cluster.Node(2), 30094)
	loads := map[string]*load{
		"new connections":  startLoad(t, beside(), one, shopRate, good),
		"kept connections": startLoadOf(t, kept, one, keptRate, good),
		"slow answers":     startLoad(t, beside(), nodeURL(cluster.Node(2), 30095)+"cgi-bin/slow", slowRate, slow),
	}
	h := startHey(t, two)
	goesOn(t, loads["new connections"])
	do()
	goesOn(t, loads["new connections"])
	for name, l := range loads {
		t.Log(name + ":")
		l.lostNone(t)
	}
	h.lostNone(t)
	if out := s.k.run(t, "logs", "neighbour"); strings.Contains(out, "lost") || !strings.Contains(out, "sent ") {
		t.Errorf("from a pod, through the ClusterIP:\n%s", out)
	}
}

// hey is a load generator that is not ours (https://github.com/rakyll/hey).
type hey struct {
	cmd *exec.Cmd
	out strings.Builder
}

// startHey begins to send heyRate requests a second from beside the nodes, each on a new connection.
func startHey(t *testing.T, url string) *hey {
	t.Helper()
	const workers = 15
	h := &hey{cmd: cluster.Command(context.Background(), "hey", "-z", "30m", "-c", strconv.Itoa(workers), "-q", strconv.Itoa(heyRate/workers),
		"-t", strconv.Itoa(int(requestLimit.Seconds())), "-disable-keepalive", url)}
	h.cmd.Stdout, h.cmd.Stderr = &h.out, &h.out
	if err := h.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if h.cmd.ProcessState == nil {
			_ = h.cmd.Process.Kill()
			_ = h.cmd.Wait()
		}
	})
	return h
}

var (
	heyAnswers = regexp.MustCompile(`(?m)^\s+\[(\d+)\]\s+(\d+) responses$`)
	heyErrors  = regexp.MustCompile(`(?s)Error distribution:\n(.*)`)
)

// lostNone ends hey, which then says what it got: pages by status, and the errors it had.
func (h *hey) lostNone(t *testing.T) {
	t.Helper()
	if err := h.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := h.cmd.Wait(); err != nil {
		t.Fatalf("hey: %v\n%s", err, h.out.String())
	}
	good := 0
	for _, m := range heyAnswers.FindAllStringSubmatch(h.out.String(), -1) {
		n, _ := strconv.Atoi(m[2]) // it is digits
		if m[1] == "200" {
			good = n
			continue
		}
		t.Errorf("hey got status %s %d times", m[1], n)
	}
	t.Logf("hey: %d pages", good)
	if good == 0 {
		t.Errorf("hey got nothing:\n%s", h.out.String())
	}
	if m := heyErrors.FindStringSubmatch(h.out.String()); m != nil {
		// Those that were under way when it was told to end are its own doing.
		for line := range strings.Lines(m[1]) {
			if strings.TrimSpace(line) != "" && !strings.Contains(line, "context canceled") {
				t.Errorf("hey lost: %s", strings.TrimSpace(line))
			}
		}
	}
}
