//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const claimManifest = `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 100Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {runAsUser: 1000, fsGroup: 2000}
  containers:
  - name: c
    image: busybox
    command: [sh, -c, 'touch /data/here && echo started >>/data/log && sleep 4003']
    volumeMounts: [{name: v, mountPath: /data}]
  volumes:
  - {name: v, persistentVolumeClaim: {claimName: data}}
`

// TestClaim follows a database's disk: it is made on the node of its first pod, the next pod goes there too and finds what
// the first wrote, the claim outlives a deletion while a pod uses it, and in the end claim, volume and data are gone.
func TestClaim(t *testing.T) {
	t.Parallel()
	k := newest.in(t, namespace(t))
	k.feed(t, claimManifest, "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/keeper", "--timeout", settle.String())
	prints(t, "the claim", k.run(t, "get", "pvc"),
		`^NAME +STATUS +VOLUME +CAPACITY +ACCESS MODES +STORAGECLASS`, `^data +Bound +pvc-[0-9a-f-]+ +100Mi +RWO +local `)
	at := k.run(t, "get", "pod", "keeper", "-o", "jsonpath={.spec.nodeName}")
	volume := k.run(t, "get", "pvc", "data", "-o", "jsonpath={.spec.volumeName}")
	dir := k.run(t, "get", "pv", volume, "-o", "jsonpath={.spec.local.path}")
	if !strings.HasPrefix(dir, filepath.Join(nodeNamed(t, at).Dir(), "volumes")+"/") {
		t.Errorf("the data are at %s, not in the volumes of %s", dir, at)
	}

	k.run(t, "delete", "pod", "keeper")
	k.feed(t, claimManifest[strings.Index(claimManifest, "---"):], "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/keeper", "--timeout", settle.String())
	if again := k.run(t, "get", "pod", "keeper", "-o", "jsonpath={.spec.nodeName}"); again != at {
		t.Errorf("its data are on %s, but the pod came to %s", at, again)
	}
	if got := k.run(t, "exec", "keeper", "--", "cat", "/data/log"); got != "started\nstarted\n" {
		t.Errorf("the second pod finds %q", got)
	}

	k.run(t, "delete", "pvc", "data", "--wait=false")
	prints(t, "a claim in use", k.run(t, "get", "pvc", "data"), `^data +Terminating `)
	k.run(t, "delete", "pod", "keeper")
	k.run(t, "wait", "--for=delete", "pvc/data", "pv/"+volume, "--timeout", settle.String())
	eventually(t, settle, "the data go with their volume", func() error {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s: %v", dir, err)
		}
		return nil
	})
}
