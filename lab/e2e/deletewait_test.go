//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// stubborn are pods that run where nothing else is broken meanwhile, and do not end when they are asked to.
const stubborn = `apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {app: stubborn, name: NAME}}
spec:
  nodeName: NODE
  terminationGracePeriodSeconds: 120
  containers: [{name: main, image: busybox, command: [sh, -c, "trap '' TERM; while true; do sleep 3600; done"]}]
`

// stubbornPods makes manifests of them, one for each name.
func stubbornPods(names ...string) string {
	var all []string
	for _, name := range names {
		all = append(all, strings.NewReplacer("NAME", name, "NODE", cluster.Node(1).Name).Replace(stubborn))
	}
	return strings.Join(all, "---\n")
}

// TestDeleteAndWait: pods that would take two minutes to end, in every way of deleting, and what wait can wait for.
func TestDeleteAndWait(t *testing.T) {
	atOnce(t, every, func(t *testing.T, k cli) {
		files := map[string]string{"pods.yml": stubbornPods("a", "b", "c", "d"), "later.yml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: later}\n"}
		if k.name != oldKubectl {
			waits := start(t, k, "wait", "--for=create", "configmap/later", "--timeout", settle.String())
			session(t, k, files, "$ create -f @later.yml")
			waits.waitFor(t, "^configmap/later condition met$")
		}
		session(t, k, files, `
$ create -f @pods.yml
$ wait --for=condition=Ready pod --all --timeout=3m
pod/a condition met
pod/d condition met
$new wait --for=jsonpath={.status.phase}=Running pod -l app=stubborn --timeout=1m
pod/b condition met
$new wait --for=jsonpath={.status.podIP} pod/c --timeout=1m
$! wait --for=condition=Ready=false pod/a --timeout=1s
~ timed out waiting for the condition
$ get pods -o wide
~ ^NAME +READY +STATUS +RESTARTS +AGE +IP +NODE +NOMINATED NODE +READINESS GATES$
~ ^a +1/1 +Running +0 +\S+ +10\.244\.\S+ +\S+-node1 +<none> +<none>$
$ describe pod a
~ ^Name: +a$
~ ^Node: +\S+-node1/198\.51\.100\.11$
~ ^Labels: +app=stubborn$
~ ^Status: +Running$
~ ^  Normal +Started +\S+ +kubelet +
$ delete pod a --wait=false
~ ^pod "a" deleted
$ get pod a
~ ^a +1/1 +Terminating +0 
$ get pod a -o jsonpath={.metadata.deletionGracePeriodSeconds}
120
$ delete pod a --now --timeout=1m
~ ^pod "a" deleted
$new wait --for=delete pod/a --timeout=1m
$ delete pod b --grace-period=0 --force --timeout=1m
~ (?i)^warning: Immediate deletion does not wait for confirmation
~ ^pod "b" force deleted
$! get pod b
~ \(NotFound\): pods "b" not found
$ delete pods -l name=c --grace-period=1 --timeout=1m
~ ^pod "c" deleted
$ delete pods --all --now --timeout=1m
~ ^pod "d" deleted
$ get pods
~ ^No resources found in
$ delete pod a --ignore-not-found
(nothing)
$! delete pod a
~ pods "a" not found
$! delete pod
~ resource\(s\) were provided, but no name
$ create configmap one
$ create configmap two
$ delete configmap/one configmap/two
~ ^configmap "one" deleted
~ ^configmap "two" deleted
`)
	})
}

// TestEventsCommand: kubectl events, of one object, of one type, and as they come.
func TestEventsCommand(t *testing.T) {
	atOnce(t, []cli{wpctl}, func(t *testing.T, k cli) {
		watched := start(t, k, "events", "--watch")
		session(t, k, map[string]string{"pods.yml": pod("lost", "  - {name: main, image: busybox}\n  nodeSelector: {zone: nowhere}\n") + "---\n" + pod("else", "  - {name: main, image: busybox}\n  nodeSelector: {zone: nowhere}\n")}, "$ create -f @pods.yml")
		watched.waitFor(t, `Warning +FailedScheduling +Pod/lost +0/3 nodes are available`)
		eventually(t, settle, "the other has its event too", func() error {
			if out := k.run(t, "events", "--types=Warning"); strings.Count(out, "FailedScheduling") < 2 {
				return fmt.Errorf("%s", out)
			}
			return nil
		})
		out := k.run(t, "events", "--for", "pod/lost")
		prints(t, "events --for", out, `^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE$`, `^\S+ +Warning +FailedScheduling +Pod/lost `)
		if strings.Contains(out, "Pod/else") {
			t.Errorf("events of another: %s", out)
		}
		if out := k.run(t, "events", "--types=Normal"); strings.Contains(out, "FailedScheduling") {
			t.Errorf("events of another type: %s", out)
		}
		prints(t, "get events", k.run(t, "get", "events", "--sort-by=.lastTimestamp"), `^LAST SEEN +TYPE +REASON +OBJECT +MESSAGE$`, `FailedScheduling +pod/else `)
	})
}

// TestTaintAndCordon: what the commands say; what they do is in TestDrain and TestDaemonSetFollowsLabels.
func TestTaintAndCordon(t *testing.T) {
	node := cluster.Node(3).Name
	t.Cleanup(func() { cleanUp(t, "uncordon", node) })
	withEach(t, func(t *testing.T, k cli) {
		session(t, k, nil, strings.ReplaceAll(`
$ taint nodes NODE kept=free:NoSchedule
node/NODE tainted
$! taint nodes NODE kept=else:NoSchedule
~ already has \S+ taint\(s\) with same effect\(s\) and --overwrite is false
$ taint nodes NODE kept=else:NoSchedule --overwrite
node/NODE modified
$ describe node NODE
~ ^Taints: +kept=else:NoSchedule$
$ taint nodes NODE kept:NoSchedule-
node/NODE untainted
$! taint nodes NODE kept:NoSchedule-
~ taint "kept:NoSchedule" not found
$ taint nodes --all soft=yes:PreferNoSchedule
node/NODE tainted
$ taint nodes --all soft-
node/NODE untainted
$ cordon NODE
node/NODE cordoned
$ cordon NODE
node/NODE already cordoned
$ get nodes
~ ^NAME +STATUS +ROLES +AGE +VERSION$
~ ^NODE +Ready,SchedulingDisabled +<none> +\S+ +v1\.36\.
$ uncordon NODE
node/NODE uncordoned
$ uncordon NODE
node/NODE already uncordoned
`, "NODE", node))
	})
}
