//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

const limitsManifest = `
apiVersion: v1
kind: Pod
metadata: {name: volume}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox
    command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1M count=3; sleep 10000"]
    volumeMounts: [{name: x, mountPath: /v}]
  volumes: [{name: x, emptyDir: {sizeLimit: 1Mi}}]
---
apiVersion: v1
kind: Pod
metadata: {name: layer}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox
    command: [sh, -c, "dd if=/dev/zero of=/x bs=1M count=6; sleep 10000"]
    resources: {limits: {ephemeral-storage: 5Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: within}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: busybox
    command: [sh, -c, "dd if=/dev/zero of=/x bs=1M count=2; sleep 10000"]
    resources: {limits: {ephemeral-storage: 5Mi}}
`

func podStatus(t testing.TB, k cli, name string) corev1.PodStatus {
	t.Helper()
	var p corev1.Pod
	if err := json.Unmarshal([]byte(k.run(t, "get", "pod", name, "-o", "json")), &p); err != nil {
		t.Fatal(err)
	}
	return p.Status
}

// A pod that writes more than it said is ended, and says why.
func TestPodsOverTheirDiskLimits(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.feed(t, limitsManifest, "apply", "-f", "-")
	for name, want := range map[string]string{
		"volume": `Usage of EmptyDir volume "x" exceeds the limit "1Mi". `,
		"layer":  "Pod ephemeral local storage usage exceeds the total limit of containers 5Mi. ",
	} {
		eventually(t, settle, name+" is evicted", func() error {
			if s := podStatus(t, k, name); s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != want {
				return fmt.Errorf("%s %s %q", s.Phase, s.Reason, s.Message)
			}
			return nil
		})
		// kubectl shows how a container ended rather than why the pod did, where it knows.
		if out := k.run(t, "get", "pod", name); !strings.Contains(out, "Evicted") && !strings.Contains(out, "Error") {
			t.Error(out)
		}
		if out := k.run(t, "get", "events", "--field-selector", "reason=Evicted,involvedObject.name="+name); !strings.Contains(out, strings.TrimSpace(want)) {
			t.Error(out)
		}
	}
	if s := podStatus(t, k, "within"); s.Phase != corev1.PodRunning {
		t.Errorf("%s %s %s", s.Phase, s.Reason, s.Message)
	}
}

// A pod that is bound to a node by hand must fit there all the same; and what a node has to give is less than what it has.
func TestPodsThatDoNotFit(t *testing.T) {
	k := newest.in(t, namespace(t))
	var nodes corev1.NodeList
	if err := json.Unmarshal([]byte(k.run(t, "get", "nodes", "-o", "json")), &nodes); err != nil {
		t.Fatal(err)
	}
	n := &nodes.Items[0]
	have, give := n.Status.Capacity.Memory(), n.Status.Allocatable.Memory()
	if give.Value() <= 0 || have.Value()-give.Value() < 200<<20 {
		t.Errorf("capacity %v, allocatable %v", have, give)
	}
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady && c.Status != corev1.ConditionFalse {
			t.Errorf("%+v", c)
		}
	}
	k.feed(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: large}
spec:
  nodeName: %s
  containers:
  - {name: c, image: busybox, command: [sleep, "10000"], resources: {requests: {memory: %s}}}
`, n.Name, have), "apply", "-f", "-")
	eventually(t, settle, "the pod is rejected", func() error {
		if s := podStatus(t, k, "large"); s.Phase != corev1.PodFailed || s.Reason != "OutOfmemory" || !strings.HasPrefix(s.Message, "Pod was rejected: Node didn't have enough resource: memory, requested: ") {
			return fmt.Errorf("%s %s %q", s.Phase, s.Reason, s.Message)
		}
		return nil
	})
}
