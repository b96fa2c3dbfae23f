//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// The program is unmodified kubectl: client-go, which finds the API by what every pod finds.
const insideManifest = `
apiVersion: v1
kind: Pod
metadata: {name: inside}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: busybox
    command: [sleep, "1000"]
    volumeMounts: [{name: programs, mountPath: /programs, readOnly: true}]
  volumes:
  - name: programs
    hostPath: {path: %q, type: Directory}
`

// TestPodSpeaksWithTheAPI runs a client in a pod: it is known by its service account, may do what that account may, and
// sees objects change.
func TestPodSpeaksWithTheAPI(t *testing.T) {
	t.Parallel()
	ns := namespace(t)
	k := newest.in(t, ns)
	k.feed(t, fmt.Sprintf(insideManifest, filepath.Dir(newest.path)), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/inside", "--timeout", settle.String())
	inside := []string{"exec", "inside", "--", "/programs/" + filepath.Base(newest.path), "--cache-dir=/tmp/cache"}
	ask := func(args ...string) []string { return append(append([]string{}, inside...), args...) }

	if out := k.run(t, ask("auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")...); out != "system:serviceaccount:"+ns+":default" {
		t.Errorf("the API knows it as %q", out)
	}
	if out := k.fails(t, ask("get", "pods")...); !strings.Contains(out, `cannot list resource "pods"`) {
		t.Errorf("without rights: %s", out)
	}
	k.run(t, "create", "rolebinding", "reads", "--clusterrole=view", "--serviceaccount="+ns+":default")
	if out := k.run(t, ask("get", "pods", "-o", "name")...); strings.TrimSpace(out) != "pod/inside" {
		t.Errorf("with the right to read: %s", out)
	}
	if out := k.fails(t, ask("get", "pods", "-n", "kube-system")...); !strings.Contains(out, `in the namespace "kube-system"`) {
		t.Errorf("in another namespace: %s", out)
	}
	if out := k.fails(t, ask("delete", "pod", "inside")...); !strings.Contains(out, `cannot delete resource "pods"`) {
		t.Errorf("reading only: %s", out)
	}
	k.run(t, "create", "configmap", "news")
	k.run(t, ask("wait", "configmap/news", "--for=create", "--timeout", settle.String())...)
}
