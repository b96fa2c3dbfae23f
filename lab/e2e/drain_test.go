//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// drained has what each of drain's options is for: pods of a Deployment, of a DaemonSet, with an emptyDir, and of nobody.
const drained = agents + `
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        podAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {weight: 100, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: bare}}}}
      containers:
      - {name: web, image: busybox, command: [sleep, "3600"], volumeMounts: [{name: cache, mountPath: /cache}]}
      volumes: [{name: cache, emptyDir: {}}]
---
apiVersion: v1
kind: Pod
metadata: {name: bare, labels: {app: bare}}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 1
  containers: [{name: bare, image: busybox, command: [sleep, "3600"]}]
`

// TestDrain: a budget is kept, and then the node becomes empty; afterwards it takes pods again.
func TestDrain(t *testing.T) {
	withEach(t, func(t *testing.T, k cli) {
		k = k.in(t, namespace(t))
		node := cluster.Node(3).Name
		t.Cleanup(func() { cleanUp(t, "uncordon", node) })
		// All of the Deployment begins on the node that is to be drained.
		k.run(t, "cordon", cluster.Node(1).Name, cluster.Node(2).Name)
		t.Cleanup(func() { cleanUp(t, "uncordon", cluster.Node(1).Name, cluster.Node(2).Name) })
		k.feed(t, strings.ReplaceAll(drained, "NODE", node), "apply", "-f", "-")
		podsReady(t, k, "app=agent", nodes) // daemons run on cordoned nodes, too
		podsReady(t, k, "app=bare", 1)
		for _, row := range podsReady(t, k, "app=web", 3) {
			if row["NODE"] != node {
				t.Fatalf("%s is on the cordoned %s", row["NAME"], row["NODE"])
			}
		}
		k.run(t, "uncordon", cluster.Node(1).Name, cluster.Node(2).Name)
		k.run(t, "create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=3")
		budget(t, k, 0)

		complaint := k.fails(t, "drain", node)
		for _, want := range []string{"--delete-emptydir-data", "--ignore-daemonsets", "--force"} {
			if !strings.Contains(complaint, want) {
				t.Errorf("drain does not say %s: %s", want, complaint)
			}
		}
		drain := []string{"drain", node, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--grace-period=1"}
		r := k.try(t, append(drain, "--timeout=8s")...)
		if said := r.stdout + r.stderr; r.err == nil || !strings.Contains(said, "Cannot evict pod as it would violate the pod's disruption budget.") {
			t.Fatalf("drain against a budget: %v\n%s", r.err, said)
		}
		if row := table(t, k.run(t, "get", "nodes")).row(node); row["STATUS"] != "Ready,SchedulingDisabled" {
			t.Errorf("get nodes shows %v", row)
		}
		podsReady(t, k, "app=web", 3)

		k.run(t, "patch", "poddisruptionbudget", "web", "--type=merge", "-p", `{"spec":{"minAvailable":2}}`)
		budget(t, k, 1)
		watched := watchPods(t, newest.in(t, currentNamespace(t, k)), "app=web")
		prints(t, "drain", k.run(t, append(drain, "--timeout=3m")...), `^node/`+node+` (drained|evicted)$`)
		if least := watched.leastReady(t); least < 2 {
			t.Errorf("at the worst time %d pods were ready", least)
		}
		for _, row := range podsReady(t, k, "app=web", 3) {
			if row["NODE"] == node {
				t.Errorf("%s is on the drained node", row["NAME"])
			}
		}
		noPods(t, k, "app=bare")
		podsReady(t, k, "app=agent", nodes)

		prints(t, "uncordon", k.run(t, "uncordon", node), `^node/`+node+` uncordoned$`)
		k.run(t, "scale", "deployment", "web", "--replicas=9")
		eventually(t, settle, "the node takes pods again", func() error {
			for _, row := range podsReady(t, k, "app=web", 9) {
				if row["NODE"] == node {
					return nil
				}
			}
			return fmt.Errorf("none is there")
		})
	})
}

// budget waits until so many disruptions are allowed.
func budget(t testing.TB, k cli, allowed int) {
	t.Helper()
	eventually(t, settle, fmt.Sprintf("%d disruptions are allowed", allowed), func() error {
		row := table(t, k.run(t, "get", "poddisruptionbudget")).has("NAME", "MIN AVAILABLE", "MAX UNAVAILABLE", "ALLOWED DISRUPTIONS", "AGE").row("web")
		if row["ALLOWED DISRUPTIONS"] != fmt.Sprint(allowed) {
			return fmt.Errorf("%v", row)
		}
		if seen := k.run(t, "get", "poddisruptionbudget", "web", "-o", "jsonpath={.metadata.generation} {.status.observedGeneration}"); seen != "" {
			if a, b, _ := strings.Cut(seen, " "); a != b {
				return fmt.Errorf("generation and observed: %s", seen)
			}
		}
		return nil
	})
}
