//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/whalepod/whalepod/lab"
)

// engineManifest is what runs while the engine does not: a server under probes of both kinds that run outside and inside
// of it, one whose end stays its end, and one that ended before.
const engineManifest = `
apiVersion: v1
kind: Pod
metadata: {name: server, labels: {app: engine}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: busybox
    command: [sh, -c, "mkdir /www; echo afloat >/www/index.html; exec httpd -f -p 80 -h /www"]
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
    livenessProbe: {exec: {command: [cat, /www/index.html]}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 3}
  - {name: beside, image: busybox, command: [sleep, "3001"]}
---
apiVersion: v1
kind: Pod
metadata: {name: once, labels: {app: engine}}
spec:
  nodeName: %[1]s
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: once, image: busybox, command: [sleep, "3002"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: ended}
spec:
  nodeName: %[1]s
  restartPolicy: Never
  containers: [{name: ended, image: busybox, command: ["true"]}]
`

func startOn(t *testing.T, n *lab.Node) (k cli, server corev1.Pod) {
	t.Helper()
	k = newest.in(t, namespace(t))
	k.feed(t, fmt.Sprintf(engineManifest, n.Name), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod", "-l", "app=engine", "--timeout", settle.String())
	eventually(t, settle, "the short one has ended", func() error { return hasPhase(k, t, "ended", "Succeeded") })
	return k, podNamed(t, k, "server")
}

func podNamed(t testing.TB, k cli, name string) (p corev1.Pod) {
	t.Helper()
	if err := json.Unmarshal([]byte(k.run(t, "get", "pod", name, "-o", "json")), &p); err != nil {
		t.Fatal(err)
	}
	return p
}

// readyCondition of a node, as its agent told it last.
func readyCondition(t testing.TB, n *lab.Node) string {
	t.Helper()
	return kubectl(t, "get", "node", n.Name, "-o", `jsonpath={range .status.conditions[?(@.type=="Ready")]}{.status} {.reason}: {.message}{end}`)
}

// oneEach sees that every container that should run on the node does, once.
func oneEach(t testing.TB, k cli, n *lab.Node, want ...string) {
	t.Helper()
	eventually(t, settle, "one container each", func() error {
		have := map[string]int{}
		for _, name := range dockerPS(t, n) {
			if f := strings.Split(name, "_"); len(f) == 6 && f[3] == nameOf(t, k) {
				have[f[2]+"/"+f[1]]++
			}
		}
		for _, w := range want {
			if have[w] != 1 {
				return fmt.Errorf("containers: %v, want %v", have, want)
			}
		}
		if len(have) != len(want) {
			return fmt.Errorf("containers: %v, want %v", have, want)
		}
		return nil
	})
}

// TestDockerHangsAndDies: the node tells what its engine does, what runs runs on while it is silent, and comes back in the
// same pods when it died.
func TestDockerHangsAndDies(t *testing.T) {
	n := cluster.Node(3)
	afterwards(t, n)
	k, server := startOn(t, n)
	t.Run("hangs", func(t *testing.T) { dockerHangs(t, k, n, server) })
	t.Run("dies", func(t *testing.T) { dockerDies(t, k, n, server) })
}

// dockerHangs: nothing is done to any container because of the silence, then or afterwards.
func dockerHangs(t *testing.T, k cli, n *lab.Node, was corev1.Pod) {
	before := containers(t, n)
	must(t, n.FreezeDocker())
	t.Cleanup(func() { _ = n.ThawDocker() }) // it goes on already if all went well
	begin := time.Now()
	// What is asked for meanwhile waits.
	k.feed(t, fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: later}\nspec:\n  nodeName: %s\n  terminationGracePeriodSeconds: 1\n"+
		"  containers: [{name: later, image: busybox, command: [sleep, '3003']}]\n", n.Name), "create", "-f", "-")
	eventually(t, settle, "the node tells it", func() error {
		pageShows(t, on(n), "http://"+was.Status.PodIP+"/", "afloat")
		if got := readyCondition(t, n); !strings.HasPrefix(got, "False KubeletNotReady: container runtime is down") {
			return fmt.Errorf("Ready is %s", got)
		}
		return nil
	})
	if took := time.Since(begin); took < 25*time.Second || took > 2*time.Minute {
		t.Errorf("told after %s", took)
	}
	t.Logf("told after %s", time.Since(begin).Round(time.Second))
	if row := table(t, kubectl(t, "get", "nodes")).row(n.Name); row["STATUS"] != "NotReady" {
		t.Errorf("get nodes shows %v", row)
	}
	must(t, n.ThawDocker())
	awaitNode(t, n)
	k.run(t, "wait", "--for=condition=Ready", "pod/later", "pod/server", "--timeout", settle.String())
	pageShows(t, on(n), "http://"+was.Status.PodIP+"/", "afloat")
	oneEach(t, k, n, "server/POD", "server/web", "server/beside", "once/POD", "once/once", "later/POD", "later/later")
	after := containers(t, n)
	for id, name := range before {
		if after[id] != name {
			t.Errorf("%s is not the same any more", name)
		}
	}
	now := podNamed(t, k, "server")
	if now.UID != was.UID || now.Status.PodIP != was.Status.PodIP {
		t.Errorf("%s at %s became %s at %s", was.UID, was.Status.PodIP, now.UID, now.Status.PodIP)
	}
	for _, c := range now.Status.ContainerStatuses {
		if c.RestartCount != 0 {
			t.Errorf("%s was restarted %d times: %s", c.Name, c.RestartCount, eventsOf(t, k, "server"))
		}
	}
}

// dockerDies, or is upgraded without live-restore: its containers end, and are made anew in the same pods.
func dockerDies(t *testing.T, k cli, n *lab.Node, was corev1.Pod) {
	must(t, n.KillDocker(t.Context()))
	eventually(t, settle, "the node tells it", func() error {
		if got := readyCondition(t, n); !strings.HasPrefix(got, "False KubeletNotReady: container runtime is down") {
			return fmt.Errorf("Ready is %s", got)
		}
		return nil
	})
	must(t, n.StartDocker(t.Context()))
	awaitNode(t, n)
	eventually(t, settle, "the containers are there again", func() error {
		for _, c := range podNamed(t, k, "server").Status.ContainerStatuses {
			if c.RestartCount != 1 || !c.Ready || c.State.Running == nil || c.LastTerminationState.Terminated == nil {
				return fmt.Errorf("%+v", c)
			}
		}
		return nil
	})
	now := podNamed(t, k, "server")
	if now.UID != was.UID || now.Status.PodIP == "" || now.Status.StartTime == nil || !now.Status.StartTime.Equal(was.Status.StartTime) {
		t.Errorf("the pod was %+v, is %+v", was.Status, now.Status)
	}
	pageShows(t, on(n), "http://"+now.Status.PodIP+"/", "afloat")
	eventually(t, settle, "the one that must not restart has failed", func() error { return hasPhase(k, t, "once", "Failed") })
	once := podNamed(t, k, "once").Status.ContainerStatuses[0]
	if once.RestartCount != 0 || once.State.Terminated == nil || once.State.Terminated.ExitCode == 0 {
		t.Errorf("the one that must not restart: %+v", once)
	}
	if err := hasPhase(k, t, "ended", "Succeeded"); err != nil {
		t.Error(err)
	}
	oneEach(t, k, n, "server/POD", "server/web", "server/beside", "later/POD", "later/later")
}
