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

	"github.com/whalepod/whalepod/lab"
)

// volumePod is a pod that mounts an image at /volume.
func volumePod(n *lab.Node, name, image, policy, subPath string) string {
	return fmt.Sprintf(`---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - {name: main, image: "busybox:1.36", command: [sleep, "600"], volumeMounts: [{name: v, mountPath: /volume, subPath: %q}]}
  volumes: [{name: v, image: {reference: %q, pullPolicy: %s}}, {name: unused, image: {reference: "localhost/invalid"}}]
`, name, n.Name, subPath, image, policy)
}

// imageFiles lists the images whose files a node keeps for volumes.
func imageFiles(t testing.TB, n *lab.Node) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.Dir(), "agent", "image-volumes"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestImageVolumes: pods of a node share the files of an image, which nobody can write, over restarts of the agent.
func TestImageVolumes(t *testing.T) {
	k, n := newest.in(t, namespace(t)), cluster.Node(2)
	const image = "redis:latest"
	k.feed(t, volumePod(n, "one", image, "Always", "")+volumePod(n, "two", image, "IfNotPresent", "")+volumePod(n, "sub", image, "IfNotPresent", "etc")+
		volumePod(n, "nosub", image, "IfNotPresent", "not/existing")+volumePod(n, "absent", "localhost/invalid", "IfNotPresent", ""), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/one", "pod/two", "pod/sub", "--timeout", settle.String())
	for _, pod := range []string{"one", "two"} {
		tells(t, "os-release in "+pod, k.run(t, "exec", pod, "--", "cat", "/volume/etc/os-release"), "Debian")
		tells(t, "writing in "+pod, k.fails(t, "exec", pod, "--", "touch", "/volume/x"), "Read-only file system")
	}
	tells(t, "the subPath", k.run(t, "exec", "sub", "--", "cat", "/volume/passwd"), "root:")
	if out := k.run(t, "exec", "one", "--", "ls", "-a", "/volume"); strings.Contains(out, ".dockerenv") {
		t.Errorf("the engine's own files are there:\n%s", out)
	}
	waitsFor(t, k, "nosub", "CreateContainerError", `ImageVolumeMountFailed: the image of volume "v" has no subPath "not/existing"`)
	waitsFor(t, k, "absent", "ImagePullBackOff", `Back-off pulling image "localhost/invalid": ErrImagePull: `)
	tells(t, "events", eventsOf(t, k, "one"), `Pulling: Pulling image "`+image, `Pulled: Successfully pulled image "`+image)
	prints(t, "imageRef", k.run(t, "get", "pod", "one", "-o", "jsonpath={.status.containerStatuses[0].volumeMounts[0].volumeStatus.image.imageRef}"),
		`^docker-pullable://redis@sha256:[0-9a-f]{64}$`)
	kept := imageFiles(t, n)
	if len(kept) != 1 {
		t.Errorf("files of %v are kept", kept)
	}
	must(t, n.RestartAgent(t.Context()))
	awaitNode(t, n)
	k.feed(t, volumePod(n, "three", image, "Never", ""), "create", "-f", "-")
	k.run(t, "wait", "--for=condition=Ready", "pod/three", "--timeout", settle.String())
	k.run(t, "delete", "pod", "one", "two", "sub", "nosub", "absent")
	tells(t, "the last pod", k.run(t, "exec", "three", "--", "cat", "/volume/etc/os-release"), "Debian")
	k.run(t, "delete", "pod", "three")
	eventually(t, settle, "the files are removed", func() error {
		if left := imageFiles(t, n); len(left) > 0 {
			return fmt.Errorf("left %v", left)
		}
		return nil
	})
}
