//go:build e2e

package e2e

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/whalepod/whalepod/lab"
)

// endingsManifest is pods that end, each in another way.
const endingsManifest = `
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  nodeName: %[1]s
  restartPolicy: Never
  containers:
  - {name: greedy, image: busybox, command: [tail, /dev/zero], resources: {limits: {memory: 16Mi}}}
  - {name: modest, image: busybox, command: [sh, -c, "echo done >/dev/termination-log"], resources: {limits: {memory: 16Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: late}
spec:
  nodeName: %[1]s
  activeDeadlineSeconds: 10
  terminationGracePeriodSeconds: 1
  containers: [{name: late, image: busybox, command: [sleep, "2001"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 3
  containers: [{name: stubborn, image: busybox, command: [sh, -c, "trap '' TERM; while :; do sleep 1; done"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: hanging}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 3
  containers:
  - {name: hanging, image: busybox, command: [sleep, "2002"], lifecycle: {preStop: {exec: {command: [sleep, "2003"]}}}}
`

const quickManifest = `
apiVersion: v1
kind: Pod
metadata: {name: quick-%[2]d, labels: {app: quick}}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  initContainers: [{name: first, image: busybox, command: [sleep, "1"]}]
  containers:
  - {name: one, image: busybox, command: [sleep, "2004"]}
  - {name: two, image: busybox, command: [sleep, "2005"]}
---
`

// TestHowPodsEnd: by memory, by deadline, against their will, while they begin, and to come again under the same name.
func TestHowPodsEnd(t *testing.T) {
	t.Parallel()
	ns, n := namespace(t), cluster.Node(1)
	k := newest.in(t, ns)
	k.feed(t, fmt.Sprintf(endingsManifest, n.Name), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/stubborn", "pod/hanging", "--timeout", settle.String())

	t.Run("deleted against its will", func(t *testing.T) {
		begin := time.Now()
		k.run(t, "delete", "pod", "stubborn", "hanging")
		// The grace period, and 2 s more for a container whose hook took all of it.
		if took := time.Since(begin); took < 3*time.Second || took > time.Minute {
			t.Errorf("it took %s", took)
		}
		for _, name := range []string{"stubborn", "hanging"} {
			prints(t, "events of "+name, eventsOf(t, k, name), `^Killing: Stopping container `+name+`$`)
		}
	})
	t.Run("out of memory", func(t *testing.T) {
		eventually(t, settle, "the pod has failed", func() error { return hasPhase(k, t, "greedy", "Failed") })
		if row := table(t, k.run(t, "get", "pod", "greedy")).row("greedy"); row["STATUS"] != "OOMKilled" || row["READY"] != "0/2" {
			t.Errorf("get pod shows %v", row)
		}
		got := k.run(t, "get", "pod", "greedy", "-o", `jsonpath={range .status.containerStatuses[*]}{.name} {.state.terminated.reason} {.state.terminated.exitCode} {.state.terminated.message}{"\n"}{end}`)
		prints(t, "the containers' ends", got, `^greedy OOMKilled 137 $`, `^modest Completed 0 done$`)
	})
	t.Run("past its deadline", func(t *testing.T) {
		eventually(t, settle, "the pod has failed", func() error { return hasPhase(k, t, "late", "Failed") })
		got := k.run(t, "get", "pod", "late", "-o", "jsonpath={.status.reason}: {.status.message}")
		prints(t, "status", got, `^DeadlineExceeded: Pod was active on the node longer than the specified deadline$`)
		prints(t, "events", eventsOf(t, k, "late"), `^DeadlineExceeded: Pod was active on the node longer than the specified deadline$`, `^Killing: Stopping container late$`)
	})
	t.Run("deleted while it begins", func(t *testing.T) {
		for i := range 4 {
			k.feed(t, fmt.Sprintf(quickManifest, n.Name, i), "create", "-f", "-")
			time.Sleep(time.Duration(i) * 200 * time.Millisecond)
			k.run(t, "delete", "pod", fmt.Sprintf("quick-%d", i), "--wait=false")
		}
		noPods(t, k, "app=quick")
		nothingLeftOf(t, n, ns, "quick-")
	})
	t.Run("the same name again", func(t *testing.T) {
		// It ignores SIGTERM, so that the old one is still there when the new one comes.
		file := manifest(t, strings.ReplaceAll(strings.ReplaceAll(fmt.Sprintf(again, n.Name), "GRACE", "1"), "PAGE", "first"))
		k.run(t, "create", "-f", file)
		k.run(t, "wait", "--for=condition=Ready", "pod/again", "--timeout", settle.String())
		uid := k.run(t, "get", "pod", "again", "-o", "jsonpath={.metadata.uid}")
		next := manifest(t, strings.ReplaceAll(strings.ReplaceAll(fmt.Sprintf(again, n.Name), "GRACE", "1"), "PAGE", "second"))
		prints(t, "replace --force", k.run(t, "replace", "--force", "-f", next), `^pod "again" deleted`, `^pod/again replaced$`)
		k.run(t, "wait", "--for=condition=Ready", "pod/again", "--timeout", settle.String())
		now := strings.Fields(k.run(t, "get", "pod", "again", "-o", "jsonpath={.metadata.uid} {.status.podIP}"))
		if len(now) != 2 || now[0] == uid {
			t.Fatalf("the pod is still %v, was %s", now, uid)
		}
		pageShows(t, on(n), "http://"+now[1]+"/", "second")
		prints(t, "exec", k.run(t, "exec", "again", "--", "cat", "/www/index.html"), `^second$`)
		eventually(t, settle, "only the new one is on the node", func() error {
			for _, name := range dockerPS(t, n) {
				if strings.Contains(name, "_again_"+ns+"_") && !strings.Contains(name, now[0]) {
					return fmt.Errorf("%s", name)
				}
			}
			return nil
		})
	})
}

// again is a pod that serves a word and does not listen to SIGTERM.
const again = `
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: GRACE
  containers:
  - name: web
    image: busybox
    command: [sh, -c, "trap '' TERM; mkdir /www; echo PAGE >/www/index.html; httpd -p 80 -h /www; while :; do sleep 1; done"]
    readinessProbe: {httpGet: {port: 80}, periodSeconds: 1}
`

func hasPhase(k cli, t testing.TB, pod, phase string) error {
	t.Helper()
	if got := k.run(t, "get", "pod", pod, "-o", "jsonpath={.status.phase}"); got != phase {
		return fmt.Errorf("%s is %s", pod, got)
	}
	return nil
}

// nothingLeftOf waits until the node has no container, running or not, of pods whose names begin so.
func nothingLeftOf(t testing.TB, n *lab.Node, namespace, prefix string) {
	t.Helper()
	ours := regexp.MustCompile(`^/k8s_[^_]+_` + prefix + `[^_]*_` + namespace + `_`)
	eventually(t, settle, "no container is left of "+prefix, func() error {
		var all []struct{ Names []string }
		if err := n.Engine(t.Context(), "GET", "/containers/json?all=1", nil, &all); err != nil {
			return err
		}
		for _, c := range all {
			for _, name := range c.Names {
				if ours.MatchString(name) {
					return fmt.Errorf("%s is", name)
				}
			}
		}
		return nil
	})
}
