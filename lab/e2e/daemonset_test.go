//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

var daemonSetColumns = []string{"NAME", "DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE", "NODE SELECTOR", "AGE"}

// TestDaemonSetShipsLogs is daemonset-logs.yml, with what its comment says to look at.
func TestDaemonSetShipsLogs(t *testing.T) {
	t.Parallel()
	t.Cleanup(func() { _ = os.RemoveAll("/var/log/whalepod-example") }) // the lab's nodes share the machine's disk
	k := newest.in(t, namespace(t))
	k.run(t, "apply", "-f", example("daemonset-logs.yml"))
	shippers := podsReady(t, k, "app=logs", nodes)
	if on := slices.Compact(values(shippers, "NODE")); len(on) != nodes {
		t.Errorf("the shippers are on %v", on)
	}
	for _, shop := range podsReady(t, k, "app=shop", 2) {
		shipper := ""
		for _, s := range shippers {
			if s["NODE"] == shop["NODE"] {
				shipper = s["NAME"]
			}
		}
		want := shop["NODE"] + " " + shop["NAME"] + ".log: "
		eventually(t, settle, shipper+" ships the log of "+shop["NAME"], func() error {
			if log := k.run(t, "logs", shipper); !strings.Contains(log, want) || !strings.Contains(log, "somebody has bought a whale") {
				return fmt.Errorf("no line begins with %q:\n%s", want, log)
			}
			return nil
		})
	}
	eventually(t, settle, "the DaemonSet counts them", func() error {
		row := table(t, k.run(t, "get", "daemonset")).has(daemonSetColumns...).row("logs")
		for _, column := range []string{"DESIRED", "CURRENT", "READY", "UP-TO-DATE", "AVAILABLE"} {
			if row[column] != fmt.Sprint(nodes) {
				return fmt.Errorf("get daemonset shows %v", row)
			}
		}
		return nil
	})
}

// TestDaemonSetIsUpdatedOneByOne: as an old post has it, and in the way of rollout's commands, back too.
func TestDaemonSetIsUpdatedOneByOne(t *testing.T) {
	t.Parallel()
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		k.feed(t, agents, "apply", "-f", "-")
		first := values(podsReady(t, k, "app=agent", nodes), "NAME")
		watched := watchPods(t, newest.in(t, currentNamespace(t, k)), "app=agent")
		k.run(t, "set", "env", "daemonset/agent", "VERSION=2")
		prints(t, "rollout status", k.run(t, "rollout", "status", "daemonset/agent", "--timeout=3m"), `daemon set "agent" successfully rolled out`)
		if least := watched.leastReady(t); least != nodes-1 {
			t.Errorf("at the worst time %d were ready, of %d", least, nodes)
		}
		second := values(podsReady(t, k, "app=agent", nodes), "NAME")
		for _, name := range second {
			if slices.Contains(first, name) {
				t.Errorf("%s was not replaced", name)
			}
		}
		prints(t, "rollout history", k.run(t, "rollout", "history", "daemonset/agent"), `^1 +<none>$`, `^2 +<none>$`)

		// One that never starts stops the update, and going back leaves the others alone.
		k.run(t, "set", "image", "daemonset/agent", "agent=nosuch.invalid/agent:1")
		eventually(t, settle, "one pod cannot be started", func() error {
			if out := k.run(t, "get", "pods", "-l", "app=agent"); !strings.Contains(out, "ImagePullBackOff") && !strings.Contains(out, "ErrImagePull") {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		prints(t, "rollout undo", k.run(t, "rollout", "undo", "daemonset/agent"), `daemonset.apps/agent rolled back`)
		k.run(t, "rollout", "status", "daemonset/agent", "--timeout=3m")
		kept := 0
		for _, name := range values(podsReady(t, k, "app=agent", nodes), "NAME") {
			if slices.Contains(second, name) {
				kept++
			}
		}
		if kept != nodes-1 {
			t.Errorf("%d pods were left alone, not %d", kept, nodes-1)
		}
	})
}

// TestDaemonSetFollowsLabels: its pods are where a label is.
func TestDaemonSetFollowsLabels(t *testing.T) {
	k := newest.in(t, namespace(t))
	k.feed(t, agents, "apply", "-f", "-")
	podsReady(t, k, "app=agent", nodes)
	t.Cleanup(func() { cleanUp(t, "label", "nodes", "--all", "agent-") })
	from, to := cluster.Node(2).Name, cluster.Node(3).Name
	k.run(t, "label", "node", from, "agent=here")
	k.run(t, "patch", "daemonset", "agent", "-p", `{"spec":{"template":{"spec":{"nodeSelector":{"agent":"here"}}}}}`)
	on := func(node string) {
		t.Helper()
		eventually(t, settle, "the only pod is on "+node, func() error {
			rows := podsReady(t, k, "app=agent", 1)
			row := table(t, k.run(t, "get", "daemonset")).row("agent")
			if rows[0]["NODE"] != node || row["DESIRED"] != "1" || row["READY"] != "1" || row["NODE SELECTOR"] != "agent=here" {
				return fmt.Errorf("%v %v", rows, row)
			}
			return nil
		})
	}
	on(from)
	k.run(t, "label", "node", from, "agent-")
	k.run(t, "label", "node", to, "agent=here")
	on(to)
	// A taint that drives out, and one that is tolerated.
	k.run(t, "taint", "node", to, "agent-test=yes:NoExecute")
	t.Cleanup(func() { cleanUp(t, "taint", "node", to, "agent-test-") })
	noPods(t, k, "app=agent")
	k.run(t, "patch", "daemonset", "agent", "-p", `{"spec":{"template":{"spec":{"tolerations":[{"key":"agent-test","operator":"Exists"}]}}}}`)
	on(to)
}

// agents is a DaemonSet as posts of 2017 write it, but updated as today.
const agents = `
apiVersion: extensions/v1beta1
kind: DaemonSet
metadata: {name: agent}
spec:
  updateStrategy: {type: RollingUpdate}
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: agent, image: busybox, command: [sleep, "3600"]}
`

func currentNamespace(t testing.TB, k cli) string {
	t.Helper()
	return strings.TrimSpace(k.run(t, "config", "view", "--minify", "-o", "jsonpath={..namespace}"))
}
